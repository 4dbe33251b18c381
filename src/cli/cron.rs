//! `vski cron`: jobs listed with their runs, and run by hand.
//!
//! Listing reads the files, even while a server runs. Only a server runs jobs, so `run` sends it a
//! request.

use std::path::Path;
use std::sync::Arc;

use serde_json::{Value, json};

use super::arguments::{Arguments, parse};
use super::command::{CommandError, CommandResult, print};
use super::data_dir::{SETTINGS, refuse_empty};
use super::server_client::{ask_server, explain_unreachable};
use super::table::{items, row, table, text_of};
use crate::api::cron;
use crate::base::clock;
use crate::base::error::{Error, Kind, Result};
use crate::base::paging::Page;
use crate::config::Config;
use crate::model::auth;
use crate::services::cron::store;
use crate::services::replication::MasterClient;
use crate::store::db::{Database, Role};
use crate::store::{db, node};

pub const HELP: &str = "\
Usage: vski cron list [--json]
       vski cron run NAME
       vski cron history NAME [--limit N] [--json]
       each with [--data-dir DIR]

list shows the jobs, each with its next due time and its last run on this node. history shows the last N
runs (30) of a job, newest first. Both read DATA_DIR; a server may run meanwhile. NAME may be the id.

run asks the server that runs on DATA_DIR (with the same HOST, PORT and JWT_SECRET) to run a job now, even
if the job is not active. It does not wait for the run; history shows the result.
";

/// Runs shown by history: the limit and the default.
const RUNS_MAX: u64 = 100;
const RUNS: u64 = 30;

pub fn run(args: &[String]) -> CommandResult {
    let (verb, rest) = match args.split_first() {
        Some((verb, rest)) => (verb.as_str(), rest),
        None => ("", args),
    };
    let (valued, switches): (&[&str], &[&str]) = match verb {
        "list" => (&[], &["json"]),
        "history" => (&["limit"], &["json"]),
        "run" => (&[], &[]),
        _ => {
            let text = "cron needs a subcommand: list, run or history.";
            return Err(CommandError::Usage(text.to_owned()));
        }
    };
    let parsed = parse(rest, valued, switches)?;
    let words: Vec<&str> = parsed.free.iter().map(String::as_str).collect();
    let dir = Config::load_data_dir(&parsed.flags)?;
    match (verb, words.as_slice()) {
        ("list", []) => list(&dir, &parsed),
        ("run", [name]) => run_now(&dir, name, &parsed),
        ("history", [name]) => history(&dir, name, &parsed),
        _ => Err(CommandError::Usage(match verb {
            "list" => format!("unexpected argument {}.", words[0]),
            _ => format!("cron {verb} needs one NAME."),
        })),
    }
}

fn list(dir: &Path, parsed: &Arguments) -> CommandResult {
    let (default, local) = open(dir)?;
    let role = match node::is_replica(&local)? {
        true => Role::Replica,
        false => Role::Master,
    };
    let jobs = default.read(store::jobs)?;
    let shown: Vec<Value> = local.read(|local| {
        let shown = jobs.iter().map(|job| {
            let (last, _) = store::runs(local, &job.id, Page::new(1, 1))?;
            let is_running = last.iter().any(|run| run.status == "running");
            cron::show(local, job, clock::now_ms(), role, is_running)
        });
        shown.collect::<Result<_>>()
    })?;
    if parsed.own.contains_key("json") {
        return print(&format!("{}\n", json!({"items": shown})));
    }
    let mut rows = vec![row(&[
        "NAME", "TYPE", "SCHEDULE", "ZONE", "ACTIVE", "NEXT", "LAST", "STATUS",
    ])];
    for job in &shown {
        rows.push(vec![
            text_of(&job["name"]),
            text_of(&job["type"]),
            text_of(&job["schedule"]),
            match text_of(&job["timeZone"]) {
                zone if zone.is_empty() => "UTC".to_owned(),
                zone => zone,
            },
            text_of(&job["active"]),
            text_of(&job["next"]),
            text_of(&job["last"]["started"]),
            text_of(&job["last"]["status"]),
        ]);
    }
    print(&table(&rows))
}

fn history(dir: &Path, name: &str, parsed: &Arguments) -> CommandResult {
    let limit = match parsed.own.get("limit") {
        None => RUNS,
        Some(text) => {
            let number = text.parse().ok().filter(|it| (1..=RUNS_MAX).contains(it));
            number.ok_or_else(|| {
                CommandError::Usage(format!("--limit must be a number from 1 to {RUNS_MAX}."))
            })?
        }
    };
    let (default, local) = open(dir)?;
    let job = default.read(|db| store::job(db, name))?;
    let (runs, _) = local.read(|db| store::runs(db, &job.id, Page::new(1, limit)))?;
    let shown: Vec<Value> = runs.iter().map(cron::run_json).collect();
    if parsed.own.contains_key("json") {
        return print(&format!("{}\n", json!({"items": shown})));
    }
    let mut rows = vec![row(&[
        "RUN", "DUE", "STARTED", "ENDED", "STATUS", "MESSAGE",
    ])];
    for run in items(&json!(shown)) {
        let cells = ["id", "due", "started", "ended", "status", "message"];
        rows.push(cells.iter().map(|cell| text_of(&run[*cell])).collect());
    }
    print(&table(&rows))
}

fn run_now(dir: &Path, name: &str, parsed: &Arguments) -> CommandResult {
    refuse_empty(dir)?;
    match db::lock_dir(dir) {
        Err(error) if error.kind() == Kind::Conflict => {}
        Err(error) => return Err(error.into()),
        Ok(_) => {
            let message = format!(
                "No server runs on {}; start one, since only a server runs jobs.",
                dir.display()
            );
            return Err(Error::unavailable(message).into());
        }
    }
    let (addr, secret) = Config::load_address(&parsed.flags)?;
    let sign = auth::operator_worker(secret.as_deref(), dir)?;
    let client = MasterClient::new(&format!("http://{addr}"), auth::OPERATOR, None, sign);
    let path = format!("/api/cron/{}/run", encode(name));
    let answer = ask_server(&Arc::new(client), |client| {
        client.command(&path, &json!({}))
    });
    let answer = answer.map_err(|error| explain_unreachable(error, dir))?;
    print(&format!(
        "Run {} of {name} has begun; vski cron history shows its result.\n",
        text_of(&answer["id"])
    ))
}

/// Opens the databases of jobs and of their runs, for reading.
fn open(dir: &Path) -> Result<(Database, Database)> {
    refuse_empty(dir)?;
    let open = |path: &Path| Database::open_replica(path, SETTINGS);
    Ok((open(&db::default_file(dir)), open(&db::local_file(dir))))
}

/// Percent-encodes a name for a URL path.
fn encode(name: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    name.bytes()
        .map(|byte| match plain(byte) {
            true => char::from(byte).to_string(),
            false => format!("%{byte:02X}"),
        })
        .collect()
}
