//! `vski workflows`: runs listed, cancelled, resumed, and moved to another node.
//!
//! Listing reads the database, even while a server runs. Changes are requests to the server if one
//! runs, since only it knows which worker has which run. Otherwise the same functions run here,
//! while this process holds the lock of the data directory, so that no server starts.

use std::fs;
use std::fs::File;
use std::io::BufWriter;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};

use super::arguments::{Arguments, parse};
use super::command::{CommandError, CommandResult, print};
use super::data_dir::SETTINGS;
use super::server_client::{ask_server, explain_unreachable};
use super::table::{items, row, table, text_of};
use crate::base::error::{Error, Kind, Result, ResultExt as _};
use crate::config::Config;
use crate::model::auth;
use crate::services::replication::MasterClient;
use crate::services::workflows::api_requests::RunAction;
use crate::services::workflows::queries::{RunCursor, RunFilter};
use crate::services::workflows::transfer::Adopted;
use crate::services::workflows::{RunStatus, WorkerGrant, limits, offline, queries, transfer};
use crate::store::db::Database;
use crate::store::{db, node};

pub const HELP: &str = "\
Usage: vski workflows list [--workflow NAME] [--status STATUS] [--limit N] [--json]
       vski workflows show RUN [--json]
       vski workflows cancel RUN...
       vski workflows retry RUN... [--version VERSION]
       vski workflows export FILE [--all] [--drop]
       vski workflows adopt FILE
       each with [--data-dir DIR]

list and show read the runs of DATA_DIR, newest first; a server may run meanwhile. STATUS is pending, running,
completed, failed or cancelled; N is 30 unless given.

cancel ends runs and their children. retry resumes runs that failed or are paused, with another version of the
code if one is given. Both ask the server that runs on DATA_DIR (with the same HOST, PORT and JWT_SECRET), or
change the data directly if no server runs. Exits with 1 if a run was refused.

export writes the unfinished runs, with their parents and children, to a new FILE; --all writes all runs. The
runs also stay here: if both nodes continue them, their work is done twice. --drop deletes them here once FILE
is safely on disk; no server may run meanwhile.
adopt imports the runs of FILE into DATA_DIR; no server may run meanwhile. Runs that exist there are skipped.
A run whose idempotency key or hook token is in use there is left out, with its parents and children, and
named; then it exits with 1.
";

/// Runs shown by list: the default and the limit; events shown by show.
const LIST: usize = 30;
const LIST_MAX: usize = 10_000;
const EVENTS: usize = 20;
/// Longest cell, in characters.
const CELL_MAX: usize = 120;

pub fn run(args: &[String]) -> CommandResult {
    let (verb, rest) = match args.split_first() {
        Some((verb, rest)) => (verb.as_str(), rest),
        None => ("", args),
    };
    let (valued, switches): (&[&str], &[&str]) = match verb {
        "list" => (&["workflow", "status", "limit"], &["json"]),
        "show" => (&[], &["json"]),
        "retry" => (&["version"], &[]),
        "export" => (&[], &["all", "drop"]),
        "cancel" | "adopt" => (&[], &[]),
        _ => {
            let text = "workflows needs a subcommand: list, show, cancel, retry, export or adopt.";
            return Err(CommandError::Usage(text.to_owned()));
        }
    };
    let parsed = parse(rest, valued, switches)?;
    let words: Vec<&str> = parsed.free.iter().map(String::as_str).collect();
    let dir = Config::load_data_dir(&parsed.flags)?;
    match (verb, words.as_slice()) {
        ("list", []) => list(&dir, &parsed),
        ("show", [run]) => show(&dir, run, parsed.own.contains_key("json")),
        ("cancel" | "retry", [_, ..]) => act(&dir, verb, &parsed),
        ("export", [file]) => export(&dir, Path::new(file), &parsed),
        ("adopt", [file]) => adopt(&dir, Path::new(file)),
        _ => Err(CommandError::Usage(match verb {
            "list" => format!("unexpected argument {}.", words[0]),
            "show" => "show needs one RUN.".to_owned(),
            "cancel" | "retry" => format!("{verb} needs one or more RUNs."),
            _ => format!("{verb} needs one FILE."),
        })),
    }
}

