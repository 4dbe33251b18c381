#!/usr/bin/env python3
"""Kills a server that calls webhooks, repeatedly on one data directory, and checks that every committed
change has reached its receiver.

Writers create, change and delete records, in batches too; a trigger of the collection calls a receiver for each
change, and another starts a workflow. The receiver fails, hangs and redirects now and then. At a random moment the
server gets SIGKILL and is restarted. At the end, when no call is pending:

  every answered change was delivered, and the receiver answered 200;
  every call belongs to a change that was answered, or in progress when the server died;
  calls with one id are equal;
  each change has started exactly one run of the workflow;
  the log of the server agrees with the receiver.

Example: tools/kill-webhooks.py --binary target/release/vski --kills 50
"""
import argparse
import base64
import collections
import http.client
import json
import os
import random
import shutil
import sqlite3
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[1:1] = [os.path.join(HERE, "common"), os.path.join(HERE, "..", "scripts", "common")]

from receiver import Receiver  # noqa: E402
from server import Failed, Server  # noqa: E402

DRAIN_SECONDS = 240
RECORDS = "/api/collections/notes/records"


class Calls(Receiver):
    """Keeps what was called."""

    def __init__(self, trouble, seed):
        self.bodies, self.answered = {}, collections.Counter()
        super().__init__(trouble, seed)

    def called(self, name, body):
        if self.bodies.setdefault(name, body) != body:
            self.wrong.append(f"two calls of {name} differ")

    def taken(self, name, body):
        self.answered[name] += 1


class Writer(threading.Thread):
    """Writes records of its own and knows which changes must, and which may, have happened."""

    def __init__(self, number, server, token, seed):
        super().__init__(daemon=True)
        self.number, self.server, self.token = number, server, token
        self.rng, self.stopped = random.Random(seed * 1000 + number), threading.Event()
        self.sure, self.maybe, self.alive, self.count = set(), set(), {}, 0

    def run(self):
        while not self.stopped.is_set():
            changes, path, body, method = self.plan()
            try:
                status, answer = self.server.call(method, path, body, self.token, timeout=10)
            except (OSError, http.client.HTTPException, ValueError):
                self.maybe |= {change for change, _ in changes}
                for (_, record, _), _ in changes:
                    self.alive.pop(record, None)
                time.sleep(0.05)
                continue
            if status in (200, 204):
                self.sure |= {change for change, _ in changes}
                for (action, record, version), _ in changes:
                    if action == "delete":
                        self.alive.pop(record, None)
                    else:
                        self.alive[record] = version
            elif status < 500:
                raise Failed(f"{method} {path}: {status} {answer}")

    def plan(self):
        """Some changes, and the request that makes them."""
        if self.rng.random() < 0.2:
            steps = [self.change() for _ in range(self.rng.randrange(2, 6))]
            if len({change[1] for change, _ in steps}) == len(steps):
                return steps, "/api/batch", {"requests": [request for _, request in steps]}, "POST"
        change, request = self.change()
        return [(change, request)], request["url"], request.get("body"), request["method"]

    def change(self):
        self.count += 1
        if not self.alive or self.rng.random() < 0.4:
            record = f"w{self.number}r{self.count:08}"
            body = {"id": record, "n": self.count}
            return ("create", record, self.count), {"method": "POST", "url": RECORDS, "body": body}
        record = self.rng.choice(list(self.alive))
        if self.rng.random() < 0.3:
            return ("delete", record, self.alive[record]), {"method": "DELETE", "url": f"{RECORDS}/{record}"}
        body = {"n": self.count}
        return ("update", record, self.count), {"method": "PATCH", "url": f"{RECORDS}/{record}", "body": body}


def waiting(server, token):
    """Changes whose calls are not in the log yet, and calls that wait there."""
    with sqlite3.connect(f"file:{server.data}/default.db?mode=ro", uri=True) as db:
        changes = db.execute("SELECT count(*) FROM _webhook_outbox").fetchone()[0]
    status, page = server.call("GET", "/api/webhooks/logs?status=pending&perPage=1", None, token)
    if status != 200:
        raise Failed(f"GET /api/webhooks/logs: {status} {page}")
    return changes + page["totalItems"]


