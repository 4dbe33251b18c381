"""Checks the invariants on workflows.db, the logs of the workers and the knowledge of the clients."""
import collections
import json
import os
import shutil
import sqlite3
import zlib

CREATED, STARTED, COMPLETED, FAILED, CANCELLED, ATTR, CHILD, BEGUN, OK, ERR, RETRY = range(1, 12)
HOOK, PAYLOAD, DISPOSED, CONFLICT, SLEEP, WAKE, RESUMED = range(12, 19)
ENDS = {COMPLETED: 2, FAILED: 3, CANCELLED: 4}
WORDS = ("pending", "running", "completed", "failed", "cancelled")
LIST_MAX = 20
# The time after its parent's end in which a child of a cancelled run can still end otherwise.
CHILD_MS = 2_000
# The delay that a busy machine can add to a second.
LATE_MS = 1_000
LATE_MS_MAX = 5_000

Event = collections.namedtuple("Event", "seq kind key data info n at")


def crc(text):
    return zlib.crc32(text.encode())


def copy(data, to):
    """A copy of workflows.db with its journal of writes, of a server that is not running."""
    os.makedirs(to, exist_ok=True)
    for name in ("workflows.db", "workflows.db-wal"):
        if os.path.exists(os.path.join(data, name)):
            shutil.copy(os.path.join(data, name), os.path.join(to, name))
    return os.path.join(to, "workflows.db")


class Database:
    """All of workflows.db."""

    def __init__(self, path):
        db = sqlite3.connect(path)
        self.integrity = db.execute("PRAGMA integrity_check").fetchone()[0]
        db.row_factory = sqlite3.Row
        self.runs = {row["id"]: row for row in db.execute("SELECT * FROM runs")}
        self.by_name = {row["run"]: row for row in self.runs.values()}
        self.jobs = {row["run"]: row for row in db.execute("SELECT * FROM jobs")}
        self.rows = {table: collections.defaultdict(dict) for table in ("steps", "waits", "hooks")}
        for table, rows in self.rows.items():
            for row in db.execute(f"SELECT * FROM {table}"):
                rows[row["run"]][row["key"]] = row
        db.row_factory = None
        self.events = collections.defaultdict(list)
        for run, *event in db.execute("SELECT run, seq, kind, key, data, info, n, at FROM events ORDER BY run, seq"):
            self.events[run].append(Event(*event))
        self.cancelling = {run for run, in db.execute("SELECT run FROM cancelling")}
        db.close()


def project(events, ids):
    """The state that follows from the events of a run: its status, steps, waits, hooks, and violations in
    them. `ids`: numbers of runs by their names."""
    status, started, ended, resumed = 0, None, None, 0
    steps, waits, hooks, wrong = {}, {}, {}, []
    all_waits, all_hooks = {}, {}
    for e in events:
        if ended is not None and e.kind != RESUMED:
            wrong.append(f"event {e.seq} of kind {e.kind} after the end")
        if e.kind == STARTED:
            if started is not None:
                wrong.append("started twice")
            status, started = 1, e.at
        elif e.kind in ENDS:
            status, ended, waits, hooks = ENDS[e.kind], e.at, {}, {}
            for step in steps.values():
                if step[0] < 2:
                    step[0] = 4
        elif e.kind == RESUMED:
            if status != 3:
                wrong.append(f"resumed while {WORDS[status]}")
            status, ended, resumed = int(started is not None), None, e.seq
            waits, hooks = dict(all_waits), dict(all_hooks)
            steps = {key: step for key, step in steps.items() if step[0] != 3 and (step[0] != 4 or step[4])}
            for step in steps.values():
                if step[0] == 4:
                    step[0], step[5] = 1, True  # or it is gone: its run decides
        elif e.kind == CHILD:
            if e.key in steps and not steps[e.key][5]:
                wrong.append(f"child {e.key} twice")
            steps[e.key] = [1, 1, None, None, e.info, False]
        elif e.kind == BEGUN:
            if e.key in steps and steps[e.key][0] > 1:
                wrong.append(f"{e.key} begun after its end")
            known = steps.get(e.key)
            steps[e.key] = [1, e.n, None, known[3] if known else None, None, False]
        elif e.kind in (OK, ERR, RETRY):
            known = steps.get(e.key)
            if known and known[0] in (2, 3):
                wrong.append(f"{e.key} has two results")
            child = known[4] if known else None
            if e.info is not None and e.kind != RETRY and child != e.info:
                wrong.append(f"{e.key} has the result of run {e.info}, not of its child {child}")
            attempt = e.n if e.n is not None else 1
            if known is None and e.n is None and e.kind == OK:
                child = ids.get(e.data.strip('"'))  # a detached run
            steps[e.key] = [{OK: 2, ERR: 3, RETRY: 0}[e.kind], attempt, e.info if e.kind == RETRY else None, e.seq, child, False]
        elif e.kind == SLEEP:
            waits[e.key] = all_waits[e.key] = (e.info, None)
        elif e.kind == WAKE:
            waits[e.key] = all_waits[e.key] = (waits.get(e.key, (None,))[0], e.at)
            if waits[e.key][0] is None or waits[e.key][0] > e.at:
                wrong.append(f"sleep {e.key} until {waits[e.key][0]} ended at {e.at}")
        elif e.kind == HOOK:
            hooks[e.key] = all_hooks[e.key] = (json.loads(e.data)["token"], None)
        elif e.kind == PAYLOAD and hooks.get(e.key, (None, 0))[1] is not None:
            wrong.append(f"a payload for {e.key} after its end")
        elif e.kind == DISPOSED:
            hooks[e.key] = all_hooks[e.key] = (hooks[e.key][0], e.at)
    return status, started, ended, resumed, steps, waits, hooks, wrong


