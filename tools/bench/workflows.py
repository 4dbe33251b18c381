"""The cost and speed of workflows, each number beside its goal.

  python3 tools/bench/workflows.py --vski VSKI [--parts A,B] [...]

tools/bench-workflows.sh builds the server, fetches what to compare with, and calls this. Each part has a server of
its own on an empty directory, with DB_SYNCHRONOUS=full. Standard library only. The machine should have nothing else to
do."""
import argparse
import json
import multiprocessing
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import workflow_cluster
import workflow_peers as peers
from common import Failed, Http, free_port, machine_cpu, proc_cpu, proc_memory

PARTS = ["throughput", "latency", "steps", "sleeping", "idle", "cluster", "openworkflow"]
IN_FLIGHT = 100
CONNECTIONS = 32
fork = multiprocessing.get_context("fork")


class Server:
    """The server under test. It keeps its port over restarts."""

    def __init__(self, binary, folder, **variables):
        self.binary, self.folder, self.variables, self.port, self.process = binary, folder, variables, free_port(), None
        os.makedirs(folder)

    def __enter__(self):
        self.start()
        admin = {"email": "admin@example.com", "password": "password-1"}
        self.token = Http(self.base).json("POST", "/api/admins/init", admin)["token"]
        return self

    def __exit__(self, *_):
        self.stop()
        shutil.rmtree(self.folder)

    @property
    def base(self):
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self):
        return self.process.pid

    def http(self):
        return Http(self.base, "Bearer " + self.token)

    def start(self):
        """Milliseconds until it answered."""
        kept = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
        environment = {**kept, "DATA_DIR": f"{self.folder}/data", "HOST": "127.0.0.1", "PORT": str(self.port),
                       "DB_SYNCHRONOUS": "full", **self.variables}
        begun = time.perf_counter()
        with open(f"{self.folder}/log", "ab") as log:
            self.process = subprocess.Popen([self.binary, "serve"], env=environment, stdout=log, stderr=log)
        while True:
            try:
                if Http(self.base).request("GET", "/api/health")[0] == 200:
                    return (time.perf_counter() - begun) * 1000
            except OSError:
                if self.process.poll() is not None:
                    raise Failed(f"the server ended with {self.process.returncode}: see {self.folder}/log") from None
            time.sleep(0.002)

    def stop(self):
        if self.process and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()


class Peer:
    """A process at the other end of a pipe; ended with its block."""

    def __init__(self, target, *arguments):
        self.pipe, other = fork.Pipe()
        self.process = fork.Process(target=target, args=(*arguments, other), daemon=True)
        self.process.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.join()

    def next(self, seconds=120):
        if not self.pipe.poll(seconds):
            raise Failed("a peer of the benchmark does not answer")
        return self.pipe.recv()


def bodies(count, **fields):
    return [json.dumps({"workflow": "bench", "input": {"id": number}, **fields}) for number in range(count)]


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def fsync_ms(folder):
    """The time of a small durable write on this disk."""
    times = []
    with open(f"{folder}/probe", "wb", 0) as f:
        for _ in range(100):
            f.write(b"x" * 4096)
            begun = time.perf_counter()
            os.fdatasync(f.fileno())
            times.append((time.perf_counter() - begun) * 1000)
    os.unlink(f.name)
    return statistics.median(times)


# The parts. Each adds rows: what, number, goal.

def throughput(o, folder, rows):
    for is_pipelined in (False, True):
        how = "all reports of a run at once" if is_pipelined else "each step waits for its answer"
        results = []
        for number in range(o.rounds):
            with Server(o.vski, f"{folder}/throughput-{is_pipelined}-{number}") as server:
                results.append(flood(o, server, is_pipelined))
        rate, cpu, starts, others = (statistics.median(column) for column in zip(*results))
        spread = "..".join(f"{rate:.0f}" for rate in (min(results)[0], max(results)[0]))
        rows.append((f"four steps, {IN_FLIGHT} in flight, {how}",
                     f"{rate:,.0f} runs/s ({spread}), {4 * rate:,.0f} steps/s", "1,000 runs/s, 4,000 steps/s"))
        rows.append(("  server CPU per run; runs started per second; others had of the machine",
                     f"{cpu:,.0f} us; {starts:,.0f}/s; {others:.0%}", ""))


