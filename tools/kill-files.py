#!/usr/bin/env python3
"""Kills a server that is busy with files, repeatedly on one data directory, and checks each time
what it left.

Many connections upload, replace, append and delete files. At a random moment the server gets
SIGKILL (every fourth time once more while it restarts), and is restarted. Once it has recovered its
storage, these conditions must hold:

  records   every record is as the last acknowledged request left it, or as the unanswered one
            would have; records whose deletion was acknowledged do not exist, and there are no others
  files     every file that a record names has a row in _files and is in the storage, with the size
            and the SHA-256 of the row, which are those of the upload; no row is without a record
  storage   has no file without a row, and .partial is empty
  journal   followed in the order of its ids, gives exactly the files of the storage

A kill ends the process and not the machine: data in the kernel's cache is kept. So this tests the
order of steps and recovery, not fsync. Standard library only."""
import argparse
import collections
import concurrent.futures
import hashlib
import http.client
import json
import os
import random
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "scripts", "common"))

from server import Failed, Server  # noqa: E402

RECOVERY_SECONDS = 60
BOUNDARY = "----kill-files-7MA4YWxkTrZu0gW"
RECORDS = "/api/collections/docs/records"
DOCS_MAX = 4
# Limit on the disk space of records, incoming forms and leftovers of a kill together.
DISK_BYTES_MAX = 5 << 30


class Noise:
    """Contents: random bytes that no two files share."""

    def __init__(self, size):
        self.size = size
        self.pool = memoryview(os.urandom(2 * size + 4096))

    def content(self, size):
        """Pieces of a content of almost this size, and what is remembered of it: hash and size."""
        start = random.randrange(len(self.pool) - size)
        pieces = [os.urandom(32), self.pool[start:start + size - 32 - random.randrange(4096)]]
        digest = hashlib.sha256()
        for piece in pieces:
            digest.update(piece)
        return pieces, (digest.hexdigest(), sum(len(piece) for piece in pieces))


def form(values, files):
    """The pieces of a form: values by name, and files as (name, pieces)."""
    pieces = [f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
              for name, value in values.items()]
    for name, content in files:
        pieces.append(f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"; filename="{name}.bin"\r\n'
                      "Content-Type: application/octet-stream\r\n\r\n".encode())
        pieces += content + [b"\r\n"]
    return pieces + [f"--{BOUNDARY}--\r\n".encode()]


class State(collections.namedtuple("State", "doc docs")):
    """The content of a record: `doc` is a content, (hash, size), or None; `docs` a tuple of contents."""


