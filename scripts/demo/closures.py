#!/usr/bin/env python3
"""Workflows of the demo: they compute the transitive dependencies of each package.

  closures.py work   a worker: VSKI_REPLICA has the runs and the packages, VSKI_MASTER gets the results
  closures.py ask EDGES [KILL]   starts a run for each package, answers its hook, and compares the results at
                     the master with EDGES (name, tab, name of a dependency); kills the process KILL in the middle

VSKI_KEY is an API key for both. Standard library only; docs/workflows.md describes the protocol.
"""
import collections
import http.client
import json
import os
import signal
import sys
import time
import urllib.parse

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "common"))
import ws  # noqa: E402

REPLICA, MASTER, KEY = (os.environ.get("VSKI_" + name, "") for name in ("REPLICA", "MASTER", "KEY"))
WORKFLOW, CREDIT, AT_A_TIME = "closure", 50, 40


class Server:
    """A server over one connection that is kept."""

    def __init__(self, url):
        self.place, self.connection = urllib.parse.urlsplit(url).netloc, None

    def call(self, method, path, body=None):
        """Status and JSON."""
        for attempt in (1, 2):
            if self.connection is None:
                self.connection = http.client.HTTPConnection(self.place, timeout=30)
            try:
                text = None if body is None else json.dumps(body)
                self.connection.request(method, path, text, {"X-API-Key": KEY, "Content-Type": "application/json"})
                response = self.connection.getresponse()
                text = response.read()
                return response.status, json.loads(text) if text else None
            except (OSError, http.client.HTTPException):
                self.connection.close()
                self.connection = None
                if attempt == 2:
                    raise

    def get(self, path):
        status, answer = self.call("GET", path)
        if status != 200:
            sys.exit(f"{path}: {status} {answer}")
        return answer


# ---- the workflow ----

def closure(run, package, replica, master):
    """Yields what is to be done: a step with its function, a sleep, a hook. Gets the results."""
    known, level, number = {package["id"]}, [package["id"]], 0
    names = []
    while level:
        found = yield "step", f"level#{number}", lambda: read_level(replica, level)
        names += [name for name, _ in found]
        level = sorted({far for _, near in found for far in near} - known)
        known.update(level)
        number += 1
    yield "sleep", "pause#0", 100
    approved = yield "hook", "approval#0", f"closure.{run}"
    result = {"id": run, "package": package["name"], "size": len(names), "names": sorted(names), "word": approved}
    yield "step", "write#0", lambda: write(master, result)


def read_level(replica, ids):
    """Names and dependencies of packages, as the replica has them."""
    found = []
    for at in range(0, len(ids), AT_A_TIME):
        wanted = " || ".join(f'id = "{one}"' for one in ids[at:at + AT_A_TIME])
        query = urllib.parse.urlencode({"filter": wanted, "fields": "name,depends", "perPage": 500, "skipTotal": 1})
        found += replica.get(f"/api/collections/packages/records?{query}")["items"]
    return [[record["name"], record["depends"]] for record in found]


def write(master, result):
    """Twice is once: the record has the id of the run."""
    status, answer = master.call("POST", "/api/collections/closures/records", result)
    if status == 200 or (status == 400 and "id" in answer.get("data", {})):
        return None
    raise RuntimeError(f"{status} {answer}")


class Job:
    """A run in hand: its code is played forward to the first thing that the journal does not have."""

    def __init__(self, frame):
        self.about = {"job": frame["job"], "epoch": frame["epoch"]}
        self.input, self.seen, self.journal, self.token = frame["input"], 0, {}, None
        self.learn(frame["journal"], frame["seq"])

    def learn(self, entries, seq):
        self.seen = max(self.seen, seq)
        for entry in entries:
            if entry["kind"] in ("step", "payload"):
                self.journal[entry["key"]] = entry.get("ok")
            elif entry["kind"] == "wake":
                self.journal[entry["key"]] = None
            elif entry["kind"] == "hook":
                self.token = entry["token"]

    def next(self, replica, master):
        """The frame to send next."""
        code = closure(self.about["job"], self.input, replica, master)
        want = next(code)
        try:
            while want[1] in self.journal:
                want = code.send(self.journal[want[1]])
        except StopIteration:
            return {"t": "done", "output": None}
        kind, key, what = want
        park = {"t": "park", "seen": self.seen}
        if kind == "step":
            try:
                return {"t": "step", "key": key, "ok": what()}
            except (RuntimeError, OSError) as error:
                return {"t": "step", "key": key, "err": {"message": str(error)}}
        if kind == "sleep":
            return {**park, "on": [{"sleep": key, "ms": what}]}
        if self.token is None:
            return {"t": "call", "op": "hook_create", "key": key, "token": what}
        return {**park, "on": [{"hook": key}]}


