//! Signing in with a provider, as PocketBase's clients do it: the list of pages, and the code that
//! an application exchanges for a token.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::json_response;
use super::call::{Call, credentials};
use super::sign_in::{is_admins, realm, require, shape, with_meta};
use crate::base::error::{Error, Kind, Result};
use crate::base::log;
use crate::model::auth::accounts::Realm;
use crate::model::auth::provider_sign_in::{ProviderAccount, signed_in_account};
use crate::model::providers::{PRESETS, ProviderSettings, ProviderUser};
use crate::model::records::{Draft, RawBody, Scope};
use crate::model::rules::Identity;
use crate::net::http::Response;
use crate::services::oauth::{Grant, Page, no_provider};

/// Parts of a profile, and the attribute of `mappedFields` that names the field of each.
const PARTS: [&str; 4] = ["id", "name", "username", "avatarURL"];
/// The value of `@request.context` in the create rule.
const CONTEXT: &str = "oauth2";
/// Levels of a body that are parsed: the values of `createData` stay text.
const BODY_LEVELS: usize = 2;

#[derive(Deserialize)]
struct CodeBody {
    #[serde(default)]
    provider: String,
    #[serde(default)]
    code: String,
    #[serde(default, rename = "codeVerifier")]
    verifier: String,
    #[serde(default, rename = "redirectURL", alias = "redirectUrl")]
    redirect_url: String,
    #[serde(default, rename = "createData")]
    create_data: Option<RawBody>,
}

/// `oauth2` of the sign-in methods of a collection.
pub fn methods(call: &Call<'_>, realm: &Realm) -> Vec<Value> {
    let providers = realm.collection.auth.providers();
    let pages = providers.iter().filter_map(|provider| {
        // A provider that cannot be asked now does not hide the others.
        let page = call.app.oauth.new_page(provider, call.payer());
        let page = page.inspect_err(|error| log::warn(format_args!("{}: {error}", provider.name)));
        Some(describe(provider, &page.ok()?))
    });
    pages.collect()
}

fn describe(provider: &ProviderSettings, page: &Page) -> Value {
    let method = match page.challenge.is_empty() {
        true => "",
        false => "S256",
    };
    json!({
        "name": provider.name,
        "displayName": provider.shown_name(),
        "logo": "",
        "state": page.state,
        "authURL": page.url,
        // Where older clients read it.
        "authUrl": page.url,
        "codeVerifier": page.verifier,
        "codeChallenge": page.challenge,
        "codeChallengeMethod": method,
        "pkce": provider.pkce,
    })
}

/// The presets, for forms that add a provider.
pub fn presets(_: &Call<'_>) -> Result<Response> {
    let presets = PRESETS.iter();
    let list =
        presets.map(|it| json!({"name": it.name, "displayName": it.display_name, "logo": ""}));
    let generic = json!({"name": "oidc", "displayName": "OIDC", "logo": ""});
    let list: Vec<Value> = list.chain([generic]).collect();
    Ok(json_response(200, &json!(list)))
}

/// Exchanges the code of a provider for a token.
pub fn auth_with_oauth2(call: &Call<'_>) -> Result<Response> {
    if is_admins(call) {
        return Err(not_allowed());
    }
    let realm = realm(call)?;
    if !realm.collection.auth.has_providers() {
        return Err(not_allowed());
    }
    let body: CodeBody = call.body_to(BODY_LEVELS)?;
    require(&[
        ("provider", &body.provider),
        ("code", &body.code),
        ("redirectURL", &body.redirect_url),
    ])?;
    let provider = provider(&realm, &body.provider)?;
    let attempt = call
        .app
        .auth
        .count_provider_sign_in(&realm, call.client())?;
    let grant = Grant {
        database: call.database,
        collection: &realm.collection.name,
        code: &body.code,
        verifier: &body.verifier,
        redirect_url: &body.redirect_url,
    };
    let user = call.app.oauth.user(&provider, &grant, call.payer())?;
    let identity = caller(call)?;
    let data = body.create_data.unwrap_or_default();
    let account = account(call, &realm, &user, &identity, &data)?;
    attempt.refund();
    let (shape, asker) = (shape(call)?, call.asker());
    let session = call
        .app
        .auth
        .provider_session(&realm, &account.id, &shape, asker)?;
    Ok(with_meta("record", &session, &user.meta(account.is_new)))
}

