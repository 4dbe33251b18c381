//! Frames of the protocol `vski.workflow.v1` from workers, described in `docs/workflows.md`. Data
//! of users is not parsed.

use std::borrow::Cow;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use crate::base::error::{Error, Result};
use crate::services::workflows::limits;
use crate::services::workflows::run_request::{Ms, RunRequest, present};
use crate::services::workflows::runs::NewRun;
use crate::services::workflows::steps::name_of;
use crate::services::workflows::tx::Lease;
use crate::services::workflows::waits::{WakeCondition, WakeTime};

/// The longest `ref`; bytes of JSON.
const REF_BYTES_MAX: usize = 256;
/// Workflows in one hello.
const WORKFLOWS_MAX: usize = 1_000;
/// Jobs that one worker can hold.
pub const CREDIT_MAX: usize = 1_000;

/// A frame from a worker.
#[derive(Debug)]
pub struct Frame {
    /// The `ref` as JSON, repeated in the answer.
    pub reference: Option<String>,
    pub body: FrameBody,
}

/// A frame that cannot be parsed.
#[derive(Debug)]
pub struct FrameError {
    pub reference: Option<String>,
    pub code: &'static str,
    pub message: String,
    /// The frame is not a JSON object, so the connection is closed.
    pub is_fatal: bool,
}

/// The content of a frame.
#[derive(Debug)]
pub enum FrameBody {
    Hello(Hello),
    Credit(usize),
    Ack(Lease),
    Heartbeat(Heartbeat),
    Drain,
    Bye,
    Auth(String),
    Log(LogLine),
    /// A report, which is written to `workflows.db`.
    Report(Report),
}

/// A report of a worker about a run that it holds.
#[derive(Debug)]
pub struct Report {
    pub lease: Lease,
    pub action: ReportAction,
}

/// See [`Report`].
#[derive(Debug)]
pub enum ReportAction {
    Step(StepReport),
    StepBegin {
        key: String,
        name: String,
        attempt: Option<i64>,
    },
    Park {
        seen: i64,
        on: Vec<WakeCondition>,
    },
    Call(WorkerCall),
    Done {
        output: String,
    },
    Fail(ReportedError),
    Nack {
        is_no_code: bool,
        delay_ms: i64,
    },
}

#[derive(Debug, Deserialize)]
pub struct Hello {
    #[serde(default)]
    pub proto: Vec<u32>,
    pub worker: String,
    #[serde(default)]
    pub instance: String,
    pub workflows: Vec<Served>,
    #[serde(default)]
    pub credit: usize,
    pub resume: Option<Resume>,
    pub token: Option<String>,
    #[serde(default)]
    pub sdk: String,
    #[serde(default)]
    pub lang: String,
}

/// A workflow and version whose code a worker has.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq)]
pub struct Served {
    pub name: String,
    #[serde(default = "first_version")]
    pub version: String,
}

fn first_version() -> String {
    "1".to_owned()
}

#[derive(Debug, Deserialize)]
pub struct Resume {
    #[serde(default)]
    pub jobs: Vec<JobRef>,
}

#[derive(Debug, Deserialize)]
pub struct JobRef {
    job: String,
    epoch: i64,
}

/// Renews leases.
#[derive(Debug)]
pub struct Heartbeat {
    pub leases: Vec<Lease>,
    /// The number of the probe that it answers.
    pub probe: Option<i64>,
}

#[derive(Debug, Deserialize)]
pub struct LogLine {
    #[serde(default)]
    pub job: String,
    #[serde(default)]
    pub msg: String,
}

#[derive(Debug)]
pub struct StepReport {
    pub key: String,
    pub name: String,
    pub started_ms: Option<i64>,
    pub attempt: Option<i64>,
    pub retries: Option<i64>,
    pub outcome: std::result::Result<String, ReportedError>,
}

/// An error reported by the code of a workflow.
#[derive(Debug)]
pub struct ReportedError {
    pub kind: String,
    pub retry_after_ms: Option<i64>,
    /// JSON, as the worker sent it.
    pub error: String,
}