class Client(threading.Thread):
    """One connection with records of its own, so that it knows what each must be."""

    def __init__(self, number, model, port, noise, records_max, killed):
        super().__init__()
        self.number, self.model, self.port, self.noise = number, model, port, noise
        self.records_max, self.killed = records_max, killed
        self.counts, self.wrong = collections.Counter(), []

    def run(self):
        self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            self.connection.connect()
            self.connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while not self.killed.is_set():
                self.act()
        except (http.client.HTTPException, OSError) as error:
            # The kill is noted a little after the connections notice it.
            if not self.killed.wait(5):
                self.wrong.append(f"the server broke a connection before it was killed: {error!r}")
        except Exception as error:  # of this script; without it the thread would end in silence
            self.wrong.append(f"client {self.number}: {error!r}")
        finally:
            self.connection.close()

    def act(self):
        mine = [id for id in list(self.model.records) if id.startswith(f"c{self.number:03}x")]
        kinds = {"delete": 2, "replace": 3, "append": 2, "remove": 2, "clear": 1} if mine else {}
        if len(mine) < self.records_max:
            kinds |= {"create": 8, "create several": 3}
        kind = random.choices(list(kinds), kinds.values())[0]
        size, id = self.noise.size, random.choice(mine) if mine else None
        now = self.model.records.get(id)
        quarter = size // DOCS_MAX
        if kind == "create":
            pieces, content = self.noise.content(size)
            self.create(kind, State(content, ()), [("doc", pieces)])
        elif kind == "create several":
            made = [self.noise.content(quarter) for _ in range(random.randint(1, DOCS_MAX))]
            self.create(kind, State(None, tuple(content for _, content in made)),
                        [("docs", pieces) for pieces, _ in made])
        elif kind == "replace":
            pieces, content = self.noise.content(size)
            self.change(kind, id, State(content, now.docs), [("doc", pieces)])
        elif kind == "append" and len(now.docs) < DOCS_MAX:
            pieces, content = self.noise.content(quarter)
            self.change(kind, id, State(now.doc, now.docs + (content,)), [("docs+", pieces)])
        elif kind == "remove" and now.docs:
            at = random.randrange(len(now.docs))
            name = self.model.names.get((id, now.docs[at]))
            if name:
                self.send(kind, id, State(now.doc, now.docs[:at] + now.docs[at + 1:]),
                          "PATCH", f"{RECORDS}/{id}", [json.dumps({"docs-": name}).encode()])
        elif kind == "clear" and now.doc:
            self.send(kind, id, State(None, now.docs), "PATCH", f"{RECORDS}/{id}", [b'{"doc": ""}'])
        elif kind == "delete":
            self.send(kind, id, None, "DELETE", f"{RECORDS}/{id}", [])

    def create(self, kind, state, files):
        id = f"c{self.number:03}x{os.urandom(6).hex()}"
        self.send(kind, id, state, "POST", RECORDS, form({"id": id, "title": kind}, files))

    def change(self, kind, id, state, files):
        self.send(kind, id, state, "PATCH", f"{RECORDS}/{id}", form({}, files))

    def send(self, kind, id, state, method, path, pieces):
        """One request; notes before it what may become of the record, and after it what has."""
        is_form = len(pieces) > 1
        self.model.pending[id] = state
        self.connection.putrequest(method, path)
        if pieces:
            self.connection.putheader("Content-Type", f"multipart/form-data; boundary={BOUNDARY}" if is_form
                                      else "application/json")
        self.connection.putheader("Content-Length", str(sum(len(piece) for piece in pieces)))
        self.connection.endheaders()
        for piece in pieces:
            self.connection.send(piece)
        response = self.connection.getresponse()
        # The first line of the answer is the word that counts.
        del self.model.pending[id]
        if 200 <= response.status < 300:
            self.counts[kind] += 1
            self.model.acknowledge(id, state)
            body = response.read()
            if state:
                self.model.learn_names(id, state, json.loads(body))
            return
        message = response.read()[:200].decode(errors="replace")
        self.counts["refused"] += 1
        if response.status != 503:
            self.wrong.append(f"{kind} of {id}: {response.status} {message}")


class Model:
    """The acknowledged state. Each record belongs to one client, so nothing here needs a lock beyond that
    of the interpreter."""

    def __init__(self):
        # State by id; ids whose deletion was acknowledged; by id what a request without an answer was about.
        self.records, self.deleted, self.pending = {}, set(), {}
        # Names of stored files by id and content.
        self.names = {}

    def acknowledge(self, id, state):
        if state is None:
            del self.records[id]
            self.deleted.add(id)
        else:
            self.records[id] = state

    def learn_names(self, id, state, record):
        if state.doc:
            self.names[id, state.doc] = record["doc"]
        for content, name in zip(state.docs, record["docs"]):
            self.names[id, content] = name


