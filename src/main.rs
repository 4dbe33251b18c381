//! `vski`: a small self-hosted backend in one binary.
//!
//! The modules in reading order: the ground that all stand on, the mechanisms (`db`, `http`), the
//! domain, the whole (`app`), its surface (`api`), the process. `docs/architecture.md` is the map.

mod budget;
mod clock;
mod config;
mod crypto;
mod error;
mod failpoints;
mod ids;
mod log;
mod paging;
mod threads;
mod tls;

mod db;
mod http;
mod mail;
mod sockets;

mod auth;
mod backup;
mod check;
mod collections;
mod cron;
mod events;
mod files;
mod filter;
mod node;
mod realtime;
mod records;
mod replicas;
mod replication;
mod rules;
mod stats;
mod triggers;
mod webhooks;
mod workflows;

mod app;

mod api;

mod cli;
mod malloc;
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
            log::error(format_args!("an argument is not UTF-8: {arg:?}"));
            return ExitCode::from(2);
        }
    };
    match cli::run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