def check_database(db, is_end):
    """Violations in the database alone: [(run, text)]."""
    wrong = []
    if db.integrity != "ok":
        wrong.append((None, f"integrity_check: {db.integrity}"))
    for id in db.events.keys() - db.runs.keys():
        wrong.append((None, f"events of run {id}, which is not there"))
    for id in db.jobs.keys() - db.runs.keys():
        wrong.append((None, f"a job of run {id}, which is not there"))
    keys = collections.defaultdict(list)
    ids = {name: run["id"] for name, run in db.by_name.items()}
    for id, run in db.runs.items():
        name, events = run["run"], db.events[id]

        def bad(text):
            wrong.append((name, text))

        is_fork = "forkedFrom" in run["attributes"]
        if [e.seq for e in events] != list(range(1, len(events) + 1)) and not is_fork:
            bad(f"the numbers of its events are not 1 to {len(events)}")
        if not events or events[0].kind != CREATED:
            bad("the first event is not run_created")
        status, started, ended, resumed, steps, waits, hooks, more = project(events, ids)
        for text in more:
            bad(text)
        for field, expected in (("status", status), ("ended", ended), ("resumed", resumed), ("started", started)):
            if run[field] != expected:
                bad(f"{field} is {run[field]}, by the events {expected}")
        since = [e.kind for e in events if e.seq > resumed and e.kind in ENDS]
        if len(since) != (run["status"] >= 2):
            bad(f"{WORDS[run['status']]} with {len(since)} ends since it was resumed")
        job = db.jobs.get(id)
        if (job is None) != (run["status"] >= 2):
            bad(f"{WORDS[run['status']]} and {'no job' if job is None else 'a job'}")
        if is_end and run["status"] < 2:
            bad(f"is still {WORDS[run['status']]}, job {dict(job) if job else None}")
        rows = db.rows["steps"].get(id, {})
        for key in rows.keys() | steps.keys():
            row, step = rows.get(key), steps.get(key)
            actual = [row["status"], row["attempt"], row["retry"], row["result"], row["child"]] if row else None
            maybe = step and step[5]
            if step and step[0] == 4 and actual and actual[0] == 4:
                continue  # attempts and times of what did not come to an end are of no concern
            if is_fork and actual and step and actual[0] == step[0] and actual[3] == step[3]:
                continue
            if actual is None and maybe:
                continue
            if step is None or actual != step[:5]:
                bad(f"step {key} is {actual}, by the events {step}")
        rows = {key: (row["until"], row["ended"]) for key, row in db.rows["waits"].get(id, {}).items()}
        if rows != waits:
            bad(f"waits are {rows}, by the events {waits}")
        rows = {key: (row["token"], row["disposed"]) for key, row in db.rows["hooks"].get(id, {}).items()}
        if rows != hooks:
            bad(f"hooks are {rows}, by the events {hooks}")
        if run["concurrency_key"]:
            begun = started
            for e in events:
                if e.kind == RESUMED:
                    begun = None  # it has to wait for its turn again
                elif begun is None and e.seq > resumed and e.info is None and e.kind in (OK, ERR, RETRY, BEGUN, HOOK):
                    begun = e.at
                elif e.kind in ENDS and begun is not None:
                    keys[run["workflow"], run["concurrency_key"]].append((begun, e.at, name))
                    begun = None
        # Children.
        for e in events:
            child = db.runs.get(e.info) if e.kind in (OK, ERR) and e.info else None
            if child is None:
                continue
            ends = [it for it in db.events[child["id"]] if it.kind in ENDS]
            expected = {COMPLETED: OK, FAILED: ERR, CANCELLED: ERR}
            if not any(expected[it.kind] == e.kind and (it.data == e.data or it.kind == CANCELLED) for it in ends):
                bad(f"{e.key} is {e.data[:200]}, its child {child['run']} ended with {[(it.kind, it.data[:200]) for it in ends]}")
        parent = db.runs.get(run["parent"])
        if parent and parent["status"] == 4 and is_end:
            if run["status"] != 4 and run["ended"] and run["ended"] > parent["ended"] + CHILD_MS:
                bad(f"{WORDS[run['status']]} {run['ended'] - parent['ended']} ms after its parent was cancelled")
    for (workflow, key), spans in keys.items():
        spans.sort()
        for (_, ended, one), (begun, _, other) in zip(spans, spans[1:]):
            if begun < ended and one != other:
                wrong.append((other, f"begun {ended - begun} ms before {one} of the same concurrency key ended"))
    if is_end and db.cancelling:
        wrong.append((None, f"{len(db.cancelling)} cancelled runs whose children are not"))
    return wrong


