//! `vski webhooks`: webhooks and calls listed, failed calls retried.
//!
//! Everything works on the data itself, even while a server runs on it: every few seconds, the
//! server looks for calls that another process made due.

use std::path::Path;

use serde_json::Value;

use super::arguments::{Arguments, parse};
use super::command::{CommandError, CommandResult, print};
use super::data_dir::{SETTINGS, refuse_empty, refuse_replica};
use super::table::{items, row, table, text_of};
use crate::base::error::{Error, Result};
use crate::base::paging;
use crate::base::paging::Page;
use crate::config::Config;
use crate::model::auth::WebhookSecret;
use crate::services::webhooks::logs::LogFilter;
use crate::services::webhooks::{logs, table as webhooks};
use crate::store::db;
use crate::store::db::Database;

pub const HELP: &str = "\
Usage: vski webhooks list [--json]
       vski webhooks logs [--status STATUS] [--collection C] [--limit N] [--json]
       vski webhooks retry ID... | --failed
       vski webhooks secret
       each with [--database NAME] [--data-dir DIR]

Works on the data directory, even while a server runs on it. The database is default unless given.

list shows the webhooks that do not belong to a collection; triggers are part of their collections.
logs shows calls, newest first, N of them (30, at most 500). STATUS (pending, success or failed) and
--collection, for calls caused by changes of the collection C, filter them.
retry makes failed calls due again, all or the named ones; a running server makes them within seconds.
It does not work on a replica, which makes no calls.
secret prints the secret with which receivers verify signatures of webhooks without a secret of their
own. It is derived from JWT_SECRET or DATA_DIR/secret.
";

/// Longest cell, in characters.
const CELL_MAX: usize = 60;

pub fn run(args: &[String]) -> CommandResult {
    let (verb, rest) = match args.split_first() {
        Some((verb, rest)) => (verb.as_str(), rest),
        None => ("", args),
    };
    let (valued, switches): (&[&str], &[&str]) = match verb {
        "list" => (&["database"], &["json"]),
        "logs" => (&["database", "status", "collection", "limit"], &["json"]),
        "retry" => (&["database"], &["failed"]),
        "secret" => (&[], &[]),
        _ => {
            let text = "webhooks needs a subcommand: list, logs, retry or secret.";
            return Err(CommandError::Usage(text.to_owned()));
        }
    };
    let parsed = parse(rest, valued, switches)?;
    let dir = Config::load_data_dir(&parsed.flags)?;
    if verb == "retry" {
        return retry(&dir, &parsed);
    }
    if let Some(word) = parsed.free.first() {
        return Err(CommandError::Usage(format!("unexpected argument {word}.")));
    }
    match verb {
        "list" => list(&dir, &parsed),
        "logs" => show_logs(&dir, &parsed),
        _ => {
            let (_, configured) = Config::load_address(&parsed.flags)?;
            let secret = WebhookSecret::of_data(configured.as_deref(), &dir)?;
            print(&format!("{}\n", secret.text()))
        }
    }
}

fn list(dir: &Path, parsed: &Arguments) -> CommandResult {
    let database = open(dir, parsed)?;
    let found = database.read(webhooks::list)?;
    database.close()?;
    if parsed.own.contains_key("json") {
        return print(&format!("{}\n", Value::from(found)));
    }
    let mut rows = vec![row(&[
        "ID",
        "NAME",
        "ACTIVE",
        "COLLECTION",
        "ACTIONS",
        "TARGET",
    ])];
    for item in &found {
        let actions: Vec<String> = items(&item["actions"]).iter().map(text_of).collect();
        let target = match item["url"].as_str() {
            Some(url) => url.to_owned(),
            None => format!("workflow:{}", text_of(&item["workflow"])),
        };
        rows.push(vec![
            text_of(&item["id"]),
            text_of(&item["name"]),
            text_of(&item["active"]),
            text_of(&item["collection"]),
            actions.join(","),
            target,
        ]);
    }
    print(&table(&rows))
}

