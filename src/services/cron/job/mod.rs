//! The definition of a job: validation, JSON and the stored form.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::base::clock;
use crate::base::error::{Error, Result};
use crate::model::triggers::{Target, extract_string, invalid_value, redaction, refuse_unknown};
use crate::services::cron::core::JobPlan;
use crate::services::cron::schedule::Schedule;
use crate::services::cron::zone::Zone;
use crate::services::workflows::limits;
use crate::store::db;
use crate::store::db::Role;

const NAME_CHARS_MAX: usize = 100;
const SQL_BYTES_MAX: usize = 64 << 10;
const INPUT_BYTES_MAX: usize = 64 << 10;
/// Default and maximum time limit of a script. Other writes wait meanwhile.
const SECONDS_DEFAULT: u64 = 30;
const SECONDS_MAX: u64 = 300;
/// The limit for `workflows`, whose engine must not be blocked for as long as a worker's lease
/// lasts.
const SECONDS_MAX_WORKFLOWS: u64 = 10;
/// Attributes that responses show; a client may send them back with a change.
const READ_ONLY: [&str; 7] = [
    "id",
    "created",
    "updated",
    "next",
    "last",
    "isRunning",
    "hasSecret",
];

/// A row of `_cron`. A row from a newer version, or one with an unknown time zone, has no
/// [`CronJob`].
#[derive(Clone, Debug, PartialEq)]
pub struct JobRow {
    pub id: String,
    pub name: String,
    pub kind: String,
    pub schedule: String,
    pub time_zone: String,
    pub is_active: bool,
    pub spec: Map<String, Value>,
    pub created: String,
    pub updated: String,
}

/// A job that can run.
#[derive(Clone, Debug)]
pub struct CronJob {
    pub id: String,
    pub name: String,
    pub is_active: bool,
    pub plan: JobPlan,
    pub action: JobAction,
}