def flood(o, server, is_pipelined):
    """Runs per second from the first request to the last answer, CPU of the server per run (us), starts per second, and
    what others took of the machine meanwhile."""
    with Peer(peers.serve_runs, server.port, server.token, o.runs, IN_FLIGHT, is_pipelined) as worker, \
            Peer(peers.start_runs, server.port, server.token, bodies(o.runs), CONNECTIONS) as starter:
        worker.next()
        starter.next()
        own = [server.pid, worker.process.pid, starter.process.pid, os.getpid()]
        before, busy = [proc_cpu(pid) for pid in own], machine_cpu()
        starter.pipe.send("go")
        begun, spent = starter.next()
        ended, refused = worker.next()
        used = [proc_cpu(pid) - was for pid, was in zip(own, before)]
        others = max(machine_cpu() - busy - sum(used), 0) / (ended - begun) / os.cpu_count()
        cpu = used[0]
    if refused:
        raise Failed(f"{refused} reports were refused")
    return o.runs / (ended - begun), cpu / o.runs * 1e6, o.runs / spent, others


def latency(o, folder, rows):
    with Server(o.vski, f"{folder}/latency") as server:
        times, answers = [], []
        http, worker = server.http(), peers.Socket(server.port, peers.hello("latency", 10, server.token))
        for number in range(o.samples + 20):
            time.sleep(0.01)
            begun = time.perf_counter()
            first, answered = one_start(http, worker, number, begun)
            if number >= 20:
                times.append(first)
                answers.append(answered)
    rows.append((f"start to first step, idle, {o.samples} times", f"p50 {percentile(times, 0.5):.1f} ms, "
                 f"p99 {percentile(times, 0.99):.1f} ms, max {max(times):.1f} ms", "p50 10 ms, p99 30 ms"))
    rows.append(("  answer to the start", f"p50 {percentile(answers, 0.5):.1f} ms, "
                 f"p99 {percentile(answers, 0.99):.1f} ms", ""))


def one_start(http, worker, number, begun):
    """Milliseconds until the worker has the job and until the start is answered. Ends the run."""
    if http.connection is None:
        http.request("GET", "/api/health")
    body = json.dumps({"workflow": "bench", "input": number})
    http.connection.request("POST", "/api/workflow/runs", body, http.headers)
    frames = worker.frames()
    job = next(frame for frame in frames if frame["t"] == "job")
    first = (time.perf_counter() - begun) * 1000
    answer = http.connection.getresponse()
    answer.read()
    answered = (time.perf_counter() - begun) * 1000
    if answer.status != 200:
        raise Failed(f"a run was not started: {answer.status}")
    lease = {"job": job["job"], "epoch": job["epoch"]}
    reports = ({"t": "ack"}, {"t": "step", "ref": 1, "key": "s#0", "ok": 1}, {"t": "done", "ref": 2})
    worker.send(json.dumps({**report, **lease}) for report in reports)
    for frame in frames:
        if 2 in frame.get("refs", [frame.get("ref")]):
            break
    return first, answered


