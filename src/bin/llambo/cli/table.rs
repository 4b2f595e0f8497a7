//! The commands and the options, one a row. Parsing, `--help` and the shell completions follow from
//! these two tables, and tests compare the man page with the help.

use Sockets::{All, FirstFree, One};
use llama_cpp_bridge::shared::endpoint::MAX_REQUEST_LIMIT;
use llama_cpp_bridge::shared::ranges::{self, Limit};

/// What an option takes; a value has a name in the help.
#[derive(Clone, Copy)]
pub enum Takes {
    /// Nothing: the option is a switch.
    Nothing,
    /// Any text.
    Text(&'static str),
    /// The path of a file.
    Path(&'static str),
    /// A number within these limits.
    Number(&'static str, &'static Limit),
    /// One of these words.
    Choice(&'static str, &'static [&'static str]),
}

/// An option.
pub struct OptionRow {
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

const TIMEOUT: Limit = ranges::decimal("", "timeout", 0.001, 86_400.0);
const RETRY: Limit = ranges::decimal("", "retry", 0.0, 86_400.0);
const UID: Limit = ranges::whole("", "trust-uid", 0, u32::MAX as i64);
const MAX_REQUEST: Limit = ranges::whole("", "max-request", 1024, MAX_REQUEST_LIMIT as i64);

#[rustfmt::skip]
/// Every option, in the order of the help.
pub const OPTIONS: &[OptionRow] = &[
    row(Some('s'), "socket", Takes::Path("SOCKET"), &[],
        "socket's path, or tcp:HOST:PORT; repeatable"),
    row(None, "timeout", Takes::Number("SECONDS", &TIMEOUT), &[],
        "give up after this many seconds of silence"),
    row(None, "json", Takes::Nothing, &[],
        "print the replies as the bridge wrote them"),
    row(None, "trust-uid", Takes::Number("UID", &UID), &[],
        "trust this user's sockets too; repeatable"),
    row(None, "auth-file", Takes::Path("FILE"), &[],
        "file with the token for bridges that require one"),
    row(None, "max-request", Takes::Number("BYTES", &MAX_REQUEST), READING,
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
    row(None, "stop", Takes::Text("TEXT"), GENERATING,
        "end the answer before this text; repeatable"),
    row(None, "ignore-eos", Takes::Nothing, GENERATING,
        "continue past the end-of-generation token"),
    row(None, "grammar-file", Takes::Path("FILE"), GENERATING,
        "constrain the answer to the GBNF grammar in FILE"),
    row(Some('j'), "json-schema", Takes::Text("SCHEMA"), GENERATING,
        "constrain the answer to this JSON schema"),
    row(None, "json-schema-file", Takes::Path("FILE"), GENERATING,
        "constrain the answer to the JSON schema in FILE"),
    row(None, "system", Takes::Text("TEXT"), &["chat", "map"],
        "system message of the chat"),
    row(None, "template", Takes::Text("TEXT"), MAP,
        "send TEXT with each line in place of {}"),
    row(None, "chat", Takes::Nothing, MAP,
        "send each line through the model's chat template"),
    row(None, "embed", Takes::Nothing, MAP,
        "answer each line with its embedding"),
    row(Some('0'), "null", Takes::Nothing, MAP,
        "prompts and answers end in NUL instead of newline"),
    row(None, "retry", Takes::Number("SECONDS", &RETRY), MAP,
        "how long to wait for a lost bridge to return"),
    row(None, "no-history", Takes::Nothing, &["chat"],
        "do not read or save the history of what is typed"),
    row(None, "completions", Takes::Choice("SHELL", SHELLS), &[],
        "print the completion script for a shell"),
    row(Some('h'), "help", Takes::Nothing, &[],
        "print this help, or that of a command"),
    row(Some('V'), "version", Takes::Nothing, &[],
        "print the version"),
];

const fn row(
    short: Option<char>,
    long: &'static str,
    takes: Takes,
    commands: &'static [&'static str],
    help: &'static str,
) -> OptionRow {
    OptionRow {
        short,
        long,
        takes,
        commands,
        help,
    }
}

/// The row of a field of GENERATE that takes a number.
const fn limited(limit: &'static Limit, short: Option<char>, help: &'static str) -> OptionRow {
    let name = if limit.whole { "N" } else { "F" };
    row(
        short,
        limit.option,
        Takes::Number(name, limit),
        GENERATING,
        help,
    )
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
    command("raw", "", (0, 0), One, "send standard input to the bridge, print replies"),
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
            Takes::Number(name, _) | Takes::Choice(name, _) => Some(name),
        }
    }
}
