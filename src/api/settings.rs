//! `/api/settings`: the settings of the server in PocketBase's form, without secrets.
//!
//! Settings are environment variables here. A request to change one is refused and names the
//! variable.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::answer::{json_response, no_store};
use super::call::Call;
use crate::base::error::{Error, FieldError, FieldErrors, Result};
use crate::config::Config;
use crate::net::http::Response;
use crate::net::mail;
use crate::net::mail::{Mail, MailPurpose};

/// Each group of settings, and where it is set.
const PLACES: [(&str, &str); 9] = [
    (
        "meta",
        "Set PUBLIC_URL and MAIL_FROM in the environment of the server.",
    ),
    (
        "smtp",
        "Set SMTP_URL and MAIL_FROM in the environment of the server.",
    ),
    (
        "s3",
        "Set STORAGE and the S3_ options in the environment of the server.",
    ),
    ("backups", "Run vski backup DIR by a timer of the system."),
    (
        "batch",
        "A batch can have 1,000 requests; this cannot be changed.",
    ),
    (
        "rateLimits",
        "The limits of log-ins and of resources cannot be changed.",
    ),
    (
        "trustedProxy",
        "Set TRUSTED_PROXIES in the environment of the server.",
    ),
    ("logs", "Set LOG in the environment of the server."),
    (
        "superuserIPs",
        "Restrict the network in front of the server.",
    ),
];

#[derive(Deserialize)]
struct TestMail {
    #[serde(default)]
    email: String,
}

/// The settings without secrets.
pub fn describe(config: &Config) -> Value {
    let mail = config.mail.as_ref();
    let sender = mail.map(|it| &it.from.0);
    let s3 = config.s3.as_ref();
    json!({
        "meta": {
            "appName": "vski",
            "appURL": config.public_url(),
            "senderName": sender.and_then(|it| it.name.clone()).unwrap_or_default(),
            "senderAddress": sender.map(|it| it.email.to_string()).unwrap_or_default(),
            "hideControls": true,
        },
        "smtp": {"enabled": mail.is_some()},
        "s3": {
            "enabled": s3.is_some(),
            "bucket": s3.map(|it| it.bucket.as_str()).unwrap_or_default(),
            "region": s3.map(|it| it.region.as_str()).unwrap_or_default(),
            "endpoint": s3.map(|it| it.endpoint.as_str()).unwrap_or_default(),
            "forcePathStyle": s3.is_some_and(|it| it.path_style),
        },
        "backups": {"cron": "", "cronMaxKeep": 0, "s3": {"enabled": false}},
        "batch": {"enabled": true, "maxRequests": 1000, "timeout": 5, "maxBodySize": 4 << 20},
        "rateLimits": {"enabled": true, "rules": []},
        "trustedProxy": {
            "headers": [],
            "useLeftmostIP": false,
            "proxies": config.trusted_proxies.len(),
        },
        "logs": {"maxDays": 0, "minLevel": 0, "logIP": true, "logAuthId": false},
        "superuserIPs": [],
    })
}

/// Each option with its value and where it comes from, without secrets.
pub fn describe_options(config: &Config) -> Value {
    let items = config.options.iter().map(|it| {
        json!({
            "name": it.option.variable,
            "value": it.value,
            "source": it.source.name(),
            "default": it.option.default,
            "accepts": it.option.accepts,
            "help": it.option.help,
        })
    });
    json!({"items": items.collect::<Vec<Value>>()})
}

pub fn options(call: &Call<'_>) -> Result<Response> {
    Ok(no_store(json_response(200, call.shown_options)))
}

pub fn get(call: &Call<'_>) -> Result<Response> {
    Ok(no_store(json_response(200, call.shown_settings)))
}

pub fn update(call: &Call<'_>) -> Result<Response> {
    let body: Map<String, Value> = call.body()?;
    let mut errors = FieldErrors::new();
    for (name, place) in PLACES {
        if body.contains_key(name) {
            let error = FieldError::new("validation_not_allowed", place);
            errors.insert(name.to_owned(), error);
        }
    }
    match errors.is_empty() {
        true => get(call),
        false => Err(Error::fields(
            "Settings are environment variables of the server.",
            errors,
        )),
    }
}

/// Fails unless files are in a bucket that answers.
pub fn test_s3(call: &Call<'_>) -> Result<Response> {
    if call.app.files.storage.has_journal() {
        return Err(Error::invalid(
            "S3 is not in use: set STORAGE=s3 and the S3_ options in the environment of the server.",
        ));
    }
    call.app.files.storage.check()?;
    Ok(Response::empty(204))
}

/// Queues a mail. The log says what became of it.
pub fn test_email(call: &Call<'_>) -> Result<Response> {
    let TestMail { email } = call.body()?;
    let refuse = |code, message: &str| Err(Error::field("email", code, message));
    if email.is_empty() {
        return refuse("validation_required", "Cannot be blank.");
    }
    if !mail::is_address(&email) {
        return refuse("validation_is_email", "Must be an e-mail address.");
    }
    if call.shown_settings["smtp"]["enabled"] != true {
        return Err(Error::invalid(
            "No mail server is set: set SMTP_URL and MAIL_FROM in the environment of the server.",
        ));
    }
    call.app.mail.send(Mail {
        purpose: MailPurpose::Verification,
        to: email,
        subject: "A test of vski".to_owned(),
        text: "Hello,\n\nthis mail shows that the server can send mails.\n".to_owned(),
        link: String::new(),
    });
    Ok(Response::empty(204))
}