fn show_logs(dir: &Path, parsed: &Arguments) -> CommandResult {
    let filter = LogFilter {
        status: parsed.own.get("status").cloned(),
        collection: parsed.own.get("collection").cloned(),
        ..LogFilter::default()
    };
    let wrong = |error: Error| CommandError::Usage(error.message().to_owned());
    filter.check().map_err(wrong)?;
    let limit = parsed.own.get("limit").map(|text| {
        let number = text.parse().ok();
        let number = number.filter(|it| (1..=paging::SIZE_MAX).contains(it));
        number.ok_or_else(|| {
            let most = paging::SIZE_MAX;
            CommandError::Usage(format!("--limit must be a number from 1 to {most}."))
        })
    });
    let limit = limit.transpose()?.unwrap_or(paging::SIZE);
    let database = open(dir, parsed)?;
    let page = database.snapshot(|db| logs::list(db, &filter, Page::new(1, limit)))?;
    database.close()?;
    if parsed.own.contains_key("json") {
        return print(&format!("{page}\n"));
    }
    let mut rows = vec![row(&[
        "ID", "CREATED", "STATUS", "ATTEMPTS", "CODE", "SOURCE", "CAUSE", "TARGET", "ERROR",
    ])];
    for item in items(&page["items"]) {
        let cause = ["name", "collection", "action", "record"];
        let cause = cause.iter().filter_map(|name| item[*name].as_str());
        rows.push(vec![
            text_of(&item["id"]),
            text_of(&item["created"]),
            text_of(&item["status"]),
            text_of(&item["attempts"]),
            text_of(&item["code"]),
            text_of(&item["source"]),
            cell(&Value::from(cause.collect::<Vec<_>>().join(" "))),
            cell(&item["target"]),
            cell(&item["error"]),
        ]);
    }
    let shown = rows.len() as u64 - 1;
    let more = match page["totalItems"].as_u64() {
        Some(total) if total > shown => format!("{shown} of {total}; --limit shows more.\n"),
        _ => String::new(),
    };
    print(&format!("{}{more}", table(&rows)))
}

/// A cell of limited length, without control characters, which could change the terminal.
fn cell(value: &Value) -> String {
    let text = text_of(value).replace(char::is_control, " ");
    match text.char_indices().nth(CELL_MAX) {
        Some((at, _)) => format!("{}...", &text[..at]),
        None => text,
    }
}

fn retry(dir: &Path, parsed: &Arguments) -> CommandResult {
    let ids = parsed.free.iter().map(|word| word.parse::<i64>());
    let ids: std::result::Result<Vec<i64>, _> = ids.collect();
    let all = parsed.own.contains_key("failed");
    let ids = match ids {
        Ok(ids) if all == ids.is_empty() => ids,
        _ => {
            let text = "retry needs one or more IDs of the log, or --failed.";
            return Err(CommandError::Usage(text.to_owned()));
        }
    };
    refuse_empty(dir)?;
    refuse_replica(dir)?;
    let database = open(dir, parsed)?;
    let mut count = 0;
    if all {
        count = logs::retry_failed(&database)?;
    }
    let of = ids.len();
    for ids in ids.chunks(logs::IDS_MAX) {
        let ids = ids.to_vec();
        count += database.write(move |tx| logs::retry(tx, &ids))?;
    }
    database.close()?;
    let of = if all {
        String::new()
    } else {
        format!(" of {of}")
    };
    print(&format!("{count}{of} calls are due again.\n"))?;
    match !all && count == 0 {
        true => Err(CommandError::AlreadyReported),
        false => Ok(()),
    }
}

fn open(dir: &Path, parsed: &Arguments) -> Result<Database> {
    refuse_empty(dir)?;
    let name = parsed.own.get("database");
    let name = name.map_or(db::DEFAULT, String::as_str);
    if !db::names(dir)?.iter().any(|known| known == name) {
        return Err(Error::not_found(format!("There is no database {name}.")));
    }
    db::open_existing(dir, name, SETTINGS)
}
