"""The cases and the load: wrk against one server at a time, in turns.

The turns are the point: A B C A B C, case by case, so that a slow stretch of the machine
hits all servers. Between two runs it waits until all are quiet, so that work which one
put off (request logs) is not charged to the next.

CPU per request divides by the answers that came: what a server spent on requests still in
flight at the end counts, so short runs of slow cases at many connections look dearer."""
import os
import re
import resource
import statistics
import subprocess
import time

from common import Failed, machine_cpu, proc_cpu, proc_memory
from servers import RECORDS

LUA = os.path.join(os.path.dirname(os.path.abspath(__file__)), "lua")
FILTERED = "?perPage=30&filter=views%3E500&sort=-created"
DRAIN_SECONDS = 15


class Case:
    """The parameters of wrk: a script, its variables and a path. `seconds` is a cap."""

    def __init__(self, name, path, script="plain.lua", variables=None, seconds=None, uploads=False):
        self.name = name
        self.path = path
        self.script = script
        self.variables = variables or {}
        self.seconds = seconds
        self.uploads = uploads


# {out} and {name} stand for the folder of results and the name of the server.
CASES = [
    Case("health", "/api/health"),
    Case("get", "/", "get.lua",
         {"BENCH_PATH": RECORDS.format("posts") + "/{id}", "BENCH_IDS": "{out}/{name}.ids"}),
    Case("list", RECORDS.format("posts") + FILTERED),
    Case("list_nototal", RECORDS.format("posts") + FILTERED + "&skipTotal=1"),
    Case("list_page", RECORDS.format("posts") + "?perPage=30&skipTotal=1"),
    Case("list_idx", RECORDS.format("posts_idx") + FILTERED),
    Case("list_idx_nototal", RECORDS.format("posts_idx") + FILTERED + "&skipTotal=1"),
    Case("create", RECORDS.format("posts_w"), "create.lua"),
    Case("download_1MiB", "/", "get.lua",
         {"BENCH_PATH": "{id}", "BENCH_IDS": "{out}/{name}.files"}, uploads=True),
    # A second of uploads is up to half a gigabyte on disk.
    Case("upload_1MiB", RECORDS.format("uploads"), "upload.lua", {"BENCH_FIELD": "file"}, seconds=5, uploads=True),
]


def probe():
    """Milliseconds for a fixed piece of work: how fast this machine is just now."""
    t, s = time.perf_counter(), 0
    for i in range(1_000_000):
        s += i
    return (time.perf_counter() - t) * 1000


def drain(servers):
    """Waits until every server is quiet; seconds waited."""
    started = time.time()
    while time.time() - started < DRAIN_SECONDS:
        before = sum(proc_cpu(s.pid) for s in servers)
        time.sleep(0.5)
        if sum(proc_cpu(s.pid) for s in servers) - before <= 0.02:
            break
    return time.time() - started


def children_cpu():
    """CPU seconds of the ended children, which is wrk's; the servers are still running."""
    r = resource.getrusage(resource.RUSAGE_CHILDREN)
    return r.ru_utime + r.ru_stime


def wrk(case, server, connections, seconds, out):
    """One run; what it measured."""
    variables = {k: v.replace("{out}", out).replace("{name}", server.name) for k, v in case.variables.items()}
    speed = probe()
    cpu, busy, started = proc_cpu(server.pid), machine_cpu() - children_cpu(), time.time()
    done = subprocess.run(
        ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s",
         "-s", os.path.join(LUA, case.script), server.base + case.path],
        env={**os.environ, "BENCH_LUA": LUA, **variables}, capture_output=True, text=True)
    if server.process.poll() is not None:
        raise Failed(f"{server.name} ended during {case.name} at {connections} connections")
    cpu, wall = proc_cpu(server.pid) - cpu, time.time() - started
    others = max(machine_cpu() - children_cpu() - busy - cpu, 0) / wall / os.cpu_count()
    m = re.search(r"^BENCH (.*)$", done.stdout, re.M)
    if not m:
        raise Failed(f"wrk, {case.name} on {server.name}: {(done.stderr or done.stdout).strip()}")
    r = {k: int(v) for k, v in (x.split("=") for x in m.group(1).split())}
    spent = r["us"] / 1e6
    return {"rps": r["requests"] / spent, "mb_per_s": r["bytes"] / spent / 1e6,
            "p50_ms": r["p50"] / 1e3, "p99_ms": r["p99"] / 1e3, "max_ms": r["max"] / 1e3,
            "errors": sum(v for k, v in r.items() if k.startswith("e_")),
            "cpu_us": cpu * 1e6 / max(r["requests"], 1), "cpu_cores": cpu / wall, "probe_ms": speed, "others": others,
            "rss_mb": proc_memory(server.pid)["now"]}


def medians(runs):
    m = {k: statistics.median(r[k] for r in runs) for k in runs[0]}
    m["rps_min"], m["rps_max"] = min(r["rps"] for r in runs), max(r["rps"] for r in runs)
    m["errors"] = max(r["errors"] for r in runs)
    m["rss_mb"] = max(r["rss_mb"] for r in runs)
    return m


HEADING = (f"{'case':18}{'conns':>6} {'server':18}{'req/s':>9}{'min..max':>16}{'p50 ms':>9}{'p99 ms':>9}"
           f"{'MB/s':>8}{'us cpu':>8}{'cores':>6}{'errors':>7}{'RSS MB':>7}{'probe':>6}{'others':>7}")


def line(case, connections, server, m):
    span = f"{m['rps_min']:.0f}..{m['rps_max']:.0f}"
    return (f"{case.name:18}{connections:>6} {server.name:18}{m['rps']:>9.0f}{span:>16}{m['p50_ms']:>9.2f}"
            f"{m['p99_ms']:>9.2f}{m['mb_per_s']:>8.1f}{m['cpu_us']:>8.0f}{m['cpu_cores']:>6.2f}{m['errors']:>7}"
            f"{m['rss_mb']:>7.0f}{m['probe_ms']:>6.0f}{m['others']:>7.0%}")


def run_all(servers, cases, connection_counts, runs, seconds, warmup, out):
    """All cases on all servers; {(case, connections): {server: medians}} in order."""
    print(HEADING, flush=True)
    results = {}
    for case in cases:
        able = [s for s in servers if s.uploads or not case.uploads]
        for connections in connection_counts:
            measured = {s.name: [] for s in able}
            for number in range(runs + 1):  # round 0 warms up and is thrown away
                for server in able:
                    length = min(seconds, case.seconds or seconds) if number else warmup
                    r = wrk(case, server, connections, length, out)
                    r["drain_s"] = drain(servers)
                    if number:
                        measured[server.name].append(r)
            for server in able:
                m = medians(measured[server.name])
                results.setdefault((case.name, connections), {})[server.name] = m
                print(line(case, connections, server, m), flush=True)
    return results
