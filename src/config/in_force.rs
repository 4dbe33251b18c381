//! The options in force: the value of each and where it comes from. A secret has no value here.

use super::options::Opt;

/// The place that gave an option its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OptionSource {
    Flag,
    Environment,
    File,
    Default,
}

impl OptionSource {
    pub fn name(self) -> &'static str {
        match self {
            OptionSource::Flag => "flag",
            OptionSource::Environment => "environment",
            OptionSource::File => "file",
            OptionSource::Default => "default",
        }
    }
}

/// An option as administrators see it.
pub struct OptionInForce {
    pub option: &'static Opt,
    pub source: OptionSource,
    /// The value; none for a secret.
    pub value: Option<String>,
}

/// Ends of names that stand for credentials.
const SECRET_ENDS: [&str; 4] = ["_KEY", "_SECRET", "_PASSWORD", "_TOKEN"];

impl OptionInForce {
    /// `is_secret` hides the value, and so do a name like that of a credential and a user in a URL.
    pub fn new(
        option: &'static Opt,
        source: OptionSource,
        value: String,
        is_secret: bool,
    ) -> OptionInForce {
        let has_user = value.contains("://") && value.contains('@');
        let is_credential = SECRET_ENDS.iter().any(|end| option.variable.ends_with(end));
        OptionInForce {
            option,
            source,
            value: (!is_secret && !is_credential && !has_user).then_some(value),
        }
    }
}
