//! The commands and the options, one a row. Parsing, `--help` and the shell completions follow from
//! these two tables, and tests compare the man page with the help.

use Sockets::{All, FirstFree, One};
use llama_cpp_bridge::shared::endpoint::MAX_REQUEST_LIMIT;
use llama_cpp_bridge::shared::ranges::{self, Limit};

/// What an option takes.
#[derive(Clone, Copy)]
pub enum Takes {
    /// Nothing: the option is a switch.
    Nothing,
    /// Any text, under this name in the help.
    Text(&'static str),
    /// The path of a file, under this name in the help.
    Path(&'static str),
    /// A whole number within these bounds.
    Integer(i64, i64),
    /// A decimal number within these bounds.
    Decimal(f64, f64),
    /// One of these words.
    Choice(&'static [&'static str]),
}

/// What an option means to the parser.
#[derive(Clone, Copy, PartialEq)]
pub enum Meaning {
    /// A path or `tcp:HOST:PORT`; repeatable.
    Socket,
    /// Seconds of silence.
    Timeout,
    /// Bytes of the longest text.
    MaxRequest,
    /// Replies as they came.
    Json,
    /// The file of the token.
    AuthFile,
    /// A user whose sockets are trusted; repeatable.
    TrustUid,
    /// A field of GENERATE with a number.
    Field(&'static str),
    /// A field of GENERATE that is set to true.
    Switch(&'static str),
    /// A stop string; repeatable.
    Stop,
    /// A GBNF grammar in a file.
    GrammarFile,
    /// A JSON schema as text.
    Schema,
    /// A JSON schema in a file.
    SchemaFile,
    /// The system message.
    System,
    /// Text around each line of `map`.
    Template,
    /// Each line of `map` is a user's turn.
    MapChat,
    /// Each line of `map` is embedded.
    MapEmbed,
    /// NUL in place of newline.
    Null,
    /// Seconds in which a lost bridge may return.
    Retry,
    /// The history of the chat is not kept.
    NoHistory,
    /// Print a completion script.
    Completions,
    /// Print the help.
    Help,
    /// Print the version.
    Version,
}

/// An option.
pub struct OptionRow {
    /// What it means.
    pub meaning: Meaning,
    /// The letter of its short form.
    pub short: Option<char>,
    /// Its long name, without the hyphens.
    pub long: &'static str,
    /// What it takes.
    pub takes: Takes,
    /// The commands it belongs to; none listed means all of them.
    pub commands: &'static [&'static str],
    /// One line of help.
    pub help: &'static str,
}

/// Which of the bridges that were named a command asks.
#[derive(Clone, Copy, PartialEq)]
pub enum Sockets {
    /// Only one may be named.
    One,
    /// The first that is free and has a model.
    FirstFree,
    /// All of them.
    All,
}

/// A command.
pub struct CommandRow {
    /// The word on the command line.
    pub name: &'static str,
    /// Its operands in the help.
    pub operands: &'static str,
    /// How many operands it takes: at least, at most.
    pub count: (usize, usize),
    /// What several sockets mean.
    pub sockets: Sockets,
    /// One line of help.
    pub help: &'static str,
}

/// The shells that `--completions` knows.
pub const SHELLS: &[&str] = &["bash", "zsh", "fish"];

/// The commands that read a text which may come on standard input.
const READING: &[&str] = &["infer", "chat", "embed", "tokenize", "detokenize", "map"];

/// The commands that generate, and so take the options of sampling.
const GENERATING: &[&str] = &["infer", "chat", "map"];

const MAP: &[&str] = &["map"];

#[rustfmt::skip]
/// Every option, in the order of the help.
pub const OPTIONS: &[OptionRow] = &[
    row(Meaning::Socket, Some('s'), "socket", Takes::Path("SOCKET"), &[],
        "socket's path, or tcp:HOST:PORT; repeatable"),
    row(Meaning::Timeout, None, "timeout", Takes::Decimal(0.001, 86_400.0), &[],
        "give up after this many seconds of silence"),
    row(Meaning::Json, None, "json", Takes::Nothing, &[],
        "print the replies as the bridge wrote them"),
    row(Meaning::TrustUid, None, "trust-uid", Takes::Integer(0, u32::MAX as i64), &[],
        "trust this user's sockets too; repeatable"),
    row(Meaning::AuthFile, None, "auth-file", Takes::Path("FILE"), &[],
        "file with the token for bridges that require one"),
    row(Meaning::MaxRequest, None, "max-request", Takes::Integer(1024, MAX_REQUEST_LIMIT as i64), READING,
        "longest text to read, as the bridge's --max-request"),
    limited(&ranges::MAX_TOKENS, Some('n'),
        "maximum tokens to generate; -1: fill the context"),
    limited(&ranges::TEMPERATURE, None,
        "temperature; 0: always the most likely token"),
    limited(&ranges::TOP_K, None,
        "sample from the N most likely tokens; 0: off"),
    limited(&ranges::TOP_P, None,
        "sample from this cumulative probability; 1: off"),
    limited(&ranges::MIN_P, None,
        "minimum probability relative to the top; 0: off"),
    limited(&ranges::REPEAT_PENALTY, None,
        "penalty for repeated tokens; 1: off"),
    limited(&ranges::REPEAT_LAST_N, None,
        "how far back penalties look; -1: whole context"),
    limited(&ranges::PRESENCE_PENALTY, None,
        "penalty for tokens that occurred; 0: off"),
    limited(&ranges::FREQUENCY_PENALTY, None,
        "penalty by how often a token occurred; 0: off"),
    limited(&ranges::SEED, None,
        "seed of sampling; -1: random"),
    row(Meaning::Stop, None, "stop", Takes::Text("TEXT"), GENERATING,
        "end the answer before this text; repeatable"),
    row(Meaning::Switch("ignore_eos"), None, "ignore-eos", Takes::Nothing, GENERATING,
        "continue past the end-of-generation token"),
    row(Meaning::GrammarFile, None, "grammar-file", Takes::Path("FILE"), GENERATING,
        "constrain the answer to the GBNF grammar in FILE"),
    row(Meaning::Schema, Some('j'), "json-schema", Takes::Text("SCHEMA"), GENERATING,
        "constrain the answer to this JSON schema"),
    row(Meaning::SchemaFile, None, "json-schema-file", Takes::Path("FILE"), GENERATING,
        "constrain the answer to the JSON schema in FILE"),
    row(Meaning::System, None, "system", Takes::Text("TEXT"), &["chat", "map"],
        "system message of the chat"),
    row(Meaning::Template, None, "template", Takes::Text("TEXT"), MAP,
        "send TEXT with each line in place of {}"),
    row(Meaning::MapChat, None, "chat", Takes::Nothing, MAP,
        "send each line through the model's chat template"),
    row(Meaning::MapEmbed, None, "embed", Takes::Nothing, MAP,
        "answer each line with its embedding"),
    row(Meaning::Null, Some('0'), "null", Takes::Nothing, MAP,
        "prompts and answers end in NUL instead of newline"),
    row(Meaning::Retry, None, "retry", Takes::Decimal(0.0, 86_400.0), MAP,
        "how long to wait for a lost bridge to return"),
    row(Meaning::NoHistory, None, "no-history", Takes::Nothing, &["chat"],
        "do not read or save the history of what is typed"),
    row(Meaning::Completions, None, "completions", Takes::Choice(SHELLS), &[],
        "print the completion script for a shell"),
    row(Meaning::Help, Some('h'), "help", Takes::Nothing, &[],
        "print this help, or that of a command"),
    row(Meaning::Version, Some('V'), "version", Takes::Nothing, &[],
        "print the version"),
];

const fn row(
    meaning: Meaning,
    short: Option<char>,
    long: &'static str,
    takes: Takes,
    commands: &'static [&'static str],
    help: &'static str,
) -> OptionRow {
    OptionRow {
        meaning,
        short,
        long,
        takes,
        commands,
        help,
    }
}

/// The row of a field of GENERATE that takes a number.
const fn limited(limit: &'static Limit, short: Option<char>, help: &'static str) -> OptionRow {
    let takes = if limit.whole {
        Takes::Integer(limit.low as i64, limit.high as i64)
    } else {
        Takes::Decimal(limit.low, limit.high)
    };
    let meaning = Meaning::Field(limit.field);
    row(meaning, short, limit.option, takes, GENERATING, help)
}

#[rustfmt::skip]
/// Every command, in the order of the help.
pub const COMMANDS: &[CommandRow] = &[
    command("ping", "", (0, 0), All, "ask whether the bridge answers"),
    command("status", "", (0, 0), All, "say which model is loaded"),
    command("info", "", (0, 0), All, "describe the bridge and its model"),
    command("metrics", "", (0, 0), All, "print the bridge's metrics in Prometheus format"),
    command("ls", "", (0, 0), All, "list the bridges of this machine"),
    command("load", "PATH", (1, 1), All, "load the model in the GGUF file PATH"),
    command("free", "", (0, 0), All, "unload the model"),
    command("save", "NAME", (1, 1), All, "save the state of the last evaluation as NAME"),
    command("restore", "NAME", (1, 1), All, "restore the state saved as NAME"),
    command("quit", "", (0, 0), All, "stop the bridge"),
    command("infer", "[PROMPT]", (0, 1), FirstFree, "generate text that continues PROMPT"),
    command("chat", "[MESSAGE]", (0, 1), FirstFree, "answer MESSAGE through the model's chat template"),
    command("embed", "[TEXT]", (0, 1), FirstFree, "print the embedding of TEXT"),
    command("tokenize", "[TEXT]", (0, 1), FirstFree, "print the tokens of TEXT"),
    command("detokenize", "[ID]...", (0, usize::MAX), FirstFree, "print the text of tokens"),
    command("raw", "", (0, 0), One, "send standard input to the bridge, print its replies"),
    command("map", "", (0, 0), All, "answer each line of standard input with a line"),
    command("help", "[COMMAND]", (0, 1), All, "print this help, or that of a command"),
];

const fn command(
    name: &'static str,
    operands: &'static str,
    count: (usize, usize),
    sockets: Sockets,
    help: &'static str,
) -> CommandRow {
    CommandRow {
        name,
        operands,
        count,
        sockets,
        help,
    }
}

impl OptionRow {
    /// True if the option may be given to this command.
    pub fn belongs_to(&self, command: &str) -> bool {
        self.commands.is_empty() || self.commands.contains(&command)
    }

    /// The name of its value in the help, if it takes one.
    pub fn value_name(&self) -> Option<&'static str> {
        match self.takes {
            Takes::Nothing => None,
            Takes::Text(name) | Takes::Path(name) => Some(name),
            Takes::Integer(..) if self.long == "trust-uid" => Some("UID"),
            Takes::Integer(..) if self.long == "max-request" => Some("BYTES"),
            Takes::Integer(..) => Some("N"),
            Takes::Decimal(..) if self.commands != GENERATING => Some("SECONDS"),
            Takes::Decimal(..) => Some("F"),
            Takes::Choice(_) => Some("SHELL"),
        }
    }
}

/// The row of an option by its long name.
pub fn find_long(name: &str) -> Option<&'static OptionRow> {
    OPTIONS.iter().find(|option| option.long == name)
}

/// The row of an option by its letter.
pub fn find_short(letter: char) -> Option<&'static OptionRow> {
    OPTIONS.iter().find(|option| option.short == Some(letter))
}

/// The row of a command.
pub fn find_command(name: &str) -> Option<&'static CommandRow> {
    COMMANDS.iter().find(|command| command.name == name)
}
