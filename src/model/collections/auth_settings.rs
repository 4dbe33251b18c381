//! The attributes of auth collections that PocketBase groups in objects: `passwordAuth`, `mfa`,
//! `otp`, `oauth2`, `authAlert`, the lifetimes of tokens and the templates of mails.
//!
//! All are kept and returned, except secrets. Those that the server does not carry out yet are
//! named by [`AuthSettings::warnings`], if leaving them out is a matter of security.

use serde_json::{Map, Value, json};

use super::parse::{INVALID, Problems};
use crate::model::providers::{ProviderSettings, check_providers, check_redirects};

/// The longest lifetime of a token, three years, and the shortest, in seconds.
const TOKEN_SECONDS: (u64, u64) = (10, 94_670_856);
/// Bounds of `mfa.duration` and `otp.duration`.
const STEP_SECONDS: (u64, u64) = (10, 86_400);
const PROVIDERS_MAX: usize = 50;
/// Limit of all settings of a collection, in bytes of JSON.
const BYTES_MAX: usize = 256 << 10;
const IDENTITY_FIELDS_MAX: usize = 5;
/// The attributes that no answer contains.
const SECRETS: [&str; 2] = ["clientSecret", "secret"];

/// The settings, complete: every attribute of [`defaults`] is present.
#[derive(Clone, Debug, PartialEq)]
pub struct AuthSettings(Map<String, Value>);

/// Purposes of the tokens of an account, by the attribute that has their lifetime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    Auth,
    Verification,
    PasswordReset,
    EmailChange,
    File,
}

impl TokenKind {
    fn attribute(self) -> &'static str {
        match self {
            TokenKind::Auth => "authToken",
            TokenKind::Verification => "verificationToken",
            TokenKind::PasswordReset => "passwordResetToken",
            TokenKind::EmailChange => "emailChangeToken",
            TokenKind::File => "fileToken",
        }
    }
}

fn defaults() -> Map<String, Value> {
    let mail = |subject: &str, body: &str| json!({"subject": subject, "body": body});
    let link = |page: &str| {
        format!(
            "<p>Hello,</p>\n<p>follow this link: \
             <a href=\"{{APP_URL}}/_/#/auth/{page}/{{TOKEN}}\">{{APP_NAME}}</a></p>"
        )
    };
    let all = json!({
        "authAlert": {
            "enabled": false,
            "emailTemplate": mail(
                "Login from a new location",
                "<p>Hello,</p>\n<p>there was a login to your {APP_NAME} account from a new location:</p>\n\
                 <p>{ALERT_INFO}</p>\n<p>If it was not you, change your password.</p>",
            ),
        },
        "oauth2": {
            "enabled": false,
            "mappedFields": {"id": "", "name": "", "username": "", "avatarURL": ""},
            "providers": [],
            "redirects": [],
        },
        "passwordAuth": {"enabled": true, "identityFields": ["email"]},
        "mfa": {"enabled": false, "duration": 600, "rule": ""},
        "otp": {
            "enabled": false,
            "duration": 180,
            "length": 8,
            "emailTemplate": mail(
                "One-time password for {APP_NAME}",
                "<p>Hello,</p>\n<p>your one-time password is <strong>{OTP}</strong></p>",
            ),
        },
        // Zero is the lifetime that the options of the server set.
        "authToken": {"duration": 0},
        "passwordResetToken": {"duration": 1800},
        "emailChangeToken": {"duration": 1800},
        "verificationToken": {"duration": 259_200},
        "fileToken": {"duration": 180},
        "verificationTemplate": mail("Verify your {APP_NAME} email", &link("confirm-verification")),
        "resetPasswordTemplate": mail("Reset your {APP_NAME} password", &link("confirm-password-reset")),
        "confirmEmailChangeTemplate":
            mail("Confirm your {APP_NAME} new email address", &link("confirm-email-change")),
    });
    match all {
        Value::Object(all) => all,
        _ => Map::new(),
    }
}

impl Default for AuthSettings {
    fn default() -> AuthSettings {
        AuthSettings(defaults())
    }
}

impl AuthSettings {
    /// True if this attribute of a definition belongs here.
    pub fn has(name: &str) -> bool {
        defaults().contains_key(name)
    }

