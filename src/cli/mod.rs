//! The command line: which command, with which flags, and what is printed.
//!
//! The only file that prints to stdout. Wrong use, and a server with wrong settings, exit with 2, after which systemd
//! does not try again; a command that fails exits with 1.

use std::collections::HashMap;
use std::io::{BufRead as _, Write as _};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use getopts::{Matches, Options};
use rustix::termios;

use crate::base::error::{Error, Kind, Result, ResultExt as _};
use crate::base::malloc;
use crate::config::{Config, OPTIONS};
use crate::model::auth::{admins, password};
use crate::model::{auth, records};
use crate::services::check::{Check, Finding};
use crate::services::replication::MasterClient;
use crate::store::files::{FilePath, Storage};
use crate::store::{db, node};
use crate::{api, config, server};

mod backup;
mod cron;
mod replica;
mod webhooks;
mod workflows;

/// Version and, when the release script sets it, commit.
const VERSION: &str = env!("CARGO_PKG_VERSION");
const COMMIT: Option<&str> = option_env!("VSKI_COMMIT");

/// Why a command did not succeed.
pub enum Failure {
    /// Used wrongly; the text says how it is used.
    Usage(String),
    /// A server was to start with settings that are wrong: trying again will not help.
    Settings(Error),
    /// It was tried and failed.
    Failed(Error),
    /// What it has to say about that is said already.
    Told,
}

