"""The servers under test: how each is started, prepared and filled, and where its cases are.

Both speak the same paths, so that one list of cases serves both. A server runs on a
throw-away directory and is ended by its own pid."""
import concurrent.futures
import json
import os
import random
import signal
import socket
import subprocess
import time
import urllib.parse

from common import Failed, Http, free_port, multipart, row

RECORDS = "/api/collections/{}/records"
RULES = {k: "" for k in ("listRule", "viewRule", "createRule", "updateRule", "deleteRule")}
FIELDS = [{"type": "text", "name": "title"}, {"type": "text", "name": "content"},
          {"type": "bool", "name": "published"}, {"type": "number", "name": "views"}]
FILE_FIELDS = [{"type": "text", "name": "title"},
               {"type": "file", "name": "file", "maxSelect": 1, "maxSize": 5 << 20}]
EMAIL, PASSWORD = "bench@example.com", "bench-password-123456"
START_SECONDS = 30


class Server:
    """One server on its own data directory. `uploads` is true once it took a file."""

    name = None
    # Where it listens; a free port at each start when there is none.
    port = None

    def __init__(self, binary, folder):
        self.binary = binary
        self.folder = folder
        self.base = None
        self.process = None
        self.uploads = False
        self.files = []
        os.makedirs(folder, exist_ok=True)

    # Properties that each kind of server defines.

    def command(self, port):
        raise NotImplementedError

    def environment(self, port):
        return {}

    def first_admin(self):
        """Makes the first admin; a token."""
        raise NotImplementedError

    def date_fields(self):
        return []

    def insert(self, http, collection, rows):
        """Inserts all rows through the API, in order; their ids."""
        raise NotImplementedError

    # The same for all.

    def start(self):
        """Starts the server; milliseconds until it first answered."""
        port = self.port or free_port()
        self.base = f"http://127.0.0.1:{port}"
        log = os.path.join(self.folder, "log")
        environment = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
        started = time.perf_counter()
        with open(log, "ab") as out:
            self.process = subprocess.Popen(self.command(port), stdout=out, stderr=out, cwd=self.folder,
                                            env={**environment, **self.environment(port)})
        while not self.healthy():
            if self.process.poll() is not None:
                raise Failed(f"{self.name} ended at once with code {self.process.returncode}: {last_line(log)}")
            if time.perf_counter() - started > START_SECONDS:
                raise Failed(f"{self.name} does not answer {self.base}/api/health")
            time.sleep(0.001)
        return (time.perf_counter() - started) * 1000

    def healthy(self):
        u = urllib.parse.urlsplit(self.base)
        ask = f"GET /api/health HTTP/1.1\r\nHost: {u.netloc}\r\nConnection: close\r\n\r\n".encode()
        try:
            with socket.create_connection((u.hostname, u.port), timeout=2) as s:
                s.sendall(ask)
                return b" 200 " in s.recv(64)
        except OSError:
            return False

    def stop(self):
        """Ends the server; milliseconds that it took. It is killed when it does not go."""
        if self.process is None:
            return 0.0
        t = time.perf_counter()
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None
        return (time.perf_counter() - t) * 1000

    @property
    def pid(self):
        return self.process.pid

    def prepare(self, rows, blobs, out):
        """Makes the collections and fills them: posts, the same rows in posts_idx with an
        index on created, an empty posts_w for creates, uploads with some files. Leaves the
        ids of posts in OUT/NAME.ids and the paths of the files in OUT/NAME.files."""
        admin = Http(self.base, self.first_admin())
        for name, indexes in (("posts", []), ("posts_w", []),
                              ("posts_idx", ["CREATE INDEX idx_pi_created ON posts_idx (created)"])):
            admin.json("POST", "/api/collections", {
                "name": name, "type": "base", "fields": FIELDS + self.date_fields(), "indexes": indexes, **RULES})
        ids = self.insert(admin, "posts", rows)
        self.insert(admin, "posts_idx", rows)
        write_lines(os.path.join(out, self.name + ".ids"), ids)
        try:
            self.fill_uploads(admin, blobs)
            write_lines(os.path.join(out, self.name + ".files"), self.files)
            self.uploads = True
        except Failed as e:
            print(f"{self.name}: no uploads and downloads: {str(e)[:120]}", flush=True)

    def fill_uploads(self, admin, blobs):
        admin.json("POST", "/api/collections", {
            "name": "uploads", "type": "base", "fields": FILE_FIELDS + self.date_fields(), **RULES})
        noise = random.Random(7)
        for k in range(blobs):
            body, headers = multipart({"title": f"blob {k}"}, {"file": (f"blob{k}.bin", noise.randbytes(1 << 20))})
            d = admin.json("POST", RECORDS.format("uploads"), body, headers)
            name = d.get("file")
            name = name[0] if isinstance(name, list) and name else name
            if not isinstance(name, str) or not name:
                raise Failed("the record of an upload names no file")
            self.files.append(f"/api/files/uploads/{d['id']}/{name}")


