//! The Limbo module and the file server, on an emulator.

mod emulator;
mod files;
mod files_killed;
mod files_remote;
mod module;
mod pool;
