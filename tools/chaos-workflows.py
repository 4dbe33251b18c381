#!/usr/bin/env python3
"""Chaos for workflows: one server, several workers of two kinds, clients; all of them are killed, stopped, cut off and
sent wrong data, and the result must be right.

Clients start runs, deliver payloads to hooks, cancel, resume and repeat runs, and repeat requests without an answer. Workers
run random plans (steps, failures, sleeps, hooks, children, attributes, streams) and log to disk what they do. The server gets
SIGKILL and restarts at once or up to 2 s later; workers get SIGKILL, or SIGSTOP for longer than their leases; some reach the
server through a proxy that stalls and cuts; all misbehave now and then: they close without a close frame, do not read, never
acknowledge, give back, report twice, out of order, with stale epochs, send garbage. The invariants checked:

  runs      each acknowledged run ends, in one way; one run per idempotency key; no ended run has a job, each unfinished run
            has one; nothing happens to a run after its end
  steps     an acknowledged result is recorded byte for byte, and in every journal from then on; a step ran before its
            result is recorded, and once for each epoch; no epoch is handed out twice; stale epochs are refused
  sleeps    do not end early, also by the clock of the worker; the lateness of their ends is measured
  hooks     each acknowledged payload is recorded, in the order of its sender; twice only if one got no answer
  keys      of a concurrency key one run at a time is between its start and its end
  children  the parent has the output of the child byte for byte; children of a cancelled run end cancelled
  database  is intact; runs, steps, waits, hooks follow from the events, also in copies made right after a kill

With --stop, a worker is stopped for 60 s with leases of normal length instead, and must find its run done by another.

--worker "WORKFLOW COMMAND" adds a worker of your own: it gets VSKI_URL and VSKI_TOKEN, and some of the runs are of that workflow,
with the input {"n": number}; they must end. Standard library only. Exit code 1: an invariant was violated; the folder with
the data directory, the logs and the violations is kept."""
import argparse
import collections
import json
import os
import random
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[1:1] = [os.path.join(HERE, "chaos"), os.path.join(HERE, "..", "scripts", "common")]

import clients as clients_module  # noqa: E402
import oracle  # noqa: E402
import ws  # noqa: E402
from server import Failed, Server  # noqa: E402

END_SECONDS = 120
LOOK_EVERY = 12
LIST_MAX = 40


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Timed(Server):
    """A server that notes when it was down, in milliseconds since 1970."""

    def __init__(self, binary, folder, settings=None):
        super().__init__(binary, folder, free_port(), settings)
        self.downs, self.down = [], None

    def wait(self):
        took = super().wait()
        if self.down:
            self.downs.append((self.down, time.time() * 1000))
            self.down = None
        return took

    def kill(self):
        self.down = self.down or time.time() * 1000
        super().kill()


class Workers:
    """Processes that are started again when they have been killed."""

    def __init__(self, folder, server, proxy_port, token, o):
        self.folder, self.server, self.proxy_port, self.token, self.o = folder, server, proxy_port, token, o
        self.logs, self.processes, self.starts = [], {}, 0
        self.kinds = {f"w{i}": (("threads", "loop")[i % 2], i % 3 == 2) for i in range(o.workers)}

    def start(self, name, mischief=None):
        kind, is_by_proxy = self.kinds[name]
        self.starts += 1
        log = os.path.join(self.folder, f"worker-{name}.log")
        if log not in self.logs:
            self.logs.append(log)
        port = self.proxy_port if is_by_proxy else self.server.port
        command = [sys.executable, os.path.join(HERE, "chaos", "worker.py"), kind, name, port, self.server.port, self.token, log,
                   f"{self.o.seed}-{name}-{self.starts}", self.o.credit, self.o.mischief if mischief is None else mischief]
        with open(os.path.join(self.folder, f"worker-{name}.err"), "ab") as err:
            self.processes[name] = subprocess.Popen([str(it) for it in command], stderr=err)

    def start_all(self):
        for name in self.kinds:
            self.start(name)

    def end(self):
        for process in self.processes.values():
            process.kill()
            process.wait()


