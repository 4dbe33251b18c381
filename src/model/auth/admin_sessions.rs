//! Admins: the setup token, the first admin, and signing in.

use std::net::IpAddr;

use super::admins;
use super::admins::Admin;
use super::authentication::{Auth, wrong_password, wrong_token};
use super::credentials::Credentials;
use super::hasher::HashPriority;
use super::token::{ExtraClaims, Purpose};
use crate::base::crypto;
use crate::base::error::Result;

/// The setup token is a signature of this.
const SETUP_LABEL: &[u8] = b"setup";

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
            (true, Some(admin)) => Ok(self.sign_in(admin)),
            _ => Err(wrong_password()),
        }
    }

    /// A new token for an admin with a valid one.
    pub fn refresh_admin(&self, credentials: Credentials<'_>, id: &str) -> Result<AdminSession> {
        let admin = admins::by_id(self.databases.default(), id)?.ok_or_else(wrong_token)?;
        let token = self.renew_token(credentials)?;
        Ok(AdminSession { token, admin })
    }

    fn sign_in(&self, admin: Admin) -> AdminSession {
        let extra = ExtraClaims {
            collection: Some(admins::COLLECTION.to_owned()),
            ..ExtraClaims::default()
        };
        let (id, key) = (admin.id.clone(), admin.token_key.clone());
        let token = self.sign(Purpose::Admin, id, key, extra, self.token_ms());
        AdminSession { token, admin }
    }
}
