//! The page to which providers lead back, and signing in with a provider by plain redirects, for
//! applications without an SDK.
//!
//! The application sends the browser to [`begin`], from where it goes to the provider, back to this
//! server, and to a URL of the application that the collection lists. That URL gets a code, which
//! the application exchanges for a token in [`exchange`]. A ticket in a cookie ties all of it to
//! one browser, provider and collection; the challenge of PKCE ties the code to the application.

use serde::Deserialize;
use serde_json::json;

use super::call::Call;
use super::oauth::{account, provider};
use super::parameters::parameter;
use super::sign_in::{realm, require, shape, with_meta};
use crate::base::clock;
use crate::base::error::{Error, Result};
use crate::model::auth::accounts::Realm;
use crate::model::providers::{ProviderUser, admitted_redirect, with_parameters};
use crate::model::records::RawBody;
use crate::model::rules::Identity;
use crate::net::http::{Method, Response};
use crate::services::oauth::{Grant, TICKET_SECONDS, Ticket, Tickets};

/// The path to which providers lead back, for all databases.
const PATH: &str = "/api/oauth2-redirect";
/// Longest URL and state of an application: both are in the cookie.
const REDIRECT_BYTES_MAX: usize = 1024;
const STATE_BYTES_MAX: usize = 512;
/// Length of a challenge with S256, and longest verifier.
const CHALLENGE_CHARS: usize = 43;
const VERIFIER_CHARS_MAX: usize = 128;
/// Longest text of a profile in the answer to the application.
const META_CHARS_MAX: usize = 1000;

#[derive(Deserialize)]
struct CodeBody {
    #[serde(default)]
    code: String,
    #[serde(default, rename = "codeVerifier")]
    verifier: String,
}

/// Sends the browser to the provider.
pub fn begin(call: &Call<'_>) -> Result<Response> {
    let realm = realm(call)?;
    let provider = provider(&realm, call.param("provider"))?;
    let pairs = call.query()?;
    let text = |name: &str| parameter(&pairs, name).unwrap_or_default();
    let (wanted, state, challenge) = (text("redirect"), text("state"), text("codeChallenge"));
    require(&[("redirect", wanted), ("codeChallenge", challenge)])?;
    let redirect = admitted_redirect(wanted, &realm.collection.auth.redirects())
        .filter(|it| it.len() <= REDIRECT_BYTES_MAX);
    let redirect = redirect.ok_or_else(|| {
        Error::field(
            "redirect",
            "validation_invalid_redirect",
            "The URL is not among oauth2.redirects of the collection.",
        )
    })?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    if challenge.len() != CHALLENGE_CHARS || !challenge.bytes().all(is_plain) {
        let message = "Must be the SHA-256 of the verifier in base64url: 43 characters.";
        return Err(Error::field(
            "codeChallenge",
            "validation_invalid_value",
            message,
        ));
    }
    if state.len() > STATE_BYTES_MAX {
        let message = format!("Must have at most {STATE_BYTES_MAX} bytes.");
        return Err(Error::field("state", "validation_invalid_value", message));
    }
    let ticket = Ticket {
        database: realm.database_name().to_owned(),
        collection: realm.collection.id.clone(),
        provider: provider.name.clone(),
        redirect,
        state: state.to_owned(),
        challenge: challenge.to_owned(),
        ends_ms: clock::now_ms() + TICKET_SECONDS * 1000,
    };
    let (oauth, own_state) = (&call.app.oauth, Tickets::new_state()?);
    let cookie = oauth.tickets.seal(&own_state, &ticket)?;
    let verifier = oauth.tickets.verifier(&own_state);
    let asked = oauth.page(&provider, own_state.clone(), verifier, call.payer())?;
    let back = redirect_url(call);
    let url = with_parameters(
        asked.url.trim_end_matches("&redirect_uri="),
        &[("redirect_uri", &back)],
    );
    Ok(found(&url).with_header(
        "Set-Cookie",
        set_cookie(call, &own_state, &cookie, TICKET_SECONDS),
    ))
}