def others(o, server, token):
    """Workers given with --worker."""
    environment = {**os.environ, "VSKI_URL": f"http://127.0.0.1:{server.port}", "VSKI_TOKEN": token}
    return [subprocess.Popen(command[1:], env=environment, stdout=subprocess.DEVNULL) for command in o.worker]


class Chaos:
    """Draws faults from the seed until there were enough of them and all runs have been started."""

    def __init__(self, o, folder, server, workers, clients):
        self.o, self.folder, self.server, self.workers, self.clients = o, folder, server, workers, clients
        self.rng = random.Random(f"faults {o.seed}")
        self.counts, self.wrong, self.looked = collections.Counter(), [], 0
        self.begun = time.monotonic()
        self.slowest_start = 0

    def kills(self):
        return self.counts["server killed"] + self.counts["worker killed"]

    def run(self):
        until = self.begun + self.o.minutes * 60
        said = time.monotonic()
        time.sleep(1)
        while time.monotonic() < until and (self.kills() < self.o.kills or len(self.clients.runs) < self.o.runs):
            kind = self.rng.choices(["server", "worker", "stop"], [45, 40, 17])[0]
            if self.kills() >= self.o.kills:
                kind = "stop"
            {"server": self.kill_server, "worker": self.kill_worker, "stop": self.stop_worker}[kind]()
            # Every sixth fault or so is no kill.
            left = max(self.o.kills - self.kills(), 1) * 1.2
            time.sleep(self.rng.uniform(0, 1.6) * max(0, until - time.monotonic()) / left)
            if time.monotonic() - said > 10:
                said = time.monotonic()
                self.say()
            if self.wrong:
                break

    def say(self):
        c = self.clients
        print(f"{time.monotonic() - self.begun:5.0f} s  {len(c.runs):6} runs, {c.open:4} open  "
              f"kills: server {self.counts['server killed']}, workers {self.counts['worker killed']}; stopped {self.counts['worker stopped']}",
              flush=True)

    def kill_server(self):
        self.server.kill()
        self.counts["server killed"] += 1
        if self.counts["server killed"] // LOOK_EVERY > self.looked:
            self.look()
        time.sleep(self.rng.choice([0, 0, self.rng.uniform(0, 2)]))
        self.server.launch()
        if self.rng.random() < 0.1:
            # Again, while it starts or has hardly begun.
            time.sleep(self.rng.uniform(0, 0.4))
            self.server.kill()
            self.counts["server killed"] += 1
            self.server.launch()
        self.slowest_start = max(self.slowest_start, self.server.wait())

    def look(self):
        """Looks at the database as the kill left it."""
        db = oracle.Database(oracle.copy(self.server.data, os.path.join(self.folder, "copy")))
        self.looked += 1
        self.wrong += [(run, f"after kill {self.counts['server killed']}: {text}") for run, text in oracle.check_database(db, False)]

    def kill_worker(self):
        name = self.rng.choice(list(self.workers.kinds))
        process = self.workers.processes[name]
        code = process.poll()
        if code is not None:
            self.wrong.append((None, f"worker {name} ended by itself with code {code}"))
        process.kill()
        process.wait()
        self.counts["worker killed"] += 1
        pause = self.rng.choice([0, 0, self.rng.uniform(0, 2)])
        again = threading.Timer(pause, self.workers.start, [name])
        again.start()
        again.join()

    def stop_worker(self):
        name = self.rng.choice(list(self.workers.kinds))
        process = self.workers.processes[name]
        process.send_signal(signal.SIGSTOP)
        self.counts["worker stopped"] += 1
        wake = threading.Timer(self.rng.uniform(1, 8), process.send_signal, [signal.SIGCONT])
        wake.daemon = True
        wake.start()

    def calm(self):
        """Everything is up; waits until nothing is left to do."""
        for process in self.workers.processes.values():
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
        self.clients.stops = True
        until = time.monotonic() + END_SECONDS
        said = 0
        while time.monotonic() < until:
            answer = self.clients.http.call("GET", "/api/workflow/queue")
            left = sum(it["runs"] for it in answer[1]["items"]) if answer and answer[0] == 200 else None
            if time.monotonic() - said > 10:
                said = time.monotonic()
                print(f"{time.monotonic() - self.begun:5.0f} s  calm; {left} runs left, {self.clients.open} watched"
                      + "".join(f"; {text[:200]}" for text in self.clients.wrong[:3]), flush=True)
            if left == 0 and self.clients.open <= 0:
                return
            time.sleep(0.5)
        self.wrong.append((None, f"after {END_SECONDS} s of calm there is left: {answer}; {self.clients.open} watched"))