#[derive(Debug)]
pub struct WorkerCall {
    pub key: String,
    pub op: CallOp,
}

#[derive(Debug)]
pub enum CallOp {
    Trigger {
        run: Box<NewRun>,
        is_detached: bool,
    },
    HookCreate {
        token: Option<String>,
        metadata: Option<String>,
    },
    HookDispose,
    Emit {
        token: String,
        payload: String,
    },
    SetAttr {
        attributes: Map<String, Value>,
    },
    StreamWrite {
        name: String,
        index: i64,
        data: String,
        is_end: bool,
    },
}

#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    t: Cow<'a, str>,
    #[serde(borrow, default, rename = "ref")]
    reference: Option<&'a RawValue>,
}

pub fn parse_frame(text: &str) -> std::result::Result<Frame, FrameError> {
    let head: Head<'_> = serde_json::from_str(text).map_err(|error| FrameError {
        reference: None,
        code: "bad_frame",
        message: format!("A frame must be a JSON object with a string field \"t\": {error}."),
        is_fatal: true,
    })?;
    let reference = head.reference.map(|reference| reference.get().to_owned());
    let refuse = |code, message| FrameError {
        reference: reference.clone().filter(|it| it.len() <= REF_BYTES_MAX),
        code,
        message,
        is_fatal: false,
    };
    if reference
        .as_ref()
        .is_some_and(|it| it.len() > REF_BYTES_MAX)
    {
        let message = format!("A ref may have at most {REF_BYTES_MAX} bytes.");
        return Err(refuse("invalid", message));
    }
    match body(&head.t, text) {
        Ok(Some(body)) => Ok(Frame { reference, body }),
        Ok(None) => {
            let message = format!("Unknown frame type {}.", head.t);
            Err(refuse("unknown_type", message))
        }
        Err(error) => Err(refuse("invalid", format!("{}: {error}", head.t))),
    }
}

fn body(kind: &str, text: &str) -> Result<Option<FrameBody>> {
    Ok(Some(match kind {
        "hello" => FrameBody::Hello(hello(text)?),
        "credit" => {
            #[derive(Deserialize)]
            struct Credit {
                n: usize,
            }
            FrameBody::Credit(check_credit(parse::<Credit>(text)?.n)?)
        }
        "ack" => FrameBody::Ack(parse::<JobRef>(text)?.into()),
        "hb" => FrameBody::Heartbeat(heartbeat(text)?),
        "drain" => FrameBody::Drain,
        "bye" => FrameBody::Bye,
        "auth" => {
            #[derive(Deserialize)]
            struct Auth {
                token: String,
            }
            FrameBody::Auth(parse::<Auth>(text)?.token)
        }
        "log" => FrameBody::Log(parse(text)?),
        _ => {
            let Some(action) = action(kind, text)? else {
                return Ok(None);
            };
            let lease = parse::<JobRef>(text)?.into();
            FrameBody::Report(Report { lease, action })
        }
    }))
}

fn action(kind: &str, text: &str) -> Result<Option<ReportAction>> {
    Ok(Some(match kind {
        "step" => ReportAction::Step(step(text)?),
        "step_begin" => {
            #[derive(Deserialize)]
            struct Begin {
                key: String,
                name: Option<String>,
                attempt: Option<i64>,
            }
            let Begin { key, name, attempt } = parse(text)?;
            let name = name.unwrap_or_else(|| name_of(&key).to_owned());
            ReportAction::StepBegin { key, name, attempt }
        }
        "park" => park(text)?,
        "call" => ReportAction::Call(call(text)?),
        "done" => {
            #[derive(Deserialize)]
            struct Done {
                #[serde(default, deserialize_with = "present")]
                output: Option<Box<RawValue>>,
            }
            let output = parse::<Done>(text)?.output;
            ReportAction::Done {
                output: json_or_null(output),
            }
        }
        "fail" => {
            #[derive(Deserialize)]
            struct Fail {
                err: Box<RawValue>,
            }
            ReportAction::Fail(failed(&parse::<Fail>(text)?.err)?)
        }
        "nack" => {
            #[derive(Deserialize)]
            struct Nack {
                #[serde(default)]
                reason: String,
                delay_ms: Option<Ms>,
            }
            let Nack { reason, delay_ms } = parse(text)?;
            ReportAction::Nack {
                is_no_code: reason == "no_code",
                delay_ms: delay_ms.map_or(0, |Ms(ms)| ms.clamp(0, limits::YEARS_MS)),
            }
        }
        _ => return Ok(None),
    }))
}