/// The action of a job.
#[derive(Clone, Debug, PartialEq)]
pub enum JobAction {
    Sql(SqlScript),
    Http(Target),
    /// Without an input, the run gets the name of the job and the time.
    Workflow {
        name: String,
        input: Option<Value>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SqlScript {
    pub sql: String,
    pub database: String,
    pub seconds: u64,
}

impl SqlScript {
    pub fn limit(&self) -> Duration {
        Duration::from_secs(self.seconds)
    }
}

impl JobRow {
    /// Parses a job as a client sends it.
    pub fn parse(
        id: &str,
        created: &str,
        updated: &str,
        body: Map<String, Value>,
    ) -> Result<JobRow> {
        let mut object = body;
        redaction::restore("", &mut object, None)?;
        let mut text = |key: &str| extract_string(key, key, &mut object);
        let name = text("name")?.unwrap_or_default();
        let (schedule, time_zone) = (text("schedule")?, text("timeZone")?.unwrap_or_default());
        let kind = text("type")?.unwrap_or_default();
        let count = name.trim().chars().count();
        if !(1..=NAME_CHARS_MAX).contains(&count) || name.chars().any(char::is_control) {
            return Err(invalid_value(
                "name",
                format!("Must be 1 to {NAME_CHARS_MAX} characters."),
            ));
        }
        let is_active = match object.remove("active") {
            None | Some(Value::Null) => true,
            Some(Value::Bool(flag)) => flag,
            Some(_) => return Err(invalid_value("active", "Must be true or false.")),
        };
        let schedule = schedule.ok_or_else(|| invalid_value("schedule", "Cannot be blank."))?;
        let schedule = schedule.trim().to_owned();
        parse_plan(&schedule, &time_zone)?;
        let action = JobAction::take(&kind, &mut object)?;
        refuse_unknown("", &object)?;
        Ok(JobRow {
            id: id.to_owned(),
            name: name.trim().to_owned(),
            kind,
            schedule,
            time_zone,
            is_active,
            spec: action.to_json(),
            created: created.to_owned(),
            updated: updated.to_owned(),
        })
    }

    /// A copy with the changes of a client.
    pub fn merge(&self, updated: &str, mut body: Map<String, Value>) -> Result<JobRow> {
        for name in READ_ONLY {
            body.remove(name);
        }
        let mut object = match body.get("type").and_then(Value::as_str) {
            // The attributes of another type do not apply.
            Some(kind) if kind != self.kind => Map::new(),
            _ => self.spec.clone(),
        };
        let own = json!({
            "name": self.name, "schedule": self.schedule, "timeZone": self.time_zone,
            "type": self.kind, "active": self.is_active,
        });
        redaction::restore("", &mut body, Some(&object))?;
        object.extend(own.as_object().cloned().unwrap_or_default());
        object.extend(body);
        JobRow::parse(&self.id, &self.created, updated, object)
    }

    /// The form for clients, without the state on this node.
    pub fn to_json(&self) -> Map<String, Value> {
        let own = json!({
            "id": self.id, "name": self.name, "schedule": self.schedule, "timeZone": self.time_zone,
            "type": self.kind, "active": self.is_active,
            "created": self.created, "updated": self.updated,
        });
        let mut object = own.as_object().cloned().unwrap_or_default();
        let mut spec = self.spec.clone();
        if self.kind == "http" {
            let has_secret = spec.get("secret").is_some_and(Value::is_string);
            redaction::redact(&mut spec);
            spec.insert("hasSecret".to_owned(), has_secret.into());
        }
        object.extend(spec);
        object
    }
}

impl CronJob {
    pub fn restore(stored: &JobRow) -> Result<CronJob> {
        Ok(CronJob {
            id: stored.id.clone(),
            name: stored.name.clone(),
            is_active: stored.is_active,
            plan: parse_plan(&stored.schedule, &stored.time_zone)?,
            action: JobAction::take(&stored.kind, &mut stored.spec.clone())?,
        })
    }

    /// Reports whether a server with this role runs the job.
    pub fn runs_on(&self, role: Role) -> bool {
        match (role, &self.action) {
            (Role::Master, _) => true,
            (Role::Replica, JobAction::Sql(script)) => {
                [db::STATS, db::WORKFLOWS].contains(&script.database.as_str())
            }
            (Role::Replica, _) => false,
        }
    }

    /// The next due time; `None` if the job runs only by hand.
    pub fn next(&self, now: i64, role: Role) -> Option<i64> {
        let is_due = self.is_active && self.runs_on(role);
        let next = is_due.then(|| self.plan.schedule.next(now, &self.plan.zone));
        next.flatten()
    }
}

fn parse_plan(schedule: &str, time_zone: &str) -> Result<JobPlan> {
    let zone = Zone::parse(time_zone).ok_or_else(|| {
        let message = "Must be the name of a time zone such as Europe/Berlin, or empty for UTC.";
        invalid_value("timeZone", message)
    })?;
    Ok(JobPlan {
        schedule: Schedule::parse(schedule)?,
        zone,
        text: format!("{schedule} {time_zone}"),
    })
}

impl JobAction {
    /// Parses an action and removes its attributes from the object.
    fn take(kind: &str, object: &mut Map<String, Value>) -> Result<JobAction> {
        match kind {
            "sql" => parse_script(object).map(JobAction::Sql),
            "http" => match object.contains_key("workflow") {
                true => Err(invalid_value("workflow", "There is no such attribute.")),
                false => Target::extract("", object).map(JobAction::Http),
            },
            "workflow" => {
                let name = extract_string("workflow", "workflow", object)?.unwrap_or_default();
                limits::check_workflow(&name)?;
                let input = object.remove("input").filter(|input| !input.is_null());
                if input
                    .as_ref()
                    .is_some_and(|it| it.to_string().len() > INPUT_BYTES_MAX)
                {
                    let message = format!("Must be at most {} KiB.", INPUT_BYTES_MAX >> 10);
                    return Err(invalid_value("input", message));
                }
                Ok(JobAction::Workflow { name, input })
            }
            _ => Err(invalid_value("type", "Must be sql, http or workflow.")),
        }
    }

    /// The attributes that [`JobAction::take`] parses.
    fn to_json(&self) -> Map<String, Value> {
        let json = match self {
            JobAction::Http(target) => return target.to_json(),
            JobAction::Sql(script) => json!({
                "sql": script.sql, "database": script.database, "timeout": script.seconds,
            }),
            JobAction::Workflow { name, input } => json!({"workflow": name, "input": input}),
        };
        json.as_object().cloned().unwrap_or_default()
    }
}

fn parse_script(object: &mut Map<String, Value>) -> Result<SqlScript> {
    let sql = extract_string("sql", "sql", object)?.unwrap_or_default();
    if sql.trim().is_empty() || sql.len() > SQL_BYTES_MAX || sql.contains('\0') {
        let message = format!("Must be SQL of at most {} KiB.", SQL_BYTES_MAX >> 10);
        return Err(invalid_value("sql", message));
    }
    let database = extract_string("database", "database", object)?;
    let database = database.unwrap_or_else(|| db::DEFAULT.to_owned());
    let is_own = [db::STATS, db::WORKFLOWS].contains(&database.as_str());
    if !is_own && !db::is_valid_name(&database) {
        return Err(invalid_value(
            "database",
            format!("There is no database {database}."),
        ));
    }
    let (usual, most) = match database.as_str() {
        db::WORKFLOWS => (SECONDS_MAX_WORKFLOWS, SECONDS_MAX_WORKFLOWS),
        _ => (SECONDS_DEFAULT, SECONDS_MAX),
    };
    let seconds = match object.remove("timeout") {
        None | Some(Value::Null) => Some(usual),
        Some(value) => value.as_u64(),
    };
    let seconds = seconds.filter(|seconds| (1..=most).contains(seconds));
    let seconds = seconds.ok_or_else(|| {
        invalid_value(
            "timeout",
            format!("Must be 1 to {most} seconds for the database {database}."),
        )
    })?;
    Ok(SqlScript {
        sql,
        database,
        seconds,
    })
}

/// The payload of a call or run without one of its own.
pub fn payload(name: &str, time_ms: i64) -> Value {
    json!({"job": name, "time": clock::format_ms(time_ms)})
}

/// An error of the attribute `sql`.
pub fn wrong_script(error: &Error) -> Error {
    invalid_value("sql", error.message())
}

#[cfg(test)]
mod tests;
