//! The command line of the bridge.

mod options;
