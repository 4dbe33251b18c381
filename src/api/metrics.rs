//! `GET /metrics`: metrics for Prometheus, in its text format
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

pub fn get(call: &Call<'_>) -> Result<Response> {
    let mut text = Text::default();
    let app = call.app;
    let role = match app.replica() {
        Some(_) => "replica",
        None => "master",
    };
    let version = env!("CARGO_PKG_VERSION");
    text.family(
        "vski_info",
        "gauge",
        "Version, role and node of this server.",
    );
    text.sample(
        "vski_info",
        &[("version", version), ("role", role), ("node", &app.node_id)],
        1,
    );
    text.family(
        "vski_answers_total",
        "counter",
        "HTTP responses by class of status.",
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
    let (damaged, looked_at) = app.files.scrub.findings();
    text.family(
        "vski_files_scrubbed_total",
        "counter",
        "Stored files read again and compared with their hashes.",
    );
    text.sample("vski_files_scrubbed_total", &[], looked_at);
    text.family(
        "vski_files_damaged",
        "gauge",
        "Stored files that are damaged or missing.",
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

/// Waiting runs and connected workers.
fn queue(text: &mut Text, app: &App) -> Result<()> {
    let workers = app.workflows.worker_count();
    text.family(
        "vski_workflow_workers",
        "gauge",
        "Connected workflow workers.",
    );
    text.sample("vski_workflow_workers", &[], workers);
    let depth = app.workflows.database.read(queries::depth)?;
    text.family("vski_workflow_queue", "gauge", "Unfinished runs by state.");
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
    text.family(name, "gauge", "Realtime subscriptions.");
    text.sample(name, &[], counters.subscriptions);
    for (name, what, value) in [
        (
            "changes",
            "Record changes with at least one subscription.",
            counters.changes,
        ),
        (
            "events",
            "Realtime events sent to subscribers.",
            counters.sent,
        ),
        (
            "resyncs",
            "Times a subscriber was told that events may be missing.",
            counters.resyncs,
        ),
    ] {
        let name = format!("vski_realtime_{name}_total");
        text.family(&name, "counter", what);
        text.sample(&name, &[], value);
    }
}

/// Calls of webhooks, which only a master makes.
fn webhooks(text: &mut Text, webhooks: &Webhooks) {
    let name = "vski_webhook_attempts_total";
    text.family(name, "counter", "Webhook calls by outcome.");
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
        "Pending webhook calls; at most 10000 are counted per database.",
    );
    text.sample(name, &[], webhooks.waiting());
}

fn jobs(text: &mut Text, app: &App) {
    let name = "vski_cron_runs_total";
    text.family(name, "counter", "Runs of cron jobs by outcome.");
    for outcome in cron::RunOutcome::ALL {
        let labels = [("outcome", outcome.name())];
        text.sample(name, &labels, app.cron.count(outcome));
    }
}

/// Counters since the start, by workflow.
fn workflows(text: &mut Text, totals: &[(String, RunCounts)]) {
    type Number = fn(&RunCounts) -> u64;
    let families: [(&str, &str, Number); 5] = [
        ("runs_started", "Workflow runs started.", |it| it.started),
        ("runs_completed", "Workflow runs completed.", |it| {
            it.completed
        }),
        ("runs_failed", "Workflow runs failed.", |it| it.failed),
        ("runs_cancelled", "Workflow runs cancelled.", |it| {
            it.cancelled
        }),
        ("steps", "Workflow steps completed.", |it| it.steps),
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
        "Seconds by which the replica may lag behind the master.",
    );
    if let Some(seconds) = replica.seconds_behind() {
        text.sample(name, &[], seconds);
    }
    text.family(
        "vski_replica_cycles_total",
        "counter",
        "Sync cycles of the replica.",
    );
    text.sample("vski_replica_cycles_total", &[], status.cycles);
    text.family(
        "vski_replica_failures_total",
        "counter",
        "Sync cycles that failed.",
    );
    text.sample("vski_replica_failures_total", &[], status.failures);
    files(text, &status.files);
    for (name, what) in [
        (
            "vski_replica_version",
            "Version of the database on this replica.",
        ),
        (
            "vski_replica_master_version",
            "Version of the database on the master.",
        ),
        (
            "vski_replica_repairs",
            "Databases repaired after a failed check.",
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
            "Files of the current page of the journal that are not downloaded yet.",
            files.pending as u64,
        ),
        (
            "pending_bytes",
            "Bytes of the pending files.",
            files.pending_bytes,
        ),
        ("failing", "Files that could not be downloaded.", failing),
        (
            "cursor",
            "Journal entry up to which all files are downloaded.",
            cursor,
        ),
        (
            "last",
            "Last journal entry of the master.",
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
    text.family("vski_databases", "gauge", "Databases of this master.");
    text.sample("vski_databases", &[], listed.len());
    let seen = "vski_replica_seen_seconds";
    text.family(seen, "gauge", "Seconds since the replica last connected.");
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
        "Commits by which the replica lags, per database.",
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
        ("vski_budget_used", "gauge", "Amount of a budget in use."),
        (
            "vski_budget_total",
            "gauge",
            "Limit of a budget for all callers.",
        ),
        (
            "vski_budget_refused_total",
            "counter",
            "Requests refused because a budget was exhausted.",
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

/// Escapes the value of a label.
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

    /// Writes one sample. The values of labels must be escaped; names of databases and replicas
    /// need no escapes.
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
