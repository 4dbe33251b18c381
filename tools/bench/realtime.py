"""Realtime: the cost of many subscribers and the delay of events, beside PocketBase, as one Markdown table.

  python3 tools/bench/realtime.py --vski VSKI --pocketbase POCKETBASE --subscribers-binary FILE [--parts A,B] [...]

tools/bench-realtime.sh builds and fetches all that and calls this. Each run has a server of its own, the servers take
turns, and the table shows medians. Standard library only. The machine should have nothing else to do: servers, writer and
subscribers share it.

The moment of a commit cannot be seen from outside. So delays are told from just before the POST was sent, and again
from when its answer was there, which is after the commit; an event that was faster than the answer counts as 0 there."""
import argparse
import itertools
import json
import os
import random
import resource
import select
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

from common import CONTENT, Failed, Http, machine_cpu, proc_cpu, proc_memory
from report import number, with_ratio
from servers import PocketBase, Vski

PARTS = ["fan", "small", "rules", "churn"]
COLLECTION = "events"
PASSWORD = "bench-password"
WRITERS = 16
DRAIN_SECONDS = 20
READY_SECONDS = 120
ANSWER_SECONDS = 30
OTHER_FILES = 1000


class RealtimeVski(Vski):
    def environment(self, port):
        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        return {**super().environment(port), "MAX_SOCKETS": str(hard)}

    def accounts(self, admin, count):
        """Makes accounts; the tokens and ids."""
        admin.json("POST", "/api/collections", {"name": "people", "type": "auth"})
        people = [{"email": f"person-{at}@example.com", "password": PASSWORD} for at in range(count)]
        for first in range(0, count, 50):
            admin.json("POST", "/api/batch", {"requests": [
                {"method": "POST", "url": "/api/collections/people/records", "body": body}
                for body in people[first:first + 50]]})
        log_in = "/api/collections/people/auth-with-password"
        http = Http(self.base)
        answers = [http.json("POST", log_in, {"identity": body["email"], "password": PASSWORD}) for body in people]
        return [("Bearer " + answer["token"], answer["record"]["id"]) for answer in answers]


class RealtimePocketBase(PocketBase):
    def accounts(self, admin, count):
        made = admin.json("POST", "/api/collections", {"name": "people", "type": "auth"})
        for field in made["fields"]:
            if field["type"] == "password":
                field["cost"] = 4  # hashing is not what is measured
        admin.json("PATCH", "/api/collections/people", {"fields": made["fields"]})
        out = []
        for at in range(count):
            body = {"email": f"person-{at}@example.com", "password": PASSWORD, "passwordConfirm": PASSWORD}
            person = admin.json("POST", "/api/collections/people/records", body)["id"]
            out.append((admin.json("POST", f"/api/collections/people/impersonate/{person}", {})["token"], person))
        return out


KINDS = {"vski": (RealtimeVski, "ws"), "vski-sse": (RealtimeVski, "sse"), "pocketbase": (RealtimePocketBase, "sse")}
BASELINE = "pocketbase"