/// The provider has led the browser back.
fn finish(call: &Call<'_>, returned: &Returned) -> Result<Response> {
    if call.request.method == Method::Post {
        return Ok(again_as_get(call, returned));
    }
    let Some(ticket) = ticket(call, &returned.state) else {
        return Ok(page(
            400,
            "This sign-in was begun in another browser, or is over. Go back to the application and \
             start again.",
        ));
    };
    let realm = call
        .app
        .auth
        .realm(&ticket.database, Some(&ticket.collection))?;
    // The collection may have changed meanwhile.
    let redirects = realm.collection.auth.redirects();
    let Some(target) = admitted_redirect(&ticket.redirect, &redirects) else {
        return Ok(page(
            400,
            "The application is no longer allowed to sign in here.",
        ));
    };
    let answer = match sign_in(call, &realm, &ticket, returned) {
        Ok(code) => with_parameters(&target, &[("code", &code), ("state", &ticket.state)]),
        Err((error, description)) => with_parameters(
            &target,
            &[
                ("error", error),
                ("error_description", &description),
                ("state", &ticket.state),
            ],
        ),
    };
    Ok(found(&answer).with_header("Set-Cookie", set_cookie(call, &returned.state, "", 0)))
}

/// The code for the application; or an error and its description.
fn sign_in(
    call: &Call<'_>,
    realm: &Realm,
    ticket: &Ticket,
    returned: &Returned,
) -> Result<String, (&'static str, String)> {
    match returned.error.as_str() {
        "" => {}
        "access_denied" => return Err(("access_denied", "The user refused.".to_owned())),
        _ => return Err(("provider_error", "The provider refused.".to_owned())),
    }
    let code = exchange_at_provider(call, realm, ticket, returned);
    code.map_err(|error| ("sign_in_failed", error.message().to_owned()))
}

fn exchange_at_provider(
    call: &Call<'_>,
    realm: &Realm,
    ticket: &Ticket,
    returned: &Returned,
) -> Result<String> {
    let provider = provider(realm, &ticket.provider)?;
    // RFC 9207: the browser comes from another provider than it was sent to.
    if !returned.iss.is_empty() && !provider.issuer.is_empty() && returned.iss != provider.issuer {
        return Err(Error::invalid(
            "The browser came back from another provider.",
        ));
    }
    require(&[("code", &returned.code)])?;
    let (auth, oauth) = (&call.app.auth, &call.app.oauth);
    let attempt = auth.count_provider_sign_in(realm, call.client())?;
    let (verifier, back) = (oauth.tickets.verifier(&returned.state), redirect_url(call));
    let grant = Grant {
        database: realm.database_name(),
        collection: &realm.collection.name,
        code: &returned.code,
        verifier: &verifier,
        redirect_url: &back,
    };
    let user = oauth.user(&provider, &grant, call.payer())?;
    let found = account(call, realm, &user, &Identity::Anonymous, &RawBody::new())?;
    attempt.refund();
    let meta = for_application(user).meta(found.is_new);
    auth.one_time_code(realm, &found.id, &ticket.challenge, meta)
}

/// The part of a user that waits for the application: without tokens and what else the provider
/// told, which have no small bound.
fn for_application(user: ProviderUser) -> ProviderUser {
    let cut = |text: &str| text.chars().take(META_CHARS_MAX).collect();
    ProviderUser {
        id: cut(&user.id),
        email: cut(&user.email),
        picture: cut(&user.picture),
        raw: json!({}),
        access_token: String::new(),
        refresh_token: String::new(),
        expiry: String::new(),
        ..user
    }
}

/// Exchanges the code of a redirect for a token.
pub fn exchange(call: &Call<'_>) -> Result<Response> {
    let realm = realm(call)?;
    let body: CodeBody = call.body()?;
    require(&[("code", &body.code), ("codeVerifier", &body.verifier)])?;
    if body.verifier.len() > VERIFIER_CHARS_MAX {
        let message = format!("Must have at most {VERIFIER_CHARS_MAX} characters.");
        return Err(Error::field(
            "codeVerifier",
            "validation_invalid_value",
            message,
        ));
    }
    let auth = &call.app.auth;
    let attempt = auth.count_provider_sign_in(&realm, call.client())?;
    let (shape, asker) = (shape(call)?, call.asker());
    let found = auth.exchange_code(&realm, &body.code, &body.verifier, &shape, asker)?;
    attempt.refund();
    let (session, meta) = found;
    Ok(match call.optional_param("collection") {
        Some(_) => with_meta("record", &session, &meta),
        None => with_meta("user", &session, &meta),
    })
}