    /// Changes the attributes that a request mentions, also within objects. A list is replaced;
    /// a provider without `clientSecret` keeps the stored one of its name.
    pub fn change(&mut self, given: &Map<String, Value>, problems: &mut Problems) {
        let before = self.0.clone();
        for (name, value) in given {
            if let Some(stored) = self.0.get_mut(name) {
                merge(stored, value, name, problems);
            }
        }
        if let Some(Value::Array(providers)) =
            self.0.get_mut("oauth2").map(|it| &mut it["providers"])
        {
            for provider in providers {
                keep_secret(provider, &before["oauth2"]["providers"]);
            }
        }
        if given.contains_key("oauth2") {
            self.check_oauth2(problems);
        }
        self.check(problems);
    }

    fn check_oauth2(&mut self, problems: &mut Problems) {
        let mut add = |key: &str, code, message| problems.add(key, code, message);
        let Some(oauth2) = self.0.get_mut("oauth2") else {
            return;
        };
        if let Value::Array(redirects) = &oauth2["redirects"] {
            check_redirects(redirects, &mut add);
        }
        if let Value::Array(providers) = &mut oauth2["providers"] {
            if providers.len() > PROVIDERS_MAX {
                let message = format!("At most {PROVIDERS_MAX} providers.");
                add("oauth2.providers", INVALID, message);
                providers.truncate(PROVIDERS_MAX);
            }
            check_providers(providers, &mut add);
        }
    }

    fn check(&self, problems: &mut Problems) {
        let on = |name: &str| self.at(&[name, "enabled"]) == &Value::Bool(true);
        let mut within = |path: &[&str], (least, most): (u64, u64)| {
            let number = self.at(path).as_u64().unwrap_or(0);
            let code = match number {
                0 => "validation_required",
                _ if number < least => "validation_min_greater_equal_than_required",
                _ if number > most => "validation_max_less_equal_than_required",
                _ => return,
            };
            let message = format!("Must be from {least} to {most}.");
            problems.add(&path.join("."), code, message);
        };
        if self.at(&["authToken", "duration"]) != 0 {
            within(&["authToken", "duration"], TOKEN_SECONDS);
        }
        for name in [
            "passwordResetToken",
            "emailChangeToken",
            "verificationToken",
            "fileToken",
        ] {
            within(&[name, "duration"], TOKEN_SECONDS);
        }
        for name in ["mfa", "otp"].into_iter().filter(|it| on(it)) {
            within(&[name, "duration"], STEP_SECONDS);
        }
        if on("otp") {
            within(&["otp", "length"], (4, 64));
        }
        let fields = self.at(&["passwordAuth", "identityFields"]).as_array();
        let count = fields.map_or(0, Vec::len);
        let is_wrong = fields.is_some_and(|list| list.iter().any(|it| !it.is_string()));
        let key = "passwordAuth.identityFields";
        if is_wrong || count > IDENTITY_FIELDS_MAX {
            let message = format!("Must be a list of 1 to {IDENTITY_FIELDS_MAX} field names.");
            problems.add(key, INVALID, message);
        } else if count == 0 && self.has_passwords() {
            problems.add(key, "validation_required", "Cannot be blank.");
        }
        let methods = ["passwordAuth", "otp", "oauth2"]
            .into_iter()
            .filter(|it| on(it));
        if on("mfa") && methods.count() < 2 {
            let message = "MFA requires at least 2 auth methods to be enabled.";
            problems.add("mfa.enabled", "validation_mfa_not_enough_auths", message);
        }
        if json!(self.0).to_string().len() > BYTES_MAX {
            let message =
                format!("The settings of an auth collection have at most {BYTES_MAX} bytes.");
            problems.add("oauth2", INVALID, message);
        }
    }

    fn at(&self, path: &[&str]) -> &Value {
        let mut value = self.0.get(path[0]).unwrap_or(&Value::Null);
        for name in &path[1..] {
            value = &value[name];
        }
        value
    }

    /// The names of the fields that an account can sign in with, in the order of a log-in.
    pub fn identity_fields(&self) -> Vec<&str> {
        let list = self.at(&["passwordAuth", "identityFields"]).as_array();
        list.into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .collect()
    }

    pub fn set_identity_fields(&mut self, fields: &Value) {
        self.0["passwordAuth"]["identityFields"] = fields.clone();
    }

    /// False if accounts cannot sign in with a password.
    pub fn has_passwords(&self) -> bool {
        self.at(&["passwordAuth", "enabled"]) != &Value::Bool(false)
    }

    /// True if accounts can sign in with a provider.
    pub fn has_providers(&self) -> bool {
        self.at(&["oauth2", "enabled"]) == &Value::Bool(true)
    }

