//! Hooks: payloads from outside a run, delivered in order, including those that arrive early.

use rusqlite::{OptionalExtension as _, params};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::base::error::{Error, Kind, Result};
use crate::services::workflows::codes::EventKind;
use crate::services::workflows::limits;
use crate::services::workflows::tx::{NewEvent, Run, Tx};

/// Stored instead of the token of a refused hook, so that the refusal is permanent.
pub const REFUSED_TOKEN: &str = "";

/// The data of the event of a hook. The metadata is not parsed.
#[derive(Deserialize)]
pub struct HookData {
    pub token: String,
    pub metadata: Option<Box<RawValue>>,
}

impl Tx<'_> {
    /// Creates a hook and returns its token. The same key returns the same hook. If another live
    /// hook has the token, the refusal is recorded, so that a replay finds it, and returned as
    /// `Ok(Err(_))`.
    pub fn create_hook(
        &mut self,
        run: &Run,
        key: &str,
        token: Option<&str>,
        metadata: Option<&str>,
    ) -> Result<Result<String>> {
        limits::check_key("key", key)?;
        let sql = "SELECT token FROM hooks WHERE run = ?1 AND key = ?2";
        let known: Option<String> = self
            .db
            .prepare_cached(sql)?
            .query_row(params![run.id, key], |row| row.get(0))
            .optional()?;
        match known.as_deref() {
            Some(REFUSED_TOKEN) => return Ok(Err(token_taken())),
            Some(known) => return Ok(Ok(known.to_owned())),
            None => {}
        }
        let token = match token {
            Some(token) => token.to_owned(),
            None => self.random_token(),
        };
        limits::check_key("token", &token)?;
        let data = hook_data(&token, metadata);
        limits::check_payload("metadata", &data)?;
        if self.hook(&token)?.is_some() {
            self.append(
                run.id,
                NewEvent::new(EventKind::HookConflict, key).data(&data),
            )?;
            let sql = "INSERT INTO hooks (run, key, token, disposed) VALUES (?1, ?2, ?3, ?4)";
            self.db
                .prepare_cached(sql)?
                .execute(params![run.id, key, REFUSED_TOKEN, self.now])?;
            return Ok(Err(token_taken()));
        }
        self.append(
            run.id,
            NewEvent::new(EventKind::HookCreated, key).data(&data),
        )?;
        let sql = "INSERT INTO hooks (run, key, token, metadata) VALUES (?1, ?2, ?3, ?4)";
        self.db
            .prepare_cached(sql)?
            .execute(params![run.id, key, token, metadata])?;
        Ok(Ok(token))
    }

    /// The run and key of the live hook with a token.
    pub fn hook(&self, token: &str) -> Result<Option<(i64, String)>> {
        let sql = "SELECT run, key FROM hooks WHERE token = ?1 AND disposed IS NULL";
        let mut statement = self.db.prepare_cached(sql)?;
        let hook = statement.query_row([token], |row| Ok((row.get(0)?, row.get(1)?)));
        Ok(hook.optional()?)
    }

    /// Delivers a payload; returns the run.
    pub fn receive(&mut self, token: &str, payload: &str) -> Result<i64> {
        limits::check_payload("A payload", payload)?;
        let (run, key) = self
            .hook(token)?
            .ok_or_else(|| Error::not_found("There is no hook with this token."))?;
        let seq = self.append(
            run,
            NewEvent::new(EventKind::HookReceived, &key).data(payload),
        )?;
        if seq > limits::EVENTS_MAX / 10 * 9 {
            // Leave room for the events of the run itself.
            return Err(Error::new(
                Kind::TooLarge,
                "The journal of the run is almost full; the run accepts no more payloads.",
            ));
        }
        self.wake_parked(run)?;
        Ok(run)
    }

    /// Delivers a payload to a hook of a run by its key.
    pub fn receive_by_key(&mut self, run: &Run, key: &str, payload: &str) -> Result<()> {
        let sql = "SELECT token FROM hooks WHERE run = ?1 AND key = ?2 AND disposed IS NULL";
        let token: Option<String> = self
            .db
            .prepare_cached(sql)?
            .query_row(params![run.id, key], |row| row.get(0))
            .optional()?;
        let token = token.ok_or_else(|| no_hook(key))?;
        self.receive(&token, payload).map(drop)
    }

    /// True if the run has this hook, disposed or not.
    pub fn has_hook(&self, run: i64, key: &str) -> Result<bool> {
        Ok(self.is_disposed(run, key)?.is_some())
    }

    /// Disposes a hook; a second call does nothing.
    pub fn dispose_hook(&mut self, run: &Run, key: &str) -> Result<()> {
        let sql = "UPDATE hooks SET disposed = ?3 WHERE run = ?1 AND key = ?2 AND disposed IS NULL";
        let values = params![run.id, key, self.now];
        if self.db.prepare_cached(sql)?.execute(values)? > 0 {
            self.append(run.id, NewEvent::new(EventKind::HookDisposed, key))?;
            // A request may dispose the hook while the run waits for a payload.
            return self.wake_parked(run.id);
        }
        match self.is_disposed(run.id, key)? {
            Some(_) => Ok(()),
            None => Err(no_hook(key)),
        }
    }

    /// True if a hook is disposed; none if it does not exist.
    fn is_disposed(&self, run: i64, key: &str) -> Result<Option<bool>> {
        let sql = "SELECT disposed IS NOT NULL FROM hooks WHERE run = ?1 AND key = ?2";
        let mut statement = self.db.prepare_cached(sql)?;
        Ok(statement
            .query_row(params![run, key], |row| row.get(0))
            .optional()?)
    }

    /// Refuses to wait for a hook that cannot receive a payload.
    pub fn check_hook(&self, run: i64, key: &str) -> Result<()> {
        match self.is_disposed(run, key)? {
            Some(false) => Ok(()),
            Some(true) => Err(Error::new(
                Kind::Gone,
                format!("The hook {key} accepts no more payloads."),
            )),
            None => Err(no_hook(key)),
        }
    }

    /// A token that cannot be guessed.
    pub fn random_token(&mut self) -> String {
        format!("{:016x}{:016x}", (self.random)(), (self.random)())
    }
}

fn token_taken() -> Error {
    Error::conflict("Another hook already has this token.")
}

fn no_hook(key: &str) -> Error {
    Error::not_found(format!("The run has no hook {key}."))
}

/// The JSON of the event of a new hook.
pub fn hook_data(token: &str, metadata: Option<&str>) -> String {
    let token = Value::from(token);
    match metadata {
        Some(metadata) => format!(r#"{{"token":{token},"metadata":{metadata}}}"#),
        None => format!(r#"{{"token":{token}}}"#),
    }
}
