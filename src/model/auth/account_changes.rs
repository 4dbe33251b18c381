//! What accounts are known by, changed: passwords and addresses, by whoever knows the password or
//! reads the mail (AUTH-5).
//!
//! A mail carries a token in a link. The token holds the same part that depends on password and
//! address as those of sessions do, so it works once, and no longer after either has changed.
//! Asking for a mail is answered alike whether there is an account or not.

use std::net::IpAddr;
use std::sync::Arc;

use super::accounts::{AccountSession, Realm};
use super::hasher::HashPriority;
pub use super::token::Purpose;
use super::token::{Claims, ExtraClaims};
use super::{Auth, wrong_token};
use crate::base::error::{Error, Kind, Result};
use crate::model::records::account::{AccountChange, Secrets};
use crate::model::records::{Shape, account};
use crate::model::rules::{Identity, User};
use crate::net::mail;
use crate::net::mail::Mail;
use crate::store::db::Asker;

const VERIFICATION_MS: i64 = 3 * 86_400_000;
const RESET_MS: i64 = 30 * 60_000;
const EMAIL_MS: i64 = 30 * 60_000;

/// A mail that may be asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccountMail {
    Verification,
    Reset,
}

/// Refuses a token that was sent for something else.
fn check_purpose(claims: &Claims, only: Option<Purpose>) -> Result<()> {
    if only.is_none_or(|only| only == claims.purpose) {
        return Ok(());
    }
    let does = |purpose| match purpose {
        Purpose::Verification => "verifies an address",
        Purpose::Reset => "sets a new password",
        _ => "confirms a new address",
    };
    let wanted = only.map_or("", does);
    Err(Error::field(
        "token",
        "validation_invalid_token",
        format!(
            "The link {}; it is not one that {wanted}.",
            does(claims.purpose)
        ),
    ))
}

/// What comes with the token of a link.
#[derive(Default)]
pub struct Confirmation<'a> {
    pub token: &'a str,
    /// The purpose that the token must have, if one is named.
    pub only: Option<Purpose>,
    /// The new password for a reset; the present one for a new address.
    pub password: Option<&'a str>,
    pub confirmation: Option<&'a str>,
}

impl Auth {
    /// The mail to send for this address; none when there is no such account or nothing to do.
    pub fn mail_for(
        &self,
        realm: &Realm,
        wanted: AccountMail,
        email: &str,
        from: IpAddr,
    ) -> Result<Option<Mail>> {
        let what = match wanted {
            AccountMail::Verification => "verification",
            AccountMail::Reset => "reset",
        };
        let account = realm.label(what, &email.to_ascii_lowercase());
        let _counted = self.mails.attempt(&account, from)?;
        let found = realm.by_email(email)?;
        let nobody = Secrets::dummy();
        let (purpose, life_ms) = match wanted {
            AccountMail::Verification => (Purpose::Verification, VERIFICATION_MS),
            AccountMail::Reset => (Purpose::Reset, RESET_MS),
        };
        // Signed in any case: the time shall not tell.
        let secrets = found.as_ref().unwrap_or(&nobody);
        let link = self.link(realm, secrets, purpose, realm.extra(), life_ms);
        let is_due = |secrets: &Secrets| wanted == AccountMail::Reset || !secrets.is_verified;
        Ok(found.filter(is_due).map(|secrets| match wanted {
            AccountMail::Verification => verification_mail(secrets.email, link),
            AccountMail::Reset => reset_mail(secrets.email, link),
        }))
    }

    /// The mail to the new address of an account; none when another account has it.
    pub fn mail_for_new_address(
        &self,
        realm: &Realm,
        user: &User,
        email: &str,
        from: IpAddr,
    ) -> Result<Option<Mail>> {
        account::check_email(&realm.collection, email)?;
        // Many accounts together must not fill the mailbox of a stranger either.
        let to = format!("to/{}", email.to_ascii_lowercase());
        for counted in [realm.label("address", &user.id), to] {
            let _counted = self.addresses.attempt(&counted, from)?;
        }
        let secrets = realm.secrets(&user.id)?.ok_or_else(wrong_token)?;
        let is_free = realm.by_email(email)?.is_none();
        let extra = ExtraClaims {
            email: Some(email.to_owned()),
            ..realm.extra()
        };
        let link = self.link(realm, &secrets, Purpose::Email, extra, EMAIL_MS);
        Ok(is_free.then(|| new_address_mail(email.to_owned(), link)))
    }

    /// Does what the token of a mail was sent for, on accounts of `database`; of the collection
    /// `wanted`, if one is named.
    pub fn confirm(
        &self,
        database: &str,
        wanted: Option<&str>,
        confirmation: &Confirmation<'_>,
        from: IpAddr,
    ) -> Result<()> {
        let purposes = [Purpose::Verification, Purpose::Reset, Purpose::Email];
        let claims = self
            .read(confirmation.token, &purposes)
            .map_err(as_invalid)?;
        check_purpose(&claims, confirmation.only)?;
        let realm = self.realm_of_token(&claims, database).map_err(as_invalid)?;
        let is_wanted =
            wanted.is_none_or(|name| name == realm.collection.name || name == realm.collection.id);
        let secrets = realm.secrets(&claims.subject)?;
        let secrets = secrets
            .filter(|secrets| is_wanted && self.mail_key(claims.purpose, secrets) == claims.key)
            .ok_or_else(|| as_invalid(wrong_token()))?;
        let change = self.account_change(&realm, &claims, &secrets, confirmation, from)?;
        self.apply_change(&realm, secrets, change)
    }