def work():
    replica, master = Server(REPLICA), Server(MASTER)
    port = int(REPLICA.rsplit(":", 1)[1])
    socket = ws.Socket(port, "/api/workflow/ws", {"X-API-Key": KEY, "Sec-WebSocket-Protocol": "vski.workflow.v1"})
    socket.send(json.dumps({"t": "hello", "proto": [1], "worker": "closures", "instance": str(os.getpid()),
                            "workflows": [{"name": WORKFLOW}], "credit": CREDIT}))
    jobs, waiting, queue, refs, beat_at = {}, {}, collections.deque(), 0, time.time()
    while True:
        for text in socket.read(0.0005 if queue else 0.5):
            frame = json.loads(text)
            for ref in frame.get("refs", [frame.get("ref")]):
                if ref in waiting:
                    run, said = waiting.pop(ref)
                    answered(jobs, queue, run, said, frame)
            if frame["t"] == "job":
                jobs[frame["job"]] = Job(frame)
                socket.send(json.dumps({"t": "ack", "job": frame["job"], "epoch": frame["epoch"]}))
                queue.append(frame["job"])
            elif frame["t"] in ("revoke", "cancel"):
                jobs.pop(frame["job"], None)
            elif frame["t"] == "probe":
                socket.send(json.dumps({"t": "hb", "n": frame["n"], "jobs": leases(jobs)}))
        if queue and (run := queue.popleft()) in jobs:
            said = jobs[run].next(replica, master)
            refs += 1
            waiting[refs] = run, said
            socket.send(json.dumps({**said, **jobs[run].about, "ref": refs}))
        if jobs and time.time() > beat_at:
            beat_at = time.time() + 0.5
            socket.send(json.dumps({"t": "hb", "jobs": leases(jobs)}))


def leases(jobs):
    return [[job.about["job"], job.about["epoch"]] for job in jobs.values()]


def answered(jobs, queue, run, said, frame):
    job = jobs.get(run)
    if job is None:
        return
    if frame["t"] == "no" or "retry_ms" in frame:
        sys.exit(f"{said} was answered with {frame}")
    if said["t"] == "step":
        job.journal[said["key"]] = said.get("ok")
    elif said["t"] == "call":
        job.token = frame["token"]
    elif frame["t"] == "wake":
        job.learn(frame["results"], frame["seq"])
    else:
        # Parked or done.
        del jobs[run]
        return
    queue.append(run)


# ---- the one who asks ----

def ask(edges, victim):
    replica, master = Server(REPLICA), Server(MASTER)
    wanted = reach(edges)
    packages = []
    page = {"totalPages": 1}
    for number in range(1, 1_000):
        if number > page["totalPages"]:
            break
        page = replica.get(f"/api/collections/packages/records?fields=id,name&perPage=500&page={number}")
        packages += page["items"]
    began, runs = time.time(), []
    for package in packages:
        body = {"workflow": WORKFLOW, "input": package, "idempotencyKey": package["name"]}
        status, answer = replica.call("POST", "/api/workflow/runs", body)
        if status != 200:
            sys.exit(f"trigger: {status} {answer}")
        runs.append(answer["runId"])
    print(f"{len(runs)} runs started on the replica in {time.time() - began:.2f} s", flush=True)
    open_hooks, deadline = collections.deque(runs), time.time() + 120
    while open_hooks:
        run = open_hooks.popleft()
        status, answer = replica.call("POST", f"/api/workflow/hooks/closure.{run}", f"yes to {run}")
        if status == 404:
            open_hooks.append(run)
            time.sleep(0.002)
        elif status != 202:
            sys.exit(f"hook: {status} {answer}")
        if victim and len(open_hooks) < len(runs) / 2:
            os.kill(victim, signal.SIGKILL)
            print(f"the worker is killed after {len(runs) - len(open_hooks)} approvals; another one goes on", flush=True)
            victim = None
        if time.time() > deadline:
            sys.exit(f"{len(open_hooks)} runs do not make their hook")
    while any(item["runs"] for item in replica.get("/api/workflow/queue")["items"]):
        if time.time() > deadline:
            sys.exit("the runs do not end")
        time.sleep(0.05)
    print(f"all ended {time.time() - began:.2f} s after the first began", flush=True)
    verify(replica, master, runs, packages, wanted)


def verify(replica, master, runs, packages, wanted):
    wrong = []
    for run, package in zip(runs, packages):
        status, record = master.call("GET", f"/api/collections/closures/records/{run}")
        expected = (package["name"], sorted(wanted[package["name"]]), f"yes to {run}")
        if status != 200 or (record["package"], record["names"], record["word"]) != expected:
            wrong.append(package["name"])
        if replica.get(f"/api/workflow/runs/{run}")["status"] != "completed":
            wrong.append(package["name"])
    sizes = sorted((len(names), name) for name, names in wanted.items())
    print(f"the largest: {', '.join(f'{name} {size}' for size, name in sizes[-3:])} packages", flush=True)
    if wrong:
        sys.exit(f"not what dpkg says: {len(wrong)} closures, {wrong[:5]}")
    print(f"same as dpkg: {len(runs)} closures, written to the master", flush=True)


def reach(path):
    """From each package to all that it needs, itself too."""
    near = collections.defaultdict(set)
    with open(path) as file:
        for line in file:
            name, _, far = line.rstrip("\n").partition("\t")
            near[name].add(far)
    found = {}
    for name in set(near) | {far for fars in near.values() for far in fars}:
        queue, found[name] = [name], set()
        while queue:
            one = queue.pop()
            if one not in found[name]:
                found[name].add(one)
                queue += near.get(one, ())
    return Closures(found)


class Closures(dict):
    """A package that depends on nothing needs itself."""

    def __missing__(self, name):
        return {name}


if __name__ == "__main__":
    if sys.argv[1:2] == ["work"]:
        work()
    elif sys.argv[1:2] == ["ask"] and len(sys.argv) in (3, 4):
        ask(sys.argv[2], int(sys.argv[3]) if len(sys.argv) == 4 else None)
    else:
        sys.exit(__doc__)
