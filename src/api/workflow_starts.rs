//! Runs started over HTTP: who may start one, and what is recorded about the caller.
//!
//! Administrators, service tokens and keys with the scope `service` start any run. Other callers
//! start a run about a record, if the `execute` rule of its collection admits them and the
//! collection names the workflow in `executeWorkflows`.

use serde_json::Value;
use serde_json::value::RawValue;

use super::call::Call;
use super::parameters::parameter;
use crate::base::clock;
use crate::base::error::{Error, Kind, Result};
use crate::model::records;
use crate::model::rules::{Identity, KeyScope, Operation};
use crate::net::http::Response;
use crate::services::workflows::api_requests::WorkflowRequest;
use crate::services::workflows::{NewRun, RecordRef, RunStarter, Submission, grant_of};
use crate::store::db;

pub fn trigger(call: &Call<'_>) -> Result<Response> {
    let submission: Submission = call.body_to(1)?;
    let (wish, about) = submission.check()?;
    if !is_trusted(&call.identity) {
        wish.check_outside(clock::now_ms())?;
    }
    call.charge_json(wish.attributes())?;
    start(call, wish.into_run()?, &about)
}

/// The short form: the body is the list of arguments of the workflow.
pub fn trigger_short(call: &Call<'_>) -> Result<Response> {
    let input: Box<RawValue> = match call.has_body() {
        true => call.body_to(0)?,
        false => call.json_to(b"[]", 0)?,
    };
    let query = call.query()?;
    let about = RecordRef {
        collection: parameter(&query, "collection").map(str::to_owned),
        record: parameter(&query, "record").map(str::to_owned),
    };
    start(
        call,
        NewRun::new(call.param("workflow"), input.get()),
        &about,
    )
}

fn start(call: &Call<'_>, mut run: NewRun, about: &RecordRef) -> Result<Response> {
    if let Some(record) = authorize(call, about, &run.workflow)? {
        for (name, value) in record {
            run.attributes.insert(name.to_owned(), Value::from(value));
        }
    }
    if !is_trusted(&call.identity) {
        charge_to_caller(call, &mut run);
    }
    run.check(clock::now_ms())?;
    let request = WorkflowRequest::Trigger(Box::new(run));
    let answer = call
        .app
        .workflows
        .execute(grant_of(&call.identity), request)?;
    Ok(Response::json(200, answer.into_bytes()))
}

/// True if the caller may start any run.
fn is_trusted(identity: &Identity) -> bool {
    match identity {
        Identity::Admin(_) | Identity::Service(_) => true,
        Identity::Key(key) => key.scopes.contains(&KeyScope::Service),
        Identity::User(_) | Identity::Anonymous => false,
    }
}

/// Prefixes the idempotency key, so that callers cannot meet the keys of others, and counts the run
/// against the limit of the caller.
fn charge_to_caller(call: &Call<'_>, run: &mut NewRun) {
    let (owner, caller) = match &call.identity {
        Identity::User(user) => {
            let account = format!("{}/{}", user.collection_id, user.id);
            (account.clone(), RunStarter::Account(account))
        }
        _ => {
            let network = call.payer().network.to_string();
            ("public".to_owned(), RunStarter::Network(network))
        }
    };
    if let Some(key) = &mut run.idempotency_key {
        *key = format!("{owner}/{key}");
    }
    run.caller = Some(caller);
}

/// Refuses a caller who may not start the run; returns attributes for the run.
fn authorize(
    call: &Call<'_>,
    about: &RecordRef,
    workflow: &str,
) -> Result<Option<Vec<(&'static str, String)>>> {
    let is_trusted = is_trusted(&call.identity);
    let (Some(collection), Some(record)) = (&about.collection, &about.record) else {
        if about.collection.is_some() || about.record.is_some() {
            return Err(Error::invalid(
                "A run about a record needs both collection and record; send both or neither.",
            ));
        }
        return match (is_trusted, &call.identity) {
            (true, _) => Ok(None),
            (false, Identity::Anonymous) => Err(Error::new(
                Kind::Unauthenticated,
                "Sign in to start runs, or send the collection and record that the run is about.",
            )),
            (false, Identity::Key(_)) => Err(Error::new(
                Kind::Forbidden,
                "This API key needs the scope service to start runs.",
            )),
            (false, _) => Err(Error::new(
                Kind::Forbidden,
                "Accounts may start only runs about a record; send its collection and record.",
            )),
        };
    };
    let scope = call.scope()?;
    let found = scope.collections.get(collection)?;
    let may = match is_trusted {
        true => call
            .database()?
            .read(|it| records::exists(it, found, record))?,
        false => call.database()?.read_for(call.asker(), |it| {
            records::is_allowed(Operation::Execute, it, &scope, found, record)
        })?,
    };
    if !may {
        // The same answer as for a missing record, which must not be told apart.
        return Err(Error::not_found("There is no such record."));
    }
    if !is_trusted && !found.rules.workflows.iter().any(|it| it == workflow) {
        let message = format!(
            "The collection {} does not allow callers to start the workflow {workflow}; an \
             administrator must add it to executeWorkflows.",
            found.name
        );
        return Err(Error::new(Kind::Forbidden, message));
    }
    let mut attributes = vec![
        ("collection", found.name.clone()),
        ("record", record.clone()),
    ];
    if call.database != db::DEFAULT {
        attributes.push(("database", call.database.to_owned()));
    }
    if let Identity::User(user) = &call.identity {
        attributes.push(("startedBy", user.id.clone()));
    }
    Ok(Some(attributes))
}
