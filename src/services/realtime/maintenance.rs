//! Work that is due by time or by a change of identity: expired credentials, idle connections,
//! changed definitions.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering::SeqCst;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::broker::{Broker, shown};
use super::credential_checks::{CheckPurpose, CredentialCheck};
use super::frames;
use super::registry::{IdentifiedCaller, SessionId};
use crate::base::clock;
use crate::base::error::{Error, Kind, Result};
use crate::model::auth::{Credentials, StoredCredentials};
use crate::model::rules::{Identity, User};

/// Interval of credential checks: a deleted key is noticed at most this late.
const CHECK_EVERY: Duration = Duration::from_secs(10);
const CHECKS_AT_A_TIME: usize = 256;
/// Longest time for which a connection may have no subscription.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// The same for a connection that waits for a sign-in with a provider.
const SIGN_IN_MAX: Duration = Duration::from_secs(600);
/// Close code of RFC 6455, section 7.4.1.
const POLICY: u16 = 1008;

impl Broker<'_> {
    /// Called about four times a second.
    pub fn tick(&mut self, now: Instant) {
        self.end_expired(clock::now_ms());
        self.check_passes(now);
        self.close_idle(now);
        for group in self.registry.stale_groups() {
            self.regroup(group);
        }
        self.resync_skipped();
        self.forget_usage(now);
        self.replay_buffer.evict(now);
        for collection in self.replay_buffer.unwatched(now) {
            self.context.events.unwatch(&collection);
        }
    }

    pub fn end_expired(&mut self, now_ms: i64) {
        let sessions = self.registry.sessions.iter();
        let expired = sessions.filter(|(_, session)| {
            let end = session.caller.expires_ms;
            end.is_some_and(|end| end <= now_ms)
        });
        let expired: Vec<SessionId> = expired.map(|(id, _)| *id).collect();
        for session in expired {
            let error = Error::new(Kind::Unauthenticated, "The token has expired.");
            self.revoke(session, &error);
        }
    }

    fn check_passes(&mut self, now: Instant) {
        let sessions = self.registry.sessions.iter();
        let due = sessions.filter(|(_, session)| {
            let pass = &session.caller.pass;
            !pass.is_empty() && now.saturating_duration_since(pass.checked) > CHECK_EVERY
        });
        let due: Vec<SessionId> = due.map(|(id, _)| *id).take(CHECKS_AT_A_TIME).collect();
        for session in due {
            self.recheck(session);
        }
    }

    fn close_idle(&mut self, now: Instant) {
        for session in self.registry.sessions.values_mut() {
            let idle_max = match session.awaits_sign_in {
                true => SIGN_IN_MAX,
                false => IDLE_MAX,
            };
            let is_idle = |since: Instant| now.saturating_duration_since(since) > idle_max;
            if session.idle_since.is_some_and(is_idle) {
                session.idle_since = None;
                session.handle.close(POLICY, "no subscription for a minute");
            }
        }
    }

    /// Requests a credential check. Returns its number, or none if the session has no credentials.
    pub fn recheck(&mut self, id: SessionId) -> Option<u64> {
        let session = self.registry.sessions.get_mut(&id)?;
        let (pass, checks) = (&mut session.caller.pass, &mut session.checks);
        if pass.is_empty() {
            return None;
        }
        if checks.is_queued.load(SeqCst) {
            return Some(checks.asked);
        }
        pass.checked = Instant::now();
        checks.asked += 1;
        self.context.checks.push(CredentialCheck {
            session: id,
            database: session.database.clone(),
            pass: pass.clone(),
            purpose: CheckPurpose::Recheck {
                number: checks.asked,
                generation: checks.generation,
            },
            is_queued: Arc::clone(&checks.is_queued),
        });
        Some(checks.asked)
    }

    /// Applies the result of a check, unless the identity has changed since it was requested.
    pub fn finish_recheck(
        &mut self,
        id: SessionId,
        number: u64,
        generation: u64,
        found: Result<IdentifiedCaller>,
    ) {
        let Some(session) = self.registry.sessions.get_mut(&id) else {
            return;
        };
        session.checks.answered = number;
        if session.checks.generation == generation {
            match found {
                // Keep the identity, which was valid a moment ago, until the next check.
                Err(error) if error.kind() == Kind::Unavailable => {}
                found => self.apply_identity(id, found),
            }
        }
    }

    /// Applies a changed account to a session. `account` is none if it was deleted or is unknown.
    /// `known` is the identity found for another session, reused for equal credentials.
    pub fn update_account(
        &mut self,
        id: SessionId,
        account: Option<&Arc<User>>,
        known: &mut Option<IdentifiedCaller>,
    ) {
        let Some(session) = self.registry.sessions.get_mut(&id) else {
            return;
        };
        // Results of checks in progress no longer count.
        session.checks.generation += 1;
        let (pass, database) = (session.caller.pass.clone(), session.database.clone());
        let found = match known.take() {
            Some(caller) if caller.pass.is_same(&pass) => Ok(caller),
            _ => self.context.caller(pass.credentials(), &database),
        };
        match found {
            Ok(caller) => {
                *known = Some(caller.clone());
                self.apply_identity(id, Ok(as_account(caller, account)));
            }
            // The credentials were valid a moment ago, and their account is known.
            Err(error) if error.kind() == Kind::Unavailable && account.is_some() => {
                let caller = as_account(session.caller.clone(), account);
                self.apply_identity(id, Ok(caller));
                self.recheck(id);
            }
            Err(error) => self.apply_identity(id, Err(error)),
        }
    }

    /// Applies an identity. If it has changed, the subscriptions are regrouped; if the credentials
    /// are invalid, they end.
    fn apply_identity(&mut self, id: SessionId, found: Result<IdentifiedCaller>) {
        let before = self
            .registry
            .sessions
            .get(&id)
            .map(|it| &it.caller.identity);
        match found {
            Ok(caller) if before == Some(&caller.identity) => {}
            Ok(caller) => {
                self.set_caller(id, caller);
                self.regroup_session(id);
            }
            Err(error) => self.revoke(id, &shown(error)),
        }
    }

    /// Requests the check for a sign-in. Later frames of the session wait for the result.
    pub fn check_sign_in(&mut self, id: SessionId, reference: Value, token: &str) {
        let Some(session) = self.registry.sessions.get_mut(&id) else {
            return;
        };
        session.checks.later = Some(VecDeque::new());
        self.context.checks.push(CredentialCheck {
            session: id,
            database: session.database.clone(),
            pass: StoredCredentials::new(Credentials {
                authorization: Some(token),
                api_key: None,
            }),
            purpose: CheckPurpose::SignIn(reference),
            is_queued: Arc::default(),
        });
    }

    pub fn sign_out(&mut self, id: SessionId) -> Result<()> {
        let Some(session) = self.registry.sessions.get(&id) else {
            return Ok(());
        };
        let anonymous = self
            .context
            .caller(Credentials::default(), &session.database)?;
        self.sign_in(id, anonymous)
    }

    /// Signs an identity in. Subscriptions of another account end.
    pub fn sign_in(&mut self, id: SessionId, caller: IdentifiedCaller) -> Result<()> {
        let Some(session) = self.registry.sessions.get(&id) else {
            return Ok(());
        };
        let is_same = match (&caller.identity, &session.caller.identity) {
            (Identity::User(now), Identity::User(before)) => now.id == before.id,
            (now, before) => now == before,
        };
        // Subscriptions of an anonymous caller continue with the new identity.
        let was_anonymous = session.caller.identity == Identity::Anonymous;
        if !is_same && !was_anonymous {
            let error = Error::new(Kind::Unauthenticated, "Another account has signed in.");
            self.end_all(id, &error);
        }
        self.set_caller(id, caller);
        self.regroup_session(id);
        Ok(())
    }

    pub fn set_caller(&mut self, id: SessionId, caller: IdentifiedCaller) {
        let Some(session) = self.registry.sessions.get(&id) else {
            return;
        };
        let database = session.database.clone();
        let before = session.caller.identity.clone();
        self.watch_account(&database, &caller.identity);
        self.unwatch_account(&before);
        self.registry.set_caller(id, caller);
    }

    fn unwatch_account(&mut self, identity: &Identity) {
        if let Identity::User(user) = identity {
            self.replay_buffer
                .unwatch(&user.collection_id, Instant::now());
        }
    }

    /// Assigns the subscriptions of a session to the groups of its present identity.
    pub fn regroup_session(&mut self, id: SessionId) {
        let Some(session) = self.registry.sessions.get(&id) else {
            return;
        };
        let names: Vec<String> = session.subs.keys().cloned().collect();
        for name in names {
            self.regroup_subscription(id, &name);
        }
    }

    /// Assigns a subscription to its group by the current definitions and caller. It ends if that
    /// is not allowed any more.
    pub fn regroup_subscription(&mut self, id: SessionId, name: &str) {
        let Some(session) = self.registry.sessions.get(&id) else {
            return;
        };
        let (database, caller) = (session.database.clone(), session.caller.clone());
        let payer = session.handle.payer();
        let Some((group, sub)) = self.registry.subscription(id, name) else {
            return;
        };
        let Some(sub) = group.subs.get(&sub) else {
            return;
        };
        let (request, is_live, turn) = (Arc::clone(&sub.request), sub.is_live, sub.turn);
        let collection = group.collection.clone();
        let prepared = self.context.prepare(&database, &caller, &request);
        let prepared = prepared.and_then(|(key, group)| match group.collection == collection {
            true => Ok((key, group)),
            // Another collection has its name now.
            false => Err(Error::not_found("The collection was deleted.")),
        });
        match prepared {
            Ok((key, group)) => {
                // Releases its charges before it is charged again.
                self.registry.unsubscribe(id, name, Instant::now());
                let has_group = self.registry.has_group(&key);
                match self.context.charge(payer, &request, has_group) {
                    Ok(charges) => self
                        .registry
                        .subscribe(id, &request, key, charges, || group),
                    Err(error) => {
                        self.remove_waiting(id, name, &collection);
                        self.send_ended(id, name, &error);
                        return;
                    }
                }
                if let Some((group, sub)) = self.registry.subscription(id, name)
                    && let Some(sub) = group.subs.get_mut(&sub)
                {
                    (sub.is_live, sub.turn) = (is_live, turn);
                }
            }
            Err(error) => self.end(id, name, &shown(error)),
        }
    }

    /// Ends a subscription and sends the error to the client.
    pub fn end(&mut self, id: SessionId, name: &str, error: &Error) {
        self.unsubscribe(id, name);
        self.send_ended(id, name, error);
    }

    pub fn send_ended(&self, id: SessionId, name: &str, error: &Error) {
        if let Some(session) = self.registry.sessions.get(&id) {
            match session.client {
                None => drop(session.handle.send(frames::ended(name, error).into())),
                // The protocol has no frame for it. The client learns the error when it reconnects.
                Some(_) => session.handle.close(POLICY, error.message()),
            }
        }
    }

    fn end_all(&mut self, id: SessionId, error: &Error) {
        let Some(session) = self.registry.sessions.get(&id) else {
            return;
        };
        let names: Vec<String> = session.subs.keys().cloned().collect();
        for name in names {
            self.end(id, &name, error);
        }
    }

    /// Ends all subscriptions of a session, which becomes anonymous.
    pub fn revoke(&mut self, id: SessionId, error: &Error) {
        self.end_all(id, error);
        let anonymous = Credentials::default();
        let database = self
            .registry
            .sessions
            .get(&id)
            .map(|it| it.database.clone());
        if let Some(database) = database
            && let Ok(caller) = self.context.caller(anonymous, &database)
        {
            self.set_caller(id, caller);
        }
    }

    /// Removes a session whose connection has ended.
    pub fn close(&mut self, id: SessionId) {
        let Some(session) = self.registry.sessions.get(&id) else {
            return;
        };
        let names: Vec<String> = session.subs.keys().cloned().collect();
        let identity = session.caller.identity.clone();
        for name in names {
            self.unsubscribe(id, &name);
        }
        self.unwatch_account(&identity);
        self.registry.remove_session(id);
    }
}

/// Replaces the account of the caller by this state of it, if it is the same account.
fn as_account(mut caller: IdentifiedCaller, account: Option<&Arc<User>>) -> IdentifiedCaller {
    if let (Identity::User(user), Some(account)) = (&mut caller.identity, account)
        && (&user.id, &user.collection_id) == (&account.id, &account.collection_id)
    {
        *user = Arc::clone(account);
    }
    caller
}
