"""Measures replication: the delay of replicas, and the cost of following.
tools/bench-replication.sh brings the binary and calls this. Standard library only.

Everything is on one machine, so what replicas do is taken from what the master could do; a goal that
is met here is met all the more on machines of their own. What is compared is measured in turns, so
that a slow stretch of the machine hits both sides."""
import argparse
import os
import platform
import random
import shutil
import signal
import socket
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import load
import report
from cluster import Cluster, create, page_hashes, posts
from common import Failed, Http, row
from load import Case, drain, wrk
from replicated_files import files
from main import cpu_model, fsync_ms, version_of
from servers import RECORDS, write_lines

PARTS = ("lag", "cost", "idle", "load", "reads", "files")
# Goals.
LAG_P50_MS, LAG_P99_MS = 100, 500
COST_RATIO = 0.90
IDLE_REQUESTS, IDLE_KIB = 1, 20
LOAD_RATIO = 0.60
READS_MORE_MS = 3

ROWS = 10_000
DATABASES = 100
POSTS_W = RECORDS.format("posts_w")


def options():
    p = argparse.ArgumentParser(prog="tools/bench-replication.sh", add_help=False, allow_abbrev=False)
    p.add_argument("--check", action="store_true", help="check the options and do nothing")
    p.add_argument("--vski")
    p.add_argument("--out")
    p.add_argument("--quick", action="store_true")
    p.add_argument("--only", default=",".join(PARTS))
    p.add_argument("--size")
    o = p.parse_args()
    o.only = [x for x in o.only.split(",") if x]
    for name in o.only:
        if name not in PARTS:
            raise Failed(f"--only takes some of {' '.join(PARTS)}: {name}")
    try:
        o.size = int(o.size or (128 if o.quick else 1024))
    except ValueError:
        raise Failed(f"--size takes MiB: {o.size}") from None
    if o.size < 1:
        raise Failed(f"--size takes MiB from 1: {o.size}")
    return o


class Bench:
    """Shared by all parts: the working folder, the durations, and the rows of the table."""

    def __init__(self, o, folder):
        self.o, self.folder, self.rows = o, folder, []
        self.clusters = []

    def cluster(self, label):
        folder = os.path.join(self.folder, label)
        os.makedirs(folder)
        cluster = Cluster(self.o.vski, folder, label + "-", {"LOG": "debug" if label == "idle" else "warn"})
        self.clusters.append(cluster)
        return cluster

    def add(self, measure, result, goal="", met=None):
        self.rows.append([measure, result, goal, "" if met is None else "met" if met else "**missed**"])
        print(f"  {measure}: {result}" + (f" (goal {goal}: {'met' if met else 'missed'})" if goal else ""), flush=True)

    def usage(self, part, nodes):
        """Memory and CPU of the servers since their marks."""
        for node in nodes:
            u = node.usage()
            self.add(f"{part}: {node.name.split('-')[-1]}, memory (peak), CPU",
                     f"{u['now']:.0f} ({u['peak']:.0f}) MB, {u['cpu_s']:.1f} s")

    def drop_all(self):
        """Ends what a part has left, however."""
        for cluster in self.clusters:
            for node in [*cluster.replicas, cluster.master]:
                node.stop()
            shutil.rmtree(cluster.folder, ignore_errors=True)
        self.clusters.clear()

    def end(self, cluster):
        """Ends a cluster and makes room."""
        cluster.stop()
        self.clusters.remove(cluster)
        shutil.rmtree(cluster.folder, ignore_errors=True)


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * share))]


def spread(values):
    return f"{percentile(values, 0.5):.1f} / {percentile(values, 0.99):.1f} ms"


# ---- lag ----

