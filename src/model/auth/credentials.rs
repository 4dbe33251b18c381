//! The credentials of a request, and a copy that lives as long as a connection.

use std::time::Instant;

/// The headers that identify the caller.
#[derive(Clone, Copy, Default)]
pub struct Credentials<'a> {
    pub authorization: Option<&'a str>,
    pub api_key: Option<&'a str>,
}

impl<'a> Credentials<'a> {
    /// The token of the `Authorization` header, which may stand with or without `Bearer`.
    pub fn token(&self) -> &'a str {
        let token = self.authorization.unwrap_or_default().trim();
        match token.get(..7) {
            Some(scheme) if scheme.eq_ignore_ascii_case("Bearer ") => token[7..].trim_start(),
            _ => token,
        }
    }
}

/// The credentials that a connection was opened with.
#[derive(Clone, Debug)]
pub struct StoredCredentials {
    authorization: Option<String>,
    api_key: Option<String>,
    /// When they were last verified.
    pub checked: Instant,
}

impl StoredCredentials {
    /// Copies the credentials of a request. They must be valid now, if there are any.
    pub fn new(credentials: Credentials<'_>) -> StoredCredentials {
        StoredCredentials {
            authorization: credentials.authorization.map(str::to_owned),
            api_key: credentials.api_key.map(str::to_owned),
            checked: Instant::now(),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.authorization.is_none() && self.api_key.is_none()
    }

    pub fn is_same(&self, other: &StoredCredentials) -> bool {
        (&self.authorization, &self.api_key) == (&other.authorization, &other.api_key)
    }

    pub fn credentials(&self) -> Credentials<'_> {
        Credentials {
            authorization: self.authorization.as_deref(),
            api_key: self.api_key.as_deref(),
        }
    }
}
