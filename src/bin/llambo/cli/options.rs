//! The command line, read by the tables of [`table`](super::table). Reading it opens nothing.

use std::env;
use std::ffi::{OsStr, OsString};
use std::time::Duration;

use super::table::{COMMANDS, CommandRow, OPTIONS, OptionRow, Sockets, Takes};
use crate::connection::{Address, Bridges};
use crate::failure::{Failure, usage};
use lexopt::Arg;
use llama_cpp_bridge::shared::endpoint::{DEFAULT_MAX_REQUEST, DEFAULT_SOCKET, SOCKET_VARIABLE};
use llama_cpp_bridge::shared::ranges;

/// The environment variable that names the file of the token.
const AUTH_FILE_VARIABLE: &str = "LLAMBO_AUTH_FILE";

/// What the command line asks for.
#[derive(Clone, Default)]
pub enum Task {
    /// A command of the table.
    Command(&'static CommandRow),
    /// No command: an interactive chat, if there is a terminal.
    #[default]
    Interactive,
    /// Help, of one command or of all.
    Help(Option<&'static CommandRow>),
    /// The version.
    Version,
    /// The completion script of a shell.
    Completions(String),
}

/// A grammar that constrains the answer. At most one can be given.
#[derive(Clone)]
pub enum Constraint {
    /// A file with a GBNF grammar.
    GrammarFile(OsString),
    /// A JSON schema.
    Schema(String),
    /// A file with a JSON schema.
    SchemaFile(OsString),
}

/// A command line.
#[derive(Clone, Default)]
pub struct Options {
    /// What to do.
    pub task: Task,
    /// The operands of the command.
    pub operands: Vec<OsString>,
    /// The bridges to ask.
    pub bridges: Bridges,
    /// The longest text, in bytes.
    pub max_request: u64,
    /// Print replies instead of text.
    pub json: bool,
    /// The file with the token, for bridges that require one.
    pub auth_file: Option<OsString>,
    /// Fields of GENERATE with their JSON values, each at most once.
    pub fields: Vec<(&'static str, String)>,
    /// Stop strings.
    pub stop: Vec<String>,
    /// The grammar or schema.
    pub constraint: Option<Constraint>,
    /// The system message of a chat.
    pub system: Option<String>,
    /// Text around each line of `map`; holds `{}` at least once.
    pub template: Option<String>,
    /// `map` sends each line as a user's turn.
    pub chat: bool,
    /// `map` asks for the embedding of each line.
    pub embed: bool,
    /// `map` separates prompts and answers by NUL.
    pub null: bool,
    /// The chat keeps a history of what is typed.
    pub history: bool,
    /// How long `map` waits for a lost bridge.
    pub retry: Duration,
}

/// Reads the command line and the environment.
pub fn parse() -> Result<Options, Failure> {
    let mut options = Options {
        max_request: DEFAULT_MAX_REQUEST,
        auth_file: set_variable(AUTH_FILE_VARIABLE),
        history: true,
        retry: Duration::from_secs(10),
        ..Options::default()
    };
    let mut given: Vec<&'static OptionRow> = Vec::new();
    let mut immediate = None;
    let mut parser = lexopt::Parser::from_env();
    while let Some(argument) = parser.next()? {
        let found = match &argument {
            Arg::Long(name) => OPTIONS.iter().find(|option| option.long == *name),
            Arg::Short(letter) => OPTIONS.iter().find(|option| option.short == Some(*letter)),
            Arg::Value(value) => {
                options.operand(value.clone())?;
                continue;
            }
        };
        let Some(option) = found else {
            return Err(argument.unexpected().into());
        };
        let value = match option.takes {
            Takes::Nothing => None,
            _ => Some(parser.value()?),
        };
        match option.long {
            "help" => immediate = Some(option.long),
            "version" => immediate = immediate.or(Some(option.long)),
            "completions" => {
                let shell = choice(option, text(option, value)?)?;
                return Ok(Options {
                    task: Task::Completions(shell),
                    ..options
                });
            }
            _ => options.set(option, value)?,
        }
        given.push(option);
    }
    match (immediate, &options.task) {
        (Some("help"), Task::Command(command)) => options.task = Task::Help(Some(command)),
        (Some("help"), _) => options.task = Task::Help(None),
        (Some(_), _) => options.task = Task::Version,
        (None, _) => options.check(&given)?,
    }
    Ok(options)
}

impl Options {
    /// Whether answers are JSON texts, in which a newline is the same as a blank: in their strings
    /// it is escaped.
    pub fn wants_json_text(&self) -> bool {
        matches!(
            self.constraint,
            Some(Constraint::Schema(_) | Constraint::SchemaFile(_))
        )
    }

    /// Takes a word that is not an option: first the command, then its operands.
    fn operand(&mut self, value: OsString) -> Result<(), Failure> {
        if let Task::Command(_) = self.task {
            self.operands.push(value);
            return Ok(());
        }
        self.task = Task::Command(command(&value)?);
        Ok(())
    }

    /// Takes an option and its value.
    fn set(&mut self, option: &'static OptionRow, value: Option<OsString>) -> Result<(), Failure> {
        match option.long {
            "socket" => {
                let address = Address::parse(value.unwrap_or_default())?;
                self.bridges.addresses.push(address);
            }
            "timeout" => self.bridges.timeout = Some(seconds(option, value)?),
            "max-request" => self.max_request = number(option, value)? as u64,
            "json" => self.json = true,
            "auth-file" => self.auth_file = value,
            "trust-uid" => self.bridges.trusted.push(number(option, value)? as u32),
            "ignore-eos" => self.field("ignore_eos", "true".to_string()),
            "stop" => self.stop.push(text(option, value)?),
            "grammar-file" => {
                self.constrain(Constraint::GrammarFile(value.unwrap_or_default()))?;
            }
            "json-schema" => self.constrain(Constraint::Schema(text(option, value)?))?,
            "json-schema-file" => {
                self.constrain(Constraint::SchemaFile(value.unwrap_or_default()))?;
            }
            "system" => self.system = Some(text(option, value)?),
            "template" => self.template = Some(text(option, value)?),
            "chat" => self.chat = true,
            "embed" => self.embed = true,
            "null" => self.null = true,
            "retry" => self.retry = seconds(option, value)?,
            "no-history" => self.history = false,
            name => {
                let limit = ranges::ALL.iter().find(|limit| limit.option == name);
                let limit = limit.unwrap_or_else(|| unreachable!("--{name} has only a row"));
                self.field(limit.field, number(option, value)?.to_string());
            }
        }
        Ok(())
    }

    /// Sets a field of GENERATE; the last value given counts.
    fn field(&mut self, name: &'static str, value: String) {
        self.fields.retain(|(known, _)| *known != name);
        self.fields.push((name, value));
    }

    fn constrain(&mut self, constraint: Constraint) -> Result<(), Failure> {
        match self.constraint.replace(constraint) {
            None => Ok(()),
            Some(_) => Err(usage!(
                "use only one of --grammar-file, --json-schema and --json-schema-file"
            )),
        }
    }

    /// Checks what depends on the whole command line, and fills in the socket.
    fn check(&mut self, given: &[&OptionRow]) -> Result<(), Failure> {
        let (name, sockets) = match self.task {
            Task::Command(command) => {
                self.check_operands(command)?;
                (command.name, command.sockets)
            }
            _ => ("chat", Sockets::FirstFree),
        };
        if let Some(option) = given.iter().find(|option| !option.belongs_to(name)) {
            return Err(usage!(
                "--{} is not an option of {name}, only of {}",
                option.long,
                option.commands.join(", ")
            ));
        }
        if self.bridges.addresses.len() > 1 && sockets == Sockets::One {
            return Err(usage!(
                "{name} asks one bridge, but {} sockets were given",
                self.bridges.addresses.len()
            ));
        }
        if self.bridges.addresses.is_empty() {
            let value = set_variable(SOCKET_VARIABLE);
            let address = Address::parse(value.unwrap_or_else(|| DEFAULT_SOCKET.into()))?;
            self.bridges.addresses.push(address);
        }
        match name {
            "map" => self.check_map(),
            "help" => {
                let about = self.operands.first().map(|word| command(word));
                self.task = Task::Help(about.transpose()?);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn check_operands(&self, command: &CommandRow) -> Result<(), Failure> {
        let (least, most) = command.count;
        if self.operands.len() < least {
            return Err(usage!("{} needs {}", command.name, command.operands));
        }
        let extra = self.operands.get(most).map(|word| word.to_string_lossy());
        match extra {
            Some(extra) if most == 0 => Err(usage!(
                "{} takes no operand, but was given '{extra}'",
                command.name
            )),
            Some(extra) => Err(usage!(
                "{} takes one {}; unexpected '{extra}' (quote a text that contains spaces)",
                command.name,
                command.operands.trim_matches(['[', ']'])
            )),
            None => Ok(()),
        }
    }

    fn check_map(&self) -> Result<(), Failure> {
        let sampling =
            !self.fields.is_empty() || !self.stop.is_empty() || self.constraint.is_some();
        let template = self.template.as_deref();
        let problem = match () {
            () if self.chat && self.embed => "use only one of --chat and --embed",
            () if !template.unwrap_or("{}").contains("{}") => {
                "--template needs {} where the line goes"
            }
            () if self.system.is_some() && !self.chat => "--system needs --chat",
            () if self.embed && sampling => {
                "--embed generates nothing, so sampling options do not apply"
            }
            () => return Ok(()),
        };
        Err(Failure::Usage(problem.to_string()))
    }
}

/// The value of an environment variable; an empty one counts as not set.
fn set_variable(name: &str) -> Option<OsString> {
    env::var_os(name).filter(|value| !value.is_empty())
}

/// The command of this name.
fn command(word: &OsStr) -> Result<&'static CommandRow, Failure> {
    let name = word.to_string_lossy();
    COMMANDS
        .iter()
        .find(|command| command.name == name)
        .ok_or_else(|| {
            let names: Vec<&str> = COMMANDS.iter().map(|row| row.name).collect();
            usage!(
                "unknown command '{name}'; the commands are {}",
                names.join(", ")
            )
        })
}

/// The value of an option as text.
fn text(option: &OptionRow, value: Option<OsString>) -> Result<String, Failure> {
    value.unwrap_or_default().into_string().map_err(|value| {
        usage!(
            "--{}: '{}' is not valid UTF-8",
            option.long,
            value.to_string_lossy()
        )
    })
}

/// A number within the limits of the option's row. Whole numbers within them are exact as f64.
fn number(option: &OptionRow, value: Option<OsString>) -> Result<f64, Failure> {
    let text = text(option, value)?;
    let Takes::Number(_, limit) = option.takes else {
        return Err(not_taken(option, "no number", &text));
    };
    let number = limit.parse(&text);
    number.ok_or_else(|| not_taken(option, &limit.takes(), &text))
}

/// A number of seconds within the limits of the option's row.
fn seconds(option: &OptionRow, value: Option<OsString>) -> Result<Duration, Failure> {
    number(option, value).map(Duration::from_secs_f64)
}

/// A word among those of the option's row.
fn choice(option: &OptionRow, word: String) -> Result<String, Failure> {
    match option.takes {
        Takes::Choice(_, words) if !words.contains(&word.as_str()) => {
            Err(not_taken(option, &words.join(", "), &word))
        }
        _ => Ok(word),
    }
}

fn not_taken(option: &OptionRow, takes: &str, value: &str) -> Failure {
    usage!("--{} takes {takes}, not '{value}'", option.long)
}
