//! Signing in with a one-time code that is mailed, as PocketBase's clients do it.

use serde::Deserialize;
use serde_json::json;

use super::answer::{json_response, no_store};
use super::call::Call;
use super::sign_in::{is_admins, realm, require, session_json, shape};
use crate::base::error::{Error, Kind, Result};
use crate::model::auth::accounts::Realm;
use crate::model::auth::code_sign_in::CodeLogIn;
use crate::net::http::Response;
use crate::net::mail::is_address;

#[derive(Deserialize)]
struct Address {
    #[serde(default)]
    email: String,
}

#[derive(Deserialize)]
struct CodeBody {
    #[serde(default, rename = "otpId")]
    id: String,
    #[serde(default)]
    password: String,
}

/// Mails a code. The answer is the same whether the account exists or not.
pub fn request_otp(call: &Call<'_>) -> Result<Response> {
    let realm = realm_with_codes(call)?;
    let body: Address = call.body()?;
    require(&[("email", &body.email)])?;
    if !is_address(&body.email) {
        let message = "Must be a valid email address.";
        return Err(Error::field("email", "validation_is_email", message));
    }
    let auth = &call.app.auth;
    let (id, mail) = auth.request_code(&realm, &body.email, call.client())?;
    if let Some(mail) = mail {
        call.app.mail.send(mail);
    }
    Ok(no_store(json_response(200, &json!({ "otpId": id }))))
}

/// Exchanges a code for a token.
pub fn auth_with_otp(call: &Call<'_>) -> Result<Response> {
    let realm = realm_with_codes(call)?;
    let body: CodeBody = call.body()?;
    require(&[("otpId", &body.id), ("password", &body.password)])?;
    let log_in = CodeLogIn {
        id: &body.id,
        code: &body.password,
        from: call.client(),
        asker: call.asker(),
    };
    let auth = &call.app.auth;
    let session = auth.sign_in_with_code(&realm, &log_in, &shape(call)?)?;
    Ok(no_store(Response::json(
        200,
        session_json("record", &session),
    )))
}

/// The collection of the path, if its accounts can sign in with codes.
fn realm_with_codes(call: &Call<'_>) -> Result<Realm> {
    let refused = || {
        let message = "The collection is not configured to allow OTP authentication.";
        Error::new(Kind::Forbidden, message)
    };
    if is_admins(call) {
        return Err(refused());
    }
    let realm = realm(call)?;
    match realm.collection.auth.has_codes() {
        true => Ok(realm),
        false => Err(refused()),
    }
}
