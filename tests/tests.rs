//! Tests of the built programs, over real sockets and with real models, in folders named like those
//! of `src/` (`model` is the model program), and `deploy`, `docs` and `inferno` for what lies beside
//! it; `proofs` is of the whole, and `fuzz` of the fuzz targets. `shared` and `sys` have their tests in the other folders, and in unit
//! tests beside the code.

mod harness;

mod cli;
mod deploy;
mod docs;
mod fuzz;
mod inferno;
mod llambo;
mod model;
mod proofs;
mod protocol;
mod server;
mod slot;
