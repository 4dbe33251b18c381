//! The settings of a provider, an item of `oauth2.providers` of a collection.
//!
//! Names and meaning of the attributes are those of PocketBase. Added are `issuer`, and in `extra`
//! `scopes`, `trustEmail`, `teamId` and `keyId`.

use serde_json::{Map, Value, json};

use super::preset::{OIDC, Preset};
use super::presets::preset;
use super::urls::{is_provider_url, is_redirect_target};

const NAME_BYTES_MAX: usize = 64;
const TEXT_BYTES_MAX: usize = 4096;
const REDIRECTS_MAX: usize = 50;
const TEXTS: [&str; 8] = [
    "name",
    "clientId",
    "clientSecret",
    "authURL",
    "tokenURL",
    "userInfoURL",
    "issuer",
    "displayName",
];

/// A provider of a collection.
#[derive(Clone, Debug)]
pub struct ProviderSettings {
    pub name: String,
    pub client_id: String,
    /// Empty if it comes from the environment, or the client has none.
    pub client_secret: String,
    pub auth_url: String,
    pub token_url: String,
    pub user_url: String,
    /// The issuer of OpenID Connect whose discovery document has the URLs; empty for none.
    pub issuer: String,
    pub display_name: String,
    pub pkce: Option<bool>,
    extra: Map<String, Value>,
    pub preset: &'static Preset,
}

impl ProviderSettings {
    /// Reads stored settings.
    pub fn read(json: &Value) -> ProviderSettings {
        let text = |name: &str| json[name].as_str().unwrap_or_default().to_owned();
        ProviderSettings {
            name: text("name"),
            client_id: text("clientId"),
            client_secret: text("clientSecret"),
            auth_url: text("authURL"),
            token_url: text("tokenURL"),
            user_url: text("userInfoURL"),
            issuer: text("issuer"),
            display_name: text("displayName"),
            pkce: json["pkce"].as_bool(),
            extra: json["extra"].as_object().cloned().unwrap_or_default(),
            preset: preset(&text("name")).unwrap_or(&OIDC),
        }
    }

    /// A text of `extra`.
    pub fn extra(&self, name: &str) -> &str {
        let value = self.extra.get(name).and_then(Value::as_str);
        value.unwrap_or_default()
    }

    /// The texts of a list of `extra`.
    pub fn extra_list(&self, name: &str) -> Vec<&str> {
        let list = self.extra.get(name).and_then(Value::as_array);
        let items = list.into_iter().flatten();
        items.filter_map(Value::as_str).collect()
    }

    /// Every address of this provider counts as verified.
    pub fn trusts_email(&self) -> bool {
        self.extra.get("trustEmail") == Some(&Value::Bool(true))
    }

    /// The scopes to ask for.
    pub fn scopes(&self) -> Vec<&str> {
        let own = self.extra_list("scopes");
        match own.is_empty() {
            true => self.preset.scopes.to_vec(),
            false => own,
        }
    }

    /// The name for users.
    pub fn shown_name(&self) -> &str {
        match self.display_name.as_str() {
            "" => self.preset.display_name,
            name => name,
        }
    }

    pub fn has_pkce(&self) -> bool {
        self.pkce.unwrap_or(self.preset.pkce)
    }
}

