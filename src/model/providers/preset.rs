//! The form of a preset: where a provider is asked, and where its answers have what.

/// All that is known of a provider beforehand. An empty text stands for nothing.
#[derive(Clone, Copy, Debug)]
pub struct Preset {
    pub name: &'static str,
    pub display_name: &'static str,
    /// The page at which the user consents.
    pub auth_url: &'static str,
    pub token_url: &'static str,
    /// Answers with the user; empty if the id token does.
    pub user_url: &'static str,
    pub scopes: &'static [&'static str],
    /// The provider knows PKCE.
    pub pkce: bool,
    /// Further parameters of the page.
    pub page_parameters: &'static [(&'static str, &'static str)],
    pub secret: SecretPlace,
    /// The query of a user by GraphQL; empty for a plain `GET`.
    pub query: &'static str,
    /// Headers of the request for the user. `{client_id}` stands for the id of the client.
    pub headers: &'static [(&'static str, &'static str)],
    pub profile: Profile,
    /// A list of addresses, at an URL of its own.
    pub addresses: Option<AddressList>,
    /// The issuer of id tokens and the address of its keys, for a provider without a `user_url`.
    pub id_token: Option<(&'static str, &'static str)>,
}

/// The place of the client secret in a request for a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecretPlace {
    Body,
    /// HTTP basic authentication.
    Header,
}

/// Places in the answer about a user, as JSON pointers (RFC 6901).
#[derive(Clone, Copy, Debug)]
pub struct Profile {
    pub id: &'static str,
    /// Parts of the name, to be joined by spaces.
    pub name: &'static [&'static str],
    pub username: &'static str,
    pub email: &'static str,
    pub verified: Verified,
    pub picture: &'static str,
    /// A value without which the account is refused: inactive, for instance.
    pub required: Option<(&'static str, &'static str)>,
}

/// Says if the provider has verified the address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verified {
    /// True, or the text `true`, stands here.
    At(&'static str),
    /// Something other than null stands here, such as a date.
    Present(&'static str),
    /// The provider shows verified addresses only, and documents that.
    Always,
    /// The provider does not say.
    Unknown,
}

/// A list of the addresses of a user.
#[derive(Clone, Copy, Debug)]
pub struct AddressList {
    /// Appended to the URL of the user.
    pub path: &'static str,
    /// The list in the answer, and the names in its items.
    pub list: &'static str,
    pub email: &'static str,
    /// The flag of the primary address; another address is not used.
    pub primary: &'static str,
    pub verified: &'static str,
}

/// The claims of OpenID Connect.
pub const CLAIMS: Profile = Profile {
    id: "/sub",
    name: &["/name"],
    username: "/preferred_username",
    email: "/email",
    verified: Verified::At("/email_verified"),
    picture: "/picture",
    required: None,
};

/// A provider of OpenID Connect of which only the settings tell more.
pub const OIDC: Preset = Preset {
    name: "oidc",
    display_name: "OIDC",
    auth_url: "",
    token_url: "",
    user_url: "",
    scopes: &["openid", "email", "profile"],
    pkce: true,
    page_parameters: &[],
    secret: SecretPlace::Body,
    query: "",
    headers: &[],
    profile: CLAIMS,
    addresses: None,
    id_token: None,
};