    /// The providers, in the order of the definition; none if signing in with one is off.
    pub fn providers(&self) -> Vec<ProviderSettings> {
        let list = self.at(&["oauth2", "providers"]).as_array();
        let list = list.filter(|_| self.has_providers());
        let list = list.into_iter().flatten();
        list.map(ProviderSettings::read).collect()
    }

    /// The field that a new account gets this part of its profile in; empty for none.
    pub fn mapped_field(&self, part: &str) -> &str {
        let field = self.at(&["oauth2", "mappedFields", part]).as_str();
        field.unwrap_or_default()
    }

    /// The URLs of applications to which a sign-in may lead.
    pub fn redirects(&self) -> Vec<&str> {
        let list = self.at(&["oauth2", "redirects"]).as_array();
        let list = list.into_iter().flatten();
        list.filter_map(Value::as_str).collect()
    }

    /// True if accounts can sign in with a code that is mailed.
    pub fn has_codes(&self) -> bool {
        self.at(&["otp", "enabled"]) == &Value::Bool(true)
    }

    /// The lifetime of a mailed code.
    pub fn code_seconds(&self) -> u64 {
        self.at(&["otp", "duration"]).as_u64().unwrap_or(180)
    }

    /// The number of digits of a mailed code.
    pub fn code_length(&self) -> usize {
        let length = self.at(&["otp", "length"]).as_u64();
        length.and_then(|it| usize::try_from(it).ok()).unwrap_or(8)
    }

    /// The subject and the body of mails with codes.
    pub fn code_template(&self) -> (&str, &str) {
        let part = |name| self.at(&["otp", "emailTemplate", name]).as_str();
        let (subject, body) = (part("subject"), part("body"));
        (subject.unwrap_or_default(), body.unwrap_or_default())
    }

    /// The rule of the accounts that need a second factor, which the server cannot ask for yet; an
    /// empty rule means all accounts.
    pub fn second_factor(&self) -> Option<&str> {
        let is_on = self.at(&["mfa", "enabled"]) == &Value::Bool(true);
        is_on.then(|| self.at(&["mfa", "rule"]).as_str().unwrap_or_default())
    }

    /// The lifetime of tokens of this kind; none if the options of the server set it.
    pub fn token_ms(&self, kind: TokenKind) -> Option<i64> {
        let seconds = self.at(&[kind.attribute(), "duration"]).as_u64()?;
        let ms = i64::try_from(seconds).ok()?.checked_mul(1000)?;
        (ms > 0).then_some(ms)
    }

    /// A secret of the collection that is part of the keys of tokens; empty if there is none.
    pub fn token_secret(&self) -> &str {
        self.at(&["authToken", "secret"])
            .as_str()
            .unwrap_or_default()
    }

    /// One sentence for each setting that should protect accounts, and that the server does not
    /// carry out as it is.
    pub fn warnings(&self) -> Vec<&'static str> {
        let is_on = |name: &str| self.at(&[name, "enabled"]) == &Value::Bool(true);
        let mut list = Vec::new();
        if is_on("mfa") {
            list.push("mfa: a second factor cannot be asked for yet, so accounts that need one cannot sign in.");
        }
        if is_on("authAlert") {
            list.push("authAlert: no mail is sent after a login from a new location yet.");
        }
        list
    }

    /// The attributes for clients, without secrets.
    pub fn shown(&self) -> Map<String, Value> {
        let mut all = self.0.clone();
        all.values_mut().for_each(remove_secrets);
        all
    }

    /// The attributes as they are stored.
    pub fn stored(&self) -> &Map<String, Value> {
        &self.0
    }

    /// The attributes, to rename the fields in them.
    pub fn stored_mut(&mut self) -> &mut Map<String, Value> {
        &mut self.0
    }
}

/// Objects are merged; other values are replaced by values of the same type.
fn merge(stored: &mut Value, given: &Value, key: &str, problems: &mut Problems) {
    match (&mut *stored, given) {
        (_, Value::Null) => {}
        (Value::Object(stored), Value::Object(given)) => {
            for (name, value) in given {
                let key = format!("{key}.{name}");
                match stored.get_mut(name) {
                    Some(stored) => merge(stored, value, &key, problems),
                    None if name == "secret" && value.is_string() => {
                        stored.insert(name.clone(), value.clone());
                    }
                    None => {
                        problems.add(&key, "validation_unknown", "There is no such setting.");
                    }
                }
            }
        }
        (Value::Bool(_), Value::Bool(_))
        | (Value::Number(_), Value::Number(_))
        | (Value::String(_), Value::String(_))
        | (Value::Array(_), Value::Array(_)) => stored.clone_from(given),
        (Value::Object(_), _) => problems.add(key, INVALID, "Must be an object."),
        (Value::Bool(_), _) => problems.add(key, INVALID, "Must be true or false."),
        (Value::Number(_), _) => problems.add(key, INVALID, "Must be a number."),
        (Value::Array(_), _) => problems.add(key, INVALID, "Must be a list."),
        _ => problems.add(key, INVALID, "Must be a string."),
    }
}