/// The ticket of a state, which is used up.
fn ticket(call: &Call<'_>, state: &str) -> Option<Ticket> {
    let name = Tickets::cookie(state)?;
    let headers = call.request.headers.iter();
    let cookies = headers.filter(|(header, _)| header.eq_ignore_ascii_case("Cookie"));
    let pairs = cookies.flat_map(|(_, value)| value.split(';'));
    let mut pairs = pairs.filter_map(|pair| pair.trim().split_once('='));
    let (_, value) = pairs.find(|(found, _)| *found == name)?;
    let ticket = call.app.oauth.tickets.open(state, value)?;
    call.app.oauth.use_state(state).then_some(ticket)
}

/// A form comes from the page of the provider, and browsers send no cookie with it. They do so with
/// the request that follows.
fn again_as_get(call: &Call<'_>, returned: &Returned) -> Response {
    call.app.oauth.remember_name(&returned.code, &returned.user);
    let mut parameters = vec![("state", returned.state.as_str())];
    for (name, value) in [
        ("code", &returned.code),
        ("error", &returned.error),
        ("iss", &returned.iss),
    ] {
        if !value.is_empty() {
            parameters.push((name, value));
        }
    }
    Response::empty(303)
        .with_header("Location", with_parameters(PATH, &parameters))
        .with_header("Cache-Control", "no-store")
}

fn found(url: &str) -> Response {
    Response::empty(302)
        .with_header("Location", url)
        .with_header("Referrer-Policy", "no-referrer")
        .with_header("Cache-Control", "no-store")
}

fn redirect_url(call: &Call<'_>) -> String {
    format!("{}{PATH}", call.app.oauth.public_url.trim_end_matches('/'))
}

fn set_cookie(call: &Call<'_>, state: &str, value: &str, seconds: i64) -> String {
    let name = Tickets::cookie(state).unwrap_or_default();
    let secure = match call.app.oauth.public_url.starts_with("https:") {
        true => "; Secure",
        false => "",
    };
    format!("{name}={value}; Path={PATH}; Max-Age={seconds}; HttpOnly; SameSite=Lax{secure}")
}

/// The values with which a provider leads a browser back.
#[derive(Default, Deserialize)]
struct Returned {
    #[serde(default)]
    state: String,
    #[serde(default)]
    code: String,
    #[serde(default)]
    error: String,
    /// The name of a user of Apple.
    #[serde(default)]
    user: String,
    /// The issuer, by which a browser of one provider is told from that of another (RFC 9207).
    #[serde(default)]
    iss: String,
}

impl Returned {
    fn read(call: &Call<'_>) -> Result<Returned> {
        if call.request.method == Method::Post {
            return call.body();
        }
        let pairs = call.query()?;
        let text = |name: &str| parameter(&pairs, name).unwrap_or_default().to_owned();
        Ok(Returned {
            state: text("state"),
            code: text("code"),
            error: text("error"),
            user: String::new(),
            iss: text("iss"),
        })
    }
}

/// Where providers lead browsers back to. The state is the name of the client of server-sent events
/// that waits for the code.
pub fn redirect(call: &Call<'_>) -> Result<Response> {
    let returned = Returned::read(call)?;
    if Tickets::is_state(&returned.state) {
        return finish(call, &returned);
    }
    let mut message = json!({"state": returned.state, "code": returned.code});
    if !returned.error.is_empty() {
        message["error"] = json!(returned.error);
    }
    let is_told = !returned.state.is_empty()
        && call
            .app
            .realtime
            .tell_sign_in(&returned.state, call.database, &message.to_string())?;
    if is_told {
        call.app.oauth.remember_name(&returned.code, &returned.user);
    }
    Ok(
        match is_told && returned.error.is_empty() && !returned.code.is_empty() {
            true => page(200, "You are signed in. You can close this window."),
            false => page(400, "The sign-in failed. Close this window and try again."),
        },
    )
}

/// A page with one sentence, which loads nothing.
fn page(status: u16, sentence: &str) -> Response {
    let html = format!(
        "<!doctype html><html lang=\"en\"><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>Sign-in</title>\
         <p>{sentence}</p></html>"
    );
    Response::with_body(status, "text/html; charset=utf-8", html.into_bytes())
        .with_header(
            "Content-Security-Policy",
            "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
        )
        .with_header("Referrer-Policy", "no-referrer")
        .with_header("X-Frame-Options", "DENY")
        .with_header("Cache-Control", "no-store")
}