fn list(dir: &Path, parsed: &Arguments) -> CommandResult {
    let status = parsed.own.get("status").map(|word| {
        let known = RunStatus::ALL.iter().find(|(_, known)| known == word);
        known.map(|(status, _)| *status).ok_or_else(|| {
            let words: Vec<&str> = RunStatus::ALL.iter().map(|(_, word)| *word).collect();
            CommandError::Usage(format!("--status must be one of {}.", words.join(", ")))
        })
    });
    let limit = parsed.own.get("limit").map(|text| {
        let number = text.parse().ok().filter(|it| (1..=LIST_MAX).contains(it));
        number.ok_or_else(|| {
            CommandError::Usage(format!("--limit must be a number from 1 to {LIST_MAX}."))
        })
    });
    let filter = RunFilter {
        workflow: parsed.own.get("workflow").cloned(),
        status: status.transpose()?,
        ..RunFilter::default()
    };
    let limit = limit.transpose()?.unwrap_or(LIST);
    let database = open(dir)?;
    let text = database.snapshot(|db| {
        queries::list(db, &WorkerGrant::default(), &filter, RunCursor(None), limit)
    })?;
    database.close()?;
    if parsed.own.contains_key("json") {
        return print(&format!("{text}\n"));
    }
    let page = value(&text)?;
    let columns = [
        "runId",
        "workflow",
        "version",
        "status",
        "state",
        "createdAt",
        "completedAt",
    ];
    let mut rows = vec![row(&[
        "RUN", "WORKFLOW", "VERSION", "STATUS", "STATE", "CREATED", "ENDED",
    ])];
    for item in items(&page["items"]) {
        rows.push(columns.iter().map(|name| text_of(&item[*name])).collect());
    }
    let more = match page["next"].is_null() {
        true => "",
        false => "There are more runs; raise --limit to see them.\n",
    };
    print(&format!("{}{more}", table(&rows)))
}

fn show(dir: &Path, run: &str, as_json: bool) -> CommandResult {
    let grant = WorkerGrant::default();
    let database = open(dir)?;
    let (found, steps, events) = database.snapshot(|db| {
        Ok((
            queries::run(db, &grant, run)?,
            queries::steps(db, &grant, run, 0)?,
            queries::last_events(db, &grant, run, EVENTS)?,
        ))
    })?;
    database.close()?;
    let (found, steps, events) = (value(&found)?, value(&steps)?, value(&events)?);
    if as_json {
        let all = json!({"run": found, "steps": steps["items"], "events": events["items"]});
        return print(&format!("{all}\n"));
    }
    let lines = found.as_object().into_iter().flatten();
    let lines: Vec<Vec<String>> = lines
        .map(|(name, value)| vec![name.clone(), cell(value)])
        .collect();
    let mut steps_rows = vec![row(&[
        "STEP", "STATUS", "ATTEMPT", "STARTED", "ENDED", "RESULT",
    ])];
    for step in items(&steps["items"]) {
        let mut cells: Vec<String> = ["stepId", "status", "attempt", "startedAt", "completedAt"]
            .iter()
            .map(|name| text_of(&step[*name]))
            .collect();
        cells.push(cell(step.get("output").unwrap_or(&step["error"])));
        steps_rows.push(cells);
    }
    let mut events_rows = vec![row(&["EVENT", "AT", "TYPE", "KEY", "DATA"])];
    for event in items(&events["items"]) {
        let mut cells: Vec<String> = ["eventId", "createdAt", "type", "correlationId"]
            .iter()
            .map(|name| text_of(&event[*name]))
            .collect();
        cells.push(cell(&event["data"]));
        events_rows.push(cells);
    }
    print(&format!(
        "{}\n{}\n{}",
        table(&lines),
        table(&steps_rows),
        table(&events_rows)
    ))
}

/// A value on one line of limited length.
fn cell(value: &Value) -> String {
    let text = match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if !text.chars().any(char::is_control) => text.clone(),
        other => other.to_string(),
    };
    match text.char_indices().nth(CELL_MAX) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}

fn act(dir: &Path, verb: &str, parsed: &Arguments) -> CommandResult {
    let version = parsed.own.get("version");
    if let Some(version) = version {
        limits::check_version(version)?;
    }
    let target = ActionTarget::of(dir, parsed)?;
    let mut refused = 0;
    for runs in parsed.free.chunks(limits::BULK_MAX) {
        let answer = match &target {
            ActionTarget::Server(client) => {
                let body = json!({"ids": runs, "version": version});
                let path = format!("/api/workflow/bulk/{verb}");
                ask_server(client, |client| client.command(&path, &body))
                    .map_err(|error| explain_unreachable(error, dir))?
            }
            ActionTarget::DataDir(_lock) => {
                let reason = "\"\"".to_owned();
                let action = match verb {
                    "cancel" => RunAction::Cancel { reason },
                    _ => RunAction::Resume {
                        version: version.cloned(),
                    },
                };
                let database = open(dir)?;
                let answer = offline::apply(&database, &node_of(dir)?, runs.to_vec(), action)?;
                database.close()?;
                value(&answer)?
            }
        };
        for item in items(&answer["items"]) {
            let error = item["error"].as_str();
            refused += usize::from(error.is_some());
            let word =
                error.map_or_else(|| text_of(&item["status"]), |it| format!("refused: {it}"));
            print(&format!("{}  {word}\n", text_of(&item["runId"])))?;
        }
    }
    let of = parsed.free.len();
    let done = of - refused;
    let verb = if verb == "cancel" {
        "cancelled"
    } else {
        "resumed"
    };
    print(&match &target {
        ActionTarget::Server(client) => {
            format!(
                "{done} of {of} {verb} by the server at {}.\n",
                client.master_url
            )
        }
        ActionTarget::DataDir(_lock) => {
            format!("{done} of {of} {verb} on disk; no server runs here.\n")
        }
    })?;
    fail_if(refused > 0)
}

