"""A master and its replicas, for the scripts that measure and test replication; and a comparison of
two database files by pages. Standard library only."""
import hashlib
import json
import os
import secrets
import sqlite3
import struct
import time

from common import Failed, Http, proc_cpu, proc_memory
from servers import FIELDS, RECORDS, RULES, Vski

SECRET_BYTES = 32


class Node(Vski):
    """One server of a cluster, started and ended as often as needed on its directory."""

    def __init__(self, binary, folder, secret, name, settings=None):
        super().__init__(binary, folder)
        self.name, self.secret, self.settings = name, secret, settings or {}
        self.token = None
        self.cpu_mark = 0.0

    def environment(self, port):
        return {**super().environment(port), "JWT_SECRET": self.secret, "REPLICA_MODE": "master", **self.settings}

    @property
    def data(self):
        return os.path.join(self.folder, "data")

    def file(self, database):
        return os.path.join(self.data, database + ".db")

    def http(self):
        return Http(self.base, self.token)

    def lines(self):
        """The log so far."""
        with open(os.path.join(self.folder, "log"), encoding="utf-8", errors="replace") as f:
            return f.read().splitlines()

    def is_current(self, databases):
        """True if this replica reports these versions and that it is complete since its start."""
        status, data = self.http().request("GET", "/api/replica/status")
        if status in (401, 403, 503):  # it has no admin, or nothing at all yet
            return False
        if status != 200:
            raise Failed(f"{self.name} answers {status} {data[:300].decode(errors='replace')}")
        replica = json.loads(data)["replica"]
        has = {d["name"]: d["version"] for d in replica["databases"] if d["state"] == "current"}
        return replica["complete"] and all(has.get(d["name"]) == d["version"] for d in databases)

    def mark_cpu(self):
        self.cpu_mark = proc_cpu(self.pid)

    def usage(self):
        """Memory now and at its peak in MB, CPU seconds since the mark."""
        memory = proc_memory(self.pid)
        return {"now": memory["now"], "peak": memory["peak"], "cpu_s": proc_cpu(self.pid) - self.cpu_mark}


class Cluster:
    """A master, and replicas that follow it; all in folders below one."""

    def __init__(self, binary, folder, label="", settings=None):
        self.binary, self.folder, self.label = binary, folder, label
        self.secret = secrets.token_hex(SECRET_BYTES)
        self.master = Node(binary, os.path.join(folder, label + "master"), self.secret, label + "master", settings)
        self.replicas = []

    def start(self):
        """Starts the master, and makes its first admin when there is none."""
        self.master.start()
        if self.master.token is None:
            self.master.token = self.master.first_admin()
        return self

    def add(self, name=None, **settings):
        """A further replica, not started. It is known to the master by its name."""
        name = self.label + (name or f"replica{len(self.replicas) + 1}")
        node = Node(self.binary, os.path.join(self.folder, name), self.secret, name,
                    {"REPLICA_MODE": "replica", "REPLICA_ID": name, "SYNC_INTERVAL": "1", **settings})
        node.token = self.master.token
        self.replicas.append(node)
        return node

    def run(self, node):
        """Starts a replica; milliseconds until it answered."""
        node.settings["MASTER_URL"] = self.master.base
        return node.start()

    def start_all(self):
        self.start()
        for node in self.replicas:
            self.run(node)

    def nodes(self):
        return [self.master, *self.replicas]

    def running(self):
        return [node for node in self.nodes() if node.process is not None]

    def stop(self):
        """Ends all, the replicas first. A server that does not end in order is a fault."""
        for node in [*self.replicas, self.master]:
            process = node.process
            node.stop()
            if process is not None and process.returncode != 0:
                raise Failed(f"{node.name} ended with code {process.returncode}: {node.folder}/log")

    def await_current(self, seconds=60, nodes=None):
        """Waits until the running replicas have all that the master has; seconds waited. Both must
        say so: only the master knows its present state, and what it was told by a replica before
        that began again it still believes."""
        wanted = [node for node in (nodes or self.replicas) if node.process is not None]
        http, begun, status = self.master.http(), time.monotonic(), None
        while time.monotonic() - begun < seconds:
            status = http.json("GET", "/api/replica/status")
            states = {r["id"]: {d["state"] for d in r["databases"]} for r in status["replicas"]}
            if all(states.get(node.name) == {"current"} and node.is_current(status["databases"]) for node in wanted):
                return time.monotonic() - begun
            for node in self.running():
                if node.process.poll() is not None:
                    raise Failed(f"{node.name} has ended with code {node.process.returncode}: {node.folder}/log")
            time.sleep(0.04)
        raise Failed(f"the replicas are not current after {seconds} s: {json.dumps(status)}")

    def make_posts(self, rows=0, database=None):
        """The collections posts, with rows, and posts_w, for creates; ids of the rows."""
        http, prefix = self.master.http(), f"/db/{database}" if database else ""
        for name in ("posts", "posts_w"):
            http.json("POST", prefix + "/api/collections", {"name": name, "type": "base", "fields": FIELDS, **RULES})
        return self.master.insert(http, "posts", rows)


