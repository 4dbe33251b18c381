//! `GET /metrics`: numbers for Prometheus, in its text format
//! (<https://prometheus.io/docs/instrumenting/exposition_formats/>).

use std::fmt::{Display, Write as _};

use super::call::Call;
use crate::app::App;
use crate::base::budget::Budgets;
use crate::base::clock;
use crate::base::error::Result;
use crate::net::http::Response;
use crate::services::cron;
use crate::services::replication::file_sync::FilesStatus;
use crate::services::stats::RunCounts;
use crate::services::webhooks::{CallOutcome, Webhooks};
use crate::services::workflows::queries;

/// All of them.
pub fn get(call: &Call<'_>) -> Result<Response> {
    let mut text = Text::default();
    let app = call.app;
    let role = match app.replica() {
        Some(_) => "replica",
        None => "master",
    };
    let version = env!("CARGO_PKG_VERSION");
    text.family("vski_info", "gauge", "What runs here.");
    text.sample(
        "vski_info",
        &[("version", version), ("role", role), ("node", &app.node_id)],
        1,
    );
    text.family(
        "vski_answers_total",
        "counter",
        "Answers to requests, by class of status.",
    );
    for (class, count) in call.answers.by_class() {
        text.sample("vski_answers_total", &[("status", class)], count);
    }
    text.family(
        "vski_memory_bytes",
        "gauge",
        "Resident memory of the process.",
    );
    text.sample("vski_memory_bytes", &[], memory_bytes());
    let (damaged, looked_at) = app.files.scrub.found();
    text.family("vski_files_scrubbed_total", "counter", "Files read again.");
    text.sample("vski_files_scrubbed_total", &[], looked_at);
    text.family(
        "vski_files_damaged",
        "gauge",
        "Files that are not what was stored.",
    );
    text.sample("vski_files_damaged", &[], damaged.len());
    budgets(&mut text, &app.budgets);
    realtime(&mut text, app);
    workflows(&mut text, &app.stats.totals());
    queue(&mut text, app)?;
    webhooks(&mut text, &app.webhooks);
    jobs(&mut text, app);
    match app.replica() {
        Some(_) => replica(&mut text, app),
        None => master(&mut text, app)?,
    }
    Ok(Response::with_body(
        200,
        "text/plain; version=0.0.4; charset=utf-8",
        text.0.into_bytes(),
    ))
}

/// What runs wait for, and who is there to take them.
fn queue(text: &mut Text, app: &App) -> Result<()> {
    let workers = app.workflows.worker_count();
    text.family("vski_workflow_workers", "gauge", "Workers connected.");
    text.sample("vski_workflow_workers", &[], workers);
    let depth = app.workflows.database.read(queries::depth)?;
    text.family(
        "vski_workflow_queue",
        "gauge",
        "Runs that have not ended, by what they wait for.",
    );
    for (state, count) in [
        ("ready", depth.ready),
        ("leased", depth.leased),
        ("waiting", depth.waiting),
        ("paused", depth.paused),
        ("blocked", depth.blocked),
    ] {
        text.sample("vski_workflow_queue", &[("state", state)], count);
    }
    Ok(())
}

fn realtime(text: &mut Text, app: &App) {
    let counters = app.realtime.counters();
    let name = "vski_realtime_subscriptions";
    text.family(name, "gauge", "Subscriptions to changes of records.");
    text.sample(name, &[], counters.subscriptions);
    for (name, what, value) in [
        (
            "changes",
            "Changes that somebody watched for.",
            counters.changes,
        ),
        ("events", "Events sent to subscribers.", counters.sent),
        (
            "resyncs",
            "Subscribers told that events may be missing.",
            counters.resyncs,
        ),
    ] {
        let name = format!("vski_realtime_{name}_total");
        text.family(&name, "counter", what);
        text.sample(&name, &[], value);
    }
}

/// Calls to others, which only a master makes.
fn webhooks(text: &mut Text, webhooks: &Webhooks) {
    let name = "vski_webhook_attempts_total";
    text.family(name, "counter", "Calls made, by what came of them.");
    for (outcome, word) in [
        (CallOutcome::Success, "success"),
        (CallOutcome::Pending, "retried"),
        (CallOutcome::Failed, "failed"),
    ] {
        let count = webhooks.attempts(outcome);
        text.sample(name, &[("outcome", word)], count);
    }
    let name = "vski_webhook_pending";
    text.family(
        name,
        "gauge",
        "Calls that wait, 10000 of a database at most.",
    );
    text.sample(name, &[], webhooks.waiting());
}

fn jobs(text: &mut Text, app: &App) {
    let name = "vski_cron_runs_total";
    text.family(
        name,
        "counter",
        "Runs of cron jobs, by what became of them.",
    );
    for outcome in cron::RunOutcome::ALL {
        let labels = [("outcome", outcome.name())];
        text.sample(name, &labels, app.cron.count(outcome));
    }
}