def lag(b):
    creates = 60 if b.o.quick else 300
    cluster = b.cluster("lag").start()
    cluster.make_posts()
    for _ in range(2):
        cluster.run(cluster.add())
    cluster.await_current()
    for node in cluster.nodes():
        node.mark_cpu()
    own = follow_creates(cluster, cluster.master, max(creates // 5, 20))
    lags = follow_creates(cluster, cluster.replicas[0], creates)
    b.add(f"lag: the master's own reads, p50 / p99 of {len(own)}", spread(own))
    b.add(f"lag: a replica's reads, p50 / p99 of {len(lags)} creates at 20/s", spread(lags),
          f"{LAG_P50_MS} / {LAG_P99_MS} ms",
          percentile(lags, 0.5) <= LAG_P50_MS and percentile(lags, 0.99) <= LAG_P99_MS)
    b.add("lag: the longest", f"{max(lags):.1f} ms")
    b.usage("lag", cluster.nodes())
    b.end(cluster)


def follow_creates(cluster, reader, count):
    """Creates at 20/s on the master; of each the milliseconds from its answer to the first read by
    `reader` that shows it. One connection writes, another asks for the oldest that it has not seen."""
    answered, failures, done = [], [], threading.Event()

    def write():
        http = cluster.master.http()
        try:
            begun = time.perf_counter()
            for i in range(count):
                time.sleep(max(0.0, begun + i / 20 - time.perf_counter()))
                record = http.json("POST", posts(), row(i))
                answered.append((record["id"], time.perf_counter()))
        except (Failed, OSError) as e:
            failures.append(e)
        done.set()

    thread = threading.Thread(target=write)
    thread.start()
    http, seen, last = Http(reader.base), [], time.perf_counter()
    while len(seen) < count and not failures:
        if len(seen) == len(answered):
            time.sleep(0.0002)
            continue
        record, at = answered[len(seen)]
        status, data = http.request("GET", f"{posts()}/{record}")
        now = time.perf_counter()
        if status == 200:
            seen.append(max(0.0, now - at) * 1000)
            last = now
        elif status != 404:
            failures.append(Failed(f"{reader.name} answers {status} {data[:200].decode(errors='replace')}"))
        elif now - last > 30:
            failures.append(Failed(f"{reader.name} has not shown {record} within 30 s"))
    done.wait(60)
    thread.join()
    if failures:
        raise failures[0]
    return seen


# ---- what following costs the master's writers ----

def cost(b):
    rounds, seconds = (2, 2) if b.o.quick else (4, 6)
    clusters = {label: b.cluster(label).start() for label in ("alone", "followed", "left")}
    alone, followed, left = clusters.values()
    for cluster in clusters.values():
        cluster.make_posts()
    for cluster in (followed, left):
        for _ in range(2):
            cluster.run(cluster.add())
        cluster.await_current()
    for replica in left.replicas:
        replica.stop()
    nodes = [node for cluster in clusters.values() for node in cluster.running()]
    for node in nodes:
        node.mark_cpu()
    case, runs, waits = Case("create", POSTS_W, "create.lua"), {label: [] for label in clusters}, []
    cycles = cycles_of(followed.replicas[0])
    for number in range(rounds + 1):  # round 0 warms up
        order = list(clusters.items())
        for label, cluster in order if number % 2 else order[::-1]:  # the first of a round has no advantage
            r = wrk(case, cluster.master, 64, seconds if number else 1, b.folder)
            if r["errors"]:
                raise Failed(f"{r['errors']} creates failed on {cluster.master.name}")
            if cluster is followed:
                waited = cluster.await_current(120)
                waits += [waited] if number else []
            drain(nodes)
            if number:
                runs[label].append(r)
                print(f"    {label:9}{r['rps']:8.0f} creates/s, {r['cpu_us']:.0f} us CPU each, p99 {r['p99_ms']:.1f} ms",
                      flush=True)
    rps = {k: statistics.median(r["rps"] for r in v) for k, v in runs.items()}
    cpu = {k: statistics.median(r["cpu_us"] for r in v) for k, v in runs.items()}
    ratios = [f["rps"] / a["rps"] for a, f in zip(runs["alone"], runs["followed"])]
    ratio = statistics.median(ratios)
    b.add("cost: creates/s at 64 connections, alone / followed by two", f"{rps['alone']:,.0f} / {rps['followed']:,.0f}")
    b.add("cost: the same on a master that two have followed and left", f"{rps['left']:,.0f} ({rps['left'] / rps['alone']:.2f})")
    b.add(f"cost: median ratio of {rounds} rounds (all on this machine)",
          f"{ratio:.2f} ({min(ratios):.2f} to {max(ratios):.2f})", f">= {COST_RATIO:.2f}", ratio >= COST_RATIO)
    b.add("cost: CPU of the master per create, alone / followed / left",
          " / ".join(f"{cpu[label]:.0f}" for label in clusters) + f" us ({cpu['followed'] / cpu['alone']:.2f}x)")
    others = [r["others"] for r in runs["alone"]]
    b.add("cost: others on this machine (from 10% on trust only CPU)",
          f"{statistics.median(others):.0%}, at most {max(others):.0%}")
    cycles, spent = cycles_of(followed.replicas[0]) - cycles, rounds * seconds + 1
    b.add("cost: replicas current after the load, the longest", f"{max(waits):.2f} s")
    b.add("cost: cycles of a replica per second of load", f"{cycles / spent:.0f}")
    b.usage("cost", followed.nodes())
    for cluster in clusters.values():
        b.end(cluster)


def cycles_of(replica):
    """The number of its requests so far."""
    return replica.http().json("GET", "/api/replica/status")["replica"]["cycles"]


# ---- nothing happens ----

def idle(b):
    seconds = 5 if b.o.quick else 10
    cluster = b.cluster("idle").start()
    http = cluster.master.http()
    for i in range(DATABASES - 1):
        http.json("POST", "/api/databases", {"name": f"tenant{i:03}"})
    replica = cluster.add()
    begun = time.monotonic()
    cluster.run(replica)
    cluster.await_current(120)
    b.add(f"idle: first load of {DATABASES} empty databases", f"{time.monotonic() - begun:.1f} s")
    # Files that have just been written are looked at once more.
    time.sleep(4)
    for node in cluster.nodes():
        node.mark_cpu()
    lines = len(cluster.master.lines())
    time.sleep(seconds)
    asked = [dict(w.split("=", 1) for w in line.split() if "=" in w)
             for line in cluster.master.lines()[lines:] if " request id=" in line]
    asked = [r for r in asked if r["path"].startswith("/api/replica/")]
    # Each cycle begins with the list.
    cycles = sum(r["path"] == "/api/replica/databases" for r in asked)
    if not cycles:
        raise Failed(f"no cycle in {seconds} s")
    size = sum(int(r["bytes"]) for r in asked)
    paths = sorted({f"{r['method']} {r['path']}" for r in asked})
    b.add(f"idle: requests of a cycle over {DATABASES} databases, mean of {cycles}", f"{len(asked) / cycles:.2f}",
          f"{IDLE_REQUESTS}", len(asked) <= cycles * IDLE_REQUESTS)
    b.add("idle: bytes answered in a cycle", f"{size / cycles / 1024:.1f} KiB", f"< {IDLE_KIB} KiB",
          size / cycles < IDLE_KIB * 1024)
    b.add("idle: which requests", ", ".join(paths[:4]) + (f" and {len(paths) - 4} others" if len(paths) > 4 else ""))
    b.usage(f"idle, {seconds} s", cluster.nodes())
    b.end(cluster)


# ---- the first load of a large database ----

def first_load(b):
    cluster = b.cluster("load").start()
    cluster.master.http().json("POST", "/api/databases", {"name": "big"})
    cluster.master.stop()
    path = cluster.master.file("big")
    begun = time.monotonic()
    fill(path, b.o.size)
    size = os.path.getsize(path)
    print(f"  {size / (1 << 20):.0f} MiB written in {time.monotonic() - begun:.0f} s", flush=True)
    cluster.start()
    cluster.master.mark_cpu()
    copies, loads, firsts = [], [], []
    for _ in range(2):
        copies.append(copy_over_loopback(path, os.path.join(cluster.folder, "copy")))
        replica = cluster.add()
        begun = time.perf_counter()
        cluster.run(replica)
        arriving, first = replica.file("big").removesuffix("db") + "new", None
        while not os.path.exists(replica.file("big")):
            if first is None and os.path.exists(arriving) and os.path.getsize(arriving) > 0:
                first = time.perf_counter() - begun
            if time.perf_counter() - begun > 600 or replica.process.poll() is not None:
                raise Failed(f"the database did not arrive: {replica.folder}/log")
            time.sleep(0.002)
        loads.append(time.perf_counter() - begun)
        firsts.append(first or loads[-1])
        print(f"    dd {copies[-1]:.1f} s, load {loads[-1]:.1f} s, of which nothing came for {firsts[-1]:.1f} s", flush=True)
    cluster.await_current(120)

    def rate(seconds):
        return size / seconds / (1 << 20)

    dd = statistics.median(copies)
    b.add(f"load: dd of {size / (1 << 20):,.0f} MiB over loopback to this disk",
          " and ".join(f"{rate(s):.0f}" for s in copies) + " MiB/s")
    b.add("load: the first replica, from its start until the file is there", f"{loads[0]:.1f} s, {rate(loads[0]):.0f} MiB/s")
    b.add("load: of which until the first pages are there", f"{firsts[0]:.1f} s")
    b.add("load: of what dd reaches", f"{dd / loads[0]:.0%} ({min(copies) / loads[0]:.0%} to {max(copies) / loads[0]:.0%})", f">= {LOAD_RATIO:.0%}", dd / loads[0] >= LOAD_RATIO)
    b.add("load: the second replica, which gets the same answer", f"{loads[1]:.1f} s, {dd / loads[1]:.0%} of dd")
    b.usage("load", cluster.nodes())
    cluster.stop()
    wanted = page_hashes(path)["digest"]
    same = all(page_hashes(r.file("big"))["digest"] == wanted for r in cluster.replicas)
    b.add("load: every page as on the master", "yes" if same else "no", "yes", same)
    b.end(cluster)


def fill(path, mib):
    """Writes records into a file that no server has open, until it has that size."""
    noise = random.Random(11)
    words = ["".join(noise.choices("abcdefghijklmnopqrstuvwxyz", k=noise.randint(3, 11))) for _ in range(3000)]
    parts = [f'"{noise.choice(words)}": "{" ".join(noise.choices(words, k=12))} {noise.getrandbits(64):016x}"'
             for _ in range(20_000)]

    def documents(count):
        for _ in range(count):
            yield ("{" + ", ".join(noise.choices(parts, k=30)) + "}",)

    connection = sqlite3.connect(path, isolation_level=None)
    try:
        # Its own log would double what is written. No other process has the file open.
        for pragma in ("journal_mode = DELETE", "journal_mode = OFF", "synchronous = OFF", "cache_size = -200000"):
            connection.execute("PRAGMA " + pragma)
        connection.execute("CREATE TABLE documents (id INTEGER PRIMARY KEY, document TEXT NOT NULL)")
        connection.execute("BEGIN")
        while True:
            # The size counts what is not written out yet.
            pages, size = (connection.execute(f"PRAGMA {p}").fetchone()[0] for p in ("page_count", "page_size"))
            if pages * size >= mib << 20:
                break
            connection.executemany("INSERT INTO documents (document) VALUES (?)", documents(1000))
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode = WAL")
    finally:
        connection.close()
    with open(path, "rb+") as f:
        os.fsync(f.fileno())


def copy_over_loopback(source, target):
    """dd into a socket, another one out of it and onto the disk; seconds."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(1)
        begun = time.perf_counter()
        with socket.create_connection(listener.getsockname()) as out, listener.accept()[0] as into:
            writer = subprocess.Popen(["dd", f"of={target}", "bs=1M", "iflag=fullblock", "conv=fsync", "status=none"],
                                      stdin=into)
            into.close()
            reader = subprocess.Popen(["dd", f"if={source}", "bs=1M", "status=none"], stdout=out)
            out.close()
            codes = reader.wait(), writer.wait()
        seconds = time.perf_counter() - begun
    good = codes == (0, 0) and os.path.getsize(target) == os.path.getsize(source)
    os.remove(target)
    if not good:
        raise Failed(f"dd ended with {codes}")
    return seconds


# ---- readers of a replica ----

def reads(b):
    rounds, seconds = (1, 3) if b.o.quick else (3, 6)
    alone, followed = b.cluster("alone").start(), b.cluster("followed").start()
    alone.make_posts()
    ids = followed.make_posts(ROWS)
    for _ in range(2):
        followed.run(followed.add())
    followed.await_current()
    replica = followed.replicas[0]
    write_lines(os.path.join(b.folder, "ids"), ids)
    case = Case("get", "/", "get_paced.lua", {"BENCH_PATH": RECORDS.format("posts") + "/{id}",
                                              "BENCH_IDS": os.path.join(b.folder, "ids"), "BENCH_PAUSE_MS": "8"})
    for node in followed.nodes():
        node.mark_cpu()
    runs, done = {"idle": [], "others": [], "applying": []}, []
    for number in range(rounds + 1):  # round 0 warms up
        for label, writer in (("idle", None), ("others", alone), ("applying", followed)):
            with Writes(writer) as writes:
                r = wrk(case, replica, 16, seconds if number else 1, b.folder)
            if r["errors"]:
                raise Failed(f"{r['errors']} reads failed on {replica.name}")
            followed.await_current()
            drain(alone.nodes() + followed.nodes())
            if number:
                runs[label].append(r)
                done += [writes.rate] if writer else []
                print(f"    {label:9} p50 {r['p50_ms']:.2f}, p99 {r['p99_ms']:.2f} ms, {r['rps']:.0f} reads/s, "
                      f"{writes.rate:.0f} writes/s", flush=True)
    p99 = {k: statistics.median(r["p99_ms"] for r in v) for k, v in runs.items()}
    p50 = {k: statistics.median(r["p50_ms"] for r in v) for k, v in runs.items()}
    more = p99["applying"] - p99["idle"]
    b.add("reads: a replica at rest, p50 / p99", f"{p50['idle']:.2f} / {p99['idle']:.2f} ms")
    b.add("reads: the same while a master that it does not follow takes 200 writes/s",
          f"{p50['others']:.2f} / {p99['others']:.2f} ms")
    b.add(f"reads: while its own master does ({min(done):.0f}/s and more)",
          f"{p50['applying']:.2f} / {p99['applying']:.2f} ms")
    b.add("reads: p99 above rest, 16 connections, one record each", f"{more:+.2f} ms", f"<= {READS_MORE_MS} ms",
          more <= READS_MORE_MS)
    b.usage("reads", followed.nodes())
    b.end(alone)
    b.end(followed)


class Writes:
    """200 creates a second on a master for as long as it lasts, from four connections."""

    THREADS, PER_SECOND = 4, 200

    def __init__(self, cluster):
        self.cluster, self.rate = cluster, 0.0
        self.stop, self.count, self.failures = threading.Event(), [0] * self.THREADS, []

    def __enter__(self):
        self.begun = time.perf_counter()
        self.threads = [threading.Thread(target=self.run, args=(n,)) for n in range(self.THREADS if self.cluster else 0)]
        for thread in self.threads:
            thread.start()
        return self

    def run(self, number):
        http, pause = self.cluster.master.http(), self.THREADS / self.PER_SECOND
        begun, i = time.perf_counter(), 0
        try:
            while not self.stop.wait(max(0.0, begun + i * pause - time.perf_counter())):
                http.json("POST", POSTS_W, row(i))
                i += 1
                self.count[number] = i
        except (Failed, OSError) as e:
            self.failures.append(e)

    def __exit__(self, kind, *_):
        self.stop.set()
        for thread in self.threads:
            thread.join()
        self.rate = sum(self.count) / (time.perf_counter() - self.begun)
        if self.failures and kind is None:
            raise self.failures[0]


# ---- all of it ----

def disk_of(folder):
    done = subprocess.run(["df", "--output=source,fstype,avail", "-h", folder], capture_output=True, text=True)
    words = (done.stdout.strip().splitlines() or [""])[-1].split()
    return f"{words[0]}, {words[1]}, {words[2]} free" if len(words) == 3 else "?"


def describe(o, folder):
    wrk_version = version_of(["wrk", "-v"]) if shutil.which("wrk") else "no wrk"
    return "\n".join([
        f"{version_of([o.vski, 'version'])}; {wrk_version.split(' Copyright')[0]}; Python {platform.python_version()}; {time.strftime('%Y-%m-%d')}.",
        f"{cpu_model()}, {os.cpu_count()} cores, kernel {platform.release()}; load of the machine before {os.getloadavg()[0]:.1f}.",
        f"Disk {disk_of(folder)}; a 4 KiB append with fsync takes {fsync_ms(folder):.2f} ms.",
        "Master, replicas and clients share this machine. Replicas: SYNC_INTERVAL=1.",
    ])


def run(o, folder):
    about = describe(o, folder)
    print(about, flush=True)
    b = Bench(o, folder)
    try:
        for name in o.only:
            print(f"\n{name}", flush=True)
            try:
                {"lag": lag, "cost": cost, "idle": idle, "load": first_load, "reads": reads, "files": files}[name](b)
            except Failed as e:
                # Keeps the results of the other parts.
                b.add(f"{name}: failed", str(e)[:200], "none", False)
                b.drop_all()
    finally:
        b.drop_all()
    text = about.replace("\n", "  \n") + "\n\n" + report.markdown([["measure", "result", "goal", "met"], *b.rows], {0, 2, 3})
    with open(os.path.join(o.out, "bench-replication.md"), "w", encoding="utf-8") as f:
        f.write(text + "\n")
    print("\n" + text)
    missed = [r for r in b.rows if r[3] == "**missed**"]
    print(f"\ngoals missed: {len(missed)}" if missed else "\nall goals met")
    return 1 if any(r[0].endswith(": failed") for r in b.rows) else 0


def main():
    o = options()
    if o.check:
        return 0
    if {"cost", "reads"} & set(o.only) and not shutil.which("wrk"):
        raise Failed("no wrk on this system: apt-get install wrk, or leave out cost and reads (--only)")
    o.vski, o.out = os.path.abspath(o.vski), os.path.abspath(o.out)
    os.makedirs(o.out, exist_ok=True)
    folder = tempfile.mkdtemp(prefix="replication-", dir=o.out)
    need = max(4 * o.size if "load" in o.only else 0, 10_240 if "files" in o.only else 0) + 512
    if shutil.disk_usage(folder).free >> 20 < need:
        raise Failed(f"{folder} has not the {need} MiB that this takes")
    sys.setswitchinterval(0.0005)
    # So that the servers are ended then, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return run(o, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as e:
        sys.exit(f"bench-replication: {e}")
    except KeyboardInterrupt:
        sys.exit(130)