    fn account_change(
        &self,
        realm: &Realm,
        claims: &Claims,
        secrets: &Secrets,
        confirmation: &Confirmation<'_>,
        from: IpAddr,
    ) -> Result<AccountChange> {
        let password = confirmation.password;
        match (claims.purpose, &claims.extra.email) {
            (Purpose::Reset, _) => {
                let hash = self.new_hash(realm, password, confirmation.confirmation, from)?;
                Ok(AccountChange::Password {
                    hash,
                    verifies: true,
                })
            }
            (Purpose::Email, Some(email)) => {
                self.check_present_password(realm, secrets, "password", password, from)?;
                Ok(AccountChange::Email(email.clone()))
            }
            (Purpose::Verification, _) => Ok(AccountChange::Verified),
            _ => Err(as_invalid(wrong_token())),
        }
    }

    /// A new password for the account that asks, and a token in place of those that it ends.
    pub fn change_password(
        &self,
        realm: &Realm,
        user: &User,
        old_password: Option<&str>,
        new: &Confirmation<'_>,
        from: IpAddr,
        asker: Asker<'_>,
    ) -> Result<AccountSession> {
        let secrets = realm.secrets(&user.id)?.ok_or_else(wrong_token)?;
        self.check_present_password(realm, &secrets, "oldPassword", old_password, from)?;
        let hash = self.new_hash(realm, new.password, new.confirmation, from)?;
        let change = AccountChange::Password {
            hash,
            verifies: false,
        };
        self.apply_change(realm, secrets, change)?;
        let secrets = realm.secrets(&user.id)?.ok_or_else(wrong_token)?;
        self.session(realm, &secrets, &Shape::default(), asker)
    }

    fn new_hash(
        &self,
        realm: &Realm,
        password: Option<&str>,
        confirmation: Option<&str>,
        from: IpAddr,
    ) -> Result<String> {
        let password = password.unwrap_or_default();
        account::check_password(&realm.collection, password)?;
        if confirmation.is_some_and(|confirmation| confirmation != password) {
            return Err(Error::field(
                "passwordConfirm",
                "validation_values_mismatch",
                "The passwords are not the same.",
            ));
        }
        self.hasher.hash(HashPriority::uncounted(from), password)
    }

    fn apply_change(&self, realm: &Realm, secrets: Secrets, change: AccountChange) -> Result<()> {
        let (scope, collection) = (
            realm.scope(Identity::Anonymous),
            Arc::clone(&realm.collection),
        );
        let is_done = realm
            .database
            .write(move |tx| account::apply_change(tx, &scope, &collection, &secrets, &change))?;
        match is_done {
            true => Ok(()),
            // Somebody was faster, with another password or address.
            false => Err(as_invalid(wrong_token())),
        }
    }

    /// What the token of a mail must hold. One that verifies an address works once, too.
    fn mail_key(&self, purpose: Purpose, secrets: &Secrets) -> String {
        let key = self.account_key(secrets);
        match purpose {
            Purpose::Verification => format!("{key}{}", u8::from(secrets.is_verified)),
            _ => key,
        }
    }

    fn link(
        &self,
        realm: &Realm,
        secrets: &Secrets,
        purpose: Purpose,
        extra: ExtraClaims,
        life_ms: i64,
    ) -> String {
        let (id, key) = (secrets.id.clone(), self.mail_key(purpose, secrets));
        let token = self.sign(purpose, id, key, extra, life_ms);
        match realm.collection.confirm_url() {
            Some(url) if url.contains("{TOKEN}") => url.replace("{TOKEN}", &token),
            Some(url) => format!("{url}#{token}"),
            // Behind the sign that browsers keep to themselves: it is in no log.
            None => format!(
                "{}/auth/confirm#{token}",
                self.settings.public_url.trim_end_matches('/')
            ),
        }
    }
}

/// A token that came in a body, and not as credentials.
fn as_invalid(error: Error) -> Error {
    match error.kind() {
        Kind::Unauthenticated => Error::field(
            "token",
            "validation_invalid_token",
            "The link has been used already, has expired or is not whole.",
        ),
        _ => error,
    }
}

fn verification_mail(to: String, link: String) -> Mail {
    let text = format!(
        "Hello,\n\nto confirm that this is your e-mail address, open\n\n{link}\n\nIf you did not \
         ask for this, nothing has to be done.\n"
    );
    mail(
        mail::Kind::Verification,
        to,
        "Confirm your e-mail address",
        text,
        link,
    )
}

fn reset_mail(to: String, link: String) -> Mail {
    let text = format!(
        "Hello,\n\nto choose a new password, open within 30 minutes\n\n{link}\n\nIf you did not \
         ask for this, nothing has to be done: your password stays as it is.\n"
    );
    mail(mail::Kind::Reset, to, "Choose a new password", text, link)
}

fn new_address_mail(to: String, link: String) -> Mail {
    let text = format!(
        "Hello,\n\nto sign in with this e-mail address from now on, open within 30 minutes\n\n\
         {link}\n\nYou will be asked for your password. If you did not ask for this, nothing has \
         to be done.\n"
    );
    mail(
        mail::Kind::NewAddress,
        to,
        "Confirm your new e-mail address",
        text,
        link,
    )
}

fn mail(kind: mail::Kind, to: String, subject: &str, text: String, link: String) -> Mail {
    Mail {
        kind,
        to,
        subject: subject.to_owned(),
        text,
        link,
    }
}
