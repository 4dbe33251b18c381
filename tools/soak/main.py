"""A master and its replicas under mixed load, with kills and cuts; see tools/soak.sh --help.

    main.py BINARY OUT MINUTES RATE REPLICAS SEED"""
import base64
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.parse

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[1:1] = [os.path.join(HERE, *parts) for parts in (["..", "bench"], ["..", "common"], ["..", "..", "scripts", "common"])]

import load  # noqa: E402
import samples as sampling  # noqa: E402
from cluster import Cluster  # noqa: E402
from common import Failed, free_port  # noqa: E402
from receiver import Receiver  # noqa: E402

SAMPLE_SECONDS = 10
DRAIN_SECONDS = 240
# In the second half no server is killed, but for no longer than it takes to judge its memory.
CALM_SECONDS_MAX = 930
CUT_SECONDS = 20
ENDED_RUNS_SECONDS = 600
CRON_WORDS = "The server ended while it ran."


class Hooks(Receiver):
    """Tells the world which changes it was told."""

    def __init__(self, world, seed):
        self.world = world
        super().__init__(0.03, seed)

    def taken(self, name, body):
        call = json.loads(body)
        if "job" in call:
            self.world.count("calls of cron jobs")
            return
        record = call["record"]
        self.world.told((call["collection"], call["action"], record["id"], record["n"]))