def entry_hash(e):
    """The hash of the entry of the journal that an event is handed out as."""
    head = f'{{"seq":{e.seq},"kind":"%s","key":{json.dumps(e.key)}'
    if e.kind == OK:
        return crc(head % "step" + f',"ok":{e.data}}}')
    if e.kind == ERR:
        return crc(head % "step" + f',"err":{e.data}}}')
    if e.kind == PAYLOAD:
        return crc(head % "payload" + f',"ok":{e.data}}}')
    if e.kind == SLEEP:
        return crc(head % "sleep" + f',"until":{e.info}}}')
    return None


class Logs:
    """The log entries of the workers, by run."""

    def __init__(self, paths):
        self.jobs, self.effects, self.answers, self.sleeps, self.wakes = (collections.defaultdict(list) for _ in range(5))
        self.faults, self.violations, self.lines = collections.Counter(), [], 0
        for path in paths:
            with open(path, encoding="utf-8") as f:
                for line in f:
                    self.lines += 1
                    kind, *rest = json.loads(line)
                    if kind == "J":
                        self.jobs[rest[1]].append(rest)
                    elif kind == "E":
                        self.effects[rest[1]].append(rest)
                    elif kind == "A":
                        self.answers[rest[2]].append(rest)
                    elif kind == "P":
                        self.sleeps[rest[1]].append(rest)
                    elif kind == "W":
                        self.wakes[rest[1]].append(rest)
                    elif kind == "F":
                        self.faults[rest[1]] += 1
                    elif kind == "V":
                        self.violations.append(rest[1])