class Found:
    """The content of the data directory, read beside the running server."""

    def __init__(self, data, collection):
        self.data, self.collection = data, collection
        self.storage = os.path.join(data, "storage")

    def read_database(self):
        connection = sqlite3.connect(f"file:{self.data}/default.db?mode=ro", uri=True, isolation_level=None)
        try:
            connection.execute("BEGIN")  # all of it of one moment
            self.outbox = connection.execute("SELECT count(*) FROM _file_outbox").fetchone()[0]
            self.rows = {(record, name): (sha256, size) for record, name, sha256, size in connection.execute(
                "SELECT record, name, sha256, size FROM _files WHERE collection = ?", [self.collection])}
            self.other_rows = connection.execute(
                "SELECT count(*) FROM _files WHERE collection <> ?", [self.collection]).fetchone()[0]
            self.records = {id: (doc or "", json.loads(docs) if docs else []) for id, doc, docs in connection.execute(
                "SELECT id, doc, docs FROM docs")}
            self.journal = connection.execute("SELECT op, path, sha256, size FROM _file_journal ORDER BY id").fetchall()
        finally:
            connection.close()

    def read_unnamed(self):
        """Files that the server has found without a row: it deletes them after a day."""
        with sqlite3.connect(f"file:{self.data}/local.db?mode=ro", uri=True) as connection:
            return {path for path, in connection.execute("SELECT path FROM _unnamed")}

    def a_day_passes(self):
        """For what is without a row; only while no server runs."""
        with sqlite3.connect(f"{self.data}/local.db") as connection:
            connection.execute("UPDATE _unnamed SET found_ms = found_ms - 86400000")

    def read_storage(self):
        self.files, self.partial, self.empty_folders = {}, [], 0
        for folder, folders, names in os.walk(self.storage):
            if os.path.basename(folder) == ".partial":
                self.partial = names
                continue
            self.empty_folders += not folders and not names
            for name in names:
                path = os.path.join(folder, name)
                self.files[os.path.relpath(path, self.storage)] = path
        self.rows_paths = {f"default/{self.collection}/{record}/{name}" for record, name in self.rows}
        self.unnamed = self.read_unnamed() & self.files.keys() - self.rows_paths
        for path in self.unnamed:
            del self.files[path]

    def is_in_order(self):
        self.read_database()
        self.read_storage()
        return not self.outbox and not self.partial and not self.files.keys() - self.rows_paths

    def wait(self):
        """Waits until the server has put its storage in order; milliseconds."""
        begun = time.monotonic()
        while not self.is_in_order() and time.monotonic() - begun < RECOVERY_SECONDS:
            time.sleep(0.05)
        return (time.monotonic() - begun) * 1000

    def hash_files(self):
        """Hash and size of each file in the storage, by its path in it; bytes of all."""
        def look(path):
            with open(path, "rb") as f:
                return hashlib.file_digest(f, "sha256").hexdigest(), os.fstat(f.fileno()).st_size

        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            self.hashed = dict(zip(self.files, pool.map(look, self.files.values())))
        return sum(size for _, size in self.hashed.values())


def compare(model, found):
    """Violations, as lines. Adopts the outcome of requests without an answer."""
    wrong = []
    if found.outbox:
        wrong.append(f"_file_outbox has {found.outbox} rows after {RECOVERY_SECONDS} s")
    wrong += [f".partial has {name}" for name in found.partial]
    wrong += [f"in the storage without a row: {path}" for path in found.files.keys() - found.rows_paths]
    if found.other_rows:
        wrong.append(f"{found.other_rows} rows of _files are of collections that are not there")

    # Rows and the storage.
    for (record, name), expected in found.rows.items():
        has = found.hashed.get(f"default/{found.collection}/{record}/{name}")
        if has is None:
            wrong.append(f"not in the storage: {record}/{name}")
        elif has != expected:
            wrong.append(f"{record}/{name} is {has} in the storage, {expected} in _files")

    # Records and rows.
    actual, named = {}, set()
    for id, (doc, docs) in found.records.items():
        names = ([doc] if doc else []) + docs
        named |= {(id, name) for name in names}
        wrong += [f"{id} names {name}, which has no row" for name in names if (id, name) not in found.rows]
        actual[id] = State(found.rows.get((id, doc)) if doc else None,
                           tuple(found.rows.get((id, name)) for name in docs))
    wrong += [f"a row without a record: {record}/{name}" for record, name in found.rows.keys() - named]

    # Records and what was acknowledged.
    happened = 0
    for id in model.records.keys() | model.pending.keys() | actual.keys():
        is_state, expected = actual.get(id), model.records.get(id)
        if is_state == expected:
            continue
        if id in model.pending and is_state == model.pending[id]:
            happened += 1
        elif is_state is None:
            wrong.append(f"an acknowledged record is gone: {id}")
        elif id in model.deleted:
            wrong.append(f"a deleted record is back: {id}")
        else:
            wrong.append(f"{id} is {is_state}, must be {expected}"
                         + (f" or {model.pending[id]}" if id in model.pending else ""))
    without_answer = len(model.pending)
    model.records, model.pending = actual, {}
    model.names = {}
    for id, (doc, docs) in found.records.items():
        model.learn_names(id, actual[id], {"doc": doc, "docs": docs})

    # The journal.
    followed = {}
    for op, path, sha256, size in found.journal:
        if op == "add":
            followed[path] = (sha256, size)
        else:
            followed.pop(path, None)
    for path in followed.keys() | found.hashed.keys():
        if followed.get(path) != found.hashed.get(path):
            wrong.append(f"{path} is {followed.get(path)} by the journal, {found.hashed.get(path)} in the storage")
    return wrong, without_answer, happened


