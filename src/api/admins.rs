//! Admin accounts: the first one, log-in, a fresh token, the list.

use serde::Deserialize;
use serde_json::Value;
use serde_json::json;

use super::Call;
use super::json_response;
use crate::auth::SignedIn;
use crate::auth::admins;
use crate::auth::admins::Admin;
use crate::error::Error;
use crate::error::Kind;
use crate::error::Result;
use crate::http::Response;
use crate::rules::Identity;

#[derive(Deserialize)]
struct Credentials {
    email: String,
    password: String,
}

pub fn init(call: &Call<'_>) -> Result<Response> {
    let body: Credentials = call.body()?;
    signed_in(&call.app.auth.init(&body.email, &body.password)?)
}

pub fn login(call: &Call<'_>) -> Result<Response> {
    let body: Credentials = call.body()?;
    signed_in(&call.app.auth.login(&body.email, &body.password)?)
}

pub fn refresh(call: &Call<'_>) -> Result<Response> {
    match &call.identity {
        Identity::Admin(id) => signed_in(&call.app.auth.refresh(id)?),
        Identity::Nobody => Err(Error::new(Kind::Unauthenticated, "Sign in first.")),
    }
}

pub fn list(call: &Call<'_>) -> Result<Response> {
    let admins = admins::list(call.app.databases.default())?;
    let items: Vec<Value> = admins.iter().map(to_json).collect();
    Ok(json_response(200, &json!({"items": items})))
}

fn signed_in(signed_in: &SignedIn) -> Result<Response> {
    let body = json!({"token": signed_in.token, "admin": to_json(&signed_in.admin)});
    Ok(json_response(200, &body).with_header("Cache-Control", "no-store"))
}

fn to_json(admin: &Admin) -> Value {
    json!({
        "id": admin.id,
        "email": admin.email,
        "created": admin.created,
        "updated": admin.updated,
    })
}
