//! Admin accounts: creating the first one, log-in, refresh; list, create, update and delete.

use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::{json_response, no_store};
use super::call::{Call, credentials};
use crate::base::error::{Error, Kind, Result};
use crate::model::auth::admins::Admin;
use crate::model::auth::{AdminSession, admins};
use crate::model::rules::Identity;
use crate::net::http::Response;

#[derive(Deserialize)]
struct Credentials {
    email: String,
    password: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    email: Option<String>,
    password: Option<String>,
}

#[derive(Deserialize)]
struct First {
    email: String,
    password: String,
    token: Option<String>,
}

/// Headers in which a proxy names its client.
const FORWARDING: [&str; 4] = ["X-Forwarded-For", "Forwarded", "X-Real-IP", "Via"];

pub fn init(call: &Call<'_>) -> Result<Response> {
    let body: First = call.body()?;
    check_setup(call, body.token.as_deref())?;
    let signed_in = call
        .app
        .auth
        .init(&body.email, &body.password, call.client())?;
    Ok(session("admin", &signed_in))
}

/// Admits a caller with the setup token, or a program on this machine. A proxy that forwards a
/// request and a browser with a page of another site need the token.
fn check_setup(call: &Call<'_>, token: Option<&str>) -> Result<()> {
    let request = call.request;
    let is_admitted = match token.or(request.header("X-Setup-Token")) {
        Some(token) => call.app.auth.is_setup_token(token),
        None => {
            request.peer.ip().to_canonical().is_loopback()
                && FORWARDING.iter().all(|name| request.header(name).is_none())
                && !call.cors.is_suspicious(request)
        }
    };
    match is_admitted {
        true => Ok(()),
        false => Err(Error::new(
            Kind::Forbidden,
            "Create the first admin with vski admin create, or send the setup token, which the server \
             wrote to its log when it started, as token in the body or in the header X-Setup-Token.",
        )),
    }
}

pub fn login(call: &Call<'_>) -> Result<Response> {
    let body: Credentials = call.body()?;
    let (auth, from) = (&call.app.auth, call.client());
    let signed_in = auth.log_in_admin(&body.email, &body.password, from)?;
    Ok(session("admin", &signed_in))
}

pub fn refresh(call: &Call<'_>) -> Result<Response> {
    match &call.identity {
        Identity::Admin(id) => Ok(session(
            "admin",
            &call.app.auth.refresh_admin(credentials(call.request), id)?,
        )),
        _ => Err(Error::new(
            Kind::Unauthenticated,
            "Sign in as an admin to do this.",
        )),
    }
}

pub fn list(call: &Call<'_>) -> Result<Response> {
    let admins = admins::list(call.app.databases.default())?;
    let items: Vec<Value> = admins.iter().map(to_json).collect();
    Ok(json_response(200, &json!({"items": items})))
}

pub fn create(call: &Call<'_>) -> Result<Response> {
    let body: Credentials = call.body()?;
    let admin = call
        .app
        .auth
        .create_admin(&body.email, &body.password, call.client())?;
    Ok(json_response(200, &to_json(&admin)))
}

pub fn update(call: &Call<'_>) -> Result<Response> {
    let Change { email, password } = call.body()?;
    let (id, auth) = (call.param("id"), &call.app.auth);
    let admin = auth.change_admin(id, email.as_deref(), password.as_deref(), call.client())?;
    Ok(json_response(200, &to_json(&admin)))
}

pub fn delete(call: &Call<'_>) -> Result<Response> {
    admins::delete(call.app.databases.default(), call.param("id"))?;
    Ok(Response::empty(204))
}

/// A new token, and the admin under `name`: `admin` in our form, else as a record.
pub fn session(name: &str, signed_in: &AdminSession) -> Response {
    let admin = match name {
        "admin" => to_json(&signed_in.admin),
        _ => admins::to_record(&signed_in.admin),
    };
    no_store(json_response(
        200,
        &json!({"token": signed_in.token, name: admin}),
    ))
}

fn to_json(admin: &Admin) -> Value {
    json!({
        "id": admin.id,
        "email": admin.email,
        "created": admin.created,
        "updated": admin.updated,
    })
}