def steps(o, folder, rows):
    """One run, each step after the answer to the one before; then the same journal handed out again."""
    with Server(o.vski, f"{folder}/steps") as server:
        each = []
        for count in (1000, 2000, 4000):
            worker = peers.Socket(server.port, peers.hello("steps", 1, server.token))
            server.http().json("POST", "/api/workflow/runs", {"workflow": "bench", "input": count})
            frames = worker.frames()
            job = next(frames)
            lease = {"job": job["job"], "epoch": job["epoch"]}
            worker.send([json.dumps({"t": "ack", **lease})])
            begun = time.perf_counter()
            for number in range(count):
                report = {"t": "step", "ref": number, **lease, "key": f"s#{number}", "ok": {"n": number}}
                worker.send([json.dumps(report)])
                if next(frames)["t"] != "ok":
                    raise Failed("a step was refused")
            each.append(time.perf_counter() - begun)
            # Given back and taken again, with its journal.
            begun = time.perf_counter()
            worker.send([json.dumps({"t": "nack", "ref": -1, **lease})])
            job = next(frame for frame in frames if frame["t"] == "job")
            lease["epoch"], seen, more, page = job["epoch"], len(job["journal"]), job.get("more"), job
            worker.send([json.dumps({"t": "ack", **lease})])
            while more:
                page = server.http().json("GET", f"/api/workflow/runs/{job['job']}/journal?after={page['seq']}")
                seen, more = seen + len(page["journal"]), page["more"]
            replay = (time.perf_counter() - begun) * 1000
            if seen != count:
                raise Failed(f"the journal has {seen} of {count} steps")
            worker.send([json.dumps({"t": "done", "ref": -2, **lease})])
            next(frame for frame in frames if frame.get("ref") == -2)
            worker.socket.close()
            rows.append((f"a run of {count:,} steps, one after the other",
                         f"{each[-1]:.2f} s, {each[-1] / count * 1000:.2f} ms each; its journal again: {replay:.0f} ms",
                         f"linear: {each[0] * count / 1000:.2f} s" if len(each) > 1 else "linear"))


def sleeping(o, folder, rows):
    for count in o.sleepers:
        with Server(o.vski, f"{folder}/sleeping-{count}") as server:
            empty = proc_memory(server.pid)["now"]
            server.stop()
            empty_start = server.start()
            later = int(time.time() * 1000) + 86_400_000
            spent = peers.start_runs(server.port, server.token, bodies(count, runAt=later), 64)
            server.process.kill()
            server.process.wait()
            begun = time.perf_counter()
            first = server.start()
            server.http().json("GET", "/api/workflow/runs?limit=1")
            listed = (time.perf_counter() - begun) * 1000
            memory = proc_memory(server.pid)["now"]
            http, worker = server.http(), peers.Socket(server.port, peers.hello("late", 10, server.token))
            times = [one_start(http, worker, number, time.perf_counter())[0] for number in range(50)]
            cpu, since = proc_cpu(server.pid), time.perf_counter()
            time.sleep(3)
            cpu = (proc_cpu(server.pid) - cpu) / (time.perf_counter() - since)
        rows.append((f"{count:,} sleeping runs, server killed: first answer after",
                     f"{first:.0f} ms (empty: {empty_start:.0f} ms), list of runs {listed:.0f} ms",
                     "1,000 ms at 100,000"))
        rows.append(("  memory; idle CPU; start to first step; they were made at",
                     f"{memory:.0f} MB (empty {empty:.0f}); {cpu:.1%}; p50 {percentile(times, 0.5):.1f} ms; "
                     f"{count / spent:,.0f} runs/s", "rows only"))


def idle(o, folder, rows):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(o.workers, hard - 1000)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        with Server(o.vski, f"{folder}/idle", MAX_SOCKETS=str(count + 100)) as server:
            peers_of_idle(o, server, count, rows)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def peers_of_idle(o, server, count, rows):
    time.sleep(1)
    before, begun = proc_memory(server.pid)["now"], time.perf_counter()
    with Peer(peers.swarm, server.port, server.token, count) as workers:
        _, at = workers.next()
        connected = at - begun
        time.sleep(2)
        after = proc_memory(server.pid)["now"]
        cpu, wrote, since = proc_cpu(server.pid), written(server.pid), time.perf_counter()
        time.sleep(o.idle_seconds)
        cpu = (proc_cpu(server.pid) - cpu) / (time.perf_counter() - since)
        wrote = (written(server.pid) - wrote) / 1000
        if workers.pipe.poll():
            raise Failed("an idle worker lost its connection")
        begun = time.perf_counter()
        server.stop()
        stopped = time.perf_counter() - begun
        server.start()
        ready = time.perf_counter()
        while not (state := workers.next())[0]:
            pass
        again = state[1] - ready
        listed = len(server.http().json("GET", "/api/workflow/workers")["items"])
        memory = proc_memory(server.pid)
    each = (after - before) * 1000 / count
    rows.append((f"{count:,} idle workers: memory of the server", f"{before:.0f} -> {after:.0f} MB, {each:.1f} kB each",
                 "10 kB each"))
    rows.append((f"  CPU over {o.idle_seconds} s; written to disk", f"{cpu:.1%} of a core; {wrote:.0f} kB",
                 "no database work"))
    rows.append(("  all connected; after a restart all again",
                 f"{connected:.1f} s; {again:.1f} s (stop took {stopped:.1f} s; {listed:,} listed, "
                 f"peak {memory['peak']:.0f} MB)", ""))