/// Keeps the stored secret of a provider that is sent without one. It never moves to another place
/// where codes are exchanged.
fn keep_secret(provider: &mut Value, before: &Value) {
    let has_secret = provider["clientSecret"]
        .as_str()
        .is_some_and(|it| !it.is_empty());
    let mut known = before.as_array().into_iter().flatten();
    let text = |it: &Value, name: &str| it[name].as_str().unwrap_or_default().to_owned();
    let is_same = |it: &Value, name: &str| text(it, name) == text(provider, name);
    let same = known.find(|it| {
        ["name", "tokenURL", "issuer"]
            .iter()
            .all(|name| is_same(it, name))
    });
    if let (false, Some(secret), Value::Object(object)) = (
        has_secret,
        same.and_then(|it| it.get("clientSecret")),
        &mut *provider,
    ) {
        object.insert("clientSecret".to_owned(), secret.clone());
    }
}

fn remove_secrets(value: &mut Value) {
    match value {
        Value::Object(object) => {
            object.retain(|name, _| !SECRETS.contains(&name.as_str()));
            object.values_mut().for_each(remove_secrets);
        }
        Value::Array(list) => list.iter_mut().for_each(remove_secrets),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(settings: &mut AuthSettings, given: &Value) -> bool {
        let mut problems = Problems::default();
        settings.change(given.as_object().unwrap(), &mut problems);
        problems.is_empty()
    }

    /// A caller who could change a definition, and read no secret, had the secret sent to a token
    /// endpoint of his own.
    #[test]
    fn a_secret_never_moves_to_another_token_endpoint() {
        let before =
            json!([{"name": "oidc", "tokenURL": "https://a/token", "clientSecret": "top"}]);
        for (url, kept) in [
            ("https://a/token", json!("top")),
            ("https://b/token", json!(null)),
        ] {
            let mut provider = json!({"name": "oidc", "tokenURL": url});
            keep_secret(&mut provider, &before);
            assert_eq!(provider["clientSecret"], kept, "{url}");
        }
    }

    #[test]
    fn secrets_are_kept_and_never_shown() {
        let mut settings = AuthSettings::default();
        let provider = json!({"oauth2": {"enabled": true, "providers":
            [{"name": "github", "clientId": "i", "clientSecret": "top"}]},
            "authToken": {"secret": "deep"}});
        assert!(change(&mut settings, &provider));
        let shown = json!(settings.shown());
        assert!(!shown.to_string().contains("top") && !shown.to_string().contains("deep"));
        assert!(change(&mut settings, &shown));
        assert_eq!(settings.0["oauth2"]["providers"][0]["clientSecret"], "top");
        assert_eq!(settings.token_secret(), "deep");
    }

    #[test]
    fn settings_of_another_form_are_refused() {
        for wrong in [
            json!({"mfa": true}),
            json!({"mfa": {"enabled": 1}}),
            json!({"mfa": {"typo": 1}}),
            json!({"mfa": {"enabled": true}}),
            json!({"otp": {"enabled": true, "duration": 5}}),
            json!({"authToken": {"duration": 5}}),
            json!({"fileToken": {"duration": 0}}),
            json!({"passwordAuth": {"identityFields": []}}),
            json!({"passwordAuth": {"identityFields": [1]}}),
            json!({"oauth2": {"providers": [{}]}}),
        ] {
            assert!(!change(&mut AuthSettings::default(), &wrong), "{wrong}");
        }
        let mut settings = AuthSettings::default();
        let given = json!({"authToken": {"duration": 60}, "mfa": {"enabled": true, "rule": "a=1"},
            "otp": {"enabled": true}});
        assert!(change(&mut settings, &given));
        assert_eq!(settings.token_ms(TokenKind::Auth), Some(60_000));
        assert_eq!(settings.second_factor(), Some("a=1"));
        assert_eq!(AuthSettings::default().second_factor(), None);
    }
}
