//! The user in the answer of a provider, by the places that its preset names.

use serde_json::Value;

use crate::base::error::{Error, Result};
use crate::model::providers::{AddressList, Profile, ProviderUser, Verified};

/// The part of a pointer that leads to the answer with the token.
const TOKEN: &str = "/token";

/// Reads the user. `token` is the answer with the token.
pub fn read(profile: &Profile, answer: &Value, token: &Value) -> Result<ProviderUser> {
    let text = |pointer: &str| text_at(pointer, answer, token);
    if let Some((pointer, value)) = profile.required
        && text(pointer) != value
    {
        return Err(Error::invalid("The account at the provider is not active."));
    }
    let id = text(profile.id);
    if id.is_empty() {
        return Err(Error::invalid("The provider did not say who the user is.")
            .context(format!("nothing at {} of its answer", profile.id)));
    }
    let name: Vec<String> = profile.name.iter().map(|it| text(it)).collect();
    let email = text(profile.email);
    let is_verified = match profile.verified {
        Verified::At(pointer) => text(pointer) == "true",
        Verified::Present(pointer) => !text(pointer).is_empty(),
        Verified::Always => true,
        Verified::Unknown => false,
    };
    Ok(ProviderUser {
        id,
        name: ProviderUser::cut(&name.join(" ")),
        username: ProviderUser::cut(&text(profile.username)),
        is_verified: is_verified && !email.is_empty(),
        email,
        picture: text(profile.picture),
        ..ProviderUser::default()
    })
}

/// The primary address of a list, and if it is verified.
pub fn primary_address(list: &AddressList, answer: &Value) -> Option<(String, bool)> {
    let items = match list.list {
        "" => answer.as_array(),
        pointer => answer.pointer(pointer).and_then(Value::as_array),
    };
    let is_primary = |item: &&Value| item[list.primary] == Value::Bool(true);
    let primary = items?.iter().find(is_primary)?;
    let email = primary[list.email].as_str()?.trim().to_owned();
    let is_verified = primary[list.verified] == Value::Bool(true);
    Some((email, is_verified))
}

/// A text, number or flag as text; empty if there is none.
fn text_at(pointer: &str, answer: &Value, token: &Value) -> String {
    if pointer.is_empty() {
        return String::new();
    }
    let found = match pointer.strip_prefix(TOKEN) {
        Some(rest) => token.pointer(rest),
        None => answer.pointer(pointer),
    };
    match found {
        Some(Value::String(text)) => text.trim().to_owned(),
        Some(Value::Number(number)) => number.to_string(),
        Some(Value::Bool(flag)) => flag.to_string(),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::model::providers::preset;

    fn user(name: &str, answer: &Value) -> Result<ProviderUser> {
        let token = json!({"access_token": "t", "email": "of@token"});
        read(&preset(name).unwrap().profile, answer, &token)
    }

    #[test]
    fn answers_are_read_where_each_provider_has_what() {
        let github = user(
            "github",
            &json!({"id": 7, "login": "ann", "name": "Ann",
            "email": "public@example.com", "avatar_url": "https://a/b"}),
        )
        .unwrap();
        assert_eq!((github.id.as_str(), github.username.as_str()), ("7", "ann"));
        // The public address may be any of its addresses; the list says which are verified.
        assert_eq!((github.email.as_str(), github.is_verified), ("", false));
        let google = user(
            "google",
            &json!({"sub": "g", "email": "a@b.co", "email_verified": true}),
        );
        let google = google.unwrap();
        assert_eq!(
            (google.email.as_str(), google.is_verified),
            ("a@b.co", true)
        );
        let apple = user(
            "apple",
            &json!({"sub": "a", "email": "a@b.co", "email_verified": "true"}),
        );
        assert!(apple.unwrap().is_verified);
        let microsoft = user("microsoft", &json!({"id": "m", "mail": "ceo@example.com"})).unwrap();
        assert_eq!(
            (microsoft.email.as_str(), microsoft.is_verified),
            ("ceo@example.com", false)
        );
        let vk = user(
            "vk",
            &json!({"response": [{"id": 1, "first_name": "A", "last_name": "B"}]}),
        );
        let vk = vk.unwrap();
        assert_eq!((vk.name.as_str(), vk.email.as_str()), ("A B", "of@token"));
    }

    #[test]
    fn who_is_unknown_or_not_active_is_refused() {
        assert!(user("github", &json!({"login": "ann"})).is_err());
        assert!(user("google", &json!({"sub": ""})).is_err());
        assert!(user("gitlab", &json!({"id": 1, "state": "blocked"})).is_err());
        assert!(user("slack", &json!({"ok": false, "error": "x"})).is_err());
    }

    #[test]
    fn only_the_primary_address_of_a_list_counts() {
        let list = preset("github").unwrap().addresses.unwrap();
        let found = primary_address(
            &list,
            &json!([
                {"email": "old@example.com", "primary": false, "verified": true},
                {"email": "new@example.com", "primary": true, "verified": false},
            ]),
        );
        assert_eq!(found, Some(("new@example.com".to_owned(), false)));
        assert_eq!(primary_address(&list, &json!([])), None);
        assert_eq!(primary_address(&list, &json!({"message": "no"})), None);
    }
}
