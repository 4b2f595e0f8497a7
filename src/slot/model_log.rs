//! What the bridge reads from the standard error of the model process: llama.cpp's log, marked line
//! by line by the process, and between it the last words of a process that aborts, which nobody can
//! mark.

use llama_cpp_bridge::sys::log::{self, ERROR_MARK, Level, OTHER_MARK, WARNING_MARK};

/// Longest line that is kept, in bytes; llama.cpp's own assertions are far shorter.
const LINE_LIMIT: usize = 1000;

/// Reads the standard error of a model process.
pub struct Reader {
    verbose: bool,
    line: Vec<u8>,
    first_error: Option<String>,
    cause: Option<String>,
}

impl Reader {
    /// A reader that passes the whole log on to standard error if it is to be `verbose`.
    pub fn new(verbose: bool) -> Self {
        Self {
            verbose,
            line: Vec::new(),
            first_error: None,
            cause: None,
        }
    }

    /// Takes in what the process wrote.
    pub fn push(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            if byte == b'\n' {
                let line = std::mem::take(&mut self.line);
                self.end_line(&String::from_utf8_lossy(&line));
            } else if self.line.len() < LINE_LIMIT {
                self.line.push(byte);
            }
        }
    }

    /// The first error that was logged since [`forget`](Self::forget): those that follow are
    /// ever more general.
    pub fn first_error(&self) -> Option<String> {
        self.first_error.clone()
    }

    /// The reason to give for the death of the process: what it wrote unmarked, else the first
    /// error.
    pub fn cause(&mut self) -> Option<String> {
        if !self.line.is_empty() {
            self.push(b"\n");
        }
        self.cause.clone().or_else(|| self.first_error())
    }

    /// Starts anew, for the next request.
    pub fn forget(&mut self) {
        self.first_error = None;
        self.cause = None;
    }

    fn end_line(&mut self, line: &str) {
        let line = line.trim_end();
        if let Some(error) = line.strip_prefix(ERROR_MARK) {
            self.first_error.get_or_insert_with(|| error.to_string());
            self.show(Level::Error, error);
        } else if let Some(warning) = line.strip_prefix(WARNING_MARK) {
            self.show(Level::Warning, warning);
        } else if let Some(other) = line.strip_prefix(OTHER_MARK) {
            self.show(Level::Info, other);
        } else if !line.is_empty() {
            self.hear(line);
            self.show(Level::Error, line);
        }
    }

    /// An assertion or the text of an exception explains more than the lines around it.
    fn hear(&mut self, line: &str) {
        let telling = line.contains("GGML_ASSERT") || line.trim_start().starts_with("what():");
        if telling || self.cause.is_none() {
            self.cause = Some(without_directory(line.trim_start()).to_string());
        }
    }

    fn show(&self, level: Level, line: &str) {
        if self.verbose {
            log::write(level, line);
        }
    }
}

/// An assertion starts with the path of the source file on the machine that built it; the name of
/// the file is enough.
fn without_directory(line: &str) -> &str {
    match line.split_once(".cpp:").or_else(|| line.split_once(".c:")) {
        Some((path, _)) => &line[path.rfind('/').map_or(0, |slash| slash + 1)..],
        None => line,
    }
}
