//! The user that a provider describes.

use serde_json::{Map, Value, json};

/// Longest text of a profile that is used; longer ones are cut.
const TEXT_CHARS_MAX: usize = 500;

/// A user as a provider describes it, after the provider was asked with the code of this sign-in.
#[derive(Clone, Debug, Default)]
pub struct ProviderUser {
    /// The name of the provider in the settings of the collection.
    pub provider: String,
    /// Identifies the user at the provider; never empty.
    pub id: String,
    pub name: String,
    pub username: String,
    pub email: String,
    /// The provider has verified that the user owns `email`.
    pub is_verified: bool,
    pub picture: String,
    /// The answer of the provider.
    pub raw: Value,
    pub access_token: String,
    pub refresh_token: String,
    /// The end of the access token, as clients see times; empty if it is not known.
    pub expiry: String,
}

impl ProviderUser {
    /// Cuts a text of a profile to a length that a record can have.
    pub fn cut(text: &str) -> String {
        text.trim().chars().take(TEXT_CHARS_MAX).collect()
    }

    /// The `meta` of an answer, as PocketBase's clients read it.
    pub fn meta(&self, is_new: bool) -> Map<String, Value> {
        let all = json!({
            "id": self.id,
            "name": self.name,
            "username": self.username,
            // As in PocketBase: an address that the provider has not verified is not shown as one.
            "email": if self.is_verified { self.email.as_str() } else { "" },
            "avatarURL": self.picture,
            "avatarUrl": self.picture,
            "rawUser": self.raw,
            "accessToken": self.access_token,
            "refreshToken": self.refresh_token,
            "expiry": self.expiry,
            "isNew": is_new,
        });
        match all {
            Value::Object(all) => all,
            _ => Map::new(),
        }
    }
}