def sample_steps(clients, db, rng, wrong):
    """/steps, /events and /journal show what is recorded."""
    names = rng.sample(sorted(db.by_name), min(50, len(db.by_name)))
    for name in names:
        run = db.by_name[name]
        events = db.events[run["id"]]
        status, steps = clients.http.call("GET", f"/api/workflow/runs/{name}/steps")
        if status != 200:
            wrong.append((name, f"/steps: {status} {steps}"))
            continue
        for step in steps["items"]:
            of = [e for e in events if e.kind in (oracle.OK, oracle.ERR, oracle.RETRY) and e.key == step["stepId"]]
            shown = step.get("output", step.get("error"))
            if step["status"] in ("completed", "failed") and (not of or json.loads(of[-1].data) != shown):
                wrong.append((name, f"/steps shows {shown} for {step['stepId']}, recorded is {of[-1:]}"))
        status, shown = clients.http.call("GET", f"/api/workflow/runs/{name}/events")
        if status == 200 and shown["next"] is None and len(shown["items"]) != len(events):
            wrong.append((name, f"/events shows {len(shown['items'])} of {len(events)}"))
        status, one = clients.http.call("GET", f"/api/workflow/runs/{name}")
        if status != 200 or one["status"] != oracle.WORDS[run["status"]]:
            wrong.append((name, f"is shown as {one}, recorded is {oracle.WORDS[run['status']]}"))


def show(db, logs, name):
    """All that is known of a run, as lines."""
    run = db.by_name.get(name)
    if run is None:
        return [f"{name}: not in the database"]
    lines = [f"{name}: {dict(run)}", f"  job {dict(db.jobs[run['id']]) if run['id'] in db.jobs else None}"]
    lines += [f"  event {e.seq} kind {e.kind} {e.key!r} {(e.data or '')[:160]} info {e.info} n {e.n} at {e.at}" for e in db.events[run["id"]]]
    for what in ("jobs", "effects", "answers", "sleeps", "wakes"):
        lines += [f"  {what} {str(it)[:300]}" for it in getattr(logs, what).get(name, [])]
    return lines


