//! `vski replica`: the state of replication as a table, and promoting a replica to a master.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::arguments::flags;
use super::command::{CommandError, CommandResult, print};
use super::data_dir::{SETTINGS, refuse_empty};
use super::server_client::ask_server;
use super::table::{items, row, table, text_of};
use crate::base::clock;
use crate::base::error::{Error, Result};
use crate::config::Config;
use crate::model::auth;
use crate::services::replication::{MasterClient, positions};
use crate::store::db::Databases;
use crate::store::{db, node};

pub const HELP: &str = "\
Usage: vski replica status [OPTIONS]
       vski replica promote [--without DATABASE...] [--data-dir DIR]

status asks the server that runs with the same options (HOST, PORT, JWT_SECRET or DATA_DIR). A replica
shows the state of each database, a master that of each of its replicas.

promote turns the data of a replica into that of a master, if the old master is lost for good. Stop the
replica first. Writes that the old master acknowledged but this replica did not receive are lost; promote
prints the time of each database. It fails if a database of the master was never received completely,
unless --without names it.
";

pub fn run(args: &[String]) -> CommandResult {
    let (args, without) = split_without(args)?;
    let (flags, free) = flags(&args)?;
    let words: Vec<&str> = free.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["status"] => {
            let (addr, secret) = Config::load_address(&flags)?;
            let data_dir = Config::load_data_dir(&flags)?;
            let sign = auth::operator_signer(secret.as_deref(), &data_dir)?;
            let client = MasterClient::new(&format!("http://{addr}"), auth::OPERATOR, None, sign);
            print(&ask(&Arc::new(client))?)
        }
        ["promote"] => {
            let data_dir = Config::load_data_dir(&flags)?;
            refuse_empty(&data_dir)?;
            print(&promote(&data_dir, SETTINGS, &without)?)
        }
        _ => Err(CommandError::Usage(
            "replica needs a subcommand: status or promote.".to_owned(),
        )),
    }
}

/// Splits the arguments into others and values of `--without`.
fn split_without(args: &[String]) -> std::result::Result<(Vec<String>, Vec<String>), CommandError> {
    let (mut others, mut without) = (Vec::new(), Vec::new());
    let mut rest = args.iter();
    while let Some(arg) = rest.next() {
        match (arg.strip_prefix("--without="), arg.as_str()) {
            (Some(name), _) => without.push(name.to_owned()),
            (None, "--without") => without.push(rest.next().cloned().ok_or_else(|| {
                CommandError::Usage("--without needs the name of a database.".to_owned())
            })?),
            _ => others.push(arg.clone()),
        }
    }
    Ok((others, without))
}

/// Formats the status of replication as tables.
fn describe(status: &Value) -> String {
    match status["role"].as_str() {
        Some("replica") => describe_replica(status),
        _ => describe_master(status),
    }
}

fn describe_replica(status: &Value) -> String {
    let replica = &status["replica"];
    let mut text = format!(
        "replica {} of {}\nmaster seen: {}\n",
        text_of(&status["id"]),
        text_of(&replica["master"]),
        text_of(&replica["masterSeen"]),
    );
    if replica["connected"] == false {
        text.push_str("NOT CONNECTED: no notifications of changes from the master\n");
    }
    if replica["complete"] != true {
        text.push_str("the first sync since the start is not complete\n");
    }
    if let Some(error) = replica["error"].as_str() {
        let _ = writeln!(text, "last error: {error}");
    }
    let mut rows = vec![row(&[
        "DATABASE", "STATE", "VERSION", "MASTER", "SYNCED", "TRANSFER", "FAILURES", "ERROR",
    ])];
    for database in items(&replica["databases"]) {
        rows.push(vec![
            text_of(&database["name"]),
            text_of(&database["state"]),
            text_of(&database["version"]),
            text_of(&database["masterVersion"]),
            text_of(&database["synced"]),
            transfer(&database["transfer"]),
            text_of(&database["failures"]),
            text_of(&database["error"]),
        ]);
    }
    text + "\n" + &table(&rows) + &describe_files(&replica["files"]) + &describe_damaged(status)
}

