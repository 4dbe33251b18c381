//! `vski admin`: admin accounts in the data directory.

use std::io::{BufRead as _, Write as _};
use std::path::Path;

use rustix::termios;

use super::arguments::flags;
use super::command::{CommandError, CommandResult, print};
use super::data_dir::{open_default, open_existing, refuse_replica};
use crate::base::error::{Error, Result, ResultExt as _};
use crate::config::Config;
use crate::model::auth::{admins, password};
use crate::store::db;

pub const HELP: &str = "\
Usage: vski admin create EMAIL | password EMAIL | delete EMAIL | list  [--data-dir DIR]

Works on the data directory, even while a server runs on it. A password is one line of stdin; on a
terminal it is requested twice and not shown.
";

pub fn run(args: &[String]) -> CommandResult {
    let (flags, free) = flags(args)?;
    if let Some(other) = flags.keys().find(|variable| **variable != "DATA_DIR") {
        return Err(CommandError::Usage(format!(
            "admin accepts only --data-dir, not {other}."
        )));
    }
    let words: Vec<&str> = free.iter().map(String::as_str).collect();
    let data_dir = Config::load_data_dir(&flags)?;
    if words != ["list"] {
        refuse_replica(&data_dir)?;
    }
    match words.as_slice() {
        ["create", email] => {
            db::refuse_emptied(&data_dir)?;
            refuse_known(&data_dir, email)?;
            let password = read_password()?;
            admins::check(email, &password)?;
            db::create_dir(&data_dir)?;
            let default = open_default(&data_dir)?;
            let admin = admins::create(
                &default,
                email,
                &password,
                admins::CreateWhen::Always,
                &password::hash,
            )?;
            default.close()?;
            let dir = std::path::absolute(&data_dir).unwrap_or(data_dir);
            print(&format!(
                "Admin {} created, in {}.\n",
                admin.email,
                dir.display()
            ))
        }
        ["password", email] => {
            let default = open_existing(&data_dir)?;
            admins::set_password(&default, email, &read_password()?)?;
            default.close()?;
            print(&format!(
                "Password of {email} changed; existing tokens are no longer valid.\n"
            ))
        }
        ["delete", email] => {
            let default = open_existing(&data_dir)?;
            admins::delete(&default, email)?;
            default.close()?;
            print(&format!("Admin {email} deleted.\n"))
        }
        ["list"] => {
            let default = open_existing(&data_dir)?;
            let list = admins::list(&default)?;
            default.close()?;
            list.iter()
                .try_for_each(|admin| print(&format!("{}  {}\n", admin.created, admin.email)))
        }
        _ => Err(CommandError::Usage(
            "admin needs a subcommand: create EMAIL, password EMAIL, delete EMAIL or list."
                .to_owned(),
        )),
    }
}

/// Refuses an address that is in use, before the password is read.
fn refuse_known(data_dir: &Path, email: &str) -> Result<()> {
    if !db::default_file(data_dir).exists() {
        return Ok(());
    }
    let default = open_default(data_dir)?;
    let is_known = admins::list(&default)?
        .iter()
        .any(|admin| admin.email == email);
    default.close()?;
    match is_known {
        true => Err(Error::conflict(
            "An admin with this e-mail address already exists.",
        )),
        false => Ok(()),
    }
}

/// Reads one line of stdin. On a terminal, asks twice and does not show the input.
fn read_password() -> Result<String> {
    let stdin = std::io::stdin();
    let Ok(before) = termios::tcgetattr(&stdin) else {
        return read_line();
    };
    let mut silent = before.clone();
    silent.local_modes.remove(termios::LocalModes::ECHO);
    termios::tcsetattr(&stdin, termios::OptionalActions::Flush, &silent)?;
    let lines = ask("Password: ").and_then(|first| Ok((first, ask("Again: ")?)));
    termios::tcsetattr(&stdin, termios::OptionalActions::Flush, &before)?;
    match lines? {
        (first, second) if first == second => Ok(first),
        _ => Err(Error::invalid(
            "The two passwords differ; nothing was changed.",
        )),
    }
}

fn ask(what: &str) -> Result<String> {
    let mut stderr = std::io::stderr().lock();
    let _ = write!(stderr, "{what}");
    let line = read_line();
    let _ = writeln!(stderr);
    line
}

fn read_line() -> Result<String> {
    let mut line = String::new();
    std::io::stdin()
        .lock()
        .read_line(&mut line)
        .context("read the password")?;
    Ok(line.trim_end_matches(['\n', '\r']).to_owned())
}
