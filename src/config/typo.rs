//! Environment variables that look like a misspelled option.

use super::OPTIONS;

/// Shorter names are not compared, since many programs have such variables.
const NAME_BYTES_MIN: usize = 4;

/// Variables that are set and probably meant an option, each with that option.
pub fn misspelled() -> Vec<(String, &'static str)> {
    // Kubernetes sets VSKI_PORT=tcp://... for a service of that name.
    let own = |value: &std::ffi::OsString| !value.to_string_lossy().starts_with("tcp://");
    let variables = std::env::vars_os().filter(|(_, value)| own(value));
    let names = variables.filter_map(|(name, _)| name.into_string().ok());
    let found = names.filter_map(|name| meant(&name).map(|option| (name, option)));
    found.collect()
}

/// The option that a name probably meant; none for the name of an option.
fn meant(name: &str) -> Option<&'static str> {
    let is_option = |name: &str| OPTIONS.iter().any(|option| option.variable == name);
    if name.len() < NAME_BYTES_MIN || is_option(name) {
        return None;
    }
    let plain = |name: &str| name.to_ascii_uppercase().replace('-', "_");
    // Many programs prefix their variables.
    if let Some(rest) = name.strip_prefix("VSKI_") {
        let mut options = OPTIONS.iter().map(|option| option.variable);
        return options.find(|option| *option == rest);
    }
    let close = |option: &&str| {
        plain(name) == **option
            || plain(name).replace('_', "") == option.replace('_', "")
            || is_slip(name, option)
    };
    let options = OPTIONS.iter().map(|option| option.variable);
    options
        .filter(|option| option.len() >= NAME_BYTES_MIN)
        .find(close)
}

/// True if one typing error turns one name into the other: a letter added, left out or replaced, or
/// two adjacent letters swapped.
fn is_slip(a: &str, b: &str) -> bool {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    let same = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    let (a, b) = (&a[same..], &b[same..]);
    match (a, b) {
        ([_, a @ ..], b) if a == b => true,
        (a, [_, b @ ..]) if a == b => true,
        ([_, a @ ..], [_, b @ ..]) if a == b => true,
        ([a1, a2, a @ ..], [b1, b2, b @ ..]) => a1 == b2 && a2 == b1 && a == b,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_noticed_and_other_names_left_alone() {
        for (name, option) in [
            ("PROT", Some("PORT")),
            ("THREDS", Some("THREADS")),
            ("DATADIR", Some("DATA_DIR")),
            ("Data-Dir", Some("DATA_DIR")),
            ("JWT_SECRETS", Some("JWT_SECRET")),
            ("MASTER_ULR", Some("MASTER_URL")),
            ("port", Some("PORT")),
            ("VSKI_PORT", Some("PORT")),
            ("VSKI_LOG", Some("LOG")),
            ("VSKI_TOKEN", None),
            ("PORT", None),
            ("PATH", None),
            ("HOME", None),
            ("LANG", None),
            ("TERM", None),
            ("LOGS", None),
            ("SHELL", None),
        ] {
            assert_eq!(meant(name), option, "{name}");
        }
    }
}