def run(o, folder):
    server = Timed(o.server, folder, {"WORKFLOW_LEASE_SECONDS": str(o.lease)})
    server.launch()
    workers = proxy = clients = None
    foreign = []
    try:
        server.wait()
        token = server.init_admin()
        proxy_port = free_port()
        proxy = subprocess.Popen([sys.executable, os.path.join(HERE, "common", "proxy.py"), str(proxy_port), str(server.port), str(o.seed),
                                  os.path.join(folder, "proxy.log")])
        workers = Workers(folder, server, proxy_port, token, o)
        workers.start_all()
        foreign = others(o, server, token)
        clients = clients_module.Clients(clients_module.Http(server.port, token), o.seed, o.runs, o.in_flight)
        clients.pause = o.minutes * 60 * 0.9 / o.runs
        clients.others = [command[0] for command in o.worker]
        clients.start()
        chaos = Chaos(o, folder, server, workers, clients)
        chaos.run()
        chaos.say()
        chaos.calm()
        wrong = chaos.wrong
        # The workers end before their logs are read.
        time.sleep(1)
        workers.end()
        took = time.monotonic() - chaos.begun
        copy = oracle.copy(server.data, os.path.join(folder, "copy"))
        db = oracle.Database(copy)
        sample_steps(clients, db, chaos.rng, wrong)
        code = server.stop()
        if code:
            wrong.append((None, f"the server ended with code {code} on SIGTERM"))
        wrong += [(None, f"server: {line}") for line in server.wrong()]
        db = oracle.Database(oracle.copy(server.data, os.path.join(folder, "copy")))
        logs = oracle.Logs(workers.logs + [os.path.join(folder, "proxy.log")] * os.path.exists(os.path.join(folder, "proxy.log")))
        numbers = oracle.Numbers()
        wrong += oracle.check_database(db, True)
        wrong += oracle.check_logs(db, logs, clients, server.downs, numbers)
        wrong += [(None, text) for text in clients.wrong]
        for name in workers.kinds:
            with open(os.path.join(folder, f"worker-{name}.err"), encoding="utf-8", errors="replace") as f:
                text = f.read()
                if text:
                    wrong.append((None, f"worker {name}: {text[-1000:]}"))
    finally:
        if clients:
            clients.is_over = True
        if workers:
            workers.end()
        for process in [proxy, server.process] + foreign:
            if process and process.poll() is None:
                process.kill()
                process.wait()
    statuses = collections.Counter(oracle.WORDS[row["status"]] for row in db.runs.values())
    kinds = collections.Counter(json.loads(e.data).get("kind") for id, row in db.runs.items() if row["status"] == 3
                                for e in db.events[id][-1:] if e.kind == oracle.FAILED)
    print(f"\n{len(db.runs)} runs ({len(clients.runs)} by clients) in {took:.0f} s: {dict(statuses)}; failed: {dict(kinds)}")
    print(f"{sum(len(it) for it in db.events.values())} events, {logs.lines} lines of logs, {chaos.looked} copies after a kill; "
          f"slowest start {chaos.slowest_start:.2f} s")
    for title, counts in (("faults", chaos.counts), ("of workers and proxy", logs.faults), ("clients", clients.counts), ("numbers", numbers)):
        print(f"{title}: " + ", ".join(f"{what} {count}" for what, count in sorted(counts.items())))
    print(numbers.lateness())
    if wrong:
        evidence = os.path.join(folder, "violations")
        with open(evidence, "w", encoding="utf-8") as f:
            for name, text in wrong:
                f.write(f"{name or '-'}: {text}\n")
            for name in list(dict.fromkeys(name for name, _ in wrong if name))[:LIST_MAX]:
                f.write("\n" + "\n".join(show(db, logs, name)) + "\n")
            f.write("\nserver log:\n" + "\n".join(server.lines()[-200:]) + "\n")
        for name, text in wrong[:LIST_MAX]:
            print(f"VIOLATED {name or '-'}: {text[:600]}")
        print(f"{len(wrong)} violations; all of them, with the events of the runs: {evidence}")
    print(f"{'VIOLATED' if wrong else 'no violation'} (seed {o.seed})")
    return not wrong


def stop_check(o, folder):
    """A worker is stopped for longer than its lease and the grace of its socket, and woken."""
    server = Timed(o.server, folder)
    server.launch()
    workers = None
    try:
        server.wait()
        token = server.init_admin()
        http = clients_module.Http(server.port, token)
        o.workers = 2
        workers = Workers(folder, server, server.port, token, o)
        workers.start("w0", 0)
        time.sleep(1)
        plan = [["step", "step#0", 0], ["step", "step#1", 3000], ["many", ["many#0", "many#1"], 0], ["sleep", "sleep#0", 200, False]]
        ids = [server.ask("POST", "/api/workflow/runs", {"workflow": "chaos", "input": {"plan": plan}}, token)["runId"] for _ in range(o.stopped)]
        time.sleep(1.5)
        workers.start("w1", 0)
        workers.processes["w0"].send_signal(signal.SIGSTOP)
        begun = time.monotonic()
        done_after = None
        while time.monotonic() - begun < o.stop_seconds:
            time.sleep(0.25)
            states = [http.call("GET", f"/api/workflow/runs/{id}")[1]["status"] for id in ids]
            if done_after is None and set(states) == {"completed"}:
                done_after = time.monotonic() - begun
        workers.processes["w0"].send_signal(signal.SIGCONT)
        time.sleep(10)
        workers.end()
        server.stop()
        db = oracle.Database(oracle.copy(server.data, os.path.join(folder, "copy")))
        logs, numbers = oracle.Logs(workers.logs), oracle.Numbers()
        wrong = oracle.check_database(db, True)
        wrong += oracle.check_logs(db, logs, clients_module.Clients(http, 0, 0, 0), [], numbers)
        if done_after is None:
            wrong.append((None, f"after {o.stop_seconds} s the runs are {collections.Counter(states)}"))
        answers = collections.Counter((it[4], it[7]) for name in ids for it in logs.answers[name] if it[3] == 1)
        refused = sum(count for (_, code), count in answers.items() if code == "lost_lease")
        for name in ids:
            ran = collections.Counter((key, epoch) for _, _, key, epoch, _, _ in logs.effects[name])
            if ran["step#0", 1] != 1 or ran["step#0", 2] or ran["step#1", 2] != 1:
                wrong.append((name, f"ran by key and epoch: {dict(ran)}"))
    finally:
        if workers:
            workers.end()
        server.process.kill()
        server.process.wait()
    print(f"{len(ids)} runs of a worker that was stopped for {o.stop_seconds} s: all done by another "
          f"{f'after {done_after:.1f} s' if done_after else 'NEVER'}; answers to the first epoch: "
          + ", ".join(f"{what} {code} {count}" for (what, code), count in sorted(answers.items())) + f"; {refused} refused")
    for name, text in wrong[:LIST_MAX]:
        print(f"VIOLATED {name or '-'}: {text[:600]}")
    return not wrong


