"""A master and two replicas, each with its own runs, while records sync: does one slow the other? For workflows.py.
The load is paced, far below the capacity of the machine, so that the comparison does not measure the processor."""
import json
import multiprocessing
import os
import statistics
import threading
import time

import workflow_peers as peers
from cluster import Cluster
from common import Failed, Http

RUNS_PER_SECOND = 30
WRITES_PER_SECOND = 50
SECONDS = 6
ROUNDS = 3
RECORDS = "/api/collections/notes/records"
fork = multiprocessing.get_context("fork")


def port_of(node):
    return int(node.base.rsplit(":", 1)[1])


def pace(rate, seconds):
    """Yields at even times."""
    begun = time.perf_counter()
    for number in range(int(rate * seconds)):
        wait = begun + number / rate - time.perf_counter()
        if wait > 0:
            time.sleep(wait)
        yield number


def runs(port, token, seconds, pipe):
    """Starts runs of four steps and is their worker; sends how long each took, in ms, and their ids."""
    worker, begun, took, ids = peers.Socket(port, peers.hello("paced", 100, token)), {}, [], []

    def start():
        http = Http(f"http://127.0.0.1:{port}", "Bearer " + token)
        for number in pace(RUNS_PER_SECOND, seconds):
            begun[number] = time.perf_counter()
            ids.append(http.json("POST", "/api/workflow/runs", {"workflow": "bench", "input": number})["runId"])

    thread = threading.Thread(target=start)
    thread.start()
    awaits = {}
    for frame in worker.frames():
        if frame["t"] == "job":
            lease = {"job": frame["job"], "epoch": frame["epoch"]}
            awaits[frame["job"]] = [0, lease, frame["input"]]
            worker.send([json.dumps({"t": "ack", **lease})])
            frame = {"t": "acks", "refs": [frame["job"]]}
        if frame["t"] in ("no", "error"):
            raise OSError(f"refused: {frame}")
        if frame["t"] not in ("ok", "acks"):
            continue
        for ref in frame.get("refs") or [frame["ref"]]:
            state = awaits[ref]
            step, lease, number = state
            state[0] += 1
            if step < 4:
                worker.send([json.dumps({"t": "step", "ref": ref, **lease, "key": f"s{step}#0", "ok": step})])
            elif step == 4:
                worker.send([json.dumps({"t": "done", "ref": ref, **lease, "output": number})])
            else:
                took.append((time.perf_counter() - begun[number]) * 1000)
        if len(took) == int(RUNS_PER_SECOND * seconds):
            break
    thread.join()
    pipe.send((took, ids))


def writes(master, replica, token, seconds, pipe):
    """Makes records; sends how long each took, and how long until the replica had some of them, in ms."""
    at_master, at_replica = (Http(base, "Bearer " + token) for base in (master, replica))
    took, lags = [], []
    for number in pace(WRITES_PER_SECOND, seconds):
        begun = time.perf_counter()
        record = at_master.json("POST", RECORDS, {"text": f"note {number}"})
        took.append((time.perf_counter() - begun) * 1000)
        while number % 5 == 0:
            if at_replica.request("GET", f"{RECORDS}/{record['id']}")[0] == 200:
                lags.append((time.perf_counter() - begun) * 1000)
                break
            time.sleep(0.001)
    pipe.send((took, lags))


def phase(cluster, has_runs, has_writes):
    """Durations of runs, durations and lateness of writes; the ids of the runs by node."""
    work = []
    if has_runs:
        work += [(runs, (port_of(node), cluster.master.bare, SECONDS)) for node in cluster.nodes()]
    if has_writes:
        master, replica = cluster.master.base, cluster.replicas[0].base
        work.append((writes, (master, replica, cluster.master.bare, SECONDS)))
    started = []
    for target, arguments in work:
        pipe, other = fork.Pipe()
        process = fork.Process(target=target, args=(*arguments, other), daemon=True)
        process.start()
        started.append((target, pipe, process))
    result = {"runs": [], "writes": [], "lags": [], "ids": []}
    for target, pipe, process in started:
        if not pipe.poll(SECONDS + 30):
            raise Failed("a peer of the cluster does not answer")
        first, second = pipe.recv()
        process.join()
        if target is runs:
            result["runs"] += first
            result["ids"].append(second)
        else:
            result["writes"], result["lags"] = first, second
    return result


def measure(vski, folder, rows):
    cluster = Cluster(vski, folder)
    os.makedirs(folder, exist_ok=True)
    try:
        cluster.start()
        for _ in range(2):
            # After the start: they go by the master's admin.
            cluster.run(cluster.add())
        http = cluster.master.http()
        http.json("POST", "/api/collections", {"name": "notes", "fields": [{"name": "text", "type": "text"}]})
        cluster.master.bare = cluster.master.token.removeprefix("Bearer ")
        cluster.await_current()
        alone, data, both = [], [], []
        for _ in range(ROUNDS):
            alone.append(phase(cluster, True, False))
            data.append(phase(cluster, False, True))
            both.append(phase(cluster, True, True))
        foreign = strangers(cluster, [part["ids"] for part in alone + both])
    finally:
        cluster.stop()
    report(rows, alone, data, both, foreign)


def strangers(cluster, parts):
    """Runs that another node than their own knows."""
    count = 0
    for ids in parts:
        for owner, own in enumerate(ids):
            for other, node in enumerate(cluster.nodes()):
                if other != owner:
                    count += node.http().request("GET", f"/api/workflow/runs/{own[0]}")[0] != 421
    return count


def report(rows, alone, data, both, foreign):
    def compare(name, before, after):
        values = [[statistics.median(part[name]) for part in parts] for parts in (before, after)]
        was, now = (statistics.median(column) for column in values)
        return f"{was:.1f} / {now:.1f} ms, {now / was:.2f}"

    what = f"three nodes, {RUNS_PER_SECOND} runs/s each, {WRITES_PER_SECOND} writes/s on the master"
    rows.append((f"{what}: a run alone / with writes", compare("runs", alone, both), "at most 1.10"))
    rows.append(("  a write without / with runs", compare("writes", data, both), "at most 1.10"))
    rows.append(("  a replica has it without / with runs", compare("lags", data, both), "at most 1.10"))
    rows.append(("  runs that a node knows of another", str(foreign), "0"))