impl Failure {
    /// Prints the reason; returns the exit code.
    pub fn report(&self) -> ExitCode {
        let mut stderr = std::io::stderr().lock();
        match self {
            Failure::Usage(text) => {
                let _ = writeln!(stderr, "vski: {text}\nvski help shows how it is used.");
                ExitCode::from(2)
            }
            Failure::Settings(error) => {
                let _ = writeln!(stderr, "vski: {error}");
                ExitCode::from(2)
            }
            Failure::Failed(error) => {
                let _ = writeln!(stderr, "vski: {error}");
                ExitCode::FAILURE
            }
            Failure::Told => ExitCode::FAILURE,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Failure {
        Failure::Failed(error)
    }
}

type Outcome = std::result::Result<(), Failure>;

/// Runs the command that the arguments name.
pub fn run(args: &[String]) -> Outcome {
    let (command, rest) = match args.split_first() {
        Some((command, rest)) => (command.as_str(), rest),
        None => ("help", args),
    };
    if rest.iter().any(|arg| arg == "--help" || arg == "-h") {
        return help(Some(command));
    }
    match command {
        "serve" => {
            malloc::settle(args);
            serve(rest)
        }
        "admin" => admin(rest),
        "files" => files(rest),
        "backup" => backup::backup(rest),
        "restore" => backup::restore(rest),
        "check" => backup::check(rest),
        "replica" => replica(rest),
        "workflows" => workflows::run(rest),
        "webhooks" => webhooks::run(rest),
        "cron" => cron::run(rest),
        "routes" => no_arguments(rest).and_then(|()| routes()),
        "version" | "--version" | "-V" => no_arguments(rest).and_then(|()| version()),
        "help" | "--help" | "-h" => help(rest.first().map(String::as_str)),
        other => Err(Failure::Usage(format!("there is no command {other}."))),
    }
}

fn serve(args: &[String]) -> Outcome {
    let (flags, free) = flags(args)?;
    if let Some(extra) = free.first() {
        return Err(Failure::Usage(format!("serve takes no argument {extra}.")));
    }
    let settled = |failure| match failure {
        Failure::Failed(error) if error.kind() == Kind::Invalid => Failure::Settings(error),
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
    if is_clean { Ok(()) } else { Err(Failure::Told) }
}

fn admin(args: &[String]) -> Outcome {
    let (flags, free) = flags(args)?;
    if let Some(other) = flags.keys().find(|variable| **variable != "DATA_DIR") {
        return Err(Failure::Usage(format!(
            "admin takes --data-dir only, not {other}."
        )));
    }
    let words: Vec<&str> = free.iter().map(String::as_str).collect();
    let data_dir = Config::load_data_dir(&flags)?;
    if words != ["list"] {
        refuse_replica(&data_dir)?;
    }
    match words.as_slice() {
        ["create", email] => {
            db::refuse_emptied(&data_dir)?;
            refuse_known(&data_dir, email)?;
            let password = read_password()?;
            admins::check(email, &password)?;
            db::create_dir(&data_dir)?;
            let default = open_default(&data_dir)?;
            let admin = admins::create(
                &default,
                email,
                &password,
                admins::When::Always,
                &password::hash,
            )?;
            default.close()?;
            let dir = std::path::absolute(&data_dir).unwrap_or(data_dir);
            print(&format!(
                "Admin {} created, in {}.\n",
                admin.email,
                dir.display()
            ))
        }
        ["password", email] => {
            let default = open_existing(&data_dir)?;
            admins::set_password(&default, email, &read_password()?)?;
            default.close()?;
            print(&format!(
                "Password of {email} changed; its tokens are ended.\n"
            ))
        }
        ["delete", email] => {
            let default = open_existing(&data_dir)?;
            admins::delete(&default, email)?;
            default.close()?;
            print(&format!("Admin {email} deleted.\n"))
        }
        ["list"] => {
            let default = open_existing(&data_dir)?;
            let list = admins::list(&default)?;
            default.close()?;
            list.iter()
                .try_for_each(|admin| print(&format!("{}  {}\n", admin.created, admin.email)))
        }
        _ => Err(Failure::Usage(
            "admin takes create EMAIL, password EMAIL, delete EMAIL or list.".to_owned(),
        )),
    }
}

/// Whatever is written to a replica's data is overwritten by what its master has.
fn refuse_replica(data_dir: &Path) -> Result<()> {
    if !db::local_file(data_dir).exists() {
        return Ok(());
    }
    let local = db::open_existing(data_dir, db::LOCAL, SETTINGS)?;
    let is_replica = node::is_replica(&local)?;
    local.close()?;
    match is_replica {
        true => Err(Error::conflict(
            "The data is that of a replica; do this on its master.",
        )),
        false => Ok(()),
    }
}

/// Before the password is asked for.
fn refuse_known(data_dir: &Path, email: &str) -> Result<()> {
    if !db::default_file(data_dir).exists() {
        return Ok(());
    }
    let default = open_default(data_dir)?;
    let is_known = admins::list(&default)?
        .iter()
        .any(|admin| admin.email == email);
    default.close()?;
    match is_known {
        true => Err(Error::conflict(
            "There is an admin with this address already.",
        )),
        false => Ok(()),
    }
}

/// Opens what is there, and makes nothing.
fn open_existing(data_dir: &Path) -> Result<db::Database> {
    refuse_empty(data_dir)?;
    open_default(data_dir)
}

fn refuse_empty(data_dir: &Path) -> Result<()> {
    match db::default_file(data_dir).exists() {
        true => Ok(()),
        false => Err(Error::not_found(format!(
            "There is no data in {}.",
            data_dir.display()
        ))),
    }
}

/// What holds for databases that are opened beside a running server.
const SETTINGS: db::Settings = db::Settings {
    role: db::Role::Master,
    synchronous: db::Synchronous::Full,
    prepare: records::register,
};

/// Opens `default.db`, also beside a running server: SQLite arbitrates between the two.
fn open_default(data_dir: &Path) -> Result<db::Database> {
    db::Database::open(&db::default_file(data_dir), db::Schema::Default, SETTINGS)
}

fn files(args: &[String]) -> Outcome {
    let repairs = args.iter().any(|arg| arg == "--repair");
    let args: Vec<String> = args
        .iter()
        .filter(|arg| *arg != "--repair")
        .cloned()
        .collect();
    let (flags, free) = flags(&args)?;
    if free != ["check"] {
        return Err(Failure::Usage("files takes check.".to_owned()));
    }
    let data_dir = Config::load_data_dir(&flags)?;
    refuse_empty(&data_dir)?;
    if repairs {
        refuse_replica(&data_dir)?;
    }
    let s3 = Config::load_s3(&flags)?;
    let mut report = |finding: Finding, path: &FilePath, is_mended: bool| {
        let note = if is_mended { "  (mended)" } else { "" };
        let line = format!("{:10} {path}{note}\n", finding.name());
        std::io::stdout()
            .lock()
            .write_all(line.as_bytes())
            .context("print")
    };
    let storage = Storage::look(&data_dir, s3.as_ref())?;
    let summary = Check::new(&storage, repairs, &mut report).run(&data_dir, SETTINGS)?;
    print(&format!(
        "{} files with {} bytes looked at, {} findings, {} mended.\n",
        summary.files, summary.bytes, summary.found, summary.repaired
    ))?;
    match summary.found == summary.repaired {
        true => Ok(()),
        false => Err(Failure::Told),
    }
}

fn replica(args: &[String]) -> Outcome {
    let (args, without) = split_without(args)?;
    let (flags, free) = flags(&args)?;
    let words: Vec<&str> = free.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["status"] => {
            let (addr, secret) = Config::load_address(&flags)?;
            let data_dir = Config::load_data_dir(&flags)?;
            let sign = auth::operator_signer(secret.as_deref(), &data_dir)?;
            let client = MasterClient::new(&format!("http://{addr}"), auth::OPERATOR, None, sign);
            print(&replica::ask(&Arc::new(client))?)
        }
        ["promote"] => {
            let data_dir = Config::load_data_dir(&flags)?;
            refuse_empty(&data_dir)?;
            print(&replica::promote(&data_dir, SETTINGS, &without)?)
        }
        _ => Err(Failure::Usage(
            "replica takes status or promote.".to_owned(),
        )),
    }
}

/// The arguments of `--without`, and the others.
fn split_without(args: &[String]) -> std::result::Result<(Vec<String>, Vec<String>), Failure> {
    let (mut others, mut without) = (Vec::new(), Vec::new());
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        match (arg.strip_prefix("--without="), arg.as_str()) {
            (Some(name), _) => without.push(name.to_owned()),
            (None, "--without") => without.push(rest.next().cloned().ok_or_else(|| {
                Failure::Usage("--without needs the name of a database.".to_owned())
            })?),
            _ => others.push(arg.clone()),
        }
    }
    Ok((others, without))
}

/// One line of stdin; at a terminal it is asked for twice and not shown.
fn read_password() -> Result<String> {
    let stdin = std::io::stdin();
    let Ok(before) = termios::tcgetattr(&stdin) else {
        return read_line();
    };
    let mut silent = before.clone();
    silent.local_modes.remove(termios::LocalModes::ECHO);
    termios::tcsetattr(&stdin, termios::OptionalActions::Flush, &silent)?;
    let lines = ask("Password: ").and_then(|first| Ok((first, ask("Again: ")?)));
    termios::tcsetattr(&stdin, termios::OptionalActions::Flush, &before)?;
    match lines? {
        (first, second) if first == second => Ok(first),
        _ => Err(Error::invalid(
            "The two passwords differ; nothing was done.",
        )),
    }
}

fn ask(what: &str) -> Result<String> {
    let mut stderr = std::io::stderr().lock();
    let _ = write!(stderr, "{what}");
    let line = read_line();
    let _ = writeln!(stderr);
    line
}

fn read_line() -> Result<String> {
    let mut line = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut line)
        .context("read the password")?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}

