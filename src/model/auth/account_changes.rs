//! Changes of passwords and addresses of accounts, authorized by the current password or by a token
//! sent by mail.
//!
//! A mail carries a token in a link. Like session tokens, it holds a part that depends on the
//! password and the address, so it works once, and becomes invalid when either changes. A request
//! for a mail gets the same answer whether the account exists or not.

use std::net::IpAddr;
use std::sync::Arc;

use super::accounts::{AccountSession, Realm};
use super::authentication::{Auth, wrong_token};
use super::hasher::HashPriority;
pub use super::token::Purpose;
use super::token::{Claims, ExtraClaims};
use crate::base::error::{Error, Kind, Result};
use crate::model::collections::{SUPERUSERS, TokenKind};
use crate::model::records::account::{AccountChange, Secrets};
use crate::model::records::{Shape, account};
use crate::model::rules::{Identity, User};
use crate::net::mail;
use crate::net::mail::Mail;
use crate::store::db::QueryCaller;

const VERIFICATION_MS: i64 = 3 * 86_400_000;
pub(super) const RESET_MS: i64 = 30 * 60_000;
const EMAIL_MS: i64 = 30 * 60_000;

/// The kinds of mail that a client without credentials can request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccountMail {
    Verification,
    Reset,
}

/// Refuses a token of another purpose than `only`.
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
            "This link {}; use a link that {wanted}.",
            does(claims.purpose)
        ),
    ))
}

/// A confirmation: the token of a link, and passwords.
#[derive(Default)]
pub struct Confirmation<'a> {
    pub token: &'a str,
    /// The purpose that the token must have; none for any.
    pub only: Option<Purpose>,
    /// The new password for a reset, the current one for a new address.
    pub password: Option<&'a str>,
    pub confirmation: Option<&'a str>,
}

impl Auth {
    /// The mail to send to this address. None if there is no such account, or nothing to verify.
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
        let dummy = Secrets::dummy();
        let (purpose, kind, life_ms) = match wanted {
            AccountMail::Verification => (
                Purpose::Verification,
                TokenKind::Verification,
                VERIFICATION_MS,
            ),
            AccountMail::Reset => (Purpose::Reset, TokenKind::PasswordReset, RESET_MS),
        };
        let life_ms = realm.collection.token_ms(kind).unwrap_or(life_ms);
        // Signed even if there is no such account, so that the time does not reveal which addresses
        // exist.
        let secrets = found.as_ref().unwrap_or(&dummy);
        let link = self.link(realm, secrets, purpose, realm.extra(), life_ms);
        let is_due = |secrets: &Secrets| wanted == AccountMail::Reset || !secrets.is_verified;
        Ok(found.filter(is_due).map(|secrets| match wanted {
            AccountMail::Verification => verification_mail(secrets.email, link),
            AccountMail::Reset => reset_mail(secrets.email, link),
        }))
    }

    /// The mail to the new address of an account. None if another account has the address.
    pub fn mail_for_new_address(
        &self,
        realm: &Realm,
        user: &User,
        email: &str,
        from: IpAddr,
    ) -> Result<Option<Mail>> {
        account::check_email(&realm.collection, email)?;
        // Also counted by address: many accounts together must not fill the mailbox of a stranger.
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
        let life_ms = realm.collection.token_ms(TokenKind::EmailChange);
        let life_ms = life_ms.unwrap_or(EMAIL_MS);
        let link = self.link(realm, &secrets, Purpose::Email, extra, life_ms);
        Ok(is_free.then(|| new_address_mail(email.to_owned(), link)))
    }

    /// Carries out what the token of a mail is for, on an account of `database`, and of the
    /// collection `wanted` if one is given.
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
        if claims.is_of_superuser() && wanted.is_none_or(|name| name == SUPERUSERS) {
            return self
                .reset_admin(&claims, confirmation, from)
                .map_err(as_invalid);
        }
        let realm = self.realm_of_token(&claims, database).map_err(as_invalid)?;
        let is_wanted =
            wanted.is_none_or(|name| name == realm.collection.name || name == realm.collection.id);
        let secrets = realm.secrets(&claims.subject)?;
        let secrets = secrets
            .filter(|secrets| {
                is_wanted && self.mail_key(&realm, claims.purpose, secrets) == claims.key
            })
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
                self.check_current_password(realm, secrets, "password", password, from)?;
                Ok(AccountChange::Email(email.clone()))
            }
            (Purpose::Verification, _) => Ok(AccountChange::Verified),
            _ => Err(as_invalid(wrong_token())),
        }
    }

    /// Sets a new password for the account, and returns a new token in place of those that the
    /// change ends.
    pub fn change_password(
        &self,
        realm: &Realm,
        user: &User,
        old_password: Option<&str>,
        new: &Confirmation<'_>,
        from: IpAddr,
        asker: QueryCaller<'_>,
    ) -> Result<AccountSession> {
        let secrets = realm.secrets(&user.id)?.ok_or_else(wrong_token)?;
        self.check_current_password(realm, &secrets, "oldPassword", old_password, from)?;
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
        check_repeated(password, confirmation)?;
        self.hasher.hash(HashPriority::uncounted(from), password)
    }

    pub(super) fn apply_change(
        &self,
        realm: &Realm,
        secrets: Secrets,
        change: AccountChange,
    ) -> Result<()> {
        let (scope, collection) = (
            realm.scope(Identity::Anonymous),
            Arc::clone(&realm.collection),
        );
        let is_done = realm
            .database
            .write(move |tx| account::apply_change(tx, &scope, &collection, &secrets, &change))?;
        match is_done {
            true => Ok(()),
            // A concurrent request changed the password or address first.
            false => Err(as_invalid(wrong_token())),
        }
    }

    /// The key that the token of a mail must hold. It also changes once the address is verified, so
    /// a verification link works once.
    fn mail_key(&self, realm: &Realm, purpose: Purpose, secrets: &Secrets) -> String {
        let key = self.account_key(realm, secrets);
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
        let (id, key) = (secrets.id.clone(), self.mail_key(realm, purpose, secrets));
        let token = self.sign(purpose, id, key, extra, life_ms);
        match realm.collection.confirm_url() {
            Some(url) if url.contains("{TOKEN}") => url.replace("{TOKEN}", &token),
            Some(url) => format!("{url}#{token}"),
            // Browsers do not send what follows the #, so the token is in no log.
            None => format!(
                "{}/auth/confirm#{token}",
                self.settings.public_url.trim_end_matches('/')
            ),
        }
    }
}