class PocketBase(Server):
    name = "pocketbase"
    logs = True

    def command(self, port):
        # Without automigrate=0 it writes migrations beside its data and runs those of others.
        return [self.binary, "serve", "--automigrate=0", "--http", f"127.0.0.1:{port}", "--dir", self.data()]

    def data(self):
        return os.path.join(self.folder, "data")

    def start(self):
        if not os.path.isdir(self.data()):
            done = subprocess.run([self.binary, "superuser", "create", EMAIL, PASSWORD, "--automigrate=0",
                                   "--dir", self.data()], cwd=self.folder, capture_output=True, text=True)
            if done.returncode:
                raise Failed(f"pocketbase superuser create: {done.stdout}{done.stderr}")
        return super().start()

    def first_admin(self):
        token = Http(self.base).json("POST", "/api/collections/_superusers/auth-with-password",
                                     {"identity": EMAIL, "password": PASSWORD})["token"]
        if not self.logs:
            Http(self.base, token).json("PATCH", "/api/settings", {"logs": {"maxDays": 0}})
        return token

    def date_fields(self):
        return [{"type": "autodate", "name": "created", "onCreate": True, "onUpdate": False},
                {"type": "autodate", "name": "updated", "onCreate": True, "onUpdate": True}]

    def insert(self, http, collection, rows):
        # One at a time: its batches are off by default and are no faster here.
        return [http.json("POST", RECORDS.format(collection), row(i))["id"] for i in range(rows)]


class PocketBaseNoLogs(PocketBase):
    name = "pocketbase-nologs"
    logs = False


class Vski(Server):
    name = "vski"
    synchronous = "full"
    batch = 25

    def command(self, port):
        return [self.binary, "serve"]

    def environment(self, port):
        return {"HOST": "127.0.0.1", "PORT": str(port), "DATA_DIR": os.path.join(self.folder, "data"),
                "DB_SYNCHRONOUS": self.synchronous}

    def first_admin(self):
        return "Bearer " + Http(self.base).json("POST", "/api/admins/init",
                                                {"email": EMAIL, "password": PASSWORD})["token"]

    def insert(self, http, collection, rows):
        # Small batches: a commit for every row would take a minute of fsync, and in large
        # ones many rows would share one millisecond in `created`, the column sorted by.
        ids = []
        for first in range(0, rows, self.batch):
            answers = http.json("POST", "/api/batch", {"requests": [
                {"method": "POST", "url": RECORDS.format(collection), "body": row(i)}
                for i in range(first, min(first + self.batch, rows))]})
            ids += [a["body"]["id"] for a in answers]
        return ids


class VskiNormal(Vski):
    name = "vski-normal"
    synchronous = "normal"


class Before(Vski):
    """Another build of ours, to compare with."""
    name = "before"


KINDS = {kind.name: kind for kind in (PocketBase, PocketBaseNoLogs, Vski, VskiNormal, Before)}


def prepare_all(servers, rows, blobs, out):
    """Fills all servers at once: most of the time each waits for its disk."""
    with concurrent.futures.ThreadPoolExecutor(len(servers)) as pool:
        for done in [pool.submit(s.prepare, rows, blobs, out) for s in servers]:
            done.result()


def last_line(path):
    with open(path, encoding="utf-8", errors="replace") as f:
        lines = f.read().splitlines()
    return lines[-1] if lines else "no word why"


def write_lines(path, lines):
    with open(path, "w", encoding="ascii") as f:
        f.write("\n".join(lines) + "\n")


def save(path, value):
    with open(path, "w", encoding="utf-8") as f:
        json.dump(value, f, indent=1)
