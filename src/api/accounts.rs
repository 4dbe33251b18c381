//! Accounts: records of auth collections that sign in.
//!
//! The same functions have two sets of paths: `/api/auth/...` for the default auth collection, and
//! `/api/collections/{collection}/...` as in PocketBase, where `_superusers` names the admins.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::json;

use super::admins::session as admin_session;
use super::answer::{json_response, no_store};
use super::call::{Call, credentials};
use super::oauth;
use super::records;
use super::sign_in::{is_admins, realm, session_json, shape};
use crate::base::error::{Error, FieldError, FieldErrors, Kind, Result};
use crate::base::{crypto, ids};
use crate::model::auth::account_changes::{AccountMail, Confirmation, Purpose};
use crate::model::auth::accounts::{AccountSession, LogIn, Realm};
use crate::model::auth::admins;
use crate::model::rules::{Identity, User};
use crate::net::http::Response;

const CONFIRM_PAGE: &str = include_str!("confirm.html");

#[derive(Deserialize)]
struct Credentials {
    /// The e-mail address, or the value of another identity field.
    #[serde(alias = "email", alias = "username")]
    identity: String,
    password: String,
    #[serde(rename = "identityField")]
    field: Option<String>,
}

/// Credentials of which some may be missing.
#[derive(Deserialize)]
struct MaybeCredentials {
    #[serde(alias = "email", alias = "username")]
    identity: Option<String>,
    password: Option<String>,
    #[serde(rename = "identityField")]
    field: Option<String>,
}

impl Credentials {
    /// Reads the body as PocketBase does: blank values are invalid fields.
    fn read(call: &Call<'_>) -> Result<Credentials> {
        let body: MaybeCredentials = call.body()?;
        let mut errors = FieldErrors::new();
        for (name, value) in [("identity", &body.identity), ("password", &body.password)] {
            if value.as_deref().is_none_or(str::is_empty) {
                let error = FieldError::new("validation_required", "Cannot be blank.");
                errors.insert(name.to_owned(), error);
            }
        }
        match (body.identity, body.password) {
            (Some(identity), Some(password)) if errors.is_empty() => Ok(Credentials {
                identity,
                password,
                field: body.field,
            }),
            _ => {
                let names: Vec<&str> = errors.keys().map(String::as_str).collect();
                let message = format!("Missing: {}.", names.join(", "));
                Err(Error::fields(message, errors))
            }
        }
    }
}

/// The body of a request for a token of another account.
#[derive(Deserialize)]
struct Impersonation {
    /// Seconds; 0 for the lifetime of other tokens.
    #[serde(default)]
    duration: u32,
}

#[derive(Deserialize)]
struct Address {
    email: String,
}

#[derive(Deserialize)]
struct NewAddress {
    #[serde(rename = "newEmail", alias = "email")]
    address: String,
}

#[derive(Deserialize)]
struct Confirm {
    token: String,
    password: Option<String>,
    #[serde(rename = "passwordConfirm")]
    confirmation: Option<String>,
}

#[derive(Deserialize)]
struct NewPassword {
    #[serde(rename = "oldPassword")]
    old: Option<String>,
    password: Option<String>,
    #[serde(rename = "passwordConfirm")]
    confirmation: Option<String>,
}

pub fn login(call: &Call<'_>) -> Result<Response> {
    let realm = realm(call)?;
    session("user", &log_in(call, &realm, &call.body()?)?)
}

/// Log-in as in PocketBase: wrong credentials are an invalid request, 400 instead of 401.
pub fn auth_with_password(call: &Call<'_>) -> Result<Response> {
    let as_invalid = |error: Error| match error.kind() {
        Kind::Unauthenticated => Error::invalid(error.message()),
        _ => error,
    };
    let body = Credentials::read(call)?;
    if is_admins(call) {
        let (app, from) = (&call.app.auth, call.client());
        let signed_in = app.log_in_admin(&body.identity, &body.password, from);
        return Ok(admin_session("record", &signed_in.map_err(as_invalid)?));
    }
    let realm = realm(call)?;
    session("record", &log_in(call, &realm, &body).map_err(as_invalid)?)
}

pub fn register(call: &Call<'_>) -> Result<Response> {
    let realm = realm(call)?;
    records::create_in(call, &realm.collection.name)
}