class Subscribers:
    """The program with all the connections."""

    def __init__(self, o, server, way, count, writes, has_tokens):
        self.arguments = [o.subscribers_binary, server.base.rsplit(":", 1)[1], way, COLLECTION, str(count), str(writes)]
        if has_tokens:
            self.arguments.append(os.path.join(server.folder, "tokens"))
        self.process, self.buffer = None, b""

    def start(self):
        self.process = subprocess.Popen(self.arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process:
            self.process.kill()
            self.process.wait()

    def tell(self, line):
        self.process.stdin.write(line.encode() + b"\n")
        self.process.stdin.flush()

    def line(self, seconds):
        end = time.monotonic() + seconds
        while b"\n" not in self.buffer:
            if not select.select([self.process.stdout], [], [], max(end - time.monotonic(), 0))[0]:
                raise Failed("the subscribers do not answer")
            data = os.read(self.process.stdout.fileno(), 1 << 16)
            if not data:
                raise Failed("the subscribers have ended")
            self.buffer += data
        line, _, self.buffer = self.buffer.partition(b"\n")
        return line.decode()

    def count(self):
        """Events so far, and connections that are gone."""
        self.tell("count")
        return [int(text) for text in self.line(ANSWER_SECONDS).split()]


class Writer:
    """Creates records at fixed moments, whether those before were answered or not: as many at a time as there are
    connections. Of a server that is too slow for that it asks for fewer: nothing is begun when the time is over."""

    def __init__(self, port, rate, seconds, people):
        self.port, self.rate, self.seconds, self.people = port, rate, seconds, people
        self.left = iter(range(int(rate * seconds)))
        self.lock = threading.Lock()
        self.written = []
        self.begun = time.monotonic_ns()
        self.threads = [threading.Thread(target=self.run, daemon=True) for _ in range(WRITERS)]
        for thread in self.threads:
            thread.start()

    def run(self):
        with socket.create_connection(("127.0.0.1", self.port), ANSWER_SECONDS) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            answers = connection.makefile("rb")
            while True:
                with self.lock:
                    n = next(self.left, None)
                if n is None or time.monotonic_ns() > self.begun + self.seconds * 1e9:
                    return
                time.sleep(max(self.begun + n * 1e9 / self.rate - time.monotonic_ns(), 0) / 1e9)
                account = random.randrange(len(self.people)) if self.people else -1
                owner = self.people[account][1] if self.people else ""
                began = time.monotonic_ns()
                body = json.dumps({"title": f"Event {n}", "content": CONTENT, "owner": owner, "n": n, "at": str(began)})
                connection.sendall((f"POST /api/collections/{COLLECTION}/records HTTP/1.1\r\nHost: 127.0.0.1\r\n"
                                    f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}").encode())
                answered = time.monotonic_ns() if is_made(answers) else 0
                self.written.append((n, began, answered, account))
                if not answered:
                    return


def is_made(answers):
    """True if the next answer says that the record was created."""
    try:
        status, length = answers.readline().split(), 0
        while (line := answers.readline().strip()):
            name, _, value = line.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        answers.read(length)
    except OSError:
        return False
    return len(status) > 1 and status[1] in (b"200", b"201")


def prepared(o, make, rule, accounts):
    """The folder of a server with the collection and the accounts, made once, and their tokens and ids."""
    key = make, rule, accounts
    if key not in o.prepared:
        server = make(o.binaries[make], tempfile.mkdtemp(prefix=f"{make.name}.", dir=o.folder))
        try:
            server.start()
            admin = Http(server.base, server.first_admin())
            fields = [{"type": "text", "name": name} for name in ("title", "content", "owner", "at")]
            fields += [{"type": "number", "name": "n"}, *server.date_fields()]
            admin.json("POST", "/api/collections", {"name": COLLECTION, "type": "base", "fields": fields,
                                                    "listRule": rule, "viewRule": rule, "createRule": ""})
            people = server.accounts(admin, accounts) if accounts else []
        finally:
            server.stop()
        with open(os.path.join(server.folder, "tokens"), "w", encoding="ascii") as f:
            f.writelines(token + "\n" for token, _ in people)
        o.prepared[key] = server.folder, people
    return o.prepared[key]


def measure(o, kind, count, rate, seconds, rule="", accounts=0, churns=False):
    """One run with a server of its own; what was measured."""
    make, way = KINDS[kind]
    folder, people = prepared(o, make, rule, accounts)
    server = make(o.binaries[make], shutil.copytree(folder, f"{folder}.run"))
    try:
        server.start()
        # The cost of the first requests is not part of the cost of subscribers.
        http = Http(server.base)
        for n in range(200):
            http.json("POST", f"/api/collections/{COLLECTION}/records", {"title": f"before {n}", "content": CONTENT})
        time.sleep(1)
        return loaded(server, Subscribers(o, server, way, count, int(rate * seconds), bool(people)), count, rate, seconds,
                      people, churns)
    finally:
        server.stop()
        shutil.rmtree(server.folder, ignore_errors=True)


def loaded(server, subscribers, count, rate, seconds, people, churns):
    before = proc_memory(server.pid)["now"]
    with subscribers:
        subscribers.start()
        ready = float(subscribers.line(READY_SECONDS).split()[1])
        time.sleep(2)
        idle = proc_memory(server.pid)["now"]
        if churns:
            subscribers.tell("churn")
            time.sleep(1)
        cpu, busy, resident = proc_cpu(server.pid), machine_cpu(), [proc_memory(server.pid)["now"]]
        writer = Writer(int(server.base.rsplit(":", 1)[1]), rate, seconds, people)
        while any(thread.is_alive() for thread in writer.threads):
            time.sleep(0.5)
            resident.append(proc_memory(server.pid)["now"])
        spent = (time.monotonic_ns() - writer.begun) / 1e9
        drain(subscribers, writer.written, count, people, churns)
        cpu = proc_cpu(server.pid) - cpu
        wall = (time.monotonic_ns() - writer.begun) / 1e9
        busy = machine_cpu() - busy
        resident.append(proc_memory(server.pid)["now"])
        path = os.path.join(server.folder, "written")
        with open(path, "w", encoding="ascii") as f:
            f.writelines(" ".join(map(str, line)) + "\n" for line in sorted(writer.written))
        subscribers.tell("end " + path)
        r = json.loads(subscribers.line(60))
    if not server.healthy():
        raise Failed(f"{server.name} does not answer any more")
    answered = sum(1 for line in writer.written if line[2])
    took = max(r["last_receipt_ns"] - writer.begun, 1) / 1e9
    out = {key: r[key] for key in ("events", "expected", "missing", "overtaken", "unexpected", "duplicates", "reordered",
                                   "resyncs", "refusals", "gone", "periods")}
    for name in ("delay_ms", "after_answer_ms", "last_ms", "post_ms"):
        out |= {f"{name}_{key}": value for key, value in r[name].items()}
    return {**out, "ready_s": ready, "kb_each": (idle - before) * 1000 / count, "idle_mb": idle, "load_mb": max(resident),
            "quarters_mb": [resident[(len(resident) - 1) * at // 4] for at in range(5)], "writes_per_s": answered / spent,
            "failed": len(writer.written) - answered, "per_s": r["events"] / took, "cpu_ms": cpu * 1e6 / max(r["events"], 1),
            "cpu_per_write_ms": cpu * 1e3 / max(answered, 1), "cores": cpu / wall, "client_cores": r["cpu_s"] / wall,
            "others": max(busy - cpu - r["cpu_s"], 0) / wall}


def drain(subscribers, written, count, people, churns):
    """Waits until all has come that is to come."""
    if churns:
        time.sleep(1)
        return
    share = sum(1 for at in range(count) if at % len(people) == 0) if people else count
    expected, end = share * sum(1 for line in written if line[2]), time.monotonic() + DRAIN_SECONDS
    while time.monotonic() < end and subscribers.count()[0] < expected:
        time.sleep(0.1)


def rounds(o, title, **case):
    """All servers in turns; the medians of each."""
    runs = {kind: [] for kind in o.servers}
    for turn in range(o.rounds):
        order = o.servers if turn % 2 == 0 else o.servers[::-1]
        for kind in order:
            try:
                r = measure(o, kind, **case)
            except Failed as error:
                print(f"  {kind}, round {turn + 1}: {error}", flush=True)
                continue
            runs[kind].append(r)
            print(f"  {kind}, round {turn + 1}: {r['per_s']:,.0f} events/s of {r['expected']:,} came {r['events']:,}, "
                  f"p50 {r['delay_ms_p50']:.1f} p99 {r['delay_ms_p99']:.1f} ms, POST p50 {r['post_ms_p50']:.1f} ms, "
                  f"{r['cpu_ms']:.2f} ms of CPU per 1,000, {r['kb_each']:.1f} kB each, gone {r['gone']}, cores: server "
                  f"{r['cores']:.2f}, subscribers {r['client_cores']:.2f}", flush=True)
            if o.json:
                with open(o.json, "a", encoding="utf-8") as f:
                    f.write(json.dumps({"part": title, "server": kind, "round": turn + 1, **r}) + "\n")
    kept = {kind: {key: statistics.median(r[key] for r in of) for key in of[0] if key != "quarters_mb"}
            for kind, of in runs.items() if of}
    return [[title, *o.servers], *lines(o.servers, kept)] if kept else []


# The columns of the table: heading, function, and whether it is compared.
SHOWN = [
    ("events received, of those expected", lambda r: f"{100 * (1 - r['missing'] / max(r['expected'], 1)):.2f} %", False),
    ("events/s, until the last came", lambda r: r["per_s"], True),
    ("writes/s answered", lambda r: r["writes_per_s"], True),
    ("delay from the POST, p50 / p90 / p99 / max ms", lambda r: " / ".join(
        number(float(r[f"delay_ms_{key}"])) for key in ("p50", "p90", "p99", "max")), False),
    ("  p50 ms", lambda r: r["delay_ms_p50"], True),
    ("  to the last subscriber, p50 ms", lambda r: r["last_ms_p50"], True),
    ("delay from the answer, p50 / p99 ms", lambda r: " / ".join(
        number(float(r[f"after_answer_ms_{key}"])) for key in ("p50", "p99")), False),
    ("  came before the answer", lambda r: f"{100 * r['after_answer_ms_negative']:.0f} %", False),
    ("POST, p50 / p99 ms", lambda r: " / ".join(number(float(r[f"post_ms_{key}"])) for key in ("p50", "p99")), False),
    ("CPU of the server, ms per 1,000 events", lambda r: r["cpu_ms"], True),
    ("CPU of the server, ms per write with all that follows", lambda r: r["cpu_per_write_ms"], True),
    ("cores: server; subscribers", lambda r: f"{r['cores']:.2f}; {r['client_cores']:.2f}", False),
    ("memory for one idle subscriber, kB", lambda r: r["kb_each"], True),
    ("memory idle with all, MB", lambda r: r["idle_mb"], True),
    ("memory under load, MB", lambda r: r["load_mb"], True),
    ("twice; out of order; not theirs; cut off", lambda r: "; ".join(
        f"{r[key]:,.0f}" for key in ("duplicates", "reordered", "unexpected", "gone")), False),
    ("all subscribed after, s", lambda r: r["ready_s"], True),
]


def lines(servers, kept):
    for heading, value, is_compared in SHOWN:
        values = {kind: value(kept[kind]) for kind in servers if kind in kept}
        base = values.get(BASELINE) if is_compared else None
        cells = [heading]
        for kind in servers:
            shown = values.get(kind, "-")
            if not isinstance(shown, str):
                shown = number(float(shown)) if kind == BASELINE else with_ratio(float(shown), base)
            cells.append(shown)
        yield cells


def fan(o):
    return rounds(o, f"{o.subscribers:,} subscribers, {o.rate:g} writes/s, {o.seconds} s", count=o.subscribers, rate=o.rate,
                  seconds=o.seconds)


def small(o):
    return rounds(o, "1,000 subscribers, 10 writes/s", count=1000, rate=10, seconds=o.seconds)


def rules(o):
    return rounds(o, f"{o.accounts:,} accounts, each sees its own, {o.rate:g} writes/s", count=o.accounts, rate=o.rate,
                  seconds=o.seconds, rule="owner = @request.auth.id", accounts=o.accounts)


def churn(o):
    """Only over WebSockets: what is checked is that nothing is missed after the answer to a subscription. Memory grows by
    the changes that are kept for those who come back, about 1 kB for each of these writes."""
    r = measure(o, "vski", count=1000, rate=50, seconds=o.seconds, churns=True)
    if o.json:
        with open(o.json, "a", encoding="utf-8") as f:
            f.write(json.dumps({"part": "churn", "server": "vski", "round": 1, **r}) + "\n")
    return [["1,000 connections subscribe over and over, 50 writes/s", "vski"],
            ["subscriptions that held; per second", f"{r['periods']:,.0f}; {r['periods'] / (o.seconds + 2):,.0f}"],
            ["events that had to come; missing", f"{r['expected']:,.0f}; {r['missing']:,.0f}"],
            ["  missing that an unsubscription sent within 10 ms of the answer overtook", f"{r['overtaken']:,.0f}"],
            ["twice; resync; refused; cut off",
             "; ".join(f"{r[key]:,.0f}" for key in ("duplicates", "resyncs", "refusals", "gone"))],
            ["delay from the POST, p50 / p99 ms", f"{r['delay_ms_p50']:.2f} / {r['delay_ms_p99']:.2f}"],
            ["memory at the start and after each quarter, MB", ", ".join(f"{mb:.1f}" for mb in r["quarters_mb"])],
            ["cores: server; subscribers", f"{r['cores']:.2f}; {r['client_cores']:.2f}"]]


def table(rows):
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for at, row in enumerate(rows):
        print("| " + " | ".join(cell.rjust(width) if column else cell.ljust(width)
                                for column, (cell, width) in enumerate(zip(row, widths))) + " |")
        if at == 0:
            print("|" + "|".join("-" * (width + 1) + (":" if column else "-") for column, width in enumerate(widths)) + "|")


def options():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("--vski", default="")
    p.add_argument("--pocketbase", default="")
    p.add_argument("--subscribers-binary", default="")
    p.add_argument("--parts", default=",".join(PARTS))
    p.add_argument("--servers", default="vski,vski-sse,pocketbase")
    p.add_argument("--subscribers", type=int, default=5000)
    p.add_argument("--accounts", type=int, default=1000)
    p.add_argument("--rate", type=float, default=100)
    p.add_argument("--seconds", type=int, default=20)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--json", help="file that each run is added to")
    p.add_argument("--out", help="where the data is while it runs")
    p.add_argument("--check", action="store_true", help=argparse.SUPPRESS)
    o = p.parse_args()
    o.parts, o.servers = o.parts.split(","), o.servers.split(",")
    for name, given, known in (("part", o.parts, PARTS), ("server", o.servers, list(KINDS))):
        if unknown := set(given) - set(known):
            raise Failed(f"no such {name}: {', '.join(sorted(unknown))} (there are {', '.join(known)})")
    if min(o.subscribers, o.accounts, o.rate * o.seconds, o.rounds) < 1:
        raise Failed("numbers must be above 0")
    files = max(o.subscribers if "fan" in o.parts else 0, o.accounts if "rules" in o.parts else 0, 1000) + OTHER_FILES
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit != resource.RLIM_INFINITY and limit < files:
        raise Failed(f"{files:,} open files are needed and the limit is {limit:,}: raise it (ulimit -Hn), or take fewer "
                     "--subscribers")
    return o


def main():
    o = options()
    if o.check:
        return
    o.binaries = {RealtimeVski: os.path.abspath(o.vski), RealtimePocketBase: os.path.abspath(o.pocketbase)}
    o.prepared = {}
    if o.out:
        os.makedirs(o.out, exist_ok=True)
    o.folder, tables = tempfile.mkdtemp(prefix="vski-realtime.", dir=o.out), []
    try:
        for part in o.parts:
            begun = time.time()
            print(part, flush=True)
            tables.append(globals()[part](o))
            print(f"  ({time.time() - begun:.0f} s)", flush=True)
    finally:
        shutil.rmtree(o.folder, ignore_errors=True)
    print(f"\n{os.cpu_count()} cores for server, writer and subscribers; medians of {o.rounds}; in brackets the ratio to "
          f"{BASELINE}")
    for rows in itertools.filterfalse(lambda rows: not rows, tables):
        print()
        table(rows)


if __name__ == "__main__":
    try:
        main()
    except Failed as error:
        sys.exit(f"realtime.py: {error}")
