"""A worker of the chaos run: runs plans (see plan.py), logs what it does, and misbehaves at times.

    worker.py KIND NAME PORT HTTP-PORT TOKEN LOG SEED CREDIT MISCHIEF

KIND is `threads` (a thread for each job, resumes) or `loop` (one thread and a selector, resumes only at times).
The log has one JSON list a line; each is written by one call, so a kill loses none:

  J  time, run, epoch, seq, more, [[seq, crc]...]         a job came, with this journal (entries as they came)
  E  time, run, key, epoch, attempt, value                a side effect
  A  sent, time, run, epoch, what, key, crc, code, note   a report was answered; code is "ok" or that of a `no`
  P  time, run, epoch, key, until                         asked for a sleep; milliseconds since 1970
  W  time, run, epoch, key, until, ms                     saw that the sleep is over; its own clock
  F  time, what                                           a fault of its own
  V  time, text                                           a violation"""
import http.client
import json
import os
import queue
import random
import re
import sys
import threading
import time
import zlib

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "scripts", "common"))

import ws  # noqa: E402

DECODER = json.JSONDecoder()
dumps = json.dumps
SILENCE_BEATS = 6


def crc(text):
    return zlib.crc32(text.encode())


def raw_items(text, name):
    """The items of the list of this name in a frame: what they say, and the hash of each as it came."""
    at = re.compile(rf'"seq":\d+,(?:"more":true,)?"{name}":\[|"{name}":\[').search(text)
    items, hashes = [], []
    if not at:
        return items, hashes
    at = at.end()
    while text[at] != "]":
        item, end = DECODER.raw_decode(text, at)
        items.append(item)
        hashes.append([item["seq"], crc(text[at:end])])
        at = end + (text[end] == ",")
    return items, hashes


class Gone(Exception):
    """The job is not ours any more."""


class Job:
    def __init__(self, frame):
        self.run, self.epoch = frame["job"], frame["epoch"]
        self.frame, self.seq = frame, frame["seq"]
        self.is_gone = self.is_cancelled = False
        self.is_new = frame["epoch"] == 1
        # By key.
        self.results, self.retries, self.sleeps, self.over = {}, {}, {}, set()
        self.hooks, self.payloads, self.children, self.begun, self.disposed = {}, {}, {}, {}, set()

    def learn(self, entries):
        for e in entries:
            kind, key = e["kind"], e["key"]
            self.seq = max(self.seq, e["seq"])
            if kind == "step":
                self.results[key] = ("ok", e["ok"]) if "ok" in e else ("err", e["err"])
            elif kind == "retry":
                self.retries[key] = (e["attempt"], e["at"])
            elif kind == "sleep":
                self.sleeps[key] = e["until"]
            elif kind == "wake":
                self.over.add(key)
            elif kind == "hook":
                self.hooks[key] = e.get("token")
            elif kind == "payload":
                self.payloads.setdefault(key, []).append(e["ok"])
            elif kind == "child":
                self.children[key] = e["run"]
            elif kind == "begun":
                self.begun[key] = e["attempt"]
            elif kind == "disposed":
                self.disposed.add(key)


class Pending:
    """A frame that wants an answer."""

    def __init__(self, job, ref, frame, note):
        self.job, self.ref, self.note = job, ref, note
        self.frame, self.text = frame, dumps({**frame, "ref": ref})
        self.sent, self.done, self.answer = time.monotonic(), threading.Event(), None