fn parse<T: DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text).map_err(|error| Error::invalid(error.to_string()))
}

fn hello(text: &str) -> Result<Hello> {
    let hello: Hello = parse(text)?;
    limits::check_key("worker", &hello.worker)?;
    if hello.instance.len() > REF_BYTES_MAX || hello.sdk.len() + hello.lang.len() > REF_BYTES_MAX {
        return Err(Error::invalid(format!(
            "instance, sdk and lang may have at most {REF_BYTES_MAX} bytes."
        )));
    }
    if hello.workflows.len() > WORKFLOWS_MAX {
        return Err(Error::invalid(format!(
            "A worker serves at most {WORKFLOWS_MAX} workflows."
        )));
    }
    for served in &hello.workflows {
        limits::check_workflow(&served.name)?;
        limits::check_version(&served.version)?;
    }
    check_credit(hello.credit)?;
    Ok(hello)
}

fn check_credit(credit: usize) -> Result<usize> {
    match credit <= CREDIT_MAX {
        true => Ok(credit),
        false => Err(Error::invalid(format!(
            "The credit may be at most {CREDIT_MAX}."
        ))),
    }
}

fn heartbeat(text: &str) -> Result<Heartbeat> {
    #[derive(Deserialize)]
    struct Raw {
        #[serde(default)]
        jobs: Vec<(String, i64)>,
        n: Option<i64>,
    }
    let Raw { jobs, n } = parse(text)?;
    let leases = jobs.into_iter();
    let leases = leases.map(|(run, epoch)| Lease { run, epoch }).collect();
    Ok(Heartbeat { leases, probe: n })
}

fn step(text: &str) -> Result<StepReport> {
    #[derive(Deserialize)]
    struct Raw {
        key: String,
        name: Option<String>,
        started_ms: Option<Ms>,
        attempt: Option<i64>,
        retries: Option<i64>,
        #[serde(default, deserialize_with = "present")]
        ok: Option<Box<RawValue>>,
        #[serde(default, deserialize_with = "present")]
        err: Option<Box<RawValue>>,
    }
    let raw: Raw = parse(text)?;
    let outcome = match (raw.ok, raw.err) {
        (Some(ok), None) => Ok(Box::<str>::from(ok).into_string()),
        (None, Some(err)) => Err(failed(&err)?),
        _ => return Err(Error::invalid("give either ok or err")),
    };
    let name = raw.name.unwrap_or_else(|| name_of(&raw.key).to_owned());
    Ok(StepReport {
        key: raw.key,
        name,
        started_ms: raw.started_ms.map(|Ms(ms)| ms),
        attempt: raw.attempt,
        retries: raw.retries,
        outcome,
    })
}

fn failed(raw: &RawValue) -> Result<ReportedError> {
    #[derive(Deserialize)]
    struct Kind {
        kind: String,
    }
    #[derive(Deserialize)]
    struct Pause {
        retry_after_ms: Ms,
    }
    // An error may be any JSON; each of the two fields is read if it is valid.
    let kind: Option<Kind> = serde_json::from_str(raw.get()).ok();
    let pause: Option<Pause> = serde_json::from_str(raw.get()).ok();
    let pause = pause.map(|pause| pause.retry_after_ms.0);
    Ok(ReportedError {
        kind: kind.map_or_else(String::new, |kind| kind.kind),
        retry_after_ms: pause,
        error: raw.get().to_owned(),
    })
}

