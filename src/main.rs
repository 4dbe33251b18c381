//! `vski`: a small self-hosted backend in one binary.
//!
//! The modules in reading order: the ground that all stand on, the mechanisms (`db`, `http`), the
//! domain, the whole (`app`), its surface (`api`), the process. `docs/architecture.md` is the map.

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
            base::log::error(format_args!("an argument is not UTF-8: {arg:?}"));
            return ExitCode::from(2);
        }
    };
    match cli::run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
