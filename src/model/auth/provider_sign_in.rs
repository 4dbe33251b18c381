//! Signing in with an account of a provider: finds, links or creates the account here.
//!
//! A link of the account of the provider decides. Without one it is linked to the account that is
//! signed in; else to the account with its address, if the provider has verified that address; else
//! to a new account, if the create rule admits it. An account whose address was not verified is
//! taken over by the owner of the address: another person may have made it in advance, so its
//! password, its tokens and its links end.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Instant;

use serde_json::{Map, Value};

use super::accounts::{AccountSession, Realm};
use super::authentication::{Auth, wrong_token};
use super::one_time_codes::SignIn;
use super::throttle::CountedAttempt;
use crate::base::budget::Payer;
use crate::base::error::{Error, Kind, Result};
use crate::base::{crypto, ids};
use crate::model::providers::ProviderUser;
use crate::model::records;
use crate::model::records::provider_account::{create, find, has_password, settle};
use crate::model::records::provider_links::{link, links_of, unlink};
use crate::model::records::{Draft, Scope, Shape};
use crate::model::rules::{Identity, User};
use crate::store::db::QueryCaller;

/// The account that a sign-in leads to, and if it is new.
pub struct ProviderAccount {
    pub id: String,
    pub is_new: bool,
}

/// Makes the draft of a new account; called only if there is none yet.
type MakeDraft<'a> = &'a dyn Fn() -> Result<Draft>;

impl Auth {
    /// Counts a sign-in with a provider from this address, or refuses it. Refund it if it succeeds.
    pub fn count_provider_sign_in(
        &self,
        realm: &Realm,
        from: IpAddr,
    ) -> Result<CountedAttempt<'_>> {
        // The account is not known yet, and all callers together have no limit: a stranger must not
        // lock others out.
        let label = realm.label("provider", &from.to_string());
        self.failures.attempt(&label, from)
    }

    /// The account of a user of a provider, linked and created as needed.
    pub fn account_of_provider(
        &self,
        realm: &Realm,
        user: &ProviderUser,
        signed_in: Option<&User>,
        scope: &Scope,
        make_draft: MakeDraft<'_>,
    ) -> Result<ProviderAccount> {
        let signed_in = signed_in.filter(|it| it.collection_id == realm.collection.id);
        let signed_in = signed_in.map(|it| it.id.clone());
        let found = realm.database.look_up(|connection| {
            find(connection, &realm.collection, user, signed_in.as_deref())
        })?;
        let draft = match found {
            Some(_) => None,
            None => Some(self.draft_of(realm, user, make_draft)?),
        };
        let (scope, collection) = (scope.clone(), Arc::clone(&realm.collection));
        let user = user.clone();
        realm.database.write(move |tx| {
            scope.collections.check_current()?;
            // Another request may have linked or created the account meanwhile.
            let found = find(tx, &collection, &user, signed_in.as_deref())?;
            let (id, is_new) = match (found, draft) {
                (Some(id), _) => (id, false),
                (None, Some(draft)) => (create(tx, &scope, &collection, draft)?, true),
                (None, None) => return Err(Error::stale()),
            };
            if !is_new {
                let is_own = signed_in.as_ref() == Some(&id);
                settle(tx, &scope, &collection, &user, &id, is_own)?;
            }
            link(tx, &collection, &id, &user.provider, &user.id)?;
            Ok(ProviderAccount { id, is_new })
        })
    }

    fn draft_of(
        &self,
        realm: &Realm,
        user: &ProviderUser,
        make_draft: MakeDraft<'_>,
    ) -> Result<Draft> {
        if !user.is_verified && !user.email.is_empty() && realm.by_email(&user.email)?.is_some() {
            return Err(Error::field(
                "email",
                "validation_not_unique",
                "There is an account with this address, and the provider has not verified that it \
                 is yours. Sign in to that account, and add the provider there.",
            ));
        }
        make_draft()
    }

    /// Signs in the account of a sign-in with a provider.
    pub fn provider_session(
        &self,
        realm: &Realm,
        id: &str,
        shape: &Shape,
        asker: QueryCaller<'_>,
    ) -> Result<AccountSession> {
        let secrets = realm.secrets(id)?.ok_or_else(wrong_token)?;
        if realm.collection.requires_verified() && !secrets.is_verified {
            return Err(Error::new(
                Kind::Forbidden,
                "Confirm the e-mail address of this account first.",
            ));
        }
        self.check_second_factor(realm, id)?;
        // The provider vouches for the caller, who counts as one with credentials.
        let payer = Payer {
            has_credentials: true,
            ..asker.payer
        };
        self.session(realm, &secrets, shape, QueryCaller { payer, ..asker })
    }

    /// Deletes a link of an account. The last way to sign in stays, unless an admin deletes it.
    pub fn unlink_provider(
        &self,
        realm: &Realm,
        id: &str,
        link: &str,
        is_admin: bool,
    ) -> Result<()> {
        let (collection, id, link) = (
            Arc::clone(&realm.collection),
            id.to_owned(),
            link.to_owned(),
        );
        realm.database.write(move |tx| {
            let links = links_of(tx, &collection, &id)?;
            if !links.iter().any(|it| it.id == link) {
                return Err(records::record_not_found());
            }
            if !is_admin && links.len() == 1 && !has_password(tx, &collection, &id)? {
                return Err(Error::conflict(
                    "This is the last way to sign in to the account; set a password first.",
                ));
            }
            unlink(tx, &collection, &id, &link).map(drop)
        })
    }

    /// A code for an account that has signed in. `challenge` is that of the application, and `meta`
    /// is returned with the token.
    pub fn one_time_code(
        &self,
        realm: &Realm,
        account: &str,
        challenge: &str,
        meta: Map<String, Value>,
    ) -> Result<String> {
        let secrets = realm.secrets(account)?.ok_or_else(wrong_code)?;
        let code = crypto::base64url(&ids::random_bytes::<32>()?);
        let sign_in = SignIn {
            database: realm.name.clone(),
            collection: realm.collection.id.clone(),
            account: account.to_owned(),
            key: self.account_key(realm, &secrets),
            challenge: challenge.to_owned(),
            meta,
        };
        self.codes.add(&code, sign_in, Instant::now());
        Ok(code)
    }

    /// Exchanges a code for a token. The code is used up, also by a failure.
    pub fn exchange_code(
        &self,
        realm: &Realm,
        code: &str,
        verifier: &str,
        shape: &Shape,
        asker: QueryCaller<'_>,
    ) -> Result<(AccountSession, Map<String, Value>)> {
        let found = self.codes.take(code, Instant::now());
        let challenge = crypto::base64url(&crypto::sha256(verifier.as_bytes()));
        let is_its = |it: &SignIn| {
            it.database == realm.name
                && it.collection == realm.collection.id
                && it.challenge == challenge
        };
        let found = found.filter(is_its).ok_or_else(wrong_code)?;
        let secrets = realm.secrets(&found.account)?.ok_or_else(wrong_code)?;
        if self.account_key(realm, &secrets) != found.key {
            return Err(wrong_code());
        }
        let session = self.provider_session(realm, &found.account, shape, asker)?;
        Ok((session, found.meta))
    }
}

fn wrong_code() -> Error {
    Error::field(
        "code",
        "validation_invalid_code",
        "The code is wrong, was already used or has expired; start the sign-in again.",
    )
}

/// The account that a caller is signed in as.
pub fn signed_in_account(identity: &Identity) -> Option<&User> {
    match identity {
        Identity::User(user) => Some(user),
        _ => None,
    }
}
