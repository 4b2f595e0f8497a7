//! Which build a program is of: the two sides of the socket pair have to be of the same one, as the
//! messages between them change from one to the next.

use miniserde::{Deserialize, Serialize};

/// A version, and what was built as that.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Build {
    /// That of the package, `0.2.0` for instance.
    pub version: String,
    /// 16 hexadecimal digits that stand for all sources of the programs; features and compilers do
    /// not count, so that one bridge can use model programs for several devices and processors.
    pub build: String,
}

impl Build {
    /// The build that this program is of.
    pub fn this() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_string(),
            build: env!("BUILD_DIGEST").to_string(),
        }
    }

    /// In words: `NAME 0.2.0 (build 0123456789abcdef)`.
    pub fn describe(&self, name: &str) -> String {
        format!("{name} {} (build {})", self.version, self.build)
    }
}