fn describe_files(files: &Value) -> String {
    let number = |name: &str| files[name].as_u64().unwrap_or(0);
    let mut text = format!(
        "\nfiles: {}, entry {} of {} in the journal, {} pending ({} MiB)",
        text_of(&files["state"]),
        text_of(&files["cursor"]),
        text_of(&files["last"]),
        number("pending"),
        number("pendingBytes") >> 20,
    );
    if let Some(seconds) = files["secondsLeft"].as_u64() {
        let rate = number("bytesPerSecond") >> 20;
        let _ = write!(text, ", {rate} MiB/s, {seconds} s left");
    }
    text.push('\n');
    for failing in items(&files["failing"]) {
        let _ = writeln!(text, "  failing: {}", text_of(failing));
    }
    text
}

fn describe_damaged(status: &Value) -> String {
    let line = |it: &Value| {
        format!(
            "{} in the storage: {}\n",
            text_of(&it["state"]),
            text_of(&it["path"])
        )
    };
    items(&status["damagedFiles"]).iter().map(line).collect()
}

fn describe_master(status: &Value) -> String {
    let replicas = items(&status["replicas"]);
    let databases = items(&status["databases"]);
    let mut text = format!(
        "master {}: {} databases, {} replicas\n",
        text_of(&status["id"]),
        databases.len(),
        replicas.len()
    );
    let mut rows = vec![row(&[
        "REPLICA",
        "SEEN",
        "CONNECTED",
        "DATABASE",
        "STATE",
        "VERSION",
        "MASTER",
    ])];
    for replica in replicas {
        for database in items(&replica["databases"]) {
            rows.push(vec![
                text_of(&replica["id"]),
                format!("{} s ago", text_of(&replica["secondsSinceSeen"])),
                text_of(&replica["connected"]),
                text_of(&database["name"]),
                text_of(&database["state"]),
                text_of(&database["version"]),
                text_of(&database["masterVersion"]),
            ]);
        }
    }
    text.push('\n');
    text + &table(&rows) + &describe_damaged(status)
}

fn transfer(value: &Value) -> String {
    let number = |name: &str| value[name].as_u64().unwrap_or(0);
    let (done, all) = (number("bytes"), number("bytesTotal"));
    match value.is_null() || all == 0 {
        true => "-".to_owned(),
        false => format!(
            "{} % of {} MiB, {} s left",
            done * 100 / all,
            all >> 20,
            text_of(&value["secondsLeft"])
        ),
    }
}

/// The status of a running server, as tables.
fn ask(client: &Arc<MasterClient>) -> Result<String> {
    ask_server(client, MasterClient::status).map(|status| describe(&status))
}

/// Turns the data of a replica, on which no server runs, into that of a master. Returns the report.
fn promote(
    data_dir: &Path,
    settings: db::ConnectionSettings,
    without: &[String],
) -> Result<String> {
    let settings = db::ConnectionSettings {
        role: db::Role::Replica,
        ..settings
    };
    // Locks the directory, so that no server runs on it.
    let databases = Databases::open(data_dir, settings, db::connections_max(0, 0))?;
    if !node::is_replica(databases.local())? {
        return Err(Error::conflict(
            "The data directory belongs to a master already.",
        ));
    }
    let known = positions::load(databases.local())?;
    let mut rows = vec![row(&["DATABASE", "VERSION", "AS OF"])];
    let listed = positions::load_listed(databases.local())?;
    let is_missing = |name: &&String| {
        let is_here = databases.file(name).exists() && known.contains_key(*name);
        !is_here && !without.contains(name)
    };
    if let Some(name) = listed.iter().find(is_missing) {
        return Err(Error::conflict(format!(
            "The database {name} of the master was never received completely; promote another \
             replica, or add --without {name}."
        )));
    }
    for name in databases.list()? {
        if !databases.file(&name).exists() {
            return Err(Error::conflict(format!(
                "The database {name} was never received; this data cannot become a master."
            )));
        }
        databases.get(&name)?.check()?;
        let position = known.get(&name);
        rows.push(vec![
            name,
            position.map_or_else(|| "-".to_owned(), |it| it.version.to_string()),
            position.map_or_else(|| "-".to_owned(), |it| clock::format_ms(it.synced_ms)),
        ]);
    }
    positions::clear(databases.local())?;
    node::promote(databases.local())?;
    databases.close()?;
    Ok(format!(
        "{}\nThe data directory now belongs to a master. It lacks the writes that the old master \
         acknowledged after these times.\nStart the server with REPLICA_MODE=master and point the \
         other replicas and the clients to it.\nStart the old master again only as a replica with \
         an empty DATA_DIR.\n",
        table(&rows)
    ))
}