pub fn refresh(call: &Call<'_>) -> Result<Response> {
    if let Identity::Admin(id) = &call.identity {
        return Ok(admin_session(
            "user",
            &call.app.auth.refresh_admin(credentials(call.request), id)?,
        ));
    }
    session("user", &refreshed(call)?)
}

pub fn auth_refresh(call: &Call<'_>) -> Result<Response> {
    if let Identity::Admin(id) = &call.identity
        && is_admins(call)
    {
        return Ok(admin_session(
            "record",
            &call.app.auth.refresh_admin(credentials(call.request), id)?,
        ));
    }
    session("record", &refreshed(call)?)
}

/// A token for an account, for an admin who acts in its place. It cannot be renewed.
pub fn impersonate(call: &Call<'_>) -> Result<Response> {
    let body: Impersonation = call.body()?;
    let seconds = Some(body.duration).filter(|seconds| *seconds > 0);
    let (id, auth) = (call.param("id"), &call.app.auth);
    if is_admins(call) {
        return Ok(admin_session(
            "record",
            &auth.impersonate_admin(id, seconds)?,
        ));
    }
    let (realm, shape) = (realm(call)?, shape(call)?);
    session(
        "record",
        &auth.impersonate(&realm, id, seconds, &shape, call.asker())?,
    )
}

fn refreshed(call: &Call<'_>) -> Result<AccountSession> {
    let (realm, user) = own(call)?;
    let auth = &call.app.auth;
    auth.refresh(
        &realm,
        user,
        credentials(call.request),
        &shape(call)?,
        call.asker(),
    )
}

pub fn me(call: &Call<'_>) -> Result<Response> {
    if let Identity::Admin(id) = &call.identity {
        let admin = admins::by_id(call.app.databases.default(), id)?;
        let admin = admin.ok_or_else(|| Error::not_found("There is no such admin."))?;
        return Ok(no_store(json_response(200, &admins::to_record(&admin))));
    }
    let (realm, user) = own(call)?;
    let record = call
        .app
        .auth
        .record(&realm, user, &shape(call)?, call.asker())?;
    Ok(no_store(Response::json(200, record)))
}

pub fn change_password(call: &Call<'_>) -> Result<Response> {
    let body: NewPassword = call.body()?;
    let (realm, user) = own(call)?;
    let new = Confirmation {
        token: "",
        only: None,
        password: body.password.as_deref(),
        confirmation: body.confirmation.as_deref(),
    };
    let (old, auth) = (body.old.as_deref(), &call.app.auth);
    session(
        "user",
        &auth.change_password(&realm, &user, old, &new, call.client(), call.asker())?,
    )
}

pub fn request_verification(call: &Call<'_>) -> Result<Response> {
    send_mail(call, AccountMail::Verification)
}

pub fn request_password_reset(call: &Call<'_>) -> Result<Response> {
    send_mail(call, AccountMail::Reset)
}

pub fn request_email_change(call: &Call<'_>) -> Result<Response> {
    let body: NewAddress = call.body()?;
    let (realm, user) = own(call)?;
    let auth = &call.app.auth;
    let as_sent = |error: Error| match error.field_errors().get("email") {
        Some(wrong) => Error::field("newEmail", wrong.code, wrong.message.clone()),
        None => error,
    };
    let mail = auth.mail_for_new_address(&realm, &user, &body.address, call.client());
    if let Some(mail) = mail.map_err(as_sent)? {
        call.app.mail.send(mail);
    }
    Ok(Response::empty(204))
}

/// Accepts a token of any kind of mail.
pub fn confirm(call: &Call<'_>) -> Result<Response> {
    confirm_only(call, None)
}

pub fn confirm_verification(call: &Call<'_>) -> Result<Response> {
    confirm_only(call, Some(Purpose::Verification))
}

pub fn confirm_password_reset(call: &Call<'_>) -> Result<Response> {
    confirm_only(call, Some(Purpose::Reset))
}

pub fn confirm_email_change(call: &Call<'_>) -> Result<Response> {
    confirm_only(call, Some(Purpose::Email))
}

fn confirm_only(call: &Call<'_>, only: Option<Purpose>) -> Result<Response> {
    let body: Confirm = call.body()?;
    let confirmation = Confirmation {
        token: &body.token,
        only,
        password: body.password.as_deref(),
        confirmation: body.confirmation.as_deref(),
    };
    let (auth, wanted) = (&call.app.auth, call.optional_param("collection"));
    auth.confirm(call.database, wanted, &confirmation, call.client())?;
    Ok(Response::empty(204))
}

