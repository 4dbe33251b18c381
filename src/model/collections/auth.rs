//! The required fields of auth collections, and their options.
//!
//! `options.identityFields` lists the fields that an account can sign in with (default `email`).
//! `options.requireVerified` refuses accounts whose address is not verified. `options.confirmUrl`
//! is the page of the application that links in mails lead to.

use super::definition::MANAGE_RULE;
use super::parse::key_of_field;
use super::{Collection, CollectionKind, DomainOptions, Field, FieldKind};
use crate::base::error::{Error, Result};
use crate::base::{clock, ids};

/// The column of auth collections that is part of every token of an account. A field cannot have
/// this name.
pub const TOKEN_KEY: &str = "_token_key";

/// The field of auth collections that makes the address of an account visible to all callers that
/// can view the account.
pub const EMAIL_VISIBILITY: &str = "emailVisibility";

/// Largest number of identity fields.
const IDENTITY_FIELDS_MAX: usize = 5;

impl Collection {
    /// The identity fields, in the order in which a log-in tries them.
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

/// Refuses invalid options.
pub fn check_options(collection: &Collection) -> Result<()> {
    let refuse = |message: String| {
        Err(Error::field(
            "options",
            "validation_invalid_definition",
            message,
        ))
    };
    if collection.kind != CollectionKind::Auth {
        return match collection.rules.manage {
            None => Ok(()),
            Some(_) => Err(Error::field(
                MANAGE_RULE,
                "validation_invalid_definition",
                "Only auth collections have a manageRule.",
            )),
        };
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

/// The steps that add [`EMAIL_VISIBILITY`] to an auth collection of an older version. A field of
/// this name and another type is deleted first, so that its column is moved aside.
pub fn with_email_visibility(collection: &Collection) -> Result<Vec<Collection>> {
    let is_it = |field: &Field| is_email_visibility(field) && field.name == EMAIL_VISIBILITY;
    let is_there = collection.fields.iter().any(is_it);
    if collection.kind != CollectionKind::Auth || is_there {
        return Ok(Vec::new());
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
    complete_fields(&mut next.fields)?;
    next.updated = clock::format_ms(now_ms + 1);
    steps.push(next);
    Ok(steps)
}

fn is_email_visibility(field: &Field) -> bool {
    field.name.eq_ignore_ascii_case(EMAIL_VISIBILITY) && matches!(field.kind, FieldKind::Bool)
}

/// Refuses a field that has the name [`EMAIL_VISIBILITY`], and another type.
fn refuse_other_email_visibility(fields: &[Field]) -> Result<()> {
    let is_other = |field: &&Field| {
        field.name.eq_ignore_ascii_case(EMAIL_VISIBILITY) && !is_email_visibility(field)
    };
    match fields.iter().find(is_other) {
        None => Ok(()),
        Some(field) => Err(Error::field(
            key_of_field(&field.name),
            "validation_invalid_definition",
            "This name is reserved for the bool field that makes the address of an account visible.",
        )),
    }
}

/// Adds `email`, `password`, `verified` and `emailVisibility` to the fields of an auth collection,
/// or corrects the type of those that are given.
pub fn complete_fields(fields: &mut Vec<Field>) -> Result<()> {
    refuse_other_email_visibility(fields)?;
    let confirms = |field: &&Field| field.name.eq_ignore_ascii_case("passwordConfirm");
    if let Some(field) = fields.iter().find(confirms) {
        return Err(Error::field(
            key_of_field(&field.name),
            "validation_invalid_definition",
            "This name is reserved for the repeated password in requests.",
        ));
    }
    let email = FieldKind::Email(DomainOptions::default());
    let wanted = [
        ("email", email, true),
        ("password", FieldKind::Password { chars_min: 8 }, true),
        ("verified", FieldKind::Bool, false),
        (EMAIL_VISIBILITY, FieldKind::Bool, false),
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
                field.hidden &= name != EMAIL_VISIBILITY;
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
            key_of_field(&field.name),
            "validation_invalid_definition",
            "An auth collection has one password field, named password.",
        )),
        None => Ok(()),
    }
}
