//! The URLs of a provider: those of its settings, else those of its issuer's discovery document
//! (OpenID Connect Discovery 1.0), else those of its preset.

use serde_json::Value;

use super::cache::DocumentCache;
use super::fetch::{Deadline, Fetcher, unavailable};
use crate::base::error::{Error, Result};
use crate::model::providers::ProviderSettings;

/// The discovery document of an issuer.
pub struct Discovery {
    issuer: String,
    page: String,
    token: String,
    user: String,
    keys: String,
}

/// The URLs of a provider. An empty one does not exist.
pub struct Endpoints {
    pub page: String,
    pub token: String,
    pub user: String,
    /// The keys of its id tokens; if there are none, the provider has no id tokens.
    pub keys: String,
    /// The issuers of id tokens; empty for any.
    pub issuers: Vec<String>,
}

impl Endpoints {
    /// Finds the URLs; asks the issuer if the cache has no document of it.
    pub fn find(
        provider: &ProviderSettings,
        documents: &DocumentCache<Discovery>,
        fetcher: &Fetcher,
        until: Deadline,
    ) -> Result<Endpoints> {
        let preset = provider.preset;
        let mut found = match provider.issuer.as_str() {
            "" => {
                let (issuer, keys) = preset.id_token.unwrap_or_default();
                Endpoints {
                    page: preset.auth_url.to_owned(),
                    token: preset.token_url.to_owned(),
                    user: preset.user_url.to_owned(),
                    keys: keys.to_owned(),
                    issuers: Some(issuer.to_owned())
                        .filter(|it| !it.is_empty())
                        .into_iter()
                        .collect(),
                }
            }
            issuer => {
                let document = documents.get(issuer, until, || ask(issuer, fetcher, until))?;
                Endpoints {
                    page: document.page.clone(),
                    token: document.token.clone(),
                    user: document.user.clone(),
                    keys: document.keys.clone(),
                    issuers: vec![document.issuer.clone()],
                }
            }
        };
        for (url, own) in [
            (&mut found.page, provider.auth_url.as_str()),
            (&mut found.token, &provider.token_url),
            (&mut found.user, &provider.user_url),
            (&mut found.keys, provider.extra("jwksURL")),
        ] {
            if !own.is_empty() {
                own.clone_into(url);
            }
        }
        let own = provider.extra_list("issuers");
        if !own.is_empty() {
            found.issuers = own.into_iter().map(str::to_owned).collect();
        }
        Ok(found)
    }
}

fn ask(issuer: &str, fetcher: &Fetcher, until: Deadline) -> Result<Discovery> {
    let base = issuer.trim_end_matches('/');
    let url = format!("{base}/.well-known/openid-configuration");
    read(issuer, &fetcher.get(&url, &[], until)?)
}

fn read(issuer: &str, document: &Value) -> Result<Discovery> {
    let text = |name: &str| document[name].as_str().unwrap_or_default().to_owned();
    let wrong = |why: &str| Err(unavailable().context(format!("{issuer}: {why}")));
    let found = Discovery {
        issuer: text("issuer"),
        page: text("authorization_endpoint"),
        token: text("token_endpoint"),
        user: text("userinfo_endpoint"),
        keys: text("jwks_uri"),
    };
    if found.issuer != issuer {
        return wrong("the discovery document is of another issuer");
    }
    let scheme = if issuer.starts_with("https:") {
        "https://"
    } else {
        "http"
    };
    for url in [&found.page, &found.token, &found.keys] {
        if !url.starts_with(scheme) {
            return wrong("the discovery document lacks an URL, or has one that is not secure");
        }
    }
    if !found.user.is_empty() && !found.user.starts_with(scheme) {
        return wrong("the discovery document has an URL that is not secure");
    }
    Ok(found)
}

/// The error for a provider that a collection does not have.
pub fn no_provider(name: &str) -> Error {
    Error::field(
        "provider",
        "validation_invalid_provider",
        format!("Provider with name {name} is missing or is not enabled."),
    )
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_document_is_of_its_issuer_and_no_less_secure() {
        let check = |name: &str, value: &str| {
            let mut document = json!({"issuer": "https://id.example",
                "authorization_endpoint": "https://id.example/a",
                "token_endpoint": "https://id.example/t", "jwks_uri": "https://id.example/k"});
            document[name] = json!(value);
            read("https://id.example", &document).is_ok()
        };
        assert!(check("userinfo_endpoint", "https://id.example/u"));
        for (name, value) in [
            ("issuer", "https://evil.example"),
            ("issuer", "https://id.example/"),
            ("token_endpoint", "http://id.example/t"),
            ("token_endpoint", ""),
            ("jwks_uri", "file:///etc/passwd"),
            ("userinfo_endpoint", "http://id.example/u"),
        ] {
            assert!(!check(name, value), "{name} {value}");
        }
    }
}
