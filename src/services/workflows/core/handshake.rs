//! Hello, heartbeats and new tokens of workers.

use crate::base::error::{Error, Kind, Result};
use crate::base::json::Object;
use crate::services::workflows::core::Core;
use crate::services::workflows::core::answers::{ok, refusal, revoke};
use crate::services::workflows::core::messages::{Output, close, close_code, send};
use crate::services::workflows::frames::{Heartbeat, Hello};
use crate::services::workflows::sessions::{Session, SessionId, WorkerGrant};
use crate::services::workflows::tx::Lease;

const PROTO: u32 = 1;
/// Heartbeats between two probes of the job loop of a worker.
const HEARTBEATS_PER_PROBE: u64 = 3;

impl Core {
    pub(super) fn hello(
        &mut self,
        now: i64,
        id: SessionId,
        hello: Hello,
        granted: Option<Result<WorkerGrant>>,
        out: &mut Vec<Output>,
    ) {
        let Some((by_handshake, _)) = self.handshakes.remove(&id) else {
            if self.sessions.get(id).is_some() {
                self.leaving.push((id, false));
                out.push(close(id, close_code::BAD_FRAME, "hello was already sent"));
            }
            return;
        };
        let grant = match (granted, by_handshake) {
            (Some(Ok(grant)), _) | (None, Some(grant)) => grant,
            (Some(Err(error)), _) => return out.push(refuse_token(id, &error)),
            (None, None) => {
                return out.push(close(
                    id,
                    close_code::UNAUTHENTICATED,
                    "the token is missing",
                ));
            }
        };
        if !hello.proto.is_empty() && !hello.proto.contains(&PROTO) {
            let reason = "this server supports only version 1 of the protocol";
            return out.push(close(id, close_code::NO_VERSION, reason));
        }
        let closed_to = hello.workflows.iter().find(|it| !grant.opens(&it.name));
        if let Some(served) = closed_to {
            let reason = format!("the token does not cover the workflow {}", served.name);
            return out.push(close(id, close_code::FORBIDDEN, &reason));
        }
        self.replace_instance(now, &hello, &grant, out);
        let wanted = hello.resume.map_or_else(Vec::new, |resume| resume.jobs);
        let mut session = Session::new(hello.worker, grant, hello.workflows, now);
        session.instance = hello.instance;
        session.sdk = hello.sdk;
        session.lang = hello.lang;
        session.credit = hello.credit;
        self.sessions.add(id, session);
        let wanted = wanted.into_iter().map(Lease::from);
        let (kept, lost) = wanted.partition(|lease| self.resume(now, id, lease));
        out.push(send(id, self.welcome(now, id, kept, lost)));
        self.refresh(id);
    }

    /// Closes the old connection of the same process.
    fn replace_instance(
        &mut self,
        now: i64,
        hello: &Hello,
        grant: &WorkerGrant,
        out: &mut Vec<Output>,
    ) {
        let of_worker = self.sessions.of_worker(&hello.worker);
        // A worker with a narrower grant cannot replace one that serves more.
        let of_instance = of_worker.filter(|(_, it)| {
            it.instance == hello.instance
                && it.serves.iter().all(|served| grant.opens(&served.name))
        });
        let old: Vec<SessionId> = of_instance.map(|(id, _)| id).collect();
        for old in old {
            self.drop_session(old, false, now);
            let reason = "the same instance connected again";
            out.push(close(old, close_code::REPLACED, reason));
        }
    }

    /// Returns a held run to a worker that reconnected; true if the worker still holds it.
    fn resume(&mut self, now: i64, id: SessionId, lease: &Lease) -> bool {
        let Some(run) = self.leases.find(lease) else {
            return false;
        };
        let Some(held) = self.leases.get(run) else {
            return false;
        };
        let is_opened = self
            .sessions
            .get(id)
            .is_some_and(|session| session.grant.opens(&held.workflow));
        if held.session.is_some() || held.is_cancelled || !is_opened {
            return false;
        }
        let deadline = now + self.settings.lease_ms;
        self.leases.change(run, |held| {
            held.session = Some(id);
            held.deadline = deadline;
            held.is_acked = true;
        });
        true
    }

    fn welcome(&self, now: i64, id: SessionId, kept: Vec<Lease>, lost: Vec<Lease>) -> String {
        let settings = &self.settings;
        let jobs = |leases: Vec<Lease>| {
            leases.into_iter().map(|lease| {
                Object::new()
                    .text("job", &lease.run)
                    .int("epoch", lease.epoch)
                    .end()
            })
        };
        Object::new()
            .text("t", "welcome")
            .int("proto", i64::from(PROTO))
            .int("session", i64::try_from(id).unwrap_or(i64::MAX))
            .text("node", &self.node)
            .int("now", now)
            .int("hb_ms", settings.hb_ms)
            .int("lease_ms", settings.lease_ms)
            .int("grace_ms", settings.grace_ms)
            .int("ack_ms", settings.ack_ms)
            .int(
                "max_frame",
                i64::try_from(settings.max_frame).unwrap_or(i64::MAX),
            )
            .list("kept", jobs(kept))
            .list("lost", jobs(lost))
            .end()
    }

    /// Renews leases, and revokes those that the worker no longer holds.
    pub(super) fn heartbeat(
        &mut self,
        now: i64,
        id: SessionId,
        heartbeat: &Heartbeat,
        out: &mut Vec<Output>,
    ) {
        let deadline = now + self.settings.lease_ms;
        for lease in &heartbeat.leases {
            let found = self.leases.find(lease);
            let is_own = |run: i64| {
                let held = self.leases.get(run);
                held.is_some_and(|held| held.session == Some(id))
            };
            match found.filter(|run| is_own(*run)) {
                Some(run) => self.leases.renew(run, deadline),
                None => out.push(send(id, revoke(&lease.run, lease.epoch))),
            }
        }
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        match (session.probe, heartbeat.probe) {
            (Some((sent, _)), Some(answered)) if sent == answered => session.probe = None,
            _ => {}
        }
        session.heartbeats += 1;
        if session.heartbeats.is_multiple_of(HEARTBEATS_PER_PROBE) && session.probe.is_none() {
            let n = i64::try_from(session.heartbeats).unwrap_or(i64::MAX);
            session.probe = Some((n, deadline));
            let probe = Object::new().text("t", "probe").int("n", n);
            out.push(send(id, probe.end()));
        }
    }

    pub(super) fn renew_grant(
        &mut self,
        id: SessionId,
        reference: Option<&str>,
        granted: Option<Result<WorkerGrant>>,
        out: &mut Vec<Output>,
    ) {
        let Some(session) = self.sessions.get_mut(id) else {
            return;
        };
        let grant = match granted {
            Some(Ok(grant)) => grant,
            Some(Err(error)) => return out.push(send(id, refusal(reference, &error))),
            None => return,
        };
        let mut serves = session.serves.iter();
        if let Err(error) = serves.try_for_each(|served| grant.check(&served.name)) {
            return out.push(send(id, refusal(reference, &error)));
        }
        // The same token again does not repeat the warning.
        session.is_warned &= grant.expires_ms <= session.grant.expires_ms;
        session.grant = grant;
        out.push(send(id, ok(reference).end()));
    }
}

fn refuse_token(id: SessionId, error: &Error) -> Output {
    let code = match error.kind() {
        Kind::Forbidden => close_code::FORBIDDEN,
        Kind::Unauthenticated => close_code::UNAUTHENTICATED,
        // An error that does not concern the token: the worker tries again.
        _ => close_code::TRY_AGAIN_LATER,
    };
    close(id, code, error.message())
}