/// The process that changes runs.
enum ActionTarget {
    /// The server that runs on the data.
    Server(Arc<MasterClient>),
    /// This command. The lock keeps a server from starting.
    DataDir(File),
}

impl ActionTarget {
    fn of(dir: &Path, parsed: &Arguments) -> Result<ActionTarget> {
        refuse_empty(dir)?;
        match db::lock_dir(dir) {
            Ok(lock) => Ok(ActionTarget::DataDir(lock)),
            Err(error) if error.kind() == Kind::Conflict => {
                let (addr, secret) = Config::load_address(&parsed.flags)?;
                let sign = auth::operator_worker(secret.as_deref(), dir)?;
                let client =
                    MasterClient::new(&format!("http://{addr}"), auth::OPERATOR, None, sign);
                Ok(ActionTarget::Server(Arc::new(client)))
            }
            Err(error) => Err(error),
        }
    }
}

fn export(dir: &Path, file: &Path, parsed: &Arguments) -> CommandResult {
    let (all, drops) = (
        parsed.own.contains_key("all"),
        parsed.own.contains_key("drop"),
    );
    refuse_empty(dir)?;
    let _lock = drops.then(|| lock_out_servers(dir)).transpose()?;
    if file.exists() {
        let message = format!("{} exists already; name another file.", file.display());
        return Err(CommandError::Failed(Error::conflict(message)));
    }
    let database = open(dir)?;
    let node = node_of(dir)?;
    let exported = write_file(file, |out| {
        database.snapshot_for_long(|db| transfer::export(db, &node, all, out))
    })
    .context(format!("export to {}", file.display()))?;
    let (count, unfinished) = (exported.runs.len(), exported.unfinished);
    if drops {
        database.write_for_long(move |db| transfer::remove(db, &exported.runs))?;
    }
    database.close()?;
    let stay = match (drops, unfinished) {
        (true, _) => "They are no longer here.",
        (false, 0) => "They also stay here.",
        (false, _) => {
            "They also stay and continue here: cancel those that another node adopts, or export with \
             --drop."
        }
    };
    print(&format!(
        "{count} runs, {unfinished} of them unfinished, are in {}. {stay}\n",
        file.display()
    ))
}

/// Writes a new file atomically and durably: after an error there is no file.
fn write_file<T>(file: &Path, body: impl FnOnce(&mut BufWriter<File>) -> Result<T>) -> Result<T> {
    let mut partial = file.as_os_str().to_owned();
    partial.push(".part");
    let partial = PathBuf::from(partial);
    let written = || -> Result<T> {
        let out = File::options()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&partial)?;
        let mut out = BufWriter::with_capacity(256 << 10, out);
        let result = body(&mut out)?;
        let out = out.into_inner().map_err(|error| error.into_error())?;
        out.sync_all()?;
        fs::rename(&partial, file)?;
        let folder = file.parent().filter(|it| !it.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
        Ok(result)
    };
    written().inspect_err(|_| {
        let _ = fs::remove_file(&partial);
    })
}

fn adopt(dir: &Path, file: &Path) -> CommandResult {
    refuse_empty(dir)?;
    let _lock = lock_out_servers(dir)?;
    let from = File::open(file).map_err(|error| {
        Error::unavailable(format!("{} cannot be read: {error}.", file.display()))
    })?;
    let database = open(dir)?;
    let adopted = database
        .write_for_long(move |db| transfer::adopt(db, from))
        .context(format!("adopt {}", file.display()))?;
    database.close()?;
    let Adopted {
        node,
        time,
        runs,
        unfinished,
        here,
        refused,
        reasons,
    } = adopted;
    for reason in &reasons {
        print(&format!("{reason}\n"))?;
    }
    print(&format!(
        "Of the runs of {node} as of {time}: {runs} adopted ({unfinished} of them unfinished), {here} existed \
         already, {refused} left out.\n"
    ))?;
    fail_if(refused > 0)
}

fn fail_if(is_refused: bool) -> CommandResult {
    match is_refused {
        true => Err(CommandError::AlreadyReported),
        false => Ok(()),
    }
}

fn lock_out_servers(dir: &Path) -> Result<File> {
    db::lock_dir(dir).map_err(|error| match error.kind() {
        Kind::Conflict => Error::conflict(format!(
            "A server runs on {}; stop it first.",
            dir.display()
        )),
        _ => error,
    })
}

fn refuse_empty(dir: &Path) -> Result<()> {
    match db::workflows_file(dir).exists() {
        true => Ok(()),
        false => Err(Error::not_found(format!(
            "There are no workflows in {}: no server has run on it yet.",
            dir.display()
        ))),
    }
}

fn open(dir: &Path) -> Result<Database> {
    refuse_empty(dir)?;
    db::open_existing(dir, db::WORKFLOWS, SETTINGS)
}

/// The name of the node that the data belongs to.
fn node_of(dir: &Path) -> Result<String> {
    let local = db::open_existing(dir, db::LOCAL, SETTINGS)?;
    let node = node::id(&local)?;
    local.close()?;
    Ok(node)
}

fn value(text: &str) -> Result<Value> {
    Ok(serde_json::from_str(text)?)
}
