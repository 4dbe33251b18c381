//! Authentication: turns credentials into an identity, and manages accounts.
//!
//! [`Auth`] is in `authentication`, and has a file per task: `identify` finds the identity of a
//! request, `issued_tokens` issues tokens of services and files, `admin_sessions` signs admins in,
//! `accounts` signs in records of auth collections, and `account_changes` changes their passwords
//! and addresses; `provider_sign_in` signs in accounts of providers, and `code_sign_in` accounts
//! that get a code by mail. These use `password`, which hashes and verifies, `hasher`, which does
//! so on threads of its own, `throttle`, which limits attempts, and `token`, which signs and reads
//! JWTs. `admins` and `keys` are tables. `webhook` signs outgoing calls.
//!
//! The server stores no sessions. A token holds a part that depends on the current password and
//! address of its account, which is looked up with each request, so a change of either ends all
//! older tokens at once. Replicas that share the secret accept the same tokens. Each kind of token
//! has its own key, derived from the secret. Requests, sockets, event streams, file downloads and
//! workers all authenticate through [`Auth::identify`], which gets the name of the database and
//! applies the limits of API keys.

pub use admin_sessions::AdminSession;
pub use authentication::{Auth, AuthSettings, SERVICE_SECONDS_MAX};
pub use credentials::{Credentials, StoredCredentials};
pub use issued_tokens::ServiceTokenRequest;
pub use secret::SECRET_BYTES_MIN;
pub use signers::{OPERATOR, operator_signer, operator_worker};
pub use webhook::WebhookSecret;

pub mod account_changes;
pub mod accounts;
mod admin_sessions;
pub mod admins;
mod authentication;
pub mod code_sign_in;
mod credentials;
mod hasher;
mod identify;
mod imported_passwords;
mod issued_tokens;
pub mod keys;
mod mailed_codes;
mod one_time_codes;
pub mod password;
pub mod provider_sign_in;
mod secret;
mod signers;
mod throttle;
mod token;
mod webhook;