def set_up(server, size):
    """Makes the collection; its id."""
    token = server.init_admin()
    rules = {name: "" for name in ("listRule", "viewRule", "createRule", "updateRule", "deleteRule")}
    return server.ask("POST", "/api/collections", {"name": "docs", **rules, "fields": [
        {"name": "title", "type": "text"},
        {"name": "doc", "type": "file", "maxSize": size},
        {"name": "docs", "type": "file", "maxSelect": DOCS_MAX, "maxSize": size}]}, token)["id"]


def sample(port, collection, model, count):
    """Downloads some files as a client does; what is wrong with them."""
    wrong = []
    names = list(model.names.items())
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    for (id, content), name in random.sample(names, min(count, len(names))):
        connection.request("GET", f"/api/files/{collection}/{id}/{name}")
        response = connection.getresponse()
        body = response.read()
        if (hashlib.sha256(body).hexdigest(), len(body)) != content:
            wrong.append(f"GET {id}/{name}: {response.status}, {len(body)} bytes that are not those sent")
    connection.close()
    return wrong


def load(server, model, noise, o):
    """Keeps the server busy, kills it; what was counted, what was wrong, seconds until the kill."""
    killed = threading.Event()
    clients = [Client(number, model, server.port, noise, o.records, killed) for number in range(o.connections)]
    for client in clients:
        client.start()
    # By another process, for a thread of this one gets its turn late. The server is not waited for before,
    # so no other record has its number.
    seconds = random.uniform(0.05, o.seconds)
    subprocess.run(["sh", "-c", f"sleep {seconds:.3f}; kill -KILL {server.process.pid}"], check=True)
    code = server.process.wait()
    killed.set()
    for client in clients:
        client.join()
    counts = sum((client.counts for client in clients), collections.Counter())
    wrong = [line for client in clients for line in client.wrong]
    if code != -signal.SIGKILL:
        wrong.append(f"the server ended by itself with code {code}: {server.last_word()}")
    return counts, wrong, seconds


def integrity(data):
    connection = sqlite3.connect(f"file:{data}/default.db?mode=ro", uri=True)
    try:
        return connection.execute("PRAGMA integrity_check").fetchone()[0]
    finally:
        connection.close()


