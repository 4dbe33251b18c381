//! Providers with which accounts sign in, over OAuth2 and OpenID Connect: the table of presets, the
//! settings of a collection, and the user that a provider describes.
//!
//! Nothing here asks a provider; `services::oauth` does.

pub use preset::{AddressList, Profile, SecretPlace, Verified};
pub use presets::PRESETS;
#[cfg(test)]
pub use presets::preset;
pub use settings::{ProviderSettings, check_providers, check_redirects};
pub use urls::{admitted_redirect, encode_form, with_parameters};
pub use user::ProviderUser;

mod preset;
mod presets;
mod settings;
mod urls;
mod user;