/// A function that takes the problems of a definition: attribute, code, sentence.
pub type AddProblem<'a> = &'a mut dyn FnMut(&str, &'static str, String);

/// Gives each provider all attributes, and none that does not exist; adds a problem for each that
/// cannot be.
pub fn check_providers(list: &mut [Value], add: AddProblem<'_>) {
    let mut names: Vec<String> = Vec::new();
    for (at, value) in list.iter_mut().enumerate() {
        let key = |name: &str| format!("oauth2.providers.{at}.{name}");
        let Value::Object(given) = &*value else {
            add(
                &format!("oauth2.providers.{at}"),
                "validation_invalid_value",
                "Must be an object.".to_owned(),
            );
            continue;
        };
        for name in TEXTS {
            let is_good = match given.get(name) {
                None | Some(Value::Null) => true,
                Some(Value::String(text)) => text.len() <= TEXT_BYTES_MAX,
                Some(_) => false,
            };
            if !is_good {
                let message = format!("Must be a text of at most {TEXT_BYTES_MAX} bytes.");
                add(&key(name), "validation_invalid_value", message);
            }
        }
        *value = complete(given);
        let found = ProviderSettings::read(value);
        check_provider(&found, &names, &mut |name, code, message| {
            add(&key(name), code, message);
        });
        names.push(found.name);
    }
}

/// The settings with all attributes.
fn complete(given: &Map<String, Value>) -> Value {
    let text = |name: &str| given.get(name).and_then(Value::as_str).unwrap_or_default();
    let mut all = json!({
        "pkce": given.get("pkce").and_then(Value::as_bool),
        "extra": given.get("extra").and_then(Value::as_object).cloned().unwrap_or_default(),
    });
    for name in TEXTS {
        all[name] = json!(text(name).trim());
    }
    all
}

fn check_provider(found: &ProviderSettings, names: &[String], add: AddProblem<'_>) {
    const REQUIRED: &str = "validation_required";
    let name = found.name.as_str();
    let is_name =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_".contains(&byte);
    if name.is_empty() {
        add("name", REQUIRED, "A provider needs a name.".to_owned());
    } else if name.len() > NAME_BYTES_MAX || !name.bytes().all(is_name) {
        let message = format!("Must be 1 to {NAME_BYTES_MAX} of a-z, 0-9, - and _.");
        add("name", "validation_invalid_format", message);
    } else if names.iter().any(|other| other == name) {
        let message = format!("The provider {name} is already registered.");
        add("name", "validation_duplicated_provider", message);
    }
    if found.client_id.is_empty() {
        add("clientId", REQUIRED, "Cannot be blank.".to_owned());
    }
    for (attribute, url) in [
        ("authURL", &found.auth_url),
        ("tokenURL", &found.token_url),
        ("userInfoURL", &found.user_url),
        ("issuer", &found.issuer),
    ] {
        if !url.is_empty() && !is_provider_url(url) {
            let message = "Must be an http or https URL.".to_owned();
            add(attribute, "validation_is_url", message);
        }
    }
    let jwks = found.extra("jwksURL");
    if !jwks.is_empty() && !is_provider_url(jwks) {
        let message = "jwksURL must be an http or https URL.".to_owned();
        add("extra", "validation_is_url", message);
    }
    if !found.issuer.is_empty() {
        return;
    }
    let is_known = preset(name).is_some();
    for (attribute, url, preset_url) in [
        ("authURL", &found.auth_url, found.preset.auth_url),
        ("tokenURL", &found.token_url, found.preset.token_url),
    ] {
        if url.is_empty() && preset_url.is_empty() {
            let (code, message) = match is_known || name.starts_with("oidc") {
                true => (REQUIRED, format!("{name} needs an issuer, or this URL.")),
                false => (
                    "validation_missing_provider",
                    format!("There is no preset {name}; give it an issuer, or this URL."),
                ),
            };
            add(attribute, code, message);
        }
    }
    let describes = !found.user_url.is_empty()
        || !found.preset.user_url.is_empty()
        || found.preset.id_token.is_some()
        || !jwks.is_empty();
    if !describes {
        let message = format!("{name} needs an issuer, this URL, or extra.jwksURL.");
        add("userInfoURL", REQUIRED, message);
    }
}

/// Adds a problem for each target of redirects that cannot be one.
pub fn check_redirects(list: &[Value], add: AddProblem<'_>) {
    if list.len() > REDIRECTS_MAX {
        let message = format!("At most {REDIRECTS_MAX} targets.");
        add("oauth2.redirects", "validation_invalid_value", message);
    }
    for (at, value) in list.iter().enumerate() {
        if !value.as_str().is_some_and(is_redirect_target) {
            let message = "Must be a URL such as https://app.example/signed-in, without query, \
                           fragment and user."
                .to_owned();
            let key = format!("oauth2.redirects.{at}");
            add(&key, "validation_is_url", message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(list: &Value) -> Vec<String> {
        let mut found = Vec::new();
        let mut list = list.as_array().unwrap().clone();
        check_providers(&mut list, &mut |key, code, _| {
            found.push(format!("{key} {code}"));
        });
        found
    }

    #[test]
    fn a_preset_needs_only_a_client_and_others_need_urls() {
        let oidc = json!({"name": "oidc", "clientId": "c", "authURL": "https://a/b",
            "tokenURL": "https://a/c", "userInfoURL": "https://a/d"});
        for good in [
            json!([{"name": "google", "clientId": "c"}, {"name": "github", "clientId": "d"}]),
            json!([{"name": "mine", "clientId": "c", "issuer": "https://id.example"}]),
            json!([oidc]),
        ] {
            assert!(problems(&good).is_empty(), "{good}: {:?}", problems(&good));
        }
        for (wrong, problem) in [
            (json!([{"name": "google"}]), "clientId validation_required"),
            (
                json!([{"clientId": "c", "issuer": "https://a"}]),
                "name validation_required",
            ),
            (
                json!([{"name": "oidc", "clientId": "c", "issuer": "ftp://a"}]),
                "issuer validation_is_url",
            ),
            (
                json!([{"name": "google", "clientId": "c", "authURL": "zz"}]),
                "authURL validation_is_url",
            ),
            (
                json!([{"name": "nope", "clientId": "c"}]),
                "authURL validation_missing_provider",
            ),
            (
                json!([{"name": "google", "clientId": 1}]),
                "clientId validation_invalid_value",
            ),
            (
                json!([{"name": "A/b", "clientId": "c", "issuer": "https://a"}]),
                "name validation_invalid_format",
            ),
        ] {
            let key = format!("oauth2.providers.0.{problem}");
            assert!(
                problems(&wrong).contains(&key),
                "{wrong}: {:?}",
                problems(&wrong)
            );
        }
        let twice = json!([oidc, oidc]);
        let key = "oauth2.providers.1.name validation_duplicated_provider".to_owned();
        assert_eq!(problems(&twice), [key]);
    }

    #[test]
    fn a_target_of_redirects_is_an_absolute_url_without_query() {
        let count = |target: &str| {
            let mut count = 0;
            check_redirects(&[json!(target)], &mut |_, _, _| count += 1);
            count
        };
        for good in ["https://a/b", "http://localhost:3000", "com.example:/in"] {
            assert_eq!(count(good), 0, "{good}");
        }
        for wrong in [
            "/a",
            "https://a/b?c",
            "https://a/#b",
            "javascript:a",
            "https://u@a/",
            "",
        ] {
            assert_eq!(count(wrong), 1, "{wrong}");
        }
    }
}
