//! `vski replica`: how far replicas are, as a table; and making a master of one.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::base::error::{Error, Result};
use crate::base::threads;
use crate::base::threads::Stop;
use crate::services::replication::MasterClient;
use crate::store::db::Databases;
use crate::store::{db, node};

/// Whether the error of a server that was asked may come from settings which are not the server's.
fn is_a_stranger(error: &Error) -> bool {
    ["cannot be reached", "answers 401", "the address of a vski"]
        .iter()
        .any(|it| error.message().contains(it))
}

/// An error of a server that is known to run on a data directory, with a hint when it was not met.
pub fn missed(error: Error, dir: &Path) -> Error {
    match is_a_stranger(&error) {
        true => error.context(format!(
            "a server runs on {}, whose HOST, PORT and JWT_SECRET this needs",
            dir.display()
        )),
        false => error,
    }
}

/// What a server says of replication, as tables.
pub fn describe(status: &Value) -> String {
    match status["role"].as_str() {
        Some("replica") => describe_replica(status),
        _ => describe_master(status),
    }
}

fn describe_replica(status: &Value) -> String {
    let replica = &status["replica"];
    let mut text = format!(
        "replica {} of {}\nmaster seen: {}\n",
        show(&status["id"]),
        show(&replica["master"]),
        show(&replica["masterSeen"]),
    );
    if replica["connected"] == false {
        text.push_str("NOT CONNECTED: what the master does is not heard of\n");
    }
    if replica["complete"] != true {
        text.push_str("not everything has arrived since the start\n");
    }
    if let Some(error) = replica["error"].as_str() {
        let _ = writeln!(text, "last error: {error}");
    }
    let mut rows = vec![row(&[
        "DATABASE", "STATE", "VERSION", "MASTER", "SYNCED", "TRANSFER", "FAILURES", "ERROR",
    ])];
    for database in list(&replica["databases"]) {
        rows.push(vec![
            show(&database["name"]),
            show(&database["state"]),
            show(&database["version"]),
            show(&database["masterVersion"]),
            show(&database["synced"]),
            transfer(&database["transfer"]),
            show(&database["failures"]),
            show(&database["error"]),
        ]);
    }
    text + "\n" + &table(&rows) + &describe_files(&replica["files"]) + &describe_damaged(status)
}

fn describe_files(files: &Value) -> String {
    let number = |name: &str| files[name].as_u64().unwrap_or(0);
    let mut text = format!(
        "\nfiles: {}, entry {} of {} in the journal, {} pending ({} MiB)",
        show(&files["state"]),
        show(&files["cursor"]),
        show(&files["last"]),
        number("pending"),
        number("pendingBytes") >> 20,
    );
    if let Some(seconds) = files["secondsLeft"].as_u64() {
        let rate = number("bytesPerSecond") >> 20;
        let _ = write!(text, ", {rate} MiB/s, {seconds} s left");
    }
    text.push('\n');
    for failing in list(&files["failing"]) {
        let _ = writeln!(text, "  failing: {}", show(failing));
    }
    text
}

fn describe_damaged(status: &Value) -> String {
    let line = |it: &Value| {
        format!(
            "{} in the storage: {}\n",
            show(&it["state"]),
            show(&it["path"])
        )
    };
    list(&status["damagedFiles"]).iter().map(line).collect()
}

fn describe_master(status: &Value) -> String {
    let replicas = list(&status["replicas"]);
    let databases = list(&status["databases"]);
    let mut text = format!(
        "master {}: {} databases, {} replicas\n",
        show(&status["id"]),
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
        for database in list(&replica["databases"]) {
            rows.push(vec![
                show(&replica["id"]),
                format!("{} s ago", show(&replica["secondsSinceSeen"])),
                show(&replica["connected"]),
                show(&database["name"]),
                show(&database["state"]),
                show(&database["version"]),
                show(&database["masterVersion"]),
            ]);
        }
    }
    text.push('\n');
    text + &table(&rows) + &describe_damaged(status)
}

pub fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

pub fn row(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

pub fn show(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Bool(false) => "no".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
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
            show(&value["secondsLeft"])
        ),
    }
}

/// Columns as wide as their widest cell.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let line = |row: &Vec<String>| {
        let cells = row.iter().zip(&widths);
        let cells: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(line).collect()
}

/// Asks a running server how far everything is.
pub fn ask(client: &Arc<MasterClient>) -> Result<String> {
    watched(client, MasterClient::status).map(|status| describe(&status))
}

/// Asks a running server something, which has some seconds to answer.
pub fn watched<T>(
    client: &Arc<MasterClient>,
    question: impl FnOnce(&MasterClient) -> Result<T>,
) -> Result<T> {
    let (asked, watched) = (Stop::new(), Arc::clone(client));
    let watch = {
        let asked = asked.clone();
        threads::spawn("watch", move || {
            while !asked.wait(Duration::from_secs(1)) {
                watched.abort_if_stalled();
            }
        })?
    };
    let answer = question(client);
    asked.set();
    threads::join_until(watch, Instant::now() + Duration::from_secs(1));
    answer
}

/// Makes a master of the data of a replica on which no server runs. Returns what there is to say.
pub fn promote(data_dir: &Path, settings: db::Settings, without: &[String]) -> Result<String> {
    let settings = db::Settings {
        role: db::Role::Replica,
        ..settings
    };
    // Takes the lock of the directory, so no server runs on it.
    let databases = Databases::open(data_dir, settings)?;
    if !node::is_replica(databases.local())? {
        return Err(Error::conflict("The data is that of a master already."));
    }
    let positions = crate::services::replication::positions::load(databases.local())?;
    let mut rows = vec![row(&["DATABASE", "VERSION", "AS OF"])];
    let listed = crate::services::replication::positions::load_listed(databases.local())?;
    let is_missing = |name: &&String| {
        let is_here = databases.file(name).exists() && positions.contains_key(*name);
        !is_here && !without.contains(name)
    };
    if let Some(name) = listed.iter().find(is_missing) {
        return Err(Error::conflict(format!(
            "The database {name} of the master has never arrived here whole. Choose another replica, or go \
             on --without {name}."
        )));
    }
    for name in databases.list()? {
        if !databases.file(&name).exists() {
            return Err(Error::conflict(format!(
                "The database {name} has never arrived; this data is no master's."
            )));
        }
        databases.get(&name)?.check()?;
        let position = positions.get(&name);
        rows.push(vec![
            name,
            position.map_or_else(|| "-".to_owned(), |it| it.version.to_string()),
            position.map_or_else(
                || "-".to_owned(),
                |it| crate::base::clock::format_ms(it.synced_ms),
            ),
        ]);
    }
    crate::services::replication::positions::clear(databases.local())?;
    node::promote(databases.local())?;
    databases.close()?;
    Ok(format!(
        "{}\nThis is a master's data now. What the old master acknowledged after these times is not \
         in it.\nStart it with REPLICA_MODE=master, point the other replicas and the clients here, \
         and never start the old master\nagain except as a replica with an empty DATA_DIR.\n",
        table(&rows)
    ))
}