def options():
    target = os.environ.get("CARGO_TARGET_DIR", os.path.join(HERE, "..", "target"))
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--runs", type=int, default=2000, metavar="N", help="runs that clients start (default 2000)")
    p.add_argument("--kills", type=int, default=60, metavar="N", help="SIGKILLs of server and workers (default 60)")
    p.add_argument("--minutes", type=float, default=3, metavar="N", help="duration, without the calm at the end (default 3)")
    p.add_argument("--server", default=os.path.join(target, "release", "vski"), metavar="PATH", help="default: target/release/vski")
    p.add_argument("--workers", type=int, default=6, metavar="N", help="worker processes (default 6)")
    p.add_argument("--worker", action="append", default=[], type=shlex.split, metavar="TEXT",
                   help='another worker, "WORKFLOW COMMAND"; may be given several times')
    p.add_argument("--credit", type=int, default=30, metavar="N", help="jobs of a worker at a time (default 30)")
    p.add_argument("--in-flight", type=int, default=200, metavar="N", help="runs open at a time (default 200)")
    p.add_argument("--lease", type=int, default=3, metavar="N", help="seconds of a lease (default 3)")
    p.add_argument("--mischief", type=float, default=1, metavar="N", help="how much workers misbehave; 0 is not at all (default 1)")
    p.add_argument("--stop", action="store_true", help="the check with one stopped worker instead")
    p.add_argument("--stopped", type=int, default=20, metavar="N", help="its runs (default 20)")
    p.add_argument("--stop-seconds", type=int, default=60, metavar="N", help="how long it is stopped (default 60)")
    p.add_argument("--folder", metavar="PATH", help="where the data directory is made (default: the folder for temporary files)")
    p.add_argument("--seed", type=int, default=random.randrange(1 << 32), metavar="N", help="seed of the choices of this script")
    p.add_argument("--keep", action="store_true", help="keep the data directory and the logs")
    o = p.parse_args()
    if min(o.runs, o.kills, o.workers, o.credit, o.in_flight) < 1 or o.minutes <= 0:
        p.error("numbers begin with 1")
    o.server = os.path.abspath(o.server)
    if not os.access(o.server, os.X_OK):
        p.error(f"no such binary: {o.server}")
    return o


def main():
    o = options()
    print(f"seed {o.seed}", flush=True)
    folder = tempfile.mkdtemp(prefix="vski-chaos.", dir=o.folder)
    is_right = False
    try:
        is_right = (stop_check if o.stop else run)(o, folder)
    finally:
        if o.keep or not is_right:
            print(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return 0 if is_right else 1


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        sys.exit(main())
    except Failed as error:
        sys.exit(f"chaos-workflows.py: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
