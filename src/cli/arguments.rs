//! The arguments of a command: flags of the option table, flags of the command, and the rest.

use std::collections::HashMap;

use getopts::{Matches, Options};

use super::command::{CommandError, CommandResult};
use crate::config;
use crate::config::OPTIONS;

/// The flags of the option table by variable, and the other arguments.
pub fn flags(
    args: &[String],
) -> Result<(HashMap<&'static str, String>, Vec<String>), CommandError> {
    parse(args, &[], &[]).map(|parsed| (parsed.flags, parsed.free))
}

/// The arguments of a command.
pub struct Arguments {
    /// The flags of the option table by variable.
    pub flags: HashMap<&'static str, String>,
    /// The flags of the command, without their dashes.
    pub own: HashMap<String, String>,
    pub free: Vec<String>,
}

/// Parses the flags of the option table, and those of a command: `valued` ones have a value,
/// `switches` have none.
pub fn parse(
    args: &[String],
    valued: &[&str],
    switches: &[&str],
) -> Result<Arguments, CommandError> {
    let mut options = Options::new();
    for option in &OPTIONS {
        options.optopt("", &option.flag(), option.help, option.accepts);
    }
    for name in valued {
        options.optopt("", name, "", "");
    }
    for name in switches {
        options.optflag("", name, "");
    }
    let matches: Matches = options
        .parse(args)
        .map_err(|error| CommandError::Usage(format!("{error}.")))?;
    let given = |option: &config::Opt| matches.opt_str(&option.flag());
    let flags = OPTIONS
        .iter()
        .filter_map(|option| given(option).map(|value| (option.variable, value)))
        .collect();
    let mut own = HashMap::new();
    for name in valued.iter().chain(switches) {
        if matches.opt_present(name) {
            let value = matches.opt_str(name).unwrap_or_default();
            own.insert((*name).to_owned(), value);
        }
    }
    let free = matches.free;
    Ok(Arguments { flags, own, free })
}

pub fn no_arguments(args: &[String]) -> CommandResult {
    match args.first() {
        None => Ok(()),
        Some(extra) => Err(CommandError::Usage(format!("unexpected argument {extra}."))),
    }
}
