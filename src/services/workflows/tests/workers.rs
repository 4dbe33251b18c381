//! Workers: leases, versions, retries, cancelling, tokens.

use super::node::{Node, about, frame_input, job, kind};
use crate::base::error::Kind;
use crate::services::workflows::api_requests::{RunAction, WorkflowRequest};
use crate::services::workflows::core::Input;
use crate::services::workflows::queries;
use crate::services::workflows::sessions::WorkerGrant;
use serde_json::json;

#[test]
fn only_the_latest_epoch_writes_and_what_is_recorded_is_answered_as_it_was() {
    let mut node = Node::new();
    let run = node.start();
    let (_, old) = job(&node.connect(1, json!({})));
    node.send(1, about(&old, json!({"t": "ack"})));
    let step = json!({"t": "step", "key": "s#0", "ok": "once"});
    assert_eq!(node.reply_to(1, about(&old, step.clone()))["t"], "ok");
    // It sends nothing; another worker gets the run.
    node.connect(2, json!({}));
    let sent = node.wait(31_000);
    let (session, new) = job(&sent);
    assert_eq!((session, &new["epoch"]), (2, &json!(2)));
    assert_eq!(new["journal"][0]["ok"], "once");
    assert!(
        sent.contains(&(1, json!({"t": "revoke", "job": run, "epoch": 1})))
            || sent.contains(&(1, json!({"close": 4408})))
    );
    node.connect(3, json!({"worker": "worker1", "credit": 0}));
    assert_eq!(node.reply_to(3, about(&old, step))["t"], "ok");
    for late in [
        json!({"t": "step", "key": "s#0", "ok": "other"}),
        json!({"t": "step", "key": "s#1", "ok": 1}),
        json!({"t": "step_begin", "key": "s#1"}),
        json!({"t": "park", "seen": 0, "on": [{"sleep": "z#0", "ms": 1}]}),
        json!({"t": "call", "op": "set_attr", "key": "a#0", "attributes": {"a": 1}}),
        json!({"t": "done", "output": 1}),
        json!({"t": "fail", "err": {"kind": "fatal"}}),
        json!({"t": "nack", "reason": "busy"}),
    ] {
        let answer = node.reply_to(3, about(&old, late.clone()));
        assert_eq!(answer["code"], "lost_lease", "{late} {answer}");
        assert_eq!(answer["t"], "no", "{late} {answer}");
    }
    node.send(2, about(&new, json!({"t": "ack"})));
    assert_eq!(
        node.reply_to(2, about(&new, json!({"t": "done", "output": "end"})))["t"],
        "ok"
    );
    assert_eq!(
        node.reply_to(2, about(&new, json!({"t": "done", "output": "end"})))["t"],
        "ok"
    );
    assert_eq!(
        node.reply_to(2, about(&new, json!({"t": "done", "output": "x"})))["code"],
        "lost_lease"
    );
    assert_eq!(node.show(&run)["output"], "end");
}

#[test]
fn errors_are_tried_again_later_and_not_for_ever() {
    let mut node = Node::new();
    let run = node.start();
    let (_, job) = job(&node.connect(1, json!({})));
    let fails = |attempt: i64| json!({"t": "step", "key": "s#0", "err": {"message": "no"}, "attempt": attempt});
    let mut pauses = Vec::new();
    for attempt in 1..=3 {
        let answer = node.reply_to(1, about(&job, fails(attempt)));
        assert_eq!(answer["attempt"], attempt + 1, "{answer}");
        pauses.push(answer["retry_ms"].as_i64().unwrap());
        // A repeated report is not another failure.
        let again = node.reply_to(1, about(&job, fails(attempt)));
        assert_eq!(again["attempt"], attempt + 1, "{again}");
        let begin = json!({"t": "step_begin", "key": "s#0"});
        assert_eq!(node.reply_to(1, about(&job, begin))["code"], "too_early");
    }
    assert!(
        pauses[0] >= 1000 && pauses[1] >= 2000 && pauses[2] >= 4000,
        "{pauses:?}"
    );
    assert!(pauses[2] <= 5000, "{pauses:?}");
    assert_eq!(node.reply_to(1, about(&job, fails(4)))["failed"], true);
    let fatal = json!({"t": "step", "key": "s#1", "err": {"kind": "fatal", "message": "no"}});
    assert_eq!(node.reply_to(1, about(&job, fatal))["failed"], true);
    let later = json!({"t": "step", "key": "s#2", "err": {"retry_after_ms": 77}, "retries": 9});
    assert_eq!(node.reply_to(1, about(&job, later))["retry_ms"], 77);
    assert_eq!(node.show(&run)["status"], "running");
}

