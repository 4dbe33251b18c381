//! Replaces the bcrypt hash of an imported account by one of argon2id, when its owner signs in.
//!
//! The password is known only then. A replica cannot write and leaves the hash as it is.

use std::net::IpAddr;
use std::sync::Arc;

use super::accounts::Realm;
use super::admins::Admin;
use super::authentication::Auth;
use super::hasher::HashPriority;
use super::{admins, password};
use crate::base::error::Result;
use crate::base::log;
use crate::model::records::account;
use crate::model::records::account::Secrets;
use crate::store::db::Role;

impl Auth {
    /// Replaces the hash of an account whose password was right. A failure is logged: the next
    /// log-in tries again.
    pub(super) fn renew_hash(
        &self,
        realm: &Realm,
        secrets: &mut Secrets,
        password: &str,
        from: IpAddr,
    ) {
        let Some(old) = secrets.password_hash.clone() else {
            return;
        };
        let renewed = self.new_hash_of(&old, password, from, |new| {
            let (collection, id) = (Arc::clone(&realm.collection), secrets.id.clone());
            let (old, new) = (old.clone(), new.to_owned());
            realm
                .database
                .write(move |tx| account::replace_hash(tx, &collection, &id, &old, &new))
        });
        if let Some(new) = renewed {
            secrets.password_hash = Some(new);
        }
    }

    /// Like [`Auth::renew_hash`], for an admin.
    pub(super) fn renew_admin_hash(&self, admin: &mut Admin, password: &str, from: IpAddr) {
        let old = admin.password_hash.clone();
        let renewed = self.new_hash_of(&old, password, from, |new| {
            admins::replace_hash(self.databases.default(), &admin.id, &old, new)
        });
        if let Some(new) = renewed {
            admin.password_hash = new;
        }
    }

    /// Hashes the password again and calls `write`, which returns false if the hash has changed
    /// meanwhile. None if nothing was replaced.
    fn new_hash_of(
        &self,
        old: &str,
        password: &str,
        from: IpAddr,
        write: impl FnOnce(&str) -> Result<bool>,
    ) -> Option<String> {
        if !password::is_imported(old) || self.databases.role() == Role::Replica {
            return None;
        }
        let hashed = self.hasher.hash(HashPriority::uncounted(from), password);
        let written = hashed.and_then(|new| Ok(write(&new)?.then_some(new)));
        written.unwrap_or_else(|error| {
            log::warn(format_args!(
                "an imported password hash was not replaced: {error}"
            ));
            None
        })
    }
}
