//! Credentials that are kept for as long as a connection lives, to be looked at again.

use std::time::Instant;

use super::Credentials;

/// By what somebody was let in.
#[derive(Clone, Debug)]
pub struct Pass {
    authorization: Option<String>,
    api_key: Option<String>,
    /// When they were last found to be good.
    pub checked: Instant,
}

impl Pass {
    /// The credentials of a request, which are good now, if there are any.
    pub fn new(credentials: Credentials<'_>) -> Pass {
        Pass {
            authorization: credentials.authorization.map(str::to_owned),
            api_key: credentials.api_key.map(str::to_owned),
            checked: Instant::now(),
        }
    }

    /// Whether there are no credentials.
    pub fn is_empty(&self) -> bool {
        self.authorization.is_none() && self.api_key.is_none()
    }

    /// True if these are the same credentials.
    pub fn is_same(&self, other: &Pass) -> bool {
        (&self.authorization, &self.api_key) == (&other.authorization, &other.api_key)
    }

    pub fn credentials(&self) -> Credentials<'_> {
        Credentials {
            authorization: self.authorization.as_deref(),
            api_key: self.api_key.as_deref(),
        }
    }
}