#[test]
fn a_failed_run_goes_on_where_it_stopped() {
    let mut node = Node::new();
    let run = node.start();
    let (_, first) = job(&node.connect(1, json!({})));
    for frame in [
        json!({"t": "ack"}),
        json!({"t": "step", "key": "good#0", "ok": 1}),
        json!({"t": "step", "key": "bad#0", "err": {"kind": "fatal"}}),
        json!({"t": "call", "op": "hook_create", "key": "h#0", "token": "t"}),
        json!({"t": "fail", "err": {"kind": "fatal", "message": "bug"}}),
    ] {
        node.send(1, about(&first, frame));
    }
    assert_eq!(node.show(&run)["error"]["message"], "bug");
    let sent = node.round(vec![Input::Request {
        reply: 1,
        grant: WorkerGrant::default(),
        request: WorkflowRequest::Apply {
            runs: vec![run.clone()],
            action: RunAction::Resume { version: None },
            is_bulk: false,
        },
    }]);
    let (_, again) = job(&sent.0);
    assert!(again["epoch"].as_i64() > first["epoch"].as_i64());
    let keys: Vec<&str> = again["journal"]
        .as_array()
        .unwrap()
        .iter()
        .map(|it| it["key"].as_str().unwrap())
        .collect();
    assert_eq!(keys, ["good#0", "h#0"]);
    assert_eq!(
        node.reply_to(
            1,
            about(&again, json!({"t": "step", "key": "bad#0", "ok": 2}))
        )["t"],
        "ok"
    );
    let hook = WorkflowRequest::Hook {
        token: "t".to_owned(),
        payload: "5".to_owned(),
    };
    node.execute(hook).unwrap();
    assert_eq!(
        node.reply_to(1, about(&again, json!({"t": "done", "output": 3})))["t"],
        "ok"
    );
    assert_eq!(node.show(&run)["output"], 3);
    assert_eq!(
        kind(node.act(&run, RunAction::Resume { version: None })),
        Kind::Conflict
    );
    // A fork has the results recorded before a step.
    let from = Some("h#0".to_owned());
    let fork = node
        .act(
            &run,
            RunAction::Fork {
                from,
                version: None,
            },
        )
        .unwrap();
    let fork = fork["runId"].as_str().unwrap();
    let journal = node.journal(fork);
    assert_eq!(journal.len(), 1, "{journal:?}");
    assert_eq!(journal[0]["key"], "good#0");
}

#[test]
fn a_run_keeps_its_version_and_waits_for_it() {
    let mut node = Node::new();
    let run = node.start();
    let (_, first) = job(&node.connect(1, json!({})));
    assert_eq!(first["version"], "1");
    node.send(1, about(&first, json!({"t": "ack"})));
    node.send(1, json!({"t": "bye"}));
    let newer = json!({"workflows": [{"name": "w", "version": "2"}]});
    assert!(
        node.connect(2, newer)
            .iter()
            .all(|(_, it)| it["t"] != "job")
    );
    assert!(node.wait(60_000).iter().all(|(_, it)| it["t"] != "job"));
    assert_eq!(node.show(&run)["state"], "ready");
    assert!(!node.core.is_served("w", "1"));
    let (session, _) = job(&node.connect(3, json!({})));
    assert_eq!(session, 3);
    // Or the run is moved to the new version.
    node.send(3, json!({"t": "bye"}));
    node.wait(1_000);
    let request = WorkflowRequest::Apply {
        runs: vec![run.clone()],
        action: RunAction::Resume {
            version: Some("2".to_owned()),
        },
        is_bulk: false,
    };
    let (sent, _) = node.round(vec![Input::Request {
        reply: 1,
        grant: WorkerGrant::default(),
        request,
    }]);
    assert_eq!(job(&sent).0, 2);
}

