//! The command line: which command, with which flags, and what is printed.
//!
//! The only file that prints to stdout. Wrong use, and a server with wrong settings, exit with 2, after which systemd
//! does not try again; a command that fails exits with 1.

use arguments::{flags, no_arguments};
use command::{CommandError, CommandResult, print};

use crate::base::error::Kind;
use crate::base::malloc;
use crate::config::Config;
use crate::{api, config, server};

mod admin;
mod arguments;
mod backup;
mod command;
mod cron;
mod data_dir;
mod files;
mod replica;
mod server_client;
mod table;
mod webhooks;
mod workflows;

/// Version and, when the release script sets it, commit.
const VERSION: &str = env!("CARGO_PKG_VERSION");
const COMMIT: Option<&str> = option_env!("VSKI_COMMIT");

/// Runs the command that the arguments name.
pub fn run(args: &[String]) -> CommandResult {
    let (command, rest) = match args.split_first() {
        Some((command, rest)) => (command.as_str(), rest),
        None => ("help", args),
    };
    if rest.iter().any(|arg| arg == "--help" || arg == "-h") {
        return help(Some(command));
    }
    match command {
        "serve" => {
            malloc::configure(args);
            serve(rest)
        }
        "admin" => admin::run(rest),
        "files" => files::run(rest),
        "backup" => backup::backup(rest),
        "restore" => backup::restore(rest),
        "check" => backup::check(rest),
        "replica" => replica::run(rest),
        "workflows" => workflows::run(rest),
        "webhooks" => webhooks::run(rest),
        "cron" => cron::run(rest),
        "routes" => no_arguments(rest).and_then(|()| routes()),
        "version" | "--version" | "-V" => no_arguments(rest).and_then(|()| version()),
        "help" | "--help" | "-h" => help(rest.first().map(String::as_str)),
        other => Err(CommandError::Usage(format!("there is no command {other}."))),
    }
}

fn serve(args: &[String]) -> CommandResult {
    let (flags, free) = flags(args)?;
    if let Some(extra) = free.first() {
        return Err(CommandError::Usage(format!(
            "serve takes no argument {extra}."
        )));
    }
    let settled = |failure| match failure {
        CommandError::Failed(error) if error.kind() == Kind::Invalid => {
            CommandError::Settings(error)
        }
        failure => failure,
    };
    let config = Config::load(&flags).map_err(|error| settled(error.into()))?;
    let is_clean = server::run(&config, |addr| {
        print(&format!(
            "vski {VERSION} listening on http://{addr}, data in {}\n",
            config.data_dir.display()
        ))
    })
    .map_err(settled)?;
    if is_clean {
        Ok(())
    } else {
        Err(CommandError::AlreadyReported)
    }
}

fn routes() -> CommandResult {
    for route in &api::ROUTES {
        print(&format!(
            "{:7} {:58} {:11} {:9} {}\n",
            route.method.as_str(),
            route.path,
            route.access.to_string(),
            format!("{:?}", route.scope).to_lowercase(),
            format!("{:?}", route.on_replica).to_lowercase(),
        ))?;
    }
    Ok(())
}

fn version() -> CommandResult {
    match COMMIT {
        Some(commit) => print(&format!("vski {VERSION} ({commit})\n")),
        None => print(&format!("vski {VERSION}\n")),
    }
}

fn help(command: Option<&str>) -> CommandResult {
    let text = match command {
        Some("serve") => format!("{SERVE_HELP}\n{}", config::describe()),
        Some("admin") => admin::HELP.to_owned(),
        Some("files") => files::HELP.to_owned(),
        Some("backup") => backup::BACKUP_HELP.to_owned(),
        Some("restore") => backup::RESTORE_HELP.to_owned(),
        Some("check") => backup::CHECK_HELP.to_owned(),
        Some("replica") => replica::HELP.to_owned(),
        Some("workflows") => workflows::HELP.to_owned(),
        Some("webhooks") => webhooks::HELP.to_owned(),
        Some("cron") => cron::HELP.to_owned(),
        Some("routes") => ROUTES_HELP.to_owned(),
        Some("version") => "Usage: vski version\n\nPrints the version.\n".to_owned(),
        None | Some("help" | "--help" | "-h") => format!("{HELP}\n{}", config::describe()),
        Some(other) => return Err(CommandError::Usage(format!("there is no command {other}."))),
    };
    print(&text)
}

const HELP: &str = "\
vski: a small self-hosted backend in one binary.

Usage:
  vski serve [OPTIONS]           run the server
  vski admin create EMAIL        make an admin; the password is read from stdin
  vski admin password EMAIL      change an admin's password and end its tokens
  vski admin delete EMAIL        remove an admin
  vski admin list                list the admins
  vski backup DIR [--verify]     copy everything, or what is new, to DIR
  vski restore DIR [--replace]   put such a copy into the data directory
  vski check [DIR]               look whether all data, or a backup, is as it should be
  vski files check [--repair]    compare stored files with their hashes and records
  vski replica status            how far replicas are, from a running server
  vski replica promote           make a master of a replica's data
  vski workflows list            the runs of this node
  vski workflows show RUN        a run, its steps and its last events
  vski workflows cancel RUN...   end runs
  vski workflows retry RUN...    go on with runs that failed or are paused
  vski workflows export FILE     write runs to a file, for another node
  vski workflows adopt FILE      take the runs of such a file in
  vski webhooks list             the webhooks of a database
  vski webhooks logs             calls, and what came of them
  vski webhooks retry ID...      make calls again that have failed
  vski webhooks secret           what receivers check signatures with
  vski cron list                 the jobs, when they are due, what became of them
  vski cron run NAME             run a job now
  vski cron history NAME         the last runs of a job
  vski routes                    list the endpoints of the API
  vski version                   print the version
  vski help [COMMAND]            print this, or the help of a command

Options, as environment variable or as flag of serve (the flag wins):
";

const SERVE_HELP: &str = "\
Usage: vski serve [OPTIONS]

Runs the server until SIGTERM or SIGINT; requests in flight are finished (8 s at most), a second
signal ends it at once. Logs to stderr; prints one line to stdout when it is ready.

Options, as environment variable or as flag (the flag wins):
";

const ROUTES_HELP: &str = "\
Usage: vski routes

Lists the endpoints of the API, one per line: method, path, who may call it (public, rules: whom the
rules of the collection admit, admin, operate: admins and this command line, replica, watch: admins, service tokens, replicas), whether it is about one database (then it also exists
under /db/NAME), and what becomes of it on a replica.
";