fn routes() -> Outcome {
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

fn version() -> Outcome {
    match COMMIT {
        Some(commit) => print(&format!("vski {VERSION} ({commit})\n")),
        None => print(&format!("vski {VERSION}\n")),
    }
}

fn help(command: Option<&str>) -> Outcome {
    let text = match command {
        Some("serve") => format!("{SERVE_HELP}\n{}", config::describe()),
        Some("admin") => ADMIN_HELP.to_owned(),
        Some("files") => FILES_HELP.to_owned(),
        Some("backup") => backup::BACKUP_HELP.to_owned(),
        Some("restore") => backup::RESTORE_HELP.to_owned(),
        Some("check") => backup::CHECK_HELP.to_owned(),
        Some("replica") => REPLICA_HELP.to_owned(),
        Some("workflows") => workflows::HELP.to_owned(),
        Some("webhooks") => webhooks::HELP.to_owned(),
        Some("cron") => cron::HELP.to_owned(),
        Some("routes") => ROUTES_HELP.to_owned(),
        Some("version") => "Usage: vski version\n\nPrints the version.\n".to_owned(),
        None | Some("help" | "--help" | "-h") => format!("{HELP}\n{}", config::describe()),
        Some(other) => return Err(Failure::Usage(format!("there is no command {other}."))),
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

const ADMIN_HELP: &str = "\
Usage: vski admin create EMAIL | password EMAIL | delete EMAIL | list  [--data-dir DIR]

Works on the data directory itself, also while a server runs on it. Passwords are read from stdin:
one line; at a terminal they are asked for twice and not shown.
";

const FILES_HELP: &str = "\
Usage: vski files check [--repair] [OPTIONS]

Reads every stored file and compares it with its hash, and looks whether storage and records agree;
also while a server runs on the data. The options of the storage (STORAGE, S3_...) are those of the
server. Prints a line for each finding:

  missing     a record names it, and it is not in the storage; put it back from a backup
  damaged     its bytes are not those that were stored; put it back from a backup
  unreadable  it cannot be read; may this account read it?
  unlisted    a record names it, it is in the storage, and has no row; --repair gives it one
  abandoned   it has a row but no record; --repair deletes it
  left over   it is in the storage for an hour, and nothing knows of it; --repair deletes it

Exits with 1 when something is left that is wrong.
";

const REPLICA_HELP: &str = "\
Usage: vski replica status [OPTIONS]
       vski replica promote [--without DATABASE...] [--data-dir DIR]

status asks the server that runs with the same options (HOST, PORT, JWT_SECRET or DATA_DIR): on a
replica how far each database has come, on a master where each of its replicas is.

promote makes a master of a replica's data, for when the old master will not come back. The replica
has to be stopped. Writes that the old master acknowledged and that had not arrived here are lost; it
prints as of when each database is. A database of the master that has never arrived whole is a reason to refuse,
unless it is named by --without.
";

const ROUTES_HELP: &str = "\
Usage: vski routes

Lists the endpoints of the API, one per line: method, path, who may call it (public, rules: whom the
rules of the collection admit, admin, operate: admins and this command line, replica, watch: admins, service tokens, replicas), whether it is about one database (then it also exists
under /db/NAME), and what becomes of it on a replica.
";

/// The flags of the option table, by variable, and the other arguments.
fn flags(
    args: &[String],
) -> std::result::Result<(HashMap<&'static str, String>, Vec<String>), Failure> {
    parse(args, &[], &[]).map(|parsed| (parsed.flags, parsed.free))
}

/// The arguments of a command.
struct Parsed {
    /// The flags of the option table, by variable.
    flags: HashMap<&'static str, String>,
    /// Those of the command itself, without their dashes.
    own: HashMap<String, String>,
    free: Vec<String>,
}

/// Parses the flags of the option table and those of a command: some take a value, some do not.
fn parse(
    args: &[String],
    takes: &[&str],
    switches: &[&str],
) -> std::result::Result<Parsed, Failure> {
    let mut options = Options::new();
    for option in &OPTIONS {
        options.optopt("", &option.flag(), option.help, option.takes);
    }
    for name in takes {
        options.optopt("", name, "", "");
    }
    for name in switches {
        options.optflag("", name, "");
    }
    let matches: Matches = options
        .parse(args)
        .map_err(|error| Failure::Usage(format!("{error}.")))?;
    let given = |option: &config::Opt| matches.opt_str(&option.flag());
    let flags = OPTIONS
        .iter()
        .filter_map(|option| given(option).map(|value| (option.variable, value)))
        .collect();
    let mut own = HashMap::new();
    for name in takes.iter().chain(switches) {
        if matches.opt_present(name) {
            let value = matches.opt_str(name).unwrap_or_default();
            own.insert((*name).to_owned(), value);
        }
    }
    let free = matches.free;
    Ok(Parsed { flags, own, free })
}

fn no_arguments(args: &[String]) -> Outcome {
    match args.first() {
        None => Ok(()),
        Some(extra) => Err(Failure::Usage(format!(
            "there is no argument {extra} here."
        ))),
    }
}

/// Prints to stdout; a reader that has gone away is no error worth a message.
fn print(text: &str) -> Outcome {
    let mut stdout = std::io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(Failure::Failed(Error::from(error).context("print")))
        }
        _ => Ok(()),
    }
}