#[test]
fn a_cancelled_run_takes_its_children_along_and_its_worker_is_told() {
    let mut node = Node::new();
    let run = node.start();
    let (_, parent) = job(&node.connect(1, json!({})));
    node.send(1, about(&parent, json!({"t": "ack"})));
    let call = json!({"t": "call", "op": "trigger", "key": "c#0", "workflow": "w", "input": 1});
    let child = node.reply_to(1, about(&parent, call.clone()))["run"].clone();
    assert_eq!(node.reply_to(1, about(&parent, call))["run"], child);
    let request = WorkflowRequest::Apply {
        runs: vec![run.clone()],
        action: RunAction::Cancel {
            reason: "\"why\"".to_owned(),
        },
        is_bulk: false,
    };
    let (sent, _) = node.round(vec![Input::Request {
        reply: 1,
        grant: WorkerGrant::default(),
        request,
    }]);
    assert!(
        sent.iter()
            .any(|(_, it)| it["t"] == "cancel" && it["job"] == *run),
        "{sent:?}"
    );
    let report = json!({"t": "step", "key": "s#0", "ok": 1});
    assert_eq!(
        node.reply_to(1, about(&parent, report))["code"],
        "cancelled"
    );
    node.wait(1_000);
    assert_eq!(node.show(child.as_str().unwrap())["status"], "cancelled");
    let stop = json!({"t": "fail", "err": {"kind": "cancelled"}});
    assert_eq!(node.reply_to(1, about(&parent, stop))["t"], "ok");
    assert_eq!(node.show(&run)["reason"], "why");
}

#[test]
fn jobs_that_are_not_acknowledged_are_taken_back_and_counted_only_when_their_code_ran() {
    let mut node = Node::new();
    let run = node.start();
    job(&node.connect(1, json!({})));
    let sent = node.wait(6_000);
    assert!(sent.iter().any(|(_, it)| it["t"] == "revoke"), "{sent:?}");
    // The worker does not get it again before it sends a frame.
    assert_eq!(node.show(&run)["state"], "ready");
    let (_, again) = job(&node.send(1, json!({"t": "hb", "jobs": []})));
    assert_eq!((&again["epoch"], &again["attempt"]), (&json!(2), &json!(1)));
    node.send(1, about(&again, json!({"t": "ack"})));
    node.send(1, json!({"t": "bye"}));
    node.wait(1_000);
    let (_, third) = job(&node.connect(2, json!({})));
    assert_eq!(third["attempt"], 2);
}

#[test]
fn a_run_that_kills_its_workers_is_given_up() {
    let mut node = Node::new();
    let run = node.start();
    for session in 1..=25 {
        let mut sent = node.connect(session, json!({"instance": session.to_string()}));
        for _ in 0..40 {
            if !sent.iter().any(|(_, it)| it["t"] == "job") {
                sent = node.wait(1_000);
            }
        }
        let Some((_, frame)) = sent.iter().find(|(_, it)| it["t"] == "job") else {
            break;
        };
        node.send(session, about(frame, json!({"t": "ack"})));
        node.round(vec![Input::Closed { session }]);
        node.wait(16_000);
    }
    assert_eq!(node.show(&run)["error"]["kind"], "abandoned");
    assert_eq!(
        queries::abandoned(&node.db, &WorkerGrant::default())
            .unwrap()
            .len(),
        1
    );
}