class Worker:
    def __init__(self, name, port, http_port, token, log, seed, credit, mischief):
        self.name, self.port, self.http_port, self.token = name, port, http_port, token
        self.rng = random.Random(seed)
        self.log_file = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        self.credit, self.mischief = credit, mischief
        self.instance = os.urandom(8).hex()
        self.lock = threading.RLock()
        self.sending = threading.Lock()
        self.socket, self.jobs, self.pending, self.refs = None, {}, {}, 0
        self.hb_ms, self.lease_ms, self.pause = 1000, 3000, 0.05
        self.heard, self.next_beat, self.probe = 0, 0, None

    # The log.

    def log(self, *what):
        os.write(self.log_file, (dumps(what) + "\n").encode())

    def fault(self, what):
        self.log("F", round(time.monotonic(), 4), what)

    def violation(self, text):
        self.log("V", round(time.monotonic(), 4), f"{self.name}: {text}")

    def chance(self, p):
        return self.rng.random() < p * self.mischief

    # The connection.

    def connect(self):
        """Connects and says hello; false when that did not work."""
        with self.lock:
            resume = [{"job": job.run, "epoch": job.epoch} for job in self.jobs.values() if not job.is_cancelled]
        try:
            one = ws.Socket(self.port, "/api/workflow/ws", {"Sec-WebSocket-Protocol": "vski.workflow.v1"}, 4)
            hello = {"t": "hello", "proto": [1], "worker": self.name, "instance": self.instance, "token": self.token,
                     "workflows": [{"name": name, "version": "1"} for name in ("chaos", "keyed", "child")],
                     "credit": self.credit, "lang": "python", "sdk": "chaos"}
            if resume and self.resumes():
                hello["resume"] = {"jobs": resume}
            one.send(dumps(hello))
            texts = []
            until = time.monotonic() + 5
            while not texts:
                texts = one.read(1)
                if time.monotonic() > until:
                    one.close()
                    return False
        except (OSError, ws.Closed, ws.Refused):
            return False
        welcome = json.loads(texts[0])
        if welcome["t"] != "welcome":
            self.violation(f"the first frame is {texts[0][:200]}")
            return False
        self.hb_ms, self.lease_ms = welcome["hb_ms"], welcome["lease_ms"]
        kept = {(it["job"], it["epoch"]) for it in welcome["kept"]}
        self.heard, self.pause, self.next_beat, self.probe = time.monotonic(), 0.05, 0, None
        with self.lock:
            for key, job in list(self.jobs.items()):
                if key not in kept:
                    self.lose(job)
            again = [p for ref, p in sorted(self.pending.items()) if p.job is None or not p.job.is_gone]
            self.socket = one
        if self.chance(0.2):
            self.fault("reports sent again out of order")
            self.rng.shuffle(again)
        self.send(*[p.text for p in again])
        for text in texts[1:]:
            self.take(text)
        return True

    def resumes(self):
        return True

    def send(self, *texts):
        """Sends if there is a connection; what wants an answer is sent again after the next hello."""
        one = self.socket
        if one is None or not texts:
            return
        try:
            with self.sending:
                one.send(*texts)
        except OSError:
            pass  # The reader finds out.

    def beat(self):
        now = time.monotonic()
        if now < self.next_beat:
            return
        self.next_beat = now + self.hb_ms / 1000
        with self.lock:
            jobs = [[job.run, job.epoch] for job in self.jobs.values() if not job.is_cancelled]
        frame = {"t": "hb", "jobs": jobs}
        if self.probe is not None:
            frame["n"], self.probe = self.probe, None
        self.send(dumps(frame))

    def misbehave(self):
        """Once per beat or so."""
        one = self.socket
        if one is None:
            return
        if self.chance(0.02):
            self.fault("socket closed abruptly")
            one.abort()
        elif self.chance(0.01):
            self.fault("slow reader")
            self.deaf_until = time.monotonic() + self.rng.uniform(1, 7)
        elif self.chance(0.01):
            self.fault("unknown frames")
            self.send('{"t":"bogus","ref":"x"}', '{"t":"step","ref":1.5e3,"job":7}', '{"t":"park","on":3}', '{"t":"hb","jobs":7}')
        elif self.chance(0.004):
            kind = self.rng.choice(["no JSON", "no object", "binary", "bad opcode", "unmasked", "half a frame", "too long",
                                    "bye", "second hello"])
            self.fault(f"garbage: {kind}")
            raw = {"no JSON": ws.frame('{"t":"step"'), "no object": ws.frame("[1]"), "binary": ws.frame(os.urandom(50), 2),
                   "bad opcode": ws.frame("x", 11), "unmasked": b"\x81\x02{}", "half a frame": ws.frame('{"t":"hb"}')[:7],
                   "too long": ws.frame('{"t":"log","msg":"' + "x" * (1 << 20) + '"}'), "bye": ws.frame('{"t":"bye"}'),
                   "second hello": ws.frame('{"t":"hello","worker":"x","workflows":[]}')}[kind]
            try:
                with self.sending:
                    one.send_raw(raw)
            except OSError:
                pass
            if kind == "half a frame":
                one.abort()

    deaf_until = 0

    def listen(self, timeout):
        """Reads once. Raises what ends the connection."""
        if time.monotonic() < self.deaf_until:
            time.sleep(min(timeout, 0.05))
            return
        texts = self.socket.read(timeout)
        now = time.monotonic()
        if texts:
            self.heard = now
        elif now - self.heard > SILENCE_BEATS * self.hb_ms / 1000:
            raise ws.Closed("silence")
        for text in texts:
            self.take(text)

    def broken(self):
        with self.lock:
            if self.socket:
                self.socket.close()
            self.socket = None
        self.pause = min(self.pause * 2, 1.0)

    # Frames.

    def take(self, text):
        frame = json.loads(text)
        kind = frame["t"]
        if kind == "job":
            self.take_job(frame, text)
        elif kind == "acks":
            for ref in frame["refs"]:
                self.answered(ref, {"t": "ok"}, text)
        elif kind in ("ok", "no", "wake"):
            self.answered(frame.get("ref"), frame, text)
        elif kind == "probe":
            self.probe, self.next_beat = frame["n"], 0
        elif kind in ("revoke", "cancel"):
            with self.lock:
                job = self.jobs.get((frame["job"], frame["epoch"]))
                if job and kind == "revoke":
                    self.lose(job)
                elif job:
                    job.is_cancelled = True
                    self.lose(job)
            if job and kind == "cancel" and not self.chance(0.3):
                stop = {"t": "fail", "job": job.run, "epoch": job.epoch, "err": {"kind": "cancelled", "message": "stopped"}}
                self.ask(None, stop, ("cancelled", "", 0))
        elif kind not in ("error", "slow", "going_away", "auth_expiring"):
            self.violation(f"a frame that is not documented: {text[:200]}")

    def take_job(self, frame, text):
        key = (frame["job"], frame["epoch"])
        entries, hashes = raw_items(text, "journal")
        self.log("J", round(time.monotonic(), 4), *key, frame["seq"], bool(frame.get("more")), hashes)
        with self.lock:
            older = [known for known in self.jobs if known[0] == key[0]]
            if key in self.jobs:
                self.violation(f"{key} was handed out twice")
            for known in older:
                if any(p.job is self.jobs[known] and p.note[0] in ("park", "retryable") for p in self.pending.values()):
                    self.fault("(seen) a job before the answer to its park")
                elif not self.jobs[known].is_gone:
                    self.fault("(seen) a job of ours again before a revoke")
        if self.chance(0.004):
            self.fault("never acknowledged a job")
            return
        lease = {"job": key[0], "epoch": key[1]}
        if self.chance(0.01):
            self.fault("nack")
            nack = {"t": "nack", **lease, "reason": "busy", "delay_ms": self.rng.choice([0, 50, 500])}
            self.send(dumps(nack))
            return
        job = Job(frame)
        job.learn(entries)
        with self.lock:
            self.jobs[key] = job
        self.send(dumps({"t": "ack", **lease}))
        self.start(job)

    def ask(self, job, frame, note):
        """Sends a frame that is answered; `note` is what, key, hash of what is reported."""
        with self.lock:
            self.refs += 1
            p = Pending(job, self.refs, frame, note)
            self.pending[p.ref] = p
        if job is not None and job.is_gone:
            self.pending.pop(p.ref, None)
            p.answer = {"t": "gone"}
            p.done.set()
            return p
        if job is not None and self.chance(0.02):
            self.fault("report by HTTP")
            if self.report(p):
                return p
        self.send(p.text)
        return p

    def answered(self, ref, frame, text):
        with self.lock:
            p = self.pending.pop(ref, None) if isinstance(ref, int) else None
        if p is None:
            if ref not in ("x", 1500.0):
                self.fault("(seen) an answer without a request")
            return
        self.note(p, frame)
        if frame["t"] == "wake":
            frame["entries"], frame["hashes"] = raw_items(text, "results")
            if p.job:
                self.log("J", round(time.monotonic(), 4), p.job.run, -p.job.epoch, frame["seq"], bool(frame.get("more")),
                         frame["hashes"])
        p.answer = frame
        self.settle(p)

    def note(self, p, frame, late=""):
        what, key, hash = p.note
        code = frame.get("code", "?") if frame["t"] == "no" else frame["t"]
        more = {name: frame[name] for name in ("failed", "retry_ms", "attempt", "run", "token") if name in frame}
        self.log("A", round(p.sent, 4), round(time.monotonic(), 4), p.frame["job"], p.frame["epoch"], what + late, key, hash,
                 code, more)

    def lose(self, job):
        """The job is not ours any more; who waits for answers about it is told."""
        with self.lock:
            job.is_gone = True
            self.jobs.pop((job.run, job.epoch), None)
            lost = [p for p in self.pending.values() if p.job is job]
            for p in lost:
                del self.pending[p.ref]
        for p in lost:
            p.answer = {"t": "gone"}
            if (not self.mischief or self.rng.random() < 0.5) and not p.note[0].startswith("bad"):
                self.later(lambda p=p: self.report(p, " late"))
            self.settle(p)

    def report(self, p, late=""):
        """A report without the socket; true when it was answered."""
        try:
            connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=5)
            connection.request("POST", "/api/workflow/report", '{"frames":[' + p.text + "]}",
                               {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"})
            response = connection.getresponse()
            text = response.read().decode()
            connection.close()
        except (OSError, http.client.HTTPException):
            return False
        if response.status != 200:
            if response.status != 503:
                self.violation(f"report by HTTP: {response.status} {text[:200]}")
            return False
        answer = json.loads(text)["answers"][0]
        if late:
            self.note(p, answer, late)
        else:
            self.answered(p.ref, answer, text)
        return True

    def get(self, path):
        """A GET that does not give up before the job does."""
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=5)
        connection.request("GET", path, headers={"Authorization": f"Bearer {self.token}"})
        response = connection.getresponse()
        text = response.read().decode()
        connection.close()
        if response.status != 200:
            raise OSError(f"{path}: {response.status}")
        return text

    # Overridden by each kind.

    def start(self, job):
        raise NotImplementedError

    def settle(self, p):
        p.done.set()

    def later(self, action):
        threading.Thread(target=action, daemon=True).start()

    # The workflow. A generator: yields ("pause", seconds), ("ask", [(frame, note)...]) which comes back as
    # the answers, or ("get", path) which comes back as the text.

    def workflow(self, job):
        lease = {"job": job.run, "epoch": job.epoch}
        if job.frame.get("more"):
            while True:
                text = yield ("get", f"/api/workflow/runs/{job.run}/journal?after={job.seq}")
                page = json.loads(text)
                entries, hashes = raw_items(text, "journal")
                # Entries after `seq`, added since the hand-out, are in the pages as well.
                self.log("J", round(time.monotonic(), 4), job.run, -job.epoch, page["seq"], page["more"], hashes)
                job.learn(entries)
                job.seq = max(job.seq, page["seq"])
                if not page["more"]:
                    break
        if job.frame.get("input_more"):
            input = json.loads((yield ("get", f"/api/workflow/runs/{job.run}/input")))
        else:
            input = job.frame["input"]
        for key in job.over:
            self.saw_wake(job, key)
        for op in input["plan"]:
            yield from getattr(self, "do_" + op[0])(job, lease, *op[1:])
        end = input.get("end", "done")
        if end in ("fail", "retryable", "nondeterminism") and self.rng.random() < 0.5:
            err = {"kind": {"fail": "fatal"}.get(end, end), "message": os.urandom(6).hex()}
            if end == "retryable":
                err["retry_after_ms"] = 200
            yield from self.ask_one({"t": "fail", **lease, "err": err}, (end, "", crc(dumps(err))))
            raise Gone
        output = {"results": {key: value for key, (_, value) in sorted(job.results.items())},
                  "payloads": {key: len(values) for key, values in sorted(job.payloads.items())}}
        if self.chance(0.01):
            self.fault("stale end")
            yield ("bad", [({"t": "done", **lease, "epoch": job.epoch - 1, "output": "stale"}, ("bad end", "", 0))])
        yield from self.ask_one({"t": "done", **lease, "output": output}, ("done", "", crc(dumps(output))))
        raise Gone

    def ask_one(self, frame, note):
        return (yield ("ask", [(frame, note)]))[0]

    def saw_wake(self, job, key):
        if key in job.sleeps:
            self.log("W", round(time.monotonic(), 4), job.run, job.epoch, key, job.sleeps[key], time.time_ns() // 1_000_000)

    def park(self, job, lease, on):
        """Waits; comes back when something has happened."""
        answer = yield from self.ask_one({"t": "park", **lease, "seen": job.seq, "on": on}, ("park", "", 0))
        if answer["t"] == "ok":
            raise Gone
        if answer["t"] != "wake":
            self.violation(f"park of {job.run} was answered {answer}")
            raise Gone
        known = set(job.over)
        job.learn(answer["entries"])
        job.seq = max(job.seq, answer["seq"])
        while answer.get("more"):
            text = yield ("get", f"/api/workflow/runs/{job.run}/journal?after={job.seq}")
            answer = json.loads(text)
            job.learn(answer["journal"])
            job.seq = max(job.seq, answer["seq"])
        for key in job.over - known:
            self.saw_wake(job, key)

    def run_step(self, job, key, size=0):
        """The side effect, and its report."""
        attempt = job.retries.get(key, (0, 0))[0] + 1
        value = {"key": key, "by": self.name, "epoch": job.epoch, "nonce": os.urandom(6).hex()}
        if size:
            value["pad"] = "x" * size + "\u00e9\u0000\U0001f600"
        self.log("E", round(time.monotonic(), 4), job.run, key, job.epoch, attempt, value["nonce"])
        return {"t": "step", "job": job.run, "epoch": job.epoch, "key": key, "ok": value}, ("step", key, crc(dumps(value)))

    def took(self, job, key, frame, answer):
        if answer["t"] == "ok":
            job.results[key] = ("ok", frame["ok"])
        else:
            self.violation(f"step {key} of {job.run} epoch {job.epoch} was answered {answer}")
            raise Gone

    def do_step(self, job, lease, key, ms, size=0):
        if key in job.results:
            return
        yield ("pause", ms / 1000)
        frame, note = self.run_step(job, key, size)
        bad = []
        if self.chance(0.01):
            self.fault("reported twice")
            bad.append((frame, ("step", key, note[2])))
        if self.chance(0.01):
            self.fault("stale epochs")
            for epoch in (job.epoch - 1, job.epoch + 1000):
                bad.append(({**frame, "epoch": epoch, "ok": "stale"}, ("bad step", key, 0)))
                bad.append(({"t": "call", **lease, "epoch": epoch, "op": "set_attr", "key": key, "attributes": {"stale": 1}},
                            ("bad call", key, 0)))
                bad.append(({"t": "park", **lease, "epoch": epoch, "seen": 0, "on": [{"sleep": "stale", "ms": 1}]},
                            ("bad park", key, 0)))
        if bad:
            yield ("bad", bad)
        self.took(job, key, frame, (yield from self.ask_one(frame, note)))
        if self.chance(0.01):
            self.fault("another result for a step")
            yield ("bad", [({**frame, "ok": "another"}, ("bad step", key, 0)),
                           ({**frame, "ok": None, "epoch": job.epoch - 1}, ("bad step", key, 0))])

    def do_many(self, job, lease, keys, ms):
        left = [key for key in keys if key not in job.results]
        if not left:
            return
        yield ("pause", ms / 1000)
        frames = [self.run_step(job, key) for key in left]
        self.rng.shuffle(frames)
        answers = yield ("ask", frames)
        for (frame, _), answer in zip(frames, answers):
            self.took(job, frame["key"], frame, answer)

    def do_flaky(self, job, lease, key, failures, parks):
        """Fails so many times; the server says when to try again."""
        while key not in job.results:
            attempt, at = job.retries.get(key, (0, 0))
            left = at / 1000 - time.time()
            if left > 0:
                if parks:
                    yield from self.park(job, lease, [{"retry": key}])
                else:
                    yield ("pause", left)
                continue
            if attempt >= failures:
                frame, note = self.run_step(job, key)
                self.took(job, key, frame, (yield from self.ask_one(frame, note)))
                return
            err = {"kind": "error", "message": os.urandom(6).hex(), "retry_after_ms": self.rng.choice([0, 20, 300])}
            frame = {"t": "step", **lease, "key": key, "err": err, "attempt": attempt + 1, "retries": 10}
            answer = yield from self.ask_one(frame, ("step err", key, crc(dumps(err))))
            if answer["t"] != "ok" or "retry_ms" not in answer:
                self.violation(f"a failed attempt of {key} of {job.run} was answered {answer}")
                raise Gone
            job.retries[key] = (attempt + 1, time.time() * 1000 + answer["retry_ms"])

    def do_fatal(self, job, lease, key):
        if key in job.results:
            return
        err = {"kind": "fatal", "message": os.urandom(6).hex()}
        answer = yield from self.ask_one({"t": "step", **lease, "key": key, "err": err}, ("step fatal", key, crc(dumps(err))))
        if answer["t"] != "ok" or not answer.get("failed"):
            self.violation(f"a fatal failure of {key} of {job.run} was answered {answer}")
            raise Gone
        job.results[key] = ("err", err)

    def do_begin(self, job, lease, key, ms):
        if key in job.results:
            return
        answer = yield from self.ask_one({"t": "step_begin", **lease, "key": key}, ("begin", key, 0))
        if answer["t"] != "ok" or answer["attempt"] <= job.begun.get(key, 0):
            self.violation(f"step_begin of {key} of {job.run} was answered {answer}, begun before: {job.begun.get(key)}")
            raise Gone
        yield ("pause", ms / 1000)
        frame, note = self.run_step(job, key)
        self.took(job, key, frame, (yield from self.ask_one(frame, note)))

    def do_sleep(self, job, lease, key, ms, relative):
        while key not in job.over:
            until = time.time_ns() // 1_000_000 + ms
            if key not in job.sleeps:
                self.log("P", round(time.monotonic(), 4), job.run, job.epoch, key, until)
            yield from self.park(job, lease, [{"sleep": key, "ms": ms} if relative else {"sleep": key, "until": until}])

    def do_hook(self, job, lease, key, token):
        if key in job.hooks:
            if job.hooks[key] != token:
                self.violation(f"hook {key} of {job.run} is {job.hooks[key]}, not {token}")
            return
        answer = yield from self.ask_one({"t": "call", **lease, "op": "hook_create", "key": key, "token": token},
                                         ("hook", key, crc(token)))
        if answer["t"] != "ok" or answer.get("token") != token:
            self.violation(f"hook {key} of {job.run} was answered {answer}")
            raise Gone
        job.hooks[key] = token

    def do_await(self, job, lease, key, count, also_ms, disposes):
        """Waits until so many different payloads have come."""
        on = [{"hook": key}]
        if also_ms:
            on.append({"sleep": f"of {key}", "ms": also_ms})
        while len({it["id"] for it in job.payloads.get(key, []) if "id" in it}) < count:
            if also_ms and f"of {key}" not in job.sleeps:
                self.log("P", round(time.monotonic(), 4), job.run, job.epoch, f"of {key}", time.time_ns() // 1_000_000 + also_ms)
            yield from self.park(job, lease, on)
            if f"of {key}" in job.over:
                on = [{"hook": key}]
        if disposes and key not in job.disposed:
            answer = yield from self.ask_one({"t": "call", **lease, "op": "hook_dispose", "key": key}, ("dispose", key, 0))
            if answer["t"] != "ok":
                self.violation(f"hook_dispose of {key} of {job.run} was answered {answer}")
                raise Gone
            job.disposed.add(key)

    def do_emit(self, job, lease, key, token):
        if key in job.results:
            return
        frame = {"t": "call", **lease, "op": "emit", "key": key, "token": token, "payload": {"emit": key}}
        answer = yield from self.ask_one(frame, ("emit", key, 0))
        if answer["t"] != "ok":
            self.violation(f"emit {key} of {job.run} was answered {answer}")
            raise Gone
        job.results[key] = ("ok", None)

    def do_child(self, job, lease, key, input, detached=False):
        if key not in job.results and key not in job.children:
            frame = {"t": "call", **lease, "op": "trigger", "key": key, "workflow": "child", "input": input}
            if detached:
                frame["detached"] = True
            answer = yield from self.ask_one(frame, ("child", key, 0))
            if answer["t"] != "ok" or not answer.get("run"):
                self.violation(f"trigger {key} of {job.run} was answered {answer}")
                raise Gone
            if detached:
                job.results[key] = ("ok", answer["run"])
            job.children[key] = answer["run"]
            if not detached and self.chance(0.02):
                self.fault("a step under the key of a child")
                frame = {"t": "step", **lease, "key": key, "ok": "not of the child"}
                yield ("bad", [(frame, ("bad child", key, 0)), ({"t": "step_begin", **lease, "key": key}, ("bad child", key, 0))])
        while key not in job.results:
            yield from self.park(job, lease, [{"child": key}])

    def do_attr(self, job, lease, key, value):
        if key in job.frame.get("attributes", {}):
            return
        frame = {"t": "call", **lease, "op": "set_attr", "key": key, "attributes": {key: value}}
        answer = yield from self.ask_one(frame, ("attr", key, 0))
        if answer["t"] != "ok":
            self.violation(f"set_attr {key} of {job.run} was answered {answer}")
            raise Gone

    def do_stream(self, job, lease, name, count):
        for i in range(count):
            frame = {"t": "call", **lease, "op": "stream_write", "key": f"{name}#{i}", "name": name, "index": i,
                     "data": f"chunk {i}", "end": i == count - 1}
            answer = yield from self.ask_one(frame, ("stream", name, 0))
            if answer["t"] != "ok":
                self.violation(f"stream_write {name} of {job.run} was answered {answer}")
                raise Gone


class Threads(Worker):
    """A thread for each job, one that reads, one that beats."""

    def run(self):
        threading.Thread(target=self.beats, daemon=True).start()
        while True:
            if not self.connect():
                self.pause = min(self.pause * 2, 1.0)
                time.sleep(self.rng.uniform(0, self.pause))
                continue
            try:
                while True:
                    self.listen(0.5)
            except (OSError, ws.Closed):
                self.broken()
                time.sleep(self.rng.uniform(0, self.pause))

    def beats(self):
        while True:
            time.sleep(0.1)
            due = time.monotonic() >= self.next_beat
            self.beat()
            if due:
                self.misbehave()

    def start(self, job):
        threading.Thread(target=self.drive, args=(job,), daemon=True).start()

    def drive(self, job):
        steps, back = self.workflow(job), None
        try:
            while True:
                what, arg = steps.send(back)
                back = None
                if job.is_gone:
                    raise Gone
                if what == "pause":
                    time.sleep(arg)
                elif what == "get":
                    back = self.fetch(job, arg)
                else:
                    asked = [self.ask(job, *it) for it in arg]
                    if what == "bad":
                        continue
                    back = []
                    for p in asked:
                        p.done.wait()
                        if p.answer["t"] == "gone" or p.answer.get("code") in ("lost_lease", "cancelled"):
                            raise Gone
                        if p.answer.get("code") == "unavailable":
                            raise Gone
                        back.append(p.answer)
                if job.is_gone:
                    raise Gone
        except Gone:
            pass
        except Exception as error:
            self.violation(f"of the script: {error!r} in {job.run}")
        with self.lock:
            if self.jobs.get((job.run, job.epoch)) is job:
                self.lose(job)

    def fetch(self, job, path):
        while not job.is_gone:
            try:
                return self.get(path)
            except (OSError, http.client.HTTPException):
                time.sleep(0.2)
        raise Gone


class Loop(Worker):
    """One thread for all of it; jobs are generators that go on when their answers have come."""

    def run(self):
        self.ready, self.timers, self.waits = queue.SimpleQueue(), [], {}
        while True:
            if not self.connect():
                self.pause = min(self.pause * 2, 1.0)
                self.turn(self.rng.uniform(0, self.pause))
                continue
            try:
                while True:
                    due = time.monotonic() >= self.next_beat
                    self.beat()
                    if due:
                        self.misbehave()
                    self.listen(max(0.001, self.turn(0)))
            except (OSError, ws.Closed):
                self.broken()
                self.turn(self.rng.uniform(0, self.pause))

    def resumes(self):
        return self.rng.random() < 0.7

    def turn(self, pause):
        """Does what is due for so long at least; seconds until more is."""
        until = time.monotonic() + pause
        while True:
            now = time.monotonic()
            for at, job, steps in [it for it in self.timers if it[0] <= now]:
                self.timers.remove((at, job, steps))
                self.go(job, steps, None)
            while not self.ready.empty():
                self.ready.get()()
            if now >= until:
                return min([0.1] + [at - now for at, _, _ in self.timers])
            time.sleep(0.005)

    def start(self, job):
        self.ready.put(lambda: self.go(job, self.workflow(job), None))

    def later(self, action):
        self.ready.put(action)

    def settle(self, p):
        super().settle(p)
        waits = self.waits.pop(p.ref, None)
        if waits:
            job, steps, asked = waits
            if all(it.done.is_set() for it in asked):
                self.ready.put(lambda: self.went(job, steps, asked))

    def went(self, job, steps, asked):
        answers = [p.answer for p in asked]
        if any(it["t"] == "gone" or it.get("code") in ("lost_lease", "cancelled", "unavailable") for it in answers):
            self.over(job)
        else:
            self.go(job, steps, answers)

    def go(self, job, steps, back):
        try:
            while True:
                if job.is_gone:
                    raise Gone
                what, arg = steps.send(back)
                back = None
                if job.is_gone:
                    raise Gone
                if what == "pause":
                    self.timers.append((time.monotonic() + arg, job, steps))
                    return
                if what == "get":
                    back = self.get(arg)
                    continue
                asked = [self.ask(job, *it) for it in arg]
                if what == "bad":
                    continue
                open = [p for p in asked if not p.done.is_set()]
                for p in open:
                    self.waits[p.ref] = (job, steps, asked)
                if not open:
                    self.ready.put(lambda: self.went(job, steps, asked))
                return
        except (Gone, OSError, http.client.HTTPException) as error:
            if not isinstance(error, Gone):
                # Could not get its journal: gives the job back.
                self.send(dumps({"t": "nack", "job": job.run, "epoch": job.epoch, "reason": "busy"}))
            self.over(job)
        except Exception as error:
            self.violation(f"of the script: {error!r} in {job.run}")
            self.over(job)

    def over(self, job):
        if self.jobs.get((job.run, job.epoch)) is job:
            self.lose(job)


def main():
    kind, name, port, http_port, token, log, seed, credit, mischief = sys.argv[1:]
    worker = {"threads": Threads, "loop": Loop}[kind]
    worker(name, int(port), int(http_port), token, log, seed, int(credit), float(mischief)).run()


if __name__ == "__main__":
    main()
