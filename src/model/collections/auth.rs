//! The required fields of auth collections, and their options.
//!
//! `options.requireVerified` refuses accounts whose address is not verified. `options.confirmUrl`
//! is the page of the application that links in mails lead to. `options.identityFields` is another
//! name of `passwordAuth.identityFields`.

use serde_json::{Map, Value, json};

use super::auth_settings::{AuthSettings, TokenKind};
use super::collection::TOKEN_KEY_FIELD;
use super::definition::{AUTH_RULE, MANAGE_RULE};
use super::parse::{INVALID, Problems, key_of_field};
use super::pattern::Generator;
use super::{
    Collection, CollectionKind, DomainOptions, Field, FieldKind, PasswordLimits, TextOptions,
};
use crate::base::clock;
use crate::model::rules::Rule;

/// The field of auth collections that makes the address of an account visible to all callers that
/// can view the account.
pub const EMAIL_VISIBILITY: &str = "emailVisibility";

const IDENTITY_FIELDS: &str = "identityFields";
const IDENTITY_KEY: &str = "passwordAuth.identityFields";

impl Collection {
    /// The identity fields, in the order in which a log-in tries them.
    pub fn identity_fields(&self) -> Vec<&str> {
        self.auth.identity_fields()
    }

    /// The lifetime of tokens of this kind, unless the options of the server set it.
    pub fn token_ms(&self, kind: TokenKind) -> Option<i64> {
        self.auth.token_ms(kind)
    }

    /// True if only accounts with a verified address can sign in.
    pub fn requires_verified(&self) -> bool {
        self.options
            .get("requireVerified")
            .and_then(|flag| flag.as_bool())
            == Some(true)
    }

    /// The page that links in mails lead to; none for the page of the server.
    pub fn confirm_url(&self) -> Option<&str> {
        self.options
            .get("confirmUrl")
            .and_then(|url| url.as_str())
            .filter(|url| !url.is_empty())
    }
}

/// Reads the settings of a stored definition.
pub fn restore_settings(collection: &mut Collection, given: &Map<String, Value>, is_current: bool) {
    if collection.kind != CollectionKind::Auth {
        return;
    }
    // Errors were refused when the definition was stored.
    collection.auth.change(given, &mut Problems::default());
    take_token_key(collection);
    if !is_current {
        collection.rules.auth = Some(Rule::everyone());
        if let Some(fields) = collection.options.get(IDENTITY_FIELDS) {
            collection.auth.set_identity_fields(fields);
        }
    }
}

/// The identity fields under their name in the options.
pub fn identity_option(collection: &Collection) -> Option<&Value> {
    collection.options.get(IDENTITY_FIELDS)
}

/// Changes the settings of an auth collection. Both names of the identity fields mean the same:
/// `passwordAuth` wins if a request changes both.
pub fn change_settings(
    collection: &mut Collection,
    given: &Map<String, Value>,
    is_option_changed: bool,
    problems: &mut Problems,
) {
    if collection.kind != CollectionKind::Auth {
        for name in given.keys() {
            problems.add(
                name,
                "validation_unknown",
                "Only auth collections have this attribute.",
            );
        }
        return;
    }
    let before = json!(collection.auth.identity_fields());
    collection.auth.change(given, problems);
    let default = json!(AuthSettings::default().identity_fields());
    let is_changed = json!(collection.auth.identity_fields()) != before;
    if is_option_changed && !is_changed {
        let fields = collection.options.get(IDENTITY_FIELDS).unwrap_or(&default);
        collection.auth.set_identity_fields(&fields.clone());
        collection.auth.change(&Map::new(), problems);
    }
    if collection.options.contains_key(IDENTITY_FIELDS) {
        let fields = json!(collection.auth.identity_fields());
        collection
            .options
            .insert(IDENTITY_FIELDS.to_owned(), fields);
    }
}

/// Adds a problem for each invalid option.
pub fn check_options(collection: &Collection, problems: &mut Problems) {
    let mut refuse = |key: &str, message: String| {
        let code = match key {
            IDENTITY_KEY => "validation_missing_field",
            _ => INVALID,
        };
        problems.add(key, code, message);
    };
    if collection.kind != CollectionKind::Auth {
        for (name, rule) in [
            (MANAGE_RULE, &collection.rules.manage),
            (AUTH_RULE, &collection.rules.auth),
        ] {
            if rule.is_some() {
                refuse(name, format!("Only auth collections have {name}."));
            }
        }
        return;
    }
    for name in collection.identity_fields() {
        let is_identity = collection.field(name).is_some_and(|field| {
            collection.is_unique(field) && !field.is_secret() && field.kind.is_plain_text()
        });
        if !is_identity {
            refuse(
                IDENTITY_KEY,
                format!("{name} must be a text or email field with a unique index."),
            );
        }
    }
    let options = &collection.options;
    let flag = options.get("requireVerified");
    if flag.is_some_and(|flag| !flag.is_boolean()) {
        refuse(
            "options",
            "requireVerified must be true or false.".to_owned(),
        );
    }
    let is_page =
        |url: &str| url.is_empty() || url.starts_with("https://") || url.starts_with("http://");
    let url = options.get("confirmUrl");
    if url.is_some_and(|url| !url.as_str().is_some_and(is_page)) {
        refuse(
            "options",
            "confirmUrl must be an http or https URL.".to_owned(),
        );
    }
}

