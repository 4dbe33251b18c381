//! Admins: the setup token, the first admin, and signing in.

use std::net::IpAddr;

use super::account_changes::{Confirmation, RESET_MS, check_repeated, reset_mail};
use super::admins;
use super::admins::Admin;
use super::authentication::{Auth, wrong_password, wrong_token};
use super::credentials::Credentials;
use super::hasher::HashPriority;
use super::token::{Claims, ExtraClaims, Purpose};
use crate::base::crypto;
use crate::base::error::{Error, Result};
use crate::model::collections::SUPERUSERS_ID;
use crate::net::mail::Mail;

/// The setup token is a signature of this.
const SETUP_LABEL: &[u8] = b"setup";

fn superuser() -> ExtraClaims {
    ExtraClaims {
        collection: Some(SUPERUSERS_ID.to_owned()),
        ..ExtraClaims::default()
    }
}

/// An admin who signed in, and a new token.
pub struct AdminSession {
    pub token: String,
    pub admin: Admin,
}

impl Auth {
    /// A token that proves access to the log of this server, where it is printed while there is no
    /// admin. None once an admin exists.
    pub fn setup_token(&self) -> Result<Option<String>> {
        let has_admin = self.databases.default().look_up(admins::any)?;
        let token = || crypto::base64url(&self.setup.sign(SETUP_LABEL));
        Ok((!has_admin).then(token))
    }

    /// True if this is the setup token.
    pub fn is_setup_token(&self, token: &str) -> bool {
        let signature = crypto::from_base64url(token);
        signature.is_some_and(|it| self.setup.verify(SETUP_LABEL, &it))
    }

    /// Creates the first admin. Fails if one exists.
    pub fn init(&self, email: &str, password: &str, from: IpAddr) -> Result<AdminSession> {
        let hash = |password: &str| self.hasher.hash(HashPriority::uncounted(from), password);
        let when = admins::CreateWhen::NoAdmin;
        let admin = admins::create(self.databases.default(), email, password, when, &hash)?;
        Ok(self.sign_in(admin))
    }

    /// Creates another admin.
    pub fn create_admin(&self, email: &str, password: &str, from: IpAddr) -> Result<Admin> {
        let hash = |password: &str| self.hasher.hash(HashPriority::uncounted(from), password);
        let when = admins::CreateWhen::Always;
        admins::create(self.databases.default(), email, password, when, &hash)
    }

    /// Changes an admin. A new password ends the tokens of that admin.
    pub fn change_admin(
        &self,
        id: &str,
        email: Option<&str>,
        password: Option<&str>,
        from: IpAddr,
    ) -> Result<Admin> {
        let hash = |password: &str| self.hasher.hash(HashPriority::uncounted(from), password);
        admins::update(self.databases.default(), id, email, password, &hash)
    }

    /// Signs an admin in. An unknown address and a wrong password get the same answer and cost the
    /// same work.
    pub fn log_in_admin(&self, email: &str, password: &str, from: IpAddr) -> Result<AdminSession> {
        let account = format!("admin:{}", email.to_ascii_lowercase());
        let found = admins::find(self.databases.default(), email)?;
        let hash = found.as_ref().map(|admin| admin.password_hash.as_str());
        match (self.check_password(&account, from, password, hash)?, found) {
            (true, Some(mut admin)) => {
                self.renew_admin_hash(&mut admin, password, from);
                Ok(self.sign_in(admin))
            }
            _ => Err(wrong_password()),
        }
    }

    /// A new token for an admin with a valid one.
    pub fn refresh_admin(&self, credentials: Credentials<'_>, id: &str) -> Result<AdminSession> {
        let admin = admins::by_id(self.databases.default(), id)?.ok_or_else(wrong_token)?;
        let token = self.renew_token(credentials, None)?;
        Ok(AdminSession { token, admin })
    }

    fn sign_in(&self, admin: Admin) -> AdminSession {
        let token = self.admin_token(&admin, None, self.token_ms());
        AdminSession { token, admin }
    }

    fn admin_token(&self, admin: &Admin, refreshable: Option<bool>, life_ms: i64) -> String {
        let extra = ExtraClaims {
            refreshable,
            ..superuser()
        };
        let (id, key) = (admin.id.clone(), admin.token_key.clone());
        self.sign(Purpose::Admin, id, key, extra, life_ms)
    }

    /// A token for an admin, made by an admin; see [`Auth::impersonate`].
    pub fn impersonate_admin(&self, id: &str, seconds: Option<u32>) -> Result<AdminSession> {
        let admin = admins::by_id(self.databases.default(), id)?;
        let admin = admin.ok_or_else(|| Error::not_found("There is no such admin."))?;
        let token = self.admin_token(&admin, Some(false), self.impersonation_ms(seconds));
        Ok(AdminSession { token, admin })
    }

    /// The mail with which an admin sets a new password. None if there is no such admin.
    pub fn reset_mail_for_admin(&self, email: &str, from: IpAddr) -> Result<Option<Mail>> {
        let account = format!("admin/reset/{}", email.to_ascii_lowercase());
        let _counted = self.mails.attempt(&account, from)?;
        let found = admins::find(self.databases.default(), email)?;
        let (id, key) = match &found {
            Some(admin) => (admin.id.clone(), self.reset_key(admin)),
            None => (String::new(), String::new()),
        };
        // Signed even if there is no such admin, so that the time does not reveal it.
        let token = self.sign(Purpose::Reset, id, key, superuser(), RESET_MS);
        let url = self.settings.public_url.trim_end_matches('/');
        let link = format!("{url}/auth/confirm#{token}");
        Ok(found.map(|admin| reset_mail(admin.email, link)))
    }

    /// Sets the password of an admin with the token of a mail. The token is invalid afterwards.
    pub(super) fn reset_admin(
        &self,
        claims: &Claims,
        confirmation: &Confirmation<'_>,
        from: IpAddr,
    ) -> Result<()> {
        let admin = admins::by_id(self.databases.default(), &claims.subject)?;
        let admin = admin.filter(|admin| self.reset_key(admin) == claims.key);
        let admin = admin.ok_or_else(wrong_token)?;
        let password = confirmation.password.unwrap_or_default();
        admins::check_password(password)?;
        check_repeated(password, confirmation.confirmation)?;
        let hash = self.hasher.hash(HashPriority::uncounted(from), password)?;
        match admins::replace_password(self.databases.default(), &admin, hash)? {
            true => Ok(()),
            // A concurrent request changed the password first.
            false => Err(wrong_token()),
        }
    }

    fn reset_key(&self, admin: &Admin) -> String {
        let text = format!("admin reset\0{}\0{}", admin.email, admin.token_key);
        crypto::base64url(&self.signing.sign(text.as_bytes())[..16])
    }
}
