//! The command line: dispatches to the commands and prints their help.
//!
//! Only the command line prints to stdout. Wrong usage and invalid settings of a server exit with
//! 2, after which systemd does not try again; a command that fails exits with 1.

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
mod import;
mod replica;
mod server_client;
mod table;
mod webhooks;
mod workflows;

/// The version, and the commit if the release script sets it.
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
        "import" => import::run(rest),
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
        other => Err(CommandError::Usage(format!("unknown command {other}."))),
    }
}

fn serve(args: &[String]) -> CommandResult {
    let (flags, free) = flags(args)?;
    if let Some(extra) = free.first() {
        return Err(CommandError::Usage(format!("unexpected argument {extra}.")));
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
        Some("import") => import::HELP.to_owned(),
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
        Some(other) => return Err(CommandError::Usage(format!("unknown command {other}."))),
    };
    print(&text)
}

const HELP: &str = "\
vski: a small self-hosted backend in one binary.

Usage:
  vski serve [OPTIONS]           run the server
  vski admin create EMAIL        create an admin; the password is read from stdin
  vski admin password EMAIL      change the password of an admin and end its tokens
  vski admin delete EMAIL        delete an admin
  vski admin list                list the admins
  vski backup DIR [--verify]     back up everything to DIR, copying only new files
  vski restore DIR [--replace]   restore a backup into the data directory
  vski check [DIR]               check all data, or a backup
  vski import pocketbase DIR     import the data of a PocketBase
  vski files check [--repair]    compare stored files with their hashes and records
  vski replica status            show the state of replication, from a running server
  vski replica promote           turn the data of a replica into that of a master
  vski workflows list            list the runs of this node
  vski workflows show RUN        show a run, its steps and its last events
  vski workflows cancel RUN...   cancel runs
  vski workflows retry RUN...    resume runs that failed or are paused
  vski workflows export FILE     write runs to a file, for another node
  vski workflows adopt FILE      import the runs of such a file
  vski webhooks list             list the webhooks of a database
  vski webhooks logs             show calls and their results
  vski webhooks retry ID...      retry failed calls
  vski webhooks secret           show the secret with which receivers verify signatures
  vski cron list                 list the jobs with their next and last runs
  vski cron run NAME             run a job now
  vski cron history NAME         show the last runs of a job
  vski routes                    list the endpoints of the API
  vski version                   print the version
  vski help [COMMAND]            print this help, or that of a command

Options, as environment variables or flags of serve (a flag wins):
";

const SERVE_HELP: &str = "\
Usage: vski serve [OPTIONS]

Runs the server until SIGTERM or SIGINT. Requests in flight may finish within 8 s; a second signal
ends the server at once. Logs to stderr; prints one line to stdout when it is ready.

Options, as environment variables or flags (a flag wins):
";

const ROUTES_HELP: &str = "\
Usage: vski routes

Lists the endpoints of the API, one per line: method, path, callers, scope, and behavior on a replica.

Callers: public; rules (as the rules of the collection decide); account; admin; operate (admins and
this command line); replica; watch (admins, service tokens and replicas); work (admins, service tokens
and keys with the scope service); else admins and keys with this scope.
An endpoint with the scope database also exists under /db/NAME.
";
