//! What is particular to auth collections: the fields they always have, and their options.
//!
//! `options.identityFields` names the fields that an account signs in with (`email` when nothing is
//! said), `options.requireVerified` keeps accounts out whose address nobody has verified,
//! `options.confirmUrl` is the page of the application that links in mails lead to.

use super::Collection;
use super::CollectionKind;
use super::DomainOptions;
use super::Field;
use super::FieldKind;
use crate::error::Error;
use crate::error::Result;
use crate::ids;

/// The column of auth collections that is part of every token of an account. No field has such a name.
pub const TOKEN_KEY: &str = "_token_key";

/// Fields that an account may sign in with.
const IDENTITY_FIELDS_MAX: usize = 5;

impl Collection {
    /// The fields that hold what an account signs in with, in the order in which they are tried.
    pub fn identity_fields(&self) -> Vec<&str> {
        match self
            .options
            .get("identityFields")
            .and_then(|list| list.as_array())
        {
            Some(list) => list.iter().filter_map(|name| name.as_str()).collect(),
            None => vec!["email"],
        }
    }

    /// Whether only accounts with a verified address may sign in.
    pub fn requires_verified(&self) -> bool {
        self.options
            .get("requireVerified")
            .and_then(|flag| flag.as_bool())
            == Some(true)
    }

    /// Where links in mails lead to, when that is not the server's own page.
    pub fn confirm_url(&self) -> Option<&str> {
        self.options
            .get("confirmUrl")
            .and_then(|url| url.as_str())
            .filter(|url| !url.is_empty())
    }
}

/// Refuses options that would not work.
pub fn check_options(collection: &Collection) -> Result<()> {
    let refuse = |message: String| {
        Err(Error::field(
            "options",
            "validation_invalid_definition",
            message,
        ))
    };
    if collection.kind != CollectionKind::Auth {
        return Ok(());
    }
    let options = &collection.options;
    let is_wrong_list = options.get("identityFields").is_some_and(|list| {
        list.as_array().is_none_or(|list| {
            !(1..=IDENTITY_FIELDS_MAX).contains(&list.len())
                || list.iter().any(|it| !it.is_string())
        })
    });
    if is_wrong_list {
        return refuse(format!(
            "identityFields must be a list of 1 to {IDENTITY_FIELDS_MAX} field names."
        ));
    }
    for name in collection.identity_fields() {
        let is_identity = collection
            .field(name)
            .is_some_and(|field| field.unique && !field.is_secret() && field.kind.is_plain_text());
        if !is_identity {
            return refuse(format!(
                "identityFields: {name} must be a unique text or email field."
            ));
        }
    }
    if options
        .get("requireVerified")
        .is_some_and(|flag| !flag.is_boolean())
    {
        return refuse("requireVerified must be true or false.".to_owned());
    }
    let is_page = |url: &str| url.starts_with("https://") || url.starts_with("http://");
    match options.get("confirmUrl") {
        Some(url)
            if !url
                .as_str()
                .is_some_and(|url| url.is_empty() || is_page(url)) =>
        {
            refuse("confirmUrl must be an http or https URL.".to_owned())
        }
        _ => Ok(()),
    }
}

/// An auth collection always has `email`, `password` and `verified`, of the right types, however
/// they were written down (COL-6).
pub fn complete_fields(fields: &mut Vec<Field>) -> Result<()> {
    let email = FieldKind::Email(DomainOptions::default());
    let wanted = [
        ("email", email, true),
        ("password", FieldKind::Password { chars_min: 8 }, true),
        ("verified", FieldKind::Bool, false),
    ];
    for (position, (name, kind, required)) in wanted.into_iter().enumerate() {
        let (unique, hidden) = (name == "email", name == "password");
        match fields
            .iter_mut()
            .find(|field| field.name.eq_ignore_ascii_case(name))
        {
            Some(field) => {
                if std::mem::discriminant(&field.kind) != std::mem::discriminant(&kind) {
                    field.kind = kind;
                }
                name.clone_into(&mut field.name);
                field.required |= required;
                field.unique |= unique;
                field.hidden |= hidden;
            }
            None => {
                let (id, name) = (ids::record_id()?, name.to_owned());
                let at = position.min(fields.len());
                fields.insert(
                    at,
                    Field {
                        id,
                        name,
                        kind,
                        required,
                        unique,
                        hidden,
                    },
                );
            }
        }
    }
    match fields
        .iter()
        .find(|field| field.is_secret() && field.name != "password")
    {
        Some(field) => Err(Error::field(
            field.name.clone(),
            "validation_invalid_definition",
            "The one password field of an auth collection is called password.",
        )),
        None => Ok(()),
    }
}