/// The steps that add [`EMAIL_VISIBILITY`] to an auth collection of an older version. A field of
/// this name and another type is deleted first, so that its column is moved aside.
pub fn with_email_visibility(collection: &Collection) -> Vec<Collection> {
    let is_it = |field: &Field| is_email_visibility(field) && field.name == EMAIL_VISIBILITY;
    let is_there = collection.fields.iter().any(is_it);
    if collection.kind != CollectionKind::Auth || is_there {
        return Vec::new();
    }
    let mut steps = Vec::new();
    let mut next = collection.clone();
    // A table stores the time of the definition that it follows.
    let now_ms = clock::now_ms();
    let is_other = |field: &Field| field.name.eq_ignore_ascii_case(EMAIL_VISIBILITY);
    if next.fields.iter().any(is_other) {
        next.fields.retain(|field| !is_other(field));
        next.updated = clock::format_ms(now_ms);
        steps.push(next.clone());
    }
    complete_fields(&mut next, &mut Problems::default());
    next.updated = clock::format_ms(now_ms + 1);
    steps.push(next);
    steps
}

fn is_email_visibility(field: &Field) -> bool {
    field.name.eq_ignore_ascii_case(EMAIL_VISIBILITY) && matches!(field.kind, FieldKind::Bool)
}

/// Adds the fields that every auth collection has, or corrects the type of those that are given.
pub fn complete_fields(collection: &mut Collection, problems: &mut Problems) {
    refuse_reserved_names(&collection.fields, problems);
    take_token_key(collection);
    for (position, wanted) in required_fields().into_iter().enumerate() {
        let same = |field: &&mut Field| field.name.eq_ignore_ascii_case(&wanted.name);
        let Some(field) = collection.fields.iter_mut().find(same) else {
            let at = position.min(collection.fields.len());
            collection.fields.insert(at, wanted);
            continue;
        };
        if std::mem::discriminant(&field.kind) != std::mem::discriminant(&wanted.kind) {
            field.kind = wanted.kind;
        }
        field.name = wanted.name;
        field.unique |= wanted.unique;
        field.hidden |= wanted.hidden;
        field.hidden &= field.name != EMAIL_VISIBILITY;
        field.labels.system = true;
        field.required |= field.is_secret();
    }
}

fn required_fields() -> [Field; 4] {
    let password = FieldKind::Password {
        chars_min: 8,
        limits: PasswordLimits::default(),
    };
    let email = FieldKind::Email(DomainOptions::default());
    [
        Field {
            required: true,
            unique: true,
            ..Field::new("email", email)
        },
        Field {
            required: true,
            hidden: true,
            ..Field::new("password", password)
        },
        Field::new("verified", FieldKind::Bool),
        Field::new(EMAIL_VISIBILITY, FieldKind::Bool),
    ]
}

fn refuse_reserved_names(fields: &[Field], problems: &mut Problems) {
    for field in fields {
        let key = key_of_field(&field.name);
        if field.name.eq_ignore_ascii_case("passwordConfirm") {
            let message = "This name is reserved for the repeated password in requests.";
            problems.add(&key, INVALID, message);
        }
        if field.name.eq_ignore_ascii_case(EMAIL_VISIBILITY) && !is_email_visibility(field) {
            let message = "This name is reserved for the bool field that makes the address of an account visible.";
            problems.add(&key, INVALID, message);
        }
    }
}

/// The key of an account is a field in the definition, as in PocketBase, and a column that no
/// request reads or writes.
fn take_token_key(collection: &mut Collection) {
    let is_key = |field: &Field| field.name == TOKEN_KEY_FIELD;
    if let Some(at) = collection.fields.iter().position(is_key) {
        collection.system.token_key = Some(collection.fields.remove(at));
    }
    let key = collection.system.token_key.get_or_insert_with(|| {
        let kind = FieldKind::Text(TextOptions {
            chars_min: 30,
            chars_max: Some(60),
            autogenerate: Generator::parse("[a-zA-Z0-9]{50}").ok(),
            ..TextOptions::default()
        });
        Field::new(TOKEN_KEY_FIELD, kind)
    });
    key.required = true;
    key.hidden = true;
    key.labels.system = true;
}
