//! `inferno/deploy.sh`, packages, units and what else a system is set up with.

mod amx;
mod build;
mod haproxy;
mod instances;
mod kernels;
mod packages;
mod units;