fn not_allowed() -> Error {
    Error::new(
        Kind::Forbidden,
        "The collection is not configured to allow OAuth2 authentication.",
    )
}

/// A provider of a collection.
pub fn provider(realm: &Realm, name: &str) -> Result<ProviderSettings> {
    let providers = realm.collection.auth.providers();
    let mut providers = providers.into_iter();
    providers
        .find(|it| it.name == name)
        .ok_or_else(|| no_provider(name))
}

/// The caller, if its credentials are valid. Others are ignored: an expired token must not prevent
/// a new sign-in.
fn caller(call: &Call<'_>) -> Result<Identity> {
    match call
        .app
        .auth
        .identify(credentials(call.request), call.database)
    {
        Err(error) if matches!(error.kind(), Kind::Internal | Kind::Unavailable) => Err(error),
        identity => Ok(identity.unwrap_or(Identity::Anonymous)),
    }
}

/// Finds or creates the account of a user of a provider.
pub fn account(
    call: &Call<'_>,
    realm: &Realm,
    user: &ProviderUser,
    identity: &Identity,
    data: &RawBody,
) -> Result<ProviderAccount> {
    let mut scope = scope(call, realm)?;
    scope.facts.context = CONTEXT;
    if matches!(identity, Identity::Admin(_)) {
        scope.identity = identity.clone();
    }
    let signed_in = signed_in_account(identity);
    let mut mapped = mapped_fields(realm, user, data)?;
    loop {
        let make = || draft(call, &scope, realm, user, data, &mapped);
        let auth = &call.app.auth;
        let found = auth.account_of_provider(realm, user, signed_in, &scope, &make);
        // A part of the profile that does not fit its field, or is taken, is left out.
        match found {
            Err(error) if drop_invalid(&mut mapped, &error) => {}
            found => return found,
        }
    }
}

/// The definitions of the database of the accounts. A provider leads browsers back to the same URL
/// for all databases.
fn scope(call: &Call<'_>, realm: &Realm) -> Result<Scope> {
    let scope = call.scope()?;
    Ok(match realm.database_name() == call.database {
        true => scope,
        false => Scope {
            collections: call.app.catalog.collections(realm.database_name())?,
            ..scope
        },
    })
}

/// Values for the fields that the collection fills from a profile. What the application sends comes
/// first.
fn mapped_fields(
    realm: &Realm,
    user: &ProviderUser,
    data: &RawBody,
) -> Result<BTreeMap<String, Value>> {
    let mut mapped = BTreeMap::new();
    for part in PARTS {
        let field = realm.collection.auth.mapped_field(part);
        let value = match part {
            "id" => &user.id,
            "name" => &user.name,
            "username" => &user.username,
            _ => &user.picture,
        };
        let is_there = realm.collection.field(field).is_some();
        if is_there && !value.is_empty() && !data.contains_key(field) {
            mapped.insert(field.to_owned(), json!(value));
        }
    }
    Ok(mapped)
}

/// Removes the fields that an error names; false if it names none of them.
fn drop_invalid(mapped: &mut BTreeMap<String, Value>, error: &Error) -> bool {
    let named: BTreeSet<&String> = error.field_errors().keys().collect();
    let before = mapped.len();
    mapped.retain(|field, _| !named.contains(field));
    mapped.len() < before
}

fn draft(
    call: &Call<'_>,
    scope: &Scope,
    realm: &Realm,
    user: &ProviderUser,
    data: &RawBody,
    mapped: &BTreeMap<String, Value>,
) -> Result<Draft> {
    let mut body = data.clone();
    for (field, value) in mapped {
        body.insert(field.clone(), serde_json::value::to_raw_value(value)?);
    }
    let text = |name: &str| -> Option<String> { serde_json::from_str(data.get(name)?.get()).ok() };
    let email = text("email").filter(|it| !it.is_empty());
    if email.is_none() && !user.email.is_empty() {
        let value = serde_json::value::to_raw_value(&user.email)?;
        body.insert("email".to_owned(), value);
    }
    let is_its = email.is_none_or(|it| it.eq_ignore_ascii_case(&user.email));
    let hash = |password: &str| call.hash(password);
    let mut draft = Draft::create(scope, &realm.collection, &body, &hash)?;
    draft.sign_in_with_provider(&realm.collection, user.is_verified && is_its);
    Ok(draft)
}
