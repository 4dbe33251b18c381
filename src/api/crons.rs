//! `/api/crons`: the jobs as PocketBase lists and runs them, by their names.

use serde_json::{Value, json};

use super::answer::json_response;
use super::call::Call;
use crate::base::error::Result;
use crate::net::http::Response;
use crate::services::cron::store;

pub fn list(call: &Call<'_>) -> Result<Response> {
    let jobs = call.app.databases.default().read(store::jobs)?;
    let items: Vec<Value> = jobs
        .iter()
        .map(|job| json!({"id": job.name, "expression": job.schedule}))
        .collect();
    Ok(json_response(200, &Value::from(items)))
}

/// Starts a run and does not wait for it.
pub fn run(call: &Call<'_>) -> Result<Response> {
    let name = call.param("id");
    let job = call
        .app
        .databases
        .default()
        .read(|it| store::job(it, name))?;
    call.app.cron.run_now(&job)?;
    Ok(Response::empty(204))
}