def check(receiver, writers, server):
    """Violations at the end."""
    wrong = list(receiver.wrong)
    got = collections.Counter()
    for name, body in receiver.bodies.items():
        call = json.loads(body)
        change = (call["action"], call["record"]["id"], call["record"]["n"])
        if receiver.answered[name]:
            got[change] += 1
    sure = set().union(*(writer.sure for writer in writers))
    maybe = set().union(*(writer.maybe for writer in writers))
    wrong += [f"never delivered: {change}" for change in sorted(sure - set(got))]
    wrong += [f"delivered and never made: {change}" for change in sorted(set(got) - sure - maybe)]
    wrong += [f"delivered under {count} ids: {change}" for change, count in got.items() if count > 1]
    with sqlite3.connect(os.path.join(server.data, "default.db")) as db:
        rows = db.execute("SELECT status, target LIKE 'workflow:%', count(*) FROM _webhook_logs GROUP BY 1, 2")
        logs = {(status, is_run): count for status, is_run, count in rows}
    with sqlite3.connect(os.path.join(server.data, "workflows.db")) as db:
        runs = db.execute("SELECT count(*) FROM sqlite_schema WHERE name = 'runs'").fetchone()[0]
        runs = db.execute("SELECT count(*) FROM runs").fetchone()[0] if runs else None
    wrong += [f"{count} calls have ended as {key}" for key, count in logs.items() if key[0] != "success"]
    if runs is not None and runs != len(got):
        wrong.append(f"{runs} runs for {len(got)} changes")
    return wrong, len(sure), len(got), runs, logs


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/release/vski", help="the server (target/release/vski)")
    parser.add_argument("--kills", type=int, default=50, help="how often it is killed (50)")
    parser.add_argument("--writers", type=int, default=6, help="connections that write (6)")
    parser.add_argument("--trouble", type=float, default=0.05, help="part of the calls that fail (0.05)")
    parser.add_argument("--pause", type=float, default=1.0, help="longest time between two kills, seconds (1)")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="seed of all random choices")
    options = parser.parse_args()
    rng, folder = random.Random(options.seed), tempfile.mkdtemp(prefix="vski-kill-webhooks.")
    server = Server(os.path.abspath(options.binary), folder)
    receiver = Calls(options.trouble, options.seed)
    print(f"seed {options.seed}, {options.kills} kills, files in {folder}")
    code = 1
    try:
        server.start()
        token = server.init_admin()
        url = f"http://127.0.0.1:{receiver.port}/hook"
        triggers = [{"action": "*", "url": url, "retryLimit": 50}, {"action": "*", "workflow": "note"}]
        server.ask("POST", "/api/collections", {
            "name": "notes", "fields": [{"name": "n", "type": "number"}], "options": {"triggers": triggers}}, token)
        answer = server.ask("GET", "/api/webhooks/secret", None, token)
        receiver.secret = base64.b64decode(answer["secret"].removeprefix("whsec_"))
        writers = [Writer(number, server, token, options.seed) for number in range(options.writers)]
        for writer in writers:
            writer.start()
        for kill in range(1, options.kills + 1):
            time.sleep(rng.random() * options.pause)
            server.kill()
            server.start()
            if kill % 10 == 0:
                print(f"killed {kill} times, {sum(len(it.sure) for it in writers)} changes, "
                      f"{receiver.counts['calls']} calls", flush=True)
        for writer in writers:
            writer.stopped.set()
            writer.join(30)
        end = time.monotonic() + DRAIN_SECONDS
        while (left := waiting(server, token)) and time.monotonic() < end:
            time.sleep(0.5)
        if left:
            raise Failed(f"{left} calls still wait after {DRAIN_SECONDS} s")
        if server.stop() != 0:
            raise Failed("the server did not stop in order")
        wrong, sure, got, runs, logs = check(receiver, writers, server)
        for line in wrong[:20]:
            print(f"WRONG: {line}")
        again = sum(receiver.answered.values()) - got
        print(f"{sure} changes answered, {got} delivered, {again} of them again, {runs} runs, "
              f"{receiver.counts['calls']} calls, log {logs}; {len(wrong)} wrong")
        code = 1 if wrong else 0
    except Failed as error:
        print(f"FAILED: {error}", file=sys.stderr)
    finally:
        server.end()
        if code == 0:
            shutil.rmtree(folder)
    return code


if __name__ == "__main__":
    sys.exit(main())