/// The page that links in mails open.
///
/// The token is in the fragment of the address, behind the `#`, which browsers do not send: it is
/// in no log. The page loads nothing and talks to its own server only.
pub fn confirm_page(_: &Call<'_>) -> Result<Response> {
    let nonce = crypto::base64url(&ids::random_bytes::<16>()?);
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src \
         'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    let page = CONFIRM_PAGE.replace("NONCE", &nonce).into_bytes();
    Ok(Response::with_body(200, "text/html; charset=utf-8", page)
        .with_header("Content-Security-Policy", policy)
        .with_header("Referrer-Policy", "no-referrer")
        .with_header("X-Frame-Options", "DENY")
        .with_header("Cache-Control", "no-store"))
}

/// The log-in methods of a collection, in the form that PocketBase's clients read.
pub fn methods(call: &Call<'_>) -> Result<Response> {
    let (mut has_providers, mut providers) = (false, Vec::new());
    let mut code_seconds = None;
    let (has_passwords, fields) = match is_admins(call) {
        true => (true, vec!["email".to_owned()]),
        false => {
            let realm = realm(call)?;
            let fields = realm.collection.identity_fields().into_iter();
            let fields = fields.map(str::to_owned).collect();
            has_providers = realm.collection.auth.has_providers();
            providers = oauth::methods(call, &realm);
            let settings = &realm.collection.auth;
            code_seconds = settings.has_codes().then(|| settings.code_seconds());
            (realm.collection.auth.has_passwords(), fields)
        }
    };
    let body = json!({
        "password": {"enabled": has_passwords, "identityFields": fields},
        "oauth2": {"enabled": has_providers, "providers": providers},
        "mfa": {"enabled": false, "duration": 0},
        "otp": {"enabled": code_seconds.is_some(), "duration": code_seconds.unwrap_or(0)},
        // Where older clients read them.
        "authProviders": providers,
        "emailPassword": fields.iter().any(|field| field == "email"),
        "usernamePassword": fields.iter().any(|field| field == "username"),
    });
    Ok(json_response(200, &body))
}

/// The signed-in account and its realm. An error if the path names another collection.
fn own(call: &Call<'_>) -> Result<(Realm, Arc<User>)> {
    let Identity::User(user) = &call.identity else {
        return Err(Error::new(
            Kind::Forbidden,
            "Only accounts of auth collections may do this.",
        ));
    };
    let realm = call.app.auth.realm_of(call.database, user)?;
    let names = [&realm.collection.name, &realm.collection.id];
    match call.optional_param("collection") {
        Some(named) if !names.into_iter().any(|name| name == named) => Err(Error::new(
            Kind::Forbidden,
            "The account belongs to another collection.",
        )),
        _ => Ok((realm, Arc::clone(user))),
    }
}

fn log_in(call: &Call<'_>, realm: &Realm, body: &Credentials) -> Result<AccountSession> {
    let log_in = LogIn {
        identity: &body.identity,
        field: body.field.as_deref().filter(|field| !field.is_empty()),
        password: &body.password,
        from: call.client(),
        asker: call.asker(),
    };
    call.app.auth.log_in(realm, &log_in, &shape(call)?)
}

fn send_mail(call: &Call<'_>, wanted: AccountMail) -> Result<Response> {
    let body: Address = call.body()?;
    let (auth, from) = (&call.app.auth, call.client());
    let mail = match (is_admins(call), wanted) {
        (true, AccountMail::Verification) => {
            return Err(Error::invalid(
                "The addresses of admins need no verification.",
            ));
        }
        (true, AccountMail::Reset) => auth.reset_mail_for_admin(&body.email, from)?,
        (false, _) => auth.mail_for(&realm(call)?, wanted, &body.email, from)?,
    };
    if let Some(mail) = mail {
        call.app.mail.send(mail);
    }
    Ok(Response::empty(204))
}

/// A token and the record, whose JSON is copied without parsing it.
fn session(name: &str, session: &AccountSession) -> Result<Response> {
    Ok(no_store(Response::json(200, session_json(name, session))))
}