fn park(text: &str) -> Result<ReportAction> {
    #[derive(Deserialize)]
    struct Raw {
        #[serde(default)]
        seen: i64,
        on: Vec<RawCondition>,
    }
    #[derive(Deserialize)]
    struct RawCondition {
        sleep: Option<String>,
        until: Option<Ms>,
        ms: Option<Ms>,
        hook: Option<String>,
        child: Option<String>,
        retry: Option<String>,
    }
    let Raw { seen, on } = parse(text)?;
    let conditions = on.into_iter().map(|raw| {
        let kinds = (raw.sleep, raw.hook, raw.child, raw.retry);
        Ok(match kinds {
            (Some(key), None, None, None) => {
                let until = match (raw.until, raw.ms) {
                    (Some(Ms(at)), None) => WakeTime::At(at),
                    (None, Some(Ms(ms))) => WakeTime::In(ms),
                    _ => return Err(Error::invalid("a sleep needs either until or ms")),
                };
                WakeCondition::Sleep { key, until }
            }
            (None, Some(key), None, None) => WakeCondition::Hook { key },
            (None, None, Some(key), None) => WakeCondition::Child { key },
            (None, None, None, Some(key)) => WakeCondition::Retry { key },
            _ => {
                return Err(Error::invalid(
                    "a condition needs one of sleep, hook, child, retry",
                ));
            }
        })
    });
    Ok(ReportAction::Park {
        seen,
        on: conditions.collect::<Result<_>>()?,
    })
}

fn call(text: &str) -> Result<WorkerCall> {
    #[derive(Deserialize)]
    struct Head {
        op: String,
        #[serde(default)]
        key: String,
    }
    let Head { op, key } = parse(text)?;
    Ok(WorkerCall {
        key,
        op: call_op(&op, text)?,
    })
}

fn call_op(op: &str, text: &str) -> Result<CallOp> {
    #[derive(Deserialize)]
    struct Rest {
        #[serde(default)]
        detached: bool,
        token: Option<String>,
        #[serde(default, deserialize_with = "present")]
        metadata: Option<Box<RawValue>>,
        #[serde(default, deserialize_with = "present")]
        payload: Option<Box<RawValue>>,
        #[serde(default)]
        name: String,
        #[serde(default)]
        index: i64,
        #[serde(default)]
        data: String,
        #[serde(default)]
        end: bool,
    }
    #[derive(Deserialize)]
    struct Attributes {
        attributes: Map<String, Value>,
    }
    let rest: Rest = parse(text)?;
    Ok(match op {
        "trigger" => CallOp::Trigger {
            run: Box::new(parse::<RunRequest>(text)?.into_run()?),
            is_detached: rest.detached,
        },
        "hook_create" => CallOp::HookCreate {
            token: rest.token,
            metadata: rest.metadata.map(|it| Box::<str>::from(it).into_string()),
        },
        "hook_dispose" => CallOp::HookDispose,
        "emit" => CallOp::Emit {
            token: rest.token.unwrap_or_default(),
            payload: json_or_null(rest.payload),
        },
        "set_attr" => CallOp::SetAttr {
            attributes: parse::<Attributes>(text)?.attributes,
        },
        "stream_write" => CallOp::StreamWrite {
            name: rest.name,
            index: rest.index,
            data: rest.data,
            is_end: rest.end,
        },
        _ => return Err(Error::invalid(format!("unknown op {op}"))),
    })
}

fn json_or_null(raw: Option<Box<RawValue>>) -> String {
    raw.map_or_else(
        || "null".to_owned(),
        |raw| Box::<str>::from(raw).into_string(),
    )
}

impl From<JobRef> for Lease {
    fn from(job: JobRef) -> Lease {
        Lease {
            run: job.job,
            epoch: job.epoch,
        }
    }
}