class Soak:
    def __init__(self, binary, out, minutes, rate, replicas, seed):
        self.out, self.seconds, self.seed = out, minutes * 60, seed
        self.rng = random.Random(f"faults {seed}")
        self.cluster = Cluster(binary, out, settings={"LOG": "warn", "WORKFLOW_LEASE_SECONDS": "10"})
        for _ in range(replicas):
            self.cluster.add(LOG="warn", WORKFLOW_LEASE_SECONDS="10", SYNC_INTERVAL="10")
        self.nodes, self.master = self.cluster.nodes(), self.cluster.master
        for node in self.nodes:
            node.port, node.life = free_port(), 0
        self.proxy, self.proxy_port = None, free_port()
        self.workers, self.samples, self.marks = {}, [], []
        # One fault at a time, and no sample of a server that is being killed.
        self.lock, self.begun = threading.Lock(), time.monotonic()
        self.rate, self.is_done, self.helpers = rate, threading.Event(), []

    # Processes.

    def prepare(self):
        self.start_proxy()
        self.cluster.start()
        self.world = world = load.World(self.nodes, self.master.token, self.seed, self.rate)
        for node in self.nodes[1:]:
            node.token = self.master.token
            node.settings["MASTER_URL"] = f"http://127.0.0.1:{self.proxy_port}"
            node.start()
        self.hooks = Hooks(world, self.seed)
        self.client = client = load.Client(world, 99)
        secret = client.sure(self.master, "GET", "/api/webhooks/secret").json()["secret"]
        self.hooks.secret = base64.b64decode(secret.removeprefix("whsec_"))
        url = f"http://127.0.0.1:{self.hooks.port}/hook"
        calls = {"action": "*", "url": url, "retryLimit": 50}
        fields = [{"name": "n", "type": "number"}, {"name": "writer", "type": "text"}]
        indexes = [{"fields": ["writer", "n"]}]
        for definition in [
                {"name": "_users", "type": "auth", "createRule": "", "viewRule": "id = @request.auth.id"},
                {"name": "notes", "fields": [*fields, {"name": "text", "type": "text"}], "indexes": indexes,
                 "options": {"triggers": [calls, {"action": "create", "workflow": "soak"}]}},
                {"name": "docs", "fields": [*fields, {"name": "doc", "type": "file"}], "indexes": indexes,
                 "options": {"triggers": [calls]}}]:
            client.sure(self.master, "POST", "/api/collections", definition)
        # Runs go when they ended a while ago, so that their database stays as it is.
        ended = f"DELETE FROM runs WHERE ended < (unixepoch() - {ENDED_RUNS_SECONDS}) * 1000"
        for job in [{"name": "count", "type": "sql", "sql": "UPDATE notes SET text = text WHERE n % 100 = 0"},
                    {"name": "tidy", "type": "sql", "sql": ended, "database": "workflows"},
                    {"name": "call", "type": "http", "url": url, "retryLimit": 50},
                    {"name": "start", "type": "workflow", "workflow": "soak"}]:
            client.sure(self.master, "POST", "/api/cron", {"schedule": "* * * * *", **job})
        for name, node in zip(("m1", "m2", "r1"), (self.master, self.master, *self.nodes[1:2])):
            self.workers[name] = node, None
            self.start_worker(name)

    def start_proxy(self):
        self.proxy = subprocess.Popen([sys.executable, os.path.join(HERE, "..", "common", "proxy.py"), str(self.proxy_port),
                                       str(self.master.port), self.seed, os.path.join(self.out, "proxy.log"), "60"])

    def start_worker(self, name):
        node = self.workers[name][0]
        command = [sys.executable, os.path.join(HERE, "worker.py"), name, str(node.port)]
        with open(os.path.join(self.out, "workers.err"), "ab") as err:
            self.workers[name] = node, subprocess.Popen(command, stderr=err, env={**os.environ, "VSKI_TOKEN": self.master.token})

    def end_helpers(self):
        self.is_done.set()
        for thread in self.helpers:
            thread.join()

    def end_all(self):
        self.end_helpers()
        for process in [self.proxy, *(process for _, process in self.workers.values()), *(node.process for node in self.nodes)]:
            if process and process.poll() is None:
                process.kill()
                process.wait()

    # Faults.

    def fault_again_and_again(self):
        calm = self.seconds - min(CALM_SECONDS_MAX, self.seconds / 2)
        next_kill = self.rng.uniform(10, 30)
        victims, next_worker, next_cut = [], self.rng.uniform(10, 60), self.rng.uniform(60, 240)
        while not self.is_done.wait(0.5):
            now = time.monotonic() - self.begun
            try:
                if now > next_kill and now < calm:
                    victims = victims or self.rng.sample(self.nodes, len(self.nodes))
                    self.kill_server(victims.pop(), self.rng.choice(["kill", "kill", "stop"]))
                    next_kill = now + self.rng.uniform(15, 30 + min(210, self.seconds / 20))
                if now > next_worker:
                    self.kill_worker(self.rng.choice(list(self.workers)))
                    next_worker = now + self.rng.uniform(20, 100)
                if now > next_cut and now < self.seconds - CUT_SECONDS:
                    self.cut()
                    next_cut = now + self.rng.uniform(90, 300)
            except (Failed, OSError, subprocess.SubprocessError) as error:
                self.world.bad(str(error))

    def mark(self, node, what):
        self.marks.append((round(time.monotonic() - self.begun, 1), node, what))
        self.world.count(what)

    def kill_server(self, node, how):
        with self.lock:
            self.mark(node.name, f"{how} of a server")
            process = node.process
            if how == "kill":
                process.kill()
                process.wait()
                time.sleep(self.rng.choice([0, self.rng.uniform(0, 3)]))
            else:
                took = node.stop()
                if process.returncode != 0 or took > 10_000:
                    self.world.bad(f"{node.name} ended with code {process.returncode} after {took:.0f} ms")
            node.life += 1
            node.start()

    def kill_worker(self, name):
        process = self.workers[name][1]
        if process.poll() is not None:
            self.world.bad(f"the worker {name} has ended with code {process.returncode}")
        process.kill()
        process.wait()
        self.world.count("kill of a worker")
        self.start_worker(name)

    def cut(self):
        """The line is dead: connections end, or nothing passes any more."""
        if self.rng.random() < 0.5:
            self.mark("proxy", "cut of the line")
            self.proxy.kill()
            self.proxy.wait()
            time.sleep(CUT_SECONDS)
            self.start_proxy()
        else:
            self.mark("proxy", "silence on the line")
            self.proxy.send_signal(signal.SIGSTOP)
            time.sleep(CUT_SECONDS)
            self.proxy.send_signal(signal.SIGCONT)

    # Samples.

    def sample_again_and_again(self):
        client = load.Client(self.world, 98)
        while not self.is_done.wait(SAMPLE_SECONDS):
            for node in self.nodes:
                with self.lock:
                    code = node.process.poll()
                    if code is not None:
                        self.world.bad(f"{node.name} has ended by itself with code {code}, see {node.folder}/log")
                        node.life += 1
                        node.start()
                    self.samples.append(sampling.take(node, self.metrics(client, node), self.begun))

    def metrics(self, client, node):
        answer = client.call(node, "GET", "/metrics")
        return sampling.metrics(answer.body.decode()) if answer and answer.status == 200 else {}

    def progress(self):
        latest = {sample["node"]: sample for sample in self.samples[-len(self.nodes):]}
        state = "  ".join(f"{name} {s['rss_mb']:.0f} MB {s['descriptors']} fd {s['threads']} thr" for name, s in latest.items())
        counts = self.world.counts
        print(f"{(time.monotonic() - self.begun) / 60:5.1f} min  {counts['requests']} requests, {counts['changes of notes']} + "
              f"{counts['changes of docs']} changes, {len(self.world.untold)} untold, {len(self.world.runs)} runs open, "
              f"{len(self.world.wrong)} wrong; {state}", flush=True)

    # The end.

    def run(self):
        self.prepare()
        self.begun = time.monotonic()
        clients = load.make(self.world)
        self.helpers = [threading.Thread(target=it) for it in (self.fault_again_and_again, self.sample_again_and_again)]
        for thread in [*clients, *self.helpers]:
            thread.start()
        said = self.begun
        while time.monotonic() < self.begun + self.seconds and len(self.world.wrong) < 200:
            time.sleep(0.5)
            if time.monotonic() - said >= 60:
                said += 60
                self.progress()
        self.end_helpers()
        self.world.is_over.set()
        for thread in clients:
            thread.join(90)
            if thread.is_alive():
                self.world.bad(f"{thread.name} does not end")
        self.world.is_over.clear()
        self.drain(clients)
        self.check_cron()
        self.check_records(clients)
        self.check_tools()

    def drain(self, clients):
        """Waits until nothing is under way any more."""
        self.hooks.trouble = 0
        for job in self.client.sure(self.master, "GET", "/api/cron").json()["items"]:
            self.client.sure(self.master, "PATCH", f"/api/cron/{job['id']}", {"active": False})
        runs = next(client for client in clients if isinstance(client, load.Runs))
        begun, left = time.monotonic(), {}
        while time.monotonic() - begun < DRAIN_SECONDS:
            runs.watch(list(self.world.runs))
            left = {"runs that are watched": len(self.world.runs), "changes that were not told": len(self.world.untold)}
            for node in self.nodes:
                said = self.metrics(self.client, node)
                for name, value in said.items():
                    if name.startswith(("vski_workflow_queue{", "vski_webhook_pending", "vski_replica_states_behind",
                                        "vski_replica_files_pending", "vski_replica_files_failing")):
                        left[f"{node.name} {name}"] = value
                if not said:
                    left[f"{node.name} answers"] = 1
            if not any(left.values()):
                try:
                    self.cluster.await_current(30)
                    self.world.counts["seconds of draining"] = int(time.monotonic() - begun)
                    return
                except Failed as error:
                    left["replicas"] = str(error)[:300]
            time.sleep(1)
        self.world.bad(f"after {DRAIN_SECONDS} s there are still { {name: value for name, value in left.items() if value} }")
        for change in sorted(self.world.untold)[:10]:
            self.world.bad(f"never told: {change}")

    def check_cron(self):
        for job in self.client.sure(self.master, "GET", "/api/cron").json()["items"]:
            runs = self.client.sure(self.master, "GET", f"/api/cron/{job['id']}/runs?perPage=500").json()["items"]
            for run in runs:
                self.world.counts[f"cron {job['name']} {run['status']}"] += 1
                if run["status"] == "failed" and run["message"] != CRON_WORDS:
                    self.world.bad(f"cron job {job['name']} of {run['due']}: {run['message']}")
            if not runs and self.seconds > 90:
                self.world.bad(f"the cron job {job['name']} has never run")

    def check_records(self, clients):
        """Master against model, replicas against master, and every file on all of them."""
        for collection in ("notes", "docs", "_users"):
            records = self.all_records(self.master, collection)
            for node in self.nodes[1:]:
                if self.all_records(node, collection) != records:
                    self.world.bad(f"{node.name} has other records in {collection} than the master")
            self.world.counts[f"records of {collection} in the end"] = len(records)
            if collection == "_users":
                accounts = {id for client in clients if isinstance(client, load.Accounts) for _, id, _ in client.accounts}
                if missing := accounts - {record["id"] for record in records}:
                    self.world.bad(f"accounts are not there: {sorted(missing)}")
                continue
            alive = {id: kept for client in clients if getattr(client, "collection", None) == collection
                     for id, kept in client.alive.items()}
            there = {record["id"]: record["n"] for record in records}
            if there != {id: n for id, (n, _) in alive.items()}:
                self.world.bad(f"{collection} is not as its writers left it: "
                               f"{sorted(set(there.items()) ^ {(id, n) for id, (n, _) in alive.items()})[:10]}")
            if collection == "notes":
                self.check_triggered(sorted(records, key=lambda record: record["created"])[-30:])
                continue
            for record in records:
                for node in self.nodes:
                    body = self.client.sure(node, "GET", f"/api/files/docs/{record['id']}/{record['doc']}").body
                    if hashlib.sha256(body).hexdigest() != alive.get(record["id"], (0, ""))[1]:
                        self.world.bad(f"{node.name} has another file for {record['id']}")

    def all_records(self, node, collection):
        records, page = [], 1
        while True:
            path = load.RECORDS.format(collection)
            part = self.client.sure(node, "GET", f"{path}?sort=id&perPage=500&page={page}").json()
            records += part["items"]
            if page >= part["totalPages"]:
                return records
            page += 1

    def check_triggered(self, records):
        """Each of the last ones has started one run."""
        for record in records:
            query = urllib.parse.urlencode({"attribute": f"record={record['id']}"})
            runs = self.client.sure(self.master, "GET", f"/api/workflow/runs?{query}").json()["items"]
            if [run["status"] for run in runs] != ["completed"]:
                self.world.bad(f"{record['id']} has the runs {[(run['runId'], run['status']) for run in runs]}, not one that completed")

    def check_tools(self):
        commands = [(node, ("replica", "status")) for node in self.nodes] + [(self.master, ("files", "check"))]
        for node, command in commands:
            done = subprocess.run([node.binary, *command], env={**os.environ, **node.environment(node.port)}, capture_output=True,
                                  text=True, timeout=120)
            with open(os.path.join(self.out, "tools.txt"), "a", encoding="utf-8") as f:
                f.write(f"{node.name}: vski {' '.join(command)}: code {done.returncode}\n{done.stdout}{done.stderr}\n")
            is_bad = any(word in done.stdout for word in (" behind ", " loading ", " failing "))
            if done.returncode != 0 or (command[0] == "replica" and is_bad):
                self.world.bad(f"vski {' '.join(command)} of {node.name}: code {done.returncode}, {done.stdout[-300:]}{done.stderr[-300:]}")
        for node in self.nodes:
            process = node.process
            node.stop()
            if process.returncode != 0:
                self.world.bad(f"{node.name} ended with code {process.returncode}")
            lines = [line for line in node.lines() if line.split(" ")[1:2] == ["error"] or "panicked" in line]
            self.world.counts[f"error lines in the log of {node.name}"] = len(lines)
            for line in lines[:5]:
                self.world.bad(f"the log of {node.name} has: {line}")

    def report(self):
        """Writes all down; whether all was right."""
        said, grown = [], []
        if self.samples:
            sampling.add_cpu(self.samples)
            said, grown = sampling.judge(self.samples)
            with open(os.path.join(self.out, "curves.svg"), "w", encoding="utf-8") as f:
                f.write(sampling.svg(self.samples, self.marks))
        for metric, seconds in sampling.LIFE_SECONDS.items():
            if not any(metric in line and "not judged" not in line for line in said):
                said.append(f"{metric} of nothing was judged: no server has lived for {seconds} s")
        counts = getattr(self, "world", None) and self.world.counts or {}
        cpu = sum(s.get("cpu", 0) for s in self.samples) / max(1, len(self.samples)) * len(self.nodes)
        wrong = (self.world.wrong if counts else ["it did not come to a start"]) + grown
        with open(os.path.join(self.out, "samples.json"), "w", encoding="utf-8") as f:
            json.dump({"seed": self.seed, "samples": self.samples, "marks": self.marks, "counts": counts, "wrong": wrong}, f)
        lines = [f"seed {self.seed}, {self.seconds / 60:g} minutes of load, servers took {cpu:.0f} % of a core", "",
                 *(f"{name}: {value}" for name, value in sorted(counts.items())), "", *said, "",
                 *(f"WRONG: {text}" for text in wrong[:50]), f"{len(wrong)} wrong; all files are in {self.out}"]
        with open(os.path.join(self.out, "summary.txt"), "w", encoding="utf-8") as f:
            f.write("\n".join(lines) + "\n")
        print("\n".join(lines))
        return not wrong


def main():
    binary, out, minutes, rate, replicas, seed = sys.argv[1:]
    soak = Soak(binary, out, float(minutes), float(rate), int(replicas), seed)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    print(f"seed {seed}, {minutes} minutes, all files in {out}", flush=True)
    try:
        soak.run()
    except (Failed, load.Stopped, KeyboardInterrupt) as error:
        if hasattr(soak, "world"):
            soak.world.bad(f"it was not finished: {error!r}")
    finally:
        soak.end_all()
    sys.exit(0 if soak.report() else 1)


if __name__ == "__main__":
    main()