#[test]
fn a_token_for_some_workflows_opens_these_only() {
    let mut node = Node::new();
    let run = node.start();
    let names = std::collections::BTreeSet::from(["v".to_owned()]);
    let grant = WorkerGrant {
        workflows: Some(names.into()),
        expires_ms: None,
    };
    let session = 1;
    let opened = Input::Opened {
        session,
        grant: Some(grant.clone()),
    };
    let hello = json!({"t": "hello", "worker": "a", "credit": 1, "workflows": [{"name": "w"}]});
    let (sent, _) = node.round(vec![opened, frame_input(1, &hello)]);
    assert_eq!(sent, [(1, json!({"close": 4403}))]);
    let request = |action| WorkflowRequest::Apply {
        runs: vec![run.clone()],
        action,
        is_bulk: false,
    };
    let cancel = request(RunAction::Cancel {
        reason: "null".to_owned(),
    });
    let input = Input::Request {
        reply: 1,
        grant: grant.clone(),
        request: cancel,
    };
    assert_eq!(kind(node.round(vec![input]).1.unwrap()), Kind::NotFound);
    assert_eq!(kind(queries::run(&node.db, &grant, &run)), Kind::NotFound);
    assert!(
        queries::ids(&node.db, &grant, &queries::RunFilter::default(), 9)
            .unwrap()
            .is_empty()
    );
}

#[test]
fn tokens_end_and_silence_and_wrong_frames_close() {
    let mut node = Node::new();
    let expires_ms = Some(node.now + 90_000);
    let grant = Some(WorkerGrant {
        workflows: None,
        expires_ms,
    });
    let hello = json!({"t": "hello", "worker": "a", "credit": 1, "workflows": []});
    node.round(vec![
        Input::Opened { session: 1, grant },
        frame_input(1, &hello),
    ]);
    let sent = node.wait(60_000);
    assert!(
        sent.iter().any(|(_, it)| it["t"] == "auth_expiring"),
        "{sent:?}"
    );
    assert!(node.wait(60_000).contains(&(1, json!({"close": 4401}))));
    node.round(vec![Input::Opened {
        session: 2,
        grant: None,
    }]);
    assert!(node.wait(11_000).contains(&(2, json!({"close": 4408}))));
    node.round(vec![Input::Opened {
        session: 3,
        grant: None,
    }]);
    assert_eq!(node.send(3, hello.clone()), [(3, json!({"close": 4401}))]);
    node.connect(4, json!({}));
    assert_eq!(
        node.send(4, json!({"t": "dance", "ref": "r"}))[0].1["code"],
        "unknown_type"
    );
    assert_eq!(node.send(4, json!([1])), [(4, json!({"close": 4400}))]);
    let old = json!({"proto": [7]});
    assert_eq!(node.connect(5, old), [(5, json!({"close": 4406}))]);
    node.connect(6, json!({"worker": "same", "instance": "i"}));
    let sent = node.connect(7, json!({"worker": "same", "instance": "i"}));
    assert!(sent.contains(&(6, json!({"close": 4409}))), "{sent:?}");
}

#[test]
fn a_clock_that_is_set_takes_no_run_away_and_holds_up_none() {
    let mut node = Node::new();
    let run = node.start();
    let (_, first) = job(&node.connect(1, json!({})));
    node.send(1, about(&first, json!({"t": "ack"})));
    for jump in [86_400_000, -7_200_000] {
        node.now += jump;
        assert!(node.wait(5_000).is_empty(), "{jump}");
        node.send(1, json!({"t": "hb", "jobs": [[run, 1]]}));
    }
    let later = json!({"t": "park", "seen": 2, "on": [{"sleep": "s#0", "ms": 1_000}]});
    assert_eq!(node.reply_to(1, about(&first, later))["t"], "ok");
    node.now -= 3_600_000;
    node.round(Vec::new());
    assert_eq!(node.show(&run)["state"], "waiting");
    node.now += 3_600_000;
    let (_, again) = job(&node.wait(2_000));
    // A silent worker loses its runs all the same.
    node.send(1, about(&again, json!({"t": "ack"})));
    node.now -= 3_600_000;
    let sent = node.wait(40_000);
    assert!(sent.iter().any(|(_, it)| it["close"] == 4408), "{sent:?}");
    assert_eq!(node.show(&run)["state"], "ready");
}