/// Refuses a password that is repeated wrongly.
pub(super) fn check_repeated(password: &str, confirmation: Option<&str>) -> Result<()> {
    match confirmation.is_some_and(|confirmation| confirmation != password) {
        false => Ok(()),
        true => Err(Error::field(
            "passwordConfirm",
            "validation_values_mismatch",
            "The passwords do not match.",
        )),
    }
}

/// The error for a token in a body, which is not a credential.
fn as_invalid(error: Error) -> Error {
    match error.kind() {
        Kind::Unauthenticated => Error::field(
            "token",
            "validation_invalid_token",
            "The link was already used, has expired or is incomplete.",
        ),
        _ => error,
    }
}

fn verification_mail(to: String, link: String) -> Mail {
    let text = format!(
        "Hello,\n\nopen this link to confirm your e-mail address:\n\n{link}\n\nIf you did not request \
         this, ignore this mail.\n"
    );
    mail(
        mail::MailPurpose::Verification,
        to,
        "Confirm your e-mail address",
        text,
        link,
    )
}

pub(super) fn reset_mail(to: String, link: String) -> Mail {
    let text = format!(
        "Hello,\n\nopen this link within 30 minutes to choose a new password:\n\n{link}\n\nIf you did \
         not request this, ignore this mail: your password stays unchanged.\n"
    );
    mail(
        mail::MailPurpose::Reset,
        to,
        "Choose a new password",
        text,
        link,
    )
}

fn new_address_mail(to: String, link: String) -> Mail {
    let text = format!(
        "Hello,\n\nopen this link within 30 minutes to sign in with this e-mail address from now \
         on:\n\n{link}\n\nThe page asks for your password. If you did not request this, ignore this \
         mail.\n"
    );
    mail(
        mail::MailPurpose::NewAddress,
        to,
        "Confirm your new e-mail address",
        text,
        link,
    )
}

fn mail(purpose: mail::MailPurpose, to: String, subject: &str, text: String, link: String) -> Mail {
    Mail {
        purpose,
        to,
        subject: subject.to_owned(),
        text,
        link,
    }
}
