"""Runs the whole benchmark: start, fill, cold starts, load in turns, table.
tools/bench.sh brings the binaries and calls this."""
import argparse
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import load
import report
from common import Failed, proc_memory
from servers import KINDS, prepare_all, save

ROWS = 10_000
BLOBS = 16


def options():
    p = argparse.ArgumentParser(prog="tools/bench.sh", add_help=False, allow_abbrev=False)
    p.add_argument("--check", action="store_true", help="check the options and do nothing")
    p.add_argument("--pocketbase")
    p.add_argument("--vski")
    p.add_argument("--before")
    p.add_argument("--out")
    p.add_argument("--quick", action="store_true")
    p.add_argument("--brief", action="store_true")
    p.add_argument("--only", default="")
    p.add_argument("--servers")
    p.add_argument("--conns")
    p.add_argument("--runs")
    p.add_argument("--dur")
    o = p.parse_args()
    o.conns = numbers("--conns", o.conns or ("16,64" if o.quick else "64" if o.brief else "16,64,256,1000"))
    o.runs = numbers("--runs", o.runs)[0] if o.runs else (1 if o.quick else 3)
    o.dur = numbers("--dur", o.dur)[0] if o.dur else (2 if o.quick else 4 if o.brief else 6)
    o.starts = 3 if o.quick else 10
    o.warmup = 1 if o.quick else 2
    o.servers = names("--servers", o.servers or ("before,vski" if o.before else "pocketbase,vski,vski-normal"), list(KINDS))
    if "before" in o.servers and not (o.before and os.access(o.before, os.X_OK)):
        raise Failed("--servers before needs --before PATH, a program that can be run")
    known = [c.name for c in load.CASES]
    # Uploads are for those who ask: they write gigabytes in seconds.
    usual = [c.name for c in load.CASES if not c.uploads]
    o.only = names("--only", o.only, known) if o.only else usual
    return o


def numbers(option, text):
    try:
        values = [int(x) for x in text.split(",")]
    except ValueError:
        raise Failed(f"{option} takes numbers: {text}") from None
    if min(values) < 1:
        raise Failed(f"{option} takes numbers from 1: {text}")
    return values


def names(option, text, known):
    wanted = [x for x in text.split(",") if x]
    for x in wanted:
        if x not in known:
            raise Failed(f"{option}: no {x}; there are {', '.join(known)}")
    if not wanted:
        raise Failed(f"{option} names nothing")
    return wanted


def cold_starts(servers, count):
    """Each server started and stopped in turns on its filled data directory."""
    starts, stops = {s.name: [] for s in servers}, {s.name: [] for s in servers}
    for _ in range(count):
        for s in servers:
            starts[s.name].append(s.start())
            time.sleep(0.3)
            stops[s.name].append(s.stop())
            time.sleep(0.2)
    return {s.name: {"cold_start_ms": statistics.median(starts[s.name]),
                     "stop_ms": statistics.median(stops[s.name])} for s in servers}


def fsync_ms(folder):
    """The time of one durable append on this disk: the median of some."""
    spent = []
    with tempfile.NamedTemporaryFile(dir=folder) as f:
        for _ in range(50):
            f.write(b"x" * 4096)
            f.flush()
            t = time.perf_counter()
            os.fsync(f.fileno())
            spent.append((time.perf_counter() - t) * 1000)
    return statistics.median(spent)


def disk_mb(folder):
    return sum(os.path.getsize(os.path.join(at, f)) for at, _, files in os.walk(folder) for f in files) / 1e6


def version_of(command):
    done = subprocess.run(command, capture_output=True, text=True)
    return (done.stdout.strip().splitlines() or ["?"])[0]


def cpu_model():
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as f:
        for text in f:
            if text.startswith("model name"):
                return text.split(":", 1)[1].strip()
    return platform.machine()


def describe(o, folder):
    return "\n".join([
        f"{cpu_model()}, {os.cpu_count()} cores, kernel {platform.release()}; "
        f"a 4 KiB append with fsync takes {fsync_ms(folder):.2f} ms here.",
        f"PocketBase {version_of([o.pocketbase, '--version']).split()[-1]}; {version_of([o.vski, 'version'])}{f'; before is {o.before}' * bool(o.before)}. "
        f"{'Medians of ' * (o.runs > 1)}{o.runs} run{'s' * (o.runs > 1)} of {o.dur} s each, in turns, one wrk thread on the same machine; "
        f"{ROWS:,} rows; {time.strftime('%Y-%m-%d')}.",
        "vski commits with synchronous=FULL, vski-normal and pocketbase with NORMAL.",
    ])


def allow_descriptors(connections):
    """wrk and the servers inherit the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    need = connections + 200
    if hard != resource.RLIM_INFINITY and hard < need:
        raise Failed(f"{connections} connections need {need} open files, the hard limit is {hard}")
    if soft < need:
        resource.setrlimit(resource.RLIMIT_NOFILE, (need, hard))


def run(o, servers, folder):
    print(f"starting and filling {', '.join(s.name for s in servers)}", flush=True)
    for s in servers:
        s.start()
    prepare_all(servers, ROWS, BLOBS, o.out)
    for s in servers:
        s.stop()
    processes = cold_starts(servers, o.starts)

    for s in servers:
        s.start()
    time.sleep(2)
    for s in servers:
        processes[s.name]["rss_idle_mb"] = proc_memory(s.pid)["now"]
        processes[s.name]["binary_mb"] = os.path.getsize(s.binary) / 1e6

    about = describe(o, folder)
    cases = [c for c in load.CASES if c.name in o.only]
    results = load.run_all(servers, cases, o.conns, o.runs, o.dur, o.warmup, o.out)

    others = [m["others"] for measured in results.values() for m in measured.values()]
    about += (f"\nOther processes took {statistics.median(others):.0%} of this machine during a run "
              f"(median; at most {max(others):.0%}): from about 10% on, trust only CPU per request.")

    time.sleep(2)
    for s in servers:
        memory = proc_memory(s.pid)
        processes[s.name].update(rss_after_mb=memory["now"], rss_peak_mb=memory["peak"], disk_mb=disk_mb(s.folder))
    text = about.replace("\n", "  \n") + "\n\n" + (
        report.brief if o.brief else report.table)([s.name for s in servers], results, processes)
    with open(os.path.join(o.out, "bench.md"), "w", encoding="utf-8") as f:
        f.write(text + "\n")
    save(os.path.join(o.out, "bench.json"), {
        "about": about, "processes": processes,
        "cases": [{"case": c, "connections": n, "servers": m} for (c, n), m in results.items()]})
    print("\n" + text)
    print(f"\nall figures: {o.out}/bench.json")


def main():
    o = options()
    if o.check:
        return
    o.out = os.path.abspath(o.out)
    allow_descriptors(max(o.conns))
    os.makedirs(o.out, exist_ok=True)
    folder = tempfile.mkdtemp(prefix="data-", dir=o.out)
    given = {"pocketbase": o.pocketbase, "vski": o.vski, "before": o.before}
    binary = {name: os.path.abspath(path) for name, path in given.items() if path}
    servers = [KINDS[n](binary[n.split("-")[0]], os.path.join(folder, n)) for n in o.servers]
    try:
        run(o, servers, folder)
    finally:
        for s in servers:
            s.stop()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    try:
        main()
    except Failed as e:
        sys.exit(f"bench: {e}")
    except KeyboardInterrupt:
        sys.exit(130)
