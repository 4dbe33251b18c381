//! `vski`: a small self-hosted backend in one binary.
//!
//! The modules are in reading order, each on top of the ones before it. `docs/architecture.md` is
//! the map.

mod base;

mod net;
mod store;

mod model;

mod services;

mod app;
mod config;

mod api;

mod cli;
mod server;
#[cfg(test)]
mod tests;

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> = match std::env::args_os()
        .skip(1)
        .map(|arg| arg.into_string())
        .collect()
    {
        Ok(args) => args,
        Err(arg) => {
            base::log::error(format_args!("invalid argument, not UTF-8: {arg:?}"));
            return ExitCode::from(2);
        }
    };
    match cli::run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