def check_logs(db, logs, clients, downs, numbers):
    """Contradictions between the database, the workers and the clients. `downs`: the times without a server, in
    milliseconds since 1970. Adds to `numbers` what was measured."""
    wrong = [(None, text) for text in logs.violations]
    cancelled = {run.id: run.cancelled_at for run in clients.runs if run.cancelled_at}
    first_seen, last_sent = {}, {}
    for id, run in db.runs.items():
        name, events = run["run"], db.events[id]

        def bad(text):
            wrong.append((name, text))

        results = {e.key: e for e in events if e.kind in (OK, ERR) and e.info is None}
        by_hash = {(e.kind, e.key, crc(e.data or "")): e for e in events}
        hashes = {e.seq: entry_hash(e) for e in events}
        # Hand-outs.
        jobs = sorted(logs.jobs.get(name, []))
        epochs = collections.Counter(epoch for _, _, epoch, _, _, _ in jobs if epoch > 0)
        numbers["hand-outs"] += sum(epochs.values())
        for epoch, count in epochs.items():
            if count > 1:
                bad(f"epoch {epoch} was handed out {count} times")
        entries = {}
        acks = [it for it in logs.answers.get(name, []) if it[4] in ("step", "step fatal", "emit") and it[7] == "ok"]
        for time, _, epoch, seq, more, journal in jobs:
            seen = set()
            for number, hash in journal:
                seen.add(number)
                if entries.setdefault(number, hash) != hash:
                    bad(f"entry {number} of its journal was another before (epoch {epoch})")
                if hashes.get(number) not in (None, hash):
                    bad(f"entry {number} of its journal was handed out as something else (epoch {epoch})")
            if epoch < 0:
                continue
            if not more:
                last = max([e.seq for e in events if e.kind == RESUMED and e.seq <= seq], default=0)
                due = {e.seq for e in events if e.seq <= seq and (e.kind in (OK, PAYLOAD, HOOK, SLEEP, WAKE, DISPOSED)
                                                                  or e.kind in (ERR, RETRY) and e.seq > last)}
                for number in due - seen:
                    bad(f"the journal of epoch {epoch} does not have entry {number}")
            for _, acked, _, of, what, key, hash, _, _ in acks:
                if of < epoch and acked < time and key in results and results[key].seq > seq and not run["resumed"]:
                    bad(f"{key}, acknowledged before, is not in the journal of epoch {epoch}")
        if epochs:
            first_seen[name] = min(time for time, _, epoch, *_ in jobs if epoch > 0)
        # Answers.
        ended = next((e for e in reversed(events) if e.kind in ENDS), None)
        for sent, acked, _, epoch, what, key, hash, code, more in logs.answers.get(name, []):
            if code == "unavailable":
                numbers["answers: unavailable"] += 1
            if what.endswith(" late"):
                numbers[f"late reports: {code}"] += 1
                what = what[:-5]
            if what.startswith("bad "):
                numbers[f"{what}: {code}"] += 1
                if code in ("ok", "wake"):
                    bad(f"{what} {key} with epoch {epoch} was answered {code}")
                continue
            if code in ("ok", "wake") and what != "cancelled":
                late = name in cancelled and sent > cancelled[name]
                if late and not (what in ("step", "step fatal", "step err", "done")):
                    bad(f"{what} {key} was acknowledged, sent {sent - cancelled[name]:.3f} s after its cancel was")
            if code != "ok":
                continue
            numbers["acknowledged reports"] += 1
            if what in ("step", "step fatal"):
                kind = OK if what == "step" else ERR
                if (kind, key, hash) not in by_hash:
                    bad(f"{key} was acknowledged (epoch {epoch}), and recorded is {results.get(key)}")
            elif what == "step err" and "retry_ms" in more and (RETRY, key, hash) not in by_hash:
                bad(f"a failure of {key} was acknowledged and is not recorded")
            elif what == "done" and (COMPLETED, "", hash) not in by_hash:
                bad(f"its end was acknowledged (epoch {epoch}), and recorded is {ended}")
            elif what == "fail" and (FAILED, "", hash) not in by_hash:
                bad(f"its failure was acknowledged (epoch {epoch}), and recorded is {ended}")
            elif what == "child":
                data = json.dumps(more["run"])
                if not any(e.key == key and e.kind in (CHILD, OK) and e.data == data for e in events):
                    bad(f"{key} was told to be {more['run']}, and is not")
            if what == "done":
                last_sent[name] = sent
        # Side effects.
        nonces, per = collections.defaultdict(set), collections.Counter()
        for _, _, key, epoch, attempt, nonce in logs.effects.get(name, []):
            nonces[key].add(nonce)
            per[key, epoch] += 1
            numbers["side effects"] += 1
        for (key, epoch), count in per.items():
            if count > 1:
                bad(f"{key} ran {count} times in epoch {epoch}")
        completed = 0
        for key, e in results.items():
            if e.kind == OK and e.data.startswith('{"key"'):
                completed += 1
                numbers["steps"] += 1
                nonce = json.loads(e.data)["nonce"]
                if nonce not in nonces[key] and "forkedFrom" not in run["attributes"]:
                    bad(f"{key} is recorded as {nonce}, and ran as {nonces[key]}")
                numbers["steps that ran again"] += len(nonces[key]) > 1
        # The output says what was recorded.
        if run["status"] == 2 and ended and ended.data.startswith("{"):
            for key, value in json.loads(ended.data)["results"].items():
                of = [e for e in events if e.kind in (OK, ERR) and e.key == key]
                if not any(json.loads(e.data) == value for e in of):
                    bad(f"its output has {value} for {key}, recorded is {[e.data for e in of]}")
        # Sleeps.
        asked = collections.defaultdict(list)
        for _, _, _, key, until in logs.sleeps.get(name, []):
            asked[key].append(until)
        for e in events:
            if e.kind == SLEEP and "forkedFrom" not in run["attributes"]:
                if e.key not in asked:
                    if e.key != "stale":
                        bad(f"no worker asked for the sleep {e.key}")
                elif e.info < min(asked[e.key]):
                    bad(f"the sleep {e.key} was asked for until {min(asked[e.key])}, and is until {e.info}")
            elif e.kind == WAKE:
                until = next((it.info for it in events if it.kind == SLEEP and it.key == e.key), e.at)
                parked_late = next((it.at for it in events if it.kind == SLEEP and it.key == e.key), e.at)
                late = e.at - max([until, parked_late] + [min(up, e.at) for down, up in downs if down <= e.at and up > until])
                others = {it.kind for it in events} & {HOOK, CHILD, RESUMED}
                if not others:
                    # Nothing else can have woken it, so its worker has nothing to do with it.
                    numbers.late.append(late)
                    if late > LATE_MS_MAX:
                        bad(f"the sleep {e.key} ended {late} ms late")
        for _, _, epoch, key, until, ms in logs.wakes.get(name, []):
            if ms < until:
                bad(f"the sleep {key} ended {until - ms} ms early by the worker's clock (epoch {epoch})")
            numbers["wakes seen"] += 1
    # Concurrency keys by what the workers saw.
    keys = collections.defaultdict(list)
    for name, seen in first_seen.items():
        run = db.by_name[name]
        if run["concurrency_key"] and not run["resumed"]:
            keys[run["workflow"], run["concurrency_key"]].append((run["started"], seen, name))
    for spans in keys.values():
        spans.sort()
        for (_, _, one), (_, seen, other) in zip(spans, spans[1:]):
            numbers["runs one after the other"] += 1
            if one in last_sent and db.by_name[one]["status"] == 2 and last_sent[one] > seen:
                wrong.append((other, f"a worker had it {last_sent[one] - seen:.3f} s before the end of {one} was reported"))
    # Clients.
    for run in clients.runs:
        row = db.by_name.get(run.id)
        if row is None:
            wrong.append((run.id, "an acknowledged run is not there"))
            continue
        if len(run.ids) > 1:
            wrong.append((run.id, f"one idempotency key made {run.ids}"))
        if run.cancelled_at and row["status"] != 4:
            wrong.append((run.id, f"its cancel was acknowledged, and it is {WORDS[row['status']]}"))
        if run.number and (db.events[row["id"]][0].data != json.dumps(run.body["input"])
                           and json.loads(db.events[row["id"]][0].data) != run.body["input"]):
            wrong.append((run.id, "its input is not what was sent"))
    for delivery in clients.deliveries:
        row = db.by_name.get(delivery.run.id)
        if row is None:
            continue
        got = [json.loads(e.data)["id"] for e in db.events[row["id"]]
               if e.kind == PAYLOAD and e.key == delivery.key and "emit" not in json.loads(e.data)]
        first = list(dict.fromkeys(got))
        twice = {id for id, count in collections.Counter(got).items() if count > 1}
        numbers["payloads recorded"] += len(got)
        numbers["payloads recorded twice, of those without an answer"] += len(twice)
        if set(delivery.acknowledged) - set(got):
            wrong.append((delivery.run.id, f"payloads {delivery.acknowledged} were acknowledged, and {got} are there"))
        if first != sorted(first):
            wrong.append((delivery.run.id, f"payloads in the order {got}"))
        if twice - delivery.unsure:
            wrong.append((delivery.run.id, f"payloads {got}, without an answer were {delivery.unsure}"))
        if row["status"] == 2 and len(first) < delivery.count:
            wrong.append((delivery.run.id, f"completed with {got} of {delivery.count} payloads"))
    for id, run in db.runs.items():
        emits = collections.Counter(e.data for e in db.events[id] if e.kind == PAYLOAD and '"emit"' in e.data)
        for data, count in emits.items():
            if count > 1 and "forkedFrom" not in run["attributes"]:
                wrong.append((run["run"], f"{data} was emitted {count} times"))
    return wrong


class Numbers(collections.Counter):
    """Measurements: counts, and the lateness of sleeps in milliseconds."""

    def __init__(self):
        super().__init__()
        self.late = []

    def lateness(self):
        if not self.late:
            return "no sleeps"
        late = sorted(self.late)
        at = [late[min(len(late) - 1, int(len(late) * p))] for p in (0.5, 0.9, 0.99, 0.999)]
        over = sum(it > LATE_MS for it in late)
        return (f"{len(late)} sleeps ended late by p50 {at[0]}, p90 {at[1]}, p99 {at[2]}, p99.9 {at[3]}, at most {late[-1]} ms; "
                f"{over} by more than {LATE_MS} ms")