def cluster(o, folder, rows):
    workflow_cluster.measure(o.vski, f"{folder}/cluster", rows)


def written(pid):
    with open(f"/proc/{pid}/io", encoding="ascii") as f:
        return int(dict(line.split(":") for line in f)["write_bytes"])


def openworkflow(o, folder, rows):
    if not o.openworkflow:
        print("openworkflow: left out, there is no --openworkflow", flush=True)
        return
    node = os.path.join(os.path.dirname(o.openworkflow), ".bin", "node")
    script = os.path.join(os.path.dirname(os.path.abspath(__file__)), "openworkflow.mjs")
    command = [node, "--no-warnings", script, f"{folder}/openworkflow.db", o.openworkflow, "500", "40", "250"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    if done.returncode:
        raise Failed(f"openworkflow: {done.stderr[-500:]}")
    result = json.loads(done.stdout)
    times = result["latencies"]
    rows.append((f"OpenWorkflow on SQLite: four steps, {IN_FLIGHT} in flight",
                 f"{500 / result['seconds']:.0f} runs/s", "beaten"))
    rows.append(("  start to first step, idle, 40 times",
                 f"p50 {percentile(times, 0.5):.0f} ms, p99 {percentile(times, 0.99):.0f} ms", "beaten"))


def table(rows):
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    for number, row in enumerate([("", "measured", "goal"), *rows]):
        print("| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |")
        if number == 0:
            print("|" + "|".join("-" * (width + 2) for width in widths) + "|")


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--vski", required=True)
    options.add_argument("--openworkflow", help="folder of the package openworkflow, with node beside it")
    options.add_argument("--parts", default=",".join(PARTS))
    options.add_argument("--runs", type=int, default=5000)
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--samples", type=int, default=500)
    options.add_argument("--sleepers", default="10000,100000")
    options.add_argument("--workers", type=int, default=10_000)
    options.add_argument("--idle-seconds", type=int, default=30)
    options.add_argument("--out", help="where the data is while it runs")
    options.add_argument("--check", action="store_true", help=argparse.SUPPRESS)
    o = options.parse_args()
    parts = o.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        raise Failed(f"no such part: {', '.join(sorted(unknown))} (there are {', '.join(PARTS)})")
    o.sleepers = [int(count) for count in o.sleepers.split(",")]
    if o.check:
        return
    o.vski = os.path.abspath(o.vski)
    if o.out:
        os.makedirs(o.out, exist_ok=True)
    folder, rows = tempfile.mkdtemp(prefix="vski-workflows.", dir=o.out), []
    try:
        disk = fsync_ms(folder)
        for part in parts:
            begun, known = time.time(), len(rows)
            globals()[part](o, folder, rows)
            print(f"{part} ({time.time() - begun:.0f} s)", flush=True)
            for row in rows[known:]:
                print("  " + "  ".join(cell for cell in row if cell), flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(f"\nfdatasync {disk:.2f} ms, {os.cpu_count()} cores, {CONNECTIONS} connections start runs, "
          f"{o.runs:,} runs x {o.rounds}\n")
    if rows:
        table(rows)


if __name__ == "__main__":
    try:
        main()
    except Failed as error:
        sys.exit(f"workflows.py: {error}")