def run(o, folder):
    size = o.size_mb << 20
    server = Server(o.binary, folder, settings={"MAX_BODY_MB": str(o.size_mb + 1)})
    model, noise = Model(), Noise(size)
    total, broken, bytes_most, recovery_most = collections.Counter(), 0, 0, 0
    try:
        server.start()
        found = Found(server.data, set_up(server, size))
        for number in range(1, o.rounds + 1):
            counts, wrong, seconds = load(server, model, noise, o)
            went = found.unnamed if number > 1 else set()
            found.a_day_passes()
            twice = number % 4 == 0
            if twice:
                server.launch()
                time.sleep(random.uniform(0, 0.1))
                server.kill()
            back_ms = server.start() * 1000
            recovery_ms = found.wait()
            wrong += [f"without a row for a day, and still there: {it}" for it in went & found.unnamed]
            held = found.hash_files()
            more, without_answer, happened = compare(model, found)
            wrong += more + sample(server.port, found.collection, model, 4)
            bytes_most, recovery_most = max(bytes_most, held), max(recovery_most, recovery_ms)
            total += counts + collections.Counter({"without an answer": without_answer, "of these happened": happened})
            print(f"round {number:3}  killed after {seconds:4.2f} s{' and again' if twice else '':10}  acknowledged "
                  f"{sum(counts.values()) - counts['refused']:4}, refused {counts['refused']}, no answer {without_answer:3} "
                  f"({happened:2} happened)  back in {back_ms:3.0f} ms, in order in {recovery_ms:4.0f} ms  "
                  f"{len(found.records):4} records {len(found.files):4} files {held / 1e6:5.0f} MB  "
                  f"{'ok' if not wrong else f'{len(wrong)} WRONG'}", flush=True)
            for line in wrong[:10]:
                print(f"    {line}", flush=True)
            broken += bool(wrong)
        code = server.stop()
        if code:
            broken += 1
            print(f"the server ended with code {code} on SIGTERM: {server.last_word()}")
        checked = integrity(server.data)
        if checked != "ok":
            broken += 1
            print(f"default.db: {checked}")
    finally:
        server.end()
    print(", ".join(f"{kind} {count}" for kind, count in sorted(total.items())))
    print(f"journal: {len(found.journal)} entries; at most {bytes_most / 1e6:.0f} MB stored; in order again after "
          f"{recovery_most:.0f} ms at most; folders left empty in the storage: {found.empty_folders}")
    print(f"{o.rounds} rounds, {f'{broken} with violations' if broken else 'no violation'} (seed {o.seed})")
    return broken == 0


def options():
    here = os.path.dirname(os.path.abspath(__file__))
    target = os.environ.get("CARGO_TARGET_DIR", os.path.join(here, "..", "target"))
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--rounds", type=int, default=50, metavar="N", help="kills (default 50)")
    p.add_argument("--connections", type=int, default=64, metavar="N", help="clients at a time (default 64)")
    p.add_argument("--size-mb", type=int, default=8, metavar="N", help="MiB of a file (default 8)")
    p.add_argument("--seconds", type=float, default=4, metavar="N", help="longest time until a kill (default 4)")
    p.add_argument("--binary", default=os.path.join(target, "release", "vski"), metavar="PATH",
                   help="server to run (default: target/release/vski)")
    p.add_argument("--folder", metavar="PATH", help="where the data directory is made (default: the folder for "
                   "temporary files); at most 5 GiB are used")
    p.add_argument("--seed", type=int, default=random.randrange(1 << 32), metavar="N",
                   help="seed of the choices and times of this script")
    p.add_argument("--keep", action="store_true", help="keep the data directory and say where it is")
    o = p.parse_args()
    if min(o.rounds, o.connections, o.size_mb) < 1 or o.seconds <= 0:
        p.error("numbers begin with 1")
    # Each client may have a record with twice the size of a file, and some files are arriving, left over or
    # to be deleted.
    o.records = min(2, DISK_BYTES_MAX // (o.connections * o.size_mb << 20) // 3)
    if o.records < 1:
        p.error("that many connections with files of this size would need more than 5 GiB")
    o.binary = os.path.abspath(o.binary)
    if not os.access(o.binary, os.X_OK):
        p.error(f"no such binary: {o.binary}")
    return o


def main():
    o = options()
    random.seed(o.seed)
    folder = tempfile.mkdtemp(prefix="vski-kill.", dir=o.folder)
    try:
        return 0 if run(o, folder) else 1
    finally:
        if o.keep:
            print(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        sys.exit(main())
    except Failed as error:
        sys.exit(f"kill-files.py: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