/// Since the start, by workflow.
fn workflows(text: &mut Text, totals: &[(String, RunCounts)]) {
    type Number = fn(&RunCounts) -> u64;
    let families: [(&str, &str, Number); 5] = [
        ("runs_started", "Runs that were started.", |it| it.started),
        ("runs_completed", "Runs that have ended well.", |it| {
            it.completed
        }),
        ("runs_failed", "Runs that have failed.", |it| it.failed),
        ("runs_cancelled", "Runs that were cancelled.", |it| {
            it.cancelled
        }),
        ("steps", "Steps that have succeeded.", |it| it.steps),
    ];
    for (name, what, number) in families {
        let name = format!("vski_workflow_{name}_total");
        text.family(&name, "counter", what);
        for (workflow, count) in totals {
            text.sample(&name, &[("workflow", &escape(workflow))], number(count));
        }
    }
}

fn replica(text: &mut Text, app: &App) {
    let Some(replica) = app.replica() else {
        return;
    };
    let status = replica.status();
    let name = "vski_replica_seconds_behind";
    text.family(
        name,
        "gauge",
        "For how long something of the master may be missing.",
    );
    if let Some(seconds) = replica.seconds_behind() {
        text.sample(name, &[], seconds);
    }
    text.family(
        "vski_replica_cycles_total",
        "counter",
        "Rounds of the sync thread.",
    );
    text.sample("vski_replica_cycles_total", &[], status.cycles);
    text.family(
        "vski_replica_failures_total",
        "counter",
        "Rounds that failed.",
    );
    text.sample("vski_replica_failures_total", &[], status.failures);
    files(text, &status.files);
    for (name, what) in [
        (
            "vski_replica_version",
            "The state of the master that a database is in.",
        ),
        (
            "vski_replica_master_version",
            "The state that the master is in.",
        ),
        (
            "vski_replica_repairs",
            "How often a database was not right and mended.",
        ),
    ] {
        text.family(name, "gauge", what);
        for database in &status.databases {
            let value = match name {
                "vski_replica_version" => database.version.unwrap_or(0),
                "vski_replica_master_version" => database.master_version,
                _ => database.repairs,
            };
            text.sample(name, &[("database", &database.name)], value);
        }
    }
}

fn files(text: &mut Text, files: &FilesStatus) {
    let cursor = files.cursor.unwrap_or(0).cast_unsigned();
    let failing = files.failing.len() as u64;
    for (name, what, value) in [
        (
            "pending",
            "Files of the page at hand that are not here.",
            files.pending as u64,
        ),
        ("pending_bytes", "Their bytes.", files.pending_bytes),
        ("failing", "Files that cannot be had.", failing),
        (
            "cursor",
            "Entry of the journal up to which all is here.",
            cursor,
        ),
        (
            "last",
            "The last entry of the journal.",
            files.last.cast_unsigned(),
        ),
    ] {
        let name = format!("vski_replica_files_{name}");
        text.family(&name, "gauge", what);
        text.sample(&name, &[], value);
    }
}

fn master(text: &mut Text, app: &App) -> Result<()> {
    let listed = app.master()?.list()?;
    text.family("vski_databases", "gauge", "Databases.");
    text.sample("vski_databases", &[], listed.len());
    let seen = "vski_replica_seen_seconds";
    text.family(seen, "gauge", "Time since a replica was here.");
    let replicas = app.replicas.list();
    let now_ms = clock::now_ms();
    for replica in &replicas {
        let seconds = (now_ms - replica.seen_ms).max(0) / 1000;
        text.sample(seen, &[("replica", &replica.id)], seconds);
    }
    let behind = "vski_replica_states_behind";
    text.family(
        behind,
        "gauge",
        "States that a replica lacks of a database.",
    );
    for replica in &replicas {
        for database in &listed {
            let has = replica.databases.get(&database.name);
            let tag = database.epoch.tag();
            if let Some((_, version)) = has.filter(|(epoch, _)| *epoch == tag) {
                let labels = [("replica", &*replica.id), ("database", &*database.name)];
                text.sample(behind, &labels, database.version.saturating_sub(*version));
            }
        }
    }
    Ok(())
}

fn budgets(text: &mut Text, budgets: &Budgets) {
    for (name, kind, help) in [
        (
            "vski_budget_used",
            "gauge",
            "Amount of a budget that callers hold.",
        ),
        (
            "vski_budget_total",
            "gauge",
            "Bound of a budget for all callers.",
        ),
        (
            "vski_budget_refused_total",
            "counter",
            "Requests for more that a budget refused.",
        ),
    ] {
        text.family(name, kind, help);
        for budget in budgets.all() {
            let value = match name {
                "vski_budget_used" => budget.used(),
                "vski_budget_total" => budget.total(),
                _ => budget.refused(),
            };
            text.sample(name, &[("budget", budget.name())], value);
        }
    }
}

fn memory_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = pages
        .split_whitespace()
        .nth(1)
        .and_then(|it| it.parse::<u64>().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}

/// What the value of a label may not have in it as it is.
fn escape(value: &str) -> String {
    value
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[derive(Default)]
struct Text(String);

impl Text {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    /// Names of databases and replicas need no escapes; see [`escape`].
    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        let labels: Vec<String> = labels
            .iter()
            .map(|(label, value)| format!("{label}=\"{value}\""))
            .collect();
        let labels = match labels.is_empty() {
            true => String::new(),
            false => format!("{{{}}}", labels.join(",")),
        };
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }
}