def create(http, path, body):
    """A create whose answer's headers are wanted: (X-Vski-Version or None, the record)."""
    http.json("GET", "/api/health")  # the connection is there
    connection = http.connection
    connection.request("POST", path, json.dumps(body), {**http.headers, "Content-Type": "application/json"})
    answer = connection.getresponse()
    data = answer.read()
    if answer.status != 200:
        raise Failed(f"POST {path} -> {answer.status} {data[:300].decode(errors='replace')}")
    return answer.getheader("X-Vski-Version"), json.loads(data)


def posts(database=None):
    return (f"/db/{database}" if database else "") + RECORDS.format("posts")


# ---- files ----

# Bytes of page 1 that SQLite writes by itself with each commit: change counter, version-valid-for, its own version.
MASKED = ((24, 28), (92, 100))
LOCK_BYTE = 1 << 30


def page_hashes(path, group=256):
    """Facts about the pages of a file that no server has open: page size, number of pages, a SHA-256
    per group of pages. The page that SQLite locks is left out; no data is ever in it."""
    log = path + "-wal"
    if os.path.exists(log) and os.path.getsize(log) > 0:
        raise Failed(f"{path}: there is still a log, so not all is in the file")
    with open(path, "rb") as f:
        head = f.read(100)
        if len(head) < 100:
            raise Failed(f"{path} is no database")
        size = struct.unpack(">H", head[16:18])[0]
        size = 65536 if size == 1 else size
        stated = struct.unpack(">I", head[28:32])[0]
        lock, number, hashes = LOCK_BYTE // size + 1, 1, []
        f.seek(0)
        while True:
            block = bytearray(f.read(size * group))
            if not block:
                break
            if number == 1:
                for start, end in MASKED:
                    block[start:end] = bytes(end - start)
            if number <= lock < number + group:
                at = (lock - number) * size
                block[at:at + size] = bytes(len(block[at:at + size]))
            hashes.append(hashlib.sha256(block).hexdigest())
            number += len(block) // size
    pages = os.path.getsize(path) // size
    if stated != pages:
        raise Failed(f"{path} has {pages} pages and says {stated}")
    return {"page_size": size, "pages": pages, "groups": hashes,
            "digest": hashlib.sha256("".join(hashes).encode()).hexdigest()}


def difference(a, b, group=256):
    """The differences between two such facts, in words; empty if there are none."""
    for key in ("page_size", "pages"):
        if a[key] != b[key]:
            return f"{key.replace('_', ' ')} {a[key]} and {b[key]}"
    for at, (x, y) in enumerate(zip(a["groups"], b["groups"])):
        if x != y:
            return f"the first difference is in pages {at * group + 1} to {(at + 1) * group}"
    return ""


def integrity(path):
    """The result of PRAGMA integrity_check on a file that no server has open."""
    connection = sqlite3.connect(f"file:{path}?immutable=1", uri=True)
    try:
        return "; ".join(text for (text,) in connection.execute("PRAGMA integrity_check(5)"))
    except sqlite3.DatabaseError as e:
        return str(e)
    finally:
        connection.close()
