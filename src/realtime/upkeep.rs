//! What time brings: credentials that end or are no good any more, connections without use, definitions
//! that have changed.

use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use super::board::Caller;
use super::board::SessionId;
use super::frames;
use super::thread::Thread;
use super::thread::shown;
use crate::auth::Credentials;
use crate::clock;
use crate::error::Error;
use crate::error::Kind;
use crate::error::Result;
use crate::rules::Identity;
use crate::rules::User;

/// So late at most a connection hears that its key was deleted.
const CHECK_EVERY: Duration = Duration::from_secs(10);
const CHECKS_AT_A_TIME: usize = 256;
/// How long a connection may have no subscription.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// Close code of RFC 6455, section 7.4.1.
const POLICY: u16 = 1008;

impl Thread<'_> {
    /// Called a few times a second.
    pub fn tick(&mut self, now: Instant) {
        self.end_expired(clock::now_ms());
        self.check_passes(now);
        self.close_idle(now);
        for class in self.board.stale() {
            self.rebuild(class);
        }
        self.recent.forget(now);
        for collection in self.recent.unwatched(now) {
            self.of.events.unwatch(&collection);
        }
    }

    pub fn end_expired(&mut self, now_ms: i64) {
        let sessions = self.board.sessions.iter();
        let expired = sessions.filter(|(_, session)| {
            let end = session.caller.expires_ms;
            end.is_some_and(|end| end <= now_ms)
        });
        let expired: Vec<SessionId> = expired.map(|(id, _)| *id).collect();
        for session in expired {
            let error = Error::new(Kind::Unauthenticated, "The token has expired.");
            self.expel(session, &error);
        }
    }

    fn check_passes(&mut self, now: Instant) {
        let sessions = self.board.sessions.iter();
        let due = sessions.filter(|(_, session)| {
            let pass = &session.caller.pass;
            !pass.is_empty() && now.saturating_duration_since(pass.checked) > CHECK_EVERY
        });
        let due: Vec<SessionId> = due.map(|(id, _)| *id).take(CHECKS_AT_A_TIME).collect();
        for session in due {
            self.recheck(session, None);
        }
    }

    fn close_idle(&mut self, now: Instant) {
        let is_idle = |since: Instant| now.saturating_duration_since(since) > IDLE_MAX;
        for session in self.board.sessions.values_mut() {
            if session.idle_since.is_some_and(is_idle) {
                session.idle_since = None;
                session.link.close(POLICY, "no subscription for a minute");
            }
        }
    }

    /// Looks up again who a connection is, an account as it is now or, if that is given, as it was. Where that
    /// has changed, its subscriptions are those of who it is; where it is nobody any more, they end.
    pub fn recheck(&mut self, id: SessionId, account: Option<&Arc<User>>) {
        let Some(session) = self.board.sessions.get_mut(&id) else {
            return;
        };
        if session.caller.pass.is_empty() {
            return;
        }
        session.caller.pass.checked = Instant::now();
        let pass = session.caller.pass.clone();
        let mut found = self.of.caller(pass.credentials(), &session.database);
        if let (Ok(caller), Some(account)) = (&mut found, account)
            && let Identity::User(user) = &mut caller.identity
            && (&user.id, &user.collection_id) == (&account.id, &account.collection_id)
        {
            *user = Arc::clone(account);
        }
        match found {
            Ok(caller) if caller.identity == session.caller.identity => {}
            Ok(caller) => {
                self.set_caller(id, caller);
                self.renew_subs(id);
            }
            // It was good a moment ago; the next look will tell.
            Err(error) if error.kind() == Kind::Unavailable && account.is_none() => {}
            Err(error) => self.expel(id, &shown(error)),
        }
    }

    /// Signs a connection in or out. What it had subscribed to as somebody else ends.
    pub fn sign_in(&mut self, id: SessionId, token: Option<&str>) -> Result<()> {
        let Some(session) = self.board.sessions.get(&id) else {
            return Ok(());
        };
        let credentials = Credentials {
            authorization: token,
            api_key: None,
        };
        let caller = self.of.caller(credentials, &session.database)?;
        let is_same = match (&caller.identity, &session.caller.identity) {
            (Identity::User(now), Identity::User(before)) => now.id == before.id,
            (now, before) => now == before,
        };
        // What anybody may see, one goes on seeing who signs in.
        let was_nobody = session.caller.identity == Identity::Nobody;
        if !is_same && !was_nobody {
            let error = Error::new(Kind::Unauthenticated, "Another account has signed in.");
            self.end_all(id, &error);
        }
        self.set_caller(id, caller);
        self.renew_subs(id);
        Ok(())
    }

    /// Who a connection is from now on.
    pub fn set_caller(&mut self, id: SessionId, caller: Caller) {
        let Some(session) = self.board.sessions.get(&id) else {
            return;
        };
        let database = session.database.clone();
        let before = session.caller.identity.clone();
        self.watch_account(&database, &caller.identity);
        self.unwatch_account(&before);
        self.board.set_caller(id, caller);
    }

    fn unwatch_account(&mut self, identity: &Identity) {
        if let Identity::User(user) = identity {
            self.recent.unwatch(&user.collection_id, Instant::now());
        }
    }

    /// Puts the subscriptions of a connection into the classes of who it is now.
    pub fn renew_subs(&mut self, id: SessionId) {
        let Some(session) = self.board.sessions.get(&id) else {
            return;
        };
        let names: Vec<String> = session.subs.keys().cloned().collect();
        for name in names {
            self.renew_sub(id, &name);
        }
    }

    /// Puts a subscription where it belongs by the definitions and the caller of now; it ends when it
    /// belongs nowhere.
    pub fn renew_sub(&mut self, id: SessionId, name: &str) {
        let Some(session) = self.board.sessions.get(&id) else {
            return;
        };
        let (database, caller) = (session.database.clone(), session.caller.clone());
        let Some((class, sub)) = self.board.sub(id, name) else {
            return;
        };
        let Some(sub) = class.subs.get(&sub) else {
            return;
        };
        let (ask, is_live, turn) = (Arc::clone(&sub.ask), sub.is_live, sub.turn);
        let collection = class.collection.clone();
        let prepared = self.of.prepare(&database, &caller, &ask);
        let prepared = prepared.and_then(|(key, class)| match class.collection == collection {
            true => Ok((key, class)),
            // Another one has got its name.
            false => Err(Error::not_found("The collection was deleted.")),
        });
        match prepared {
            Ok((key, class)) => {
                self.board.unsubscribe(id, name, Instant::now());
                self.board.subscribe(id, &ask, key, || class);
                if let Some((class, sub)) = self.board.sub(id, name)
                    && let Some(sub) = class.subs.get_mut(&sub)
                {
                    (sub.is_live, sub.turn) = (is_live, turn);
                }
            }
            Err(error) => self.end(id, name, &shown(error)),
        }
    }

    /// Ends a subscription, and says why.
    pub fn end(&mut self, id: SessionId, name: &str, error: &Error) {
        self.unsubscribe(id, name);
        if let Some(session) = self.board.sessions.get(&id) {
            match session.client {
                None => drop(session.link.send(frames::ended(name, error).into())),
                // It finds out when it connects again.
                Some(_) => session.link.close(POLICY, error.message()),
            }
        }
    }

    fn end_all(&mut self, id: SessionId, error: &Error) {
        let Some(session) = self.board.sessions.get(&id) else {
            return;
        };
        let names: Vec<String> = session.subs.keys().cloned().collect();
        for name in names {
            self.end(id, &name, error);
        }
    }

    /// Ends all that somebody was let in for, who is nobody from now on.
    pub fn expel(&mut self, id: SessionId, error: &Error) {
        self.end_all(id, error);
        let nobody = Credentials::default();
        let database = self.board.sessions.get(&id).map(|it| it.database.clone());
        if let Some(database) = database
            && let Ok(caller) = self.of.caller(nobody, &database)
        {
            self.set_caller(id, caller);
        }
    }

    /// A connection is gone.
    pub fn close(&mut self, id: SessionId) {
        let Some(session) = self.board.sessions.get(&id) else {
            return;
        };
        let names: Vec<String> = session.subs.keys().cloned().collect();
        let identity = session.caller.identity.clone();
        for name in names {
            self.unsubscribe(id, &name);
        }
        self.unwatch_account(&identity);
        self.board.close(id);
    }
}
