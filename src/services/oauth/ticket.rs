//! The sign-in of a browser without an SDK, between its begin and its end: a ticket in a cookie.
//!
//! The state that the provider returns names the cookie, and the signature of the ticket covers it.
//! So a state is of no use in another browser, nor for another provider, collection, database or
//! target than those with which the sign-in began. The server keeps nothing until the browser is
//! back. The key is new at each start, which ends the sign-ins in progress.

use serde::{Deserialize, Serialize};

use crate::base::crypto::SigningKey;
use crate::base::error::Result;
use crate::base::{clock, crypto, ids};

/// A user has this long for the page of the provider.
pub const TICKET_SECONDS: i64 = 600;
/// States of such sign-ins begin with this; names of clients of server-sent events, which also are
/// states, are hexadecimal.
const MARK: char = 'r';
const COOKIE: &str = "vski_sign_in_";
/// Characters of the state in the name of the cookie, so that two tabs do not disturb each other.
const COOKIE_CHARS: usize = 8;

/// The purpose of a sign-in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ticket {
    pub database: String,
    /// The id of the collection.
    pub collection: String,
    pub provider: String,
    /// The application's URL for the code.
    pub redirect: String,
    /// A value that the application gets back.
    pub state: String,
    /// The challenge of PKCE with which the application proves that the code is for it.
    pub challenge: String,
    /// Unix milliseconds.
    pub ends_ms: i64,
}

/// Seals and opens tickets.
pub struct Tickets(SigningKey);

impl Tickets {
    pub fn new() -> Result<Tickets> {
        Ok(Tickets(SigningKey::new(&ids::random_bytes::<32>()?)))
    }

    /// A new state.
    pub fn new_state() -> Result<String> {
        let random = crypto::base64url(&ids::random_bytes::<24>()?);
        Ok(format!("{MARK}{random}"))
    }

    /// True if a state is one of these sign-ins.
    pub fn is_state(state: &str) -> bool {
        state.starts_with(MARK)
    }

    /// The name of the cookie of a state; none if it cannot be one.
    pub fn cookie(state: &str) -> Option<String> {
        let start = state.strip_prefix(MARK)?.get(..COOKIE_CHARS)?;
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        start
            .bytes()
            .all(is_plain)
            .then(|| format!("{COOKIE}{start}"))
    }

    /// The verifier of PKCE of a sign-in.
    pub fn verifier(&self, state: &str) -> String {
        crypto::base64url(&self.0.sign(format!("verifier\0{state}").as_bytes()))
    }

    /// The value of the cookie.
    pub fn seal(&self, state: &str, ticket: &Ticket) -> Result<String> {
        let json = crypto::base64url(&serde_json::to_vec(ticket)?);
        let signature = crypto::base64url(&self.0.sign(&signed(state, &json)));
        Ok(format!("{json}.{signature}"))
    }

    /// The ticket in a cookie; none if it is not of this state and server, or has expired.
    pub fn open(&self, state: &str, cookie: &str) -> Option<Ticket> {
        let (json, signature) = cookie.split_once('.')?;
        let signature = crypto::from_base64url(signature)?;
        if !self.0.verify(&signed(state, json), &signature) {
            return None;
        }
        let ticket: Ticket = serde_json::from_slice(&crypto::from_base64url(json)?).ok()?;
        (clock::now_ms() < ticket.ends_ms).then_some(ticket)
    }
}

fn signed(state: &str, json: &str) -> Vec<u8> {
    format!("ticket\0{state}\0{json}").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ticket_is_of_one_state_and_one_server_and_ends() {
        let (tickets, state) = (Tickets::new().unwrap(), Tickets::new_state().unwrap());
        let ticket = Ticket {
            database: "default".to_owned(),
            collection: "c".to_owned(),
            provider: "github".to_owned(),
            redirect: "https://app.example/".to_owned(),
            state: "s".to_owned(),
            challenge: "x".to_owned(),
            ends_ms: clock::now_ms() + 60_000,
        };
        let cookie = tickets.seal(&state, &ticket).unwrap();
        assert_eq!(tickets.open(&state, &cookie), Some(ticket.clone()));
        assert_eq!(tickets.open(&Tickets::new_state().unwrap(), &cookie), None);
        assert_eq!(Tickets::new().unwrap().open(&state, &cookie), None);
        let (json, signature) = cookie.split_once('.').unwrap();
        for changed in [
            format!("{json}A.{signature}"),
            format!("{json}."),
            json.to_owned(),
        ] {
            assert_eq!(tickets.open(&state, &changed), None, "{changed}");
        }
        let ended = Ticket {
            ends_ms: clock::now_ms(),
            ..ticket
        };
        let cookie = tickets.seal(&state, &ended).unwrap();
        assert_eq!(tickets.open(&state, &cookie), None);
    }

    #[test]
    fn a_state_names_its_cookie() {
        let state = Tickets::new_state().unwrap();
        assert!(Tickets::is_state(&state) && Tickets::cookie(&state).is_some());
        for other in ["", "r", "rshort", "r;;;;;;;;;", "0123456789abcdef"] {
            assert_eq!(Tickets::cookie(other), None, "{other}");
        }
    }
}
