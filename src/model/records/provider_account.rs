//! The account of a user of a provider, inside a transaction: finds it, creates it, and applies
//! what the provider says about its address.

use std::sync::Arc;

use rusqlite::Connection;

use super::account;
use super::account::{AccountChange, Secrets};
use super::create::create as create_record;
use super::provider_links::linked_account;
use super::{Draft, Scope, Shape};
use crate::base::error::{Error, Result};
use crate::model::collections::Collection;
use crate::model::providers::ProviderUser;

/// The account of a user of a provider, if there is one.
pub fn find(
    connection: &Connection,
    collection: &Collection,
    user: &ProviderUser,
    signed_in: Option<&str>,
) -> Result<Option<String>> {
    if let Some(id) = linked_account(connection, collection, &user.provider, &user.id)? {
        return Ok(Some(id));
    }
    if let Some(id) = signed_in {
        return Ok(Some(id.to_owned()));
    }
    if !user.is_verified {
        return Ok(None);
    }
    let found = account::find_by(connection, collection, "email", &user.email)?;
    Ok(found.map(|secrets| secrets.id))
}

/// Creates the account. Returns its id.
pub fn create(
    tx: &Connection,
    scope: &Scope,
    collection: &Arc<Collection>,
    mut draft: Draft,
) -> Result<String> {
    let id = draft.choose_id(collection)?;
    create_record(tx, scope, collection, draft, &Shape::default())?;
    Ok(id)
}

/// Applies what the provider says about the address of an account that exists.
pub fn settle(
    tx: &Connection,
    scope: &Scope,
    collection: &Collection,
    user: &ProviderUser,
    id: &str,
    is_own: bool,
) -> Result<()> {
    let Some(before) = account::secrets(tx, collection, id)? else {
        return Err(Error::stale());
    };
    if !user.is_verified || before.is_verified {
        return Ok(());
    }
    let change = match before.email.eq_ignore_ascii_case(&user.email) {
        // Who is signed in keeps the password.
        true if is_own => AccountChange::Verified,
        true => AccountChange::TakenOver,
        false => return add_email(tx, scope, collection, user, &before),
    };
    account::apply_change(tx, scope, collection, &before, &change).map(drop)
}

/// Gives an account without an address that of the provider, unless another account has it.
fn add_email(
    tx: &Connection,
    scope: &Scope,
    collection: &Collection,
    user: &ProviderUser,
    before: &Secrets,
) -> Result<()> {
    let is_free = account::find_by(tx, collection, "email", &user.email)?.is_none();
    if !before.email.is_empty()
        || !is_free
        || account::check_email(collection, &user.email).is_err()
    {
        return Ok(());
    }
    let change = AccountChange::Email(user.email.clone());
    account::apply_change(tx, scope, collection, before, &change).map(drop)
}

/// True if the account can sign in with a password.
pub fn has_password(tx: &Connection, collection: &Collection, id: &str) -> Result<bool> {
    let secrets = account::secrets(tx, collection, id)?;
    let has_password = secrets.is_some_and(|it| it.password_hash.is_some());
    Ok(has_password && collection.auth.has_passwords())
}
