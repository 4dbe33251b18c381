"""The clients. Each is a thread with records of its own, so that it knows the expected state: `alive` is its model.
After a request without an answer the client reads the state once the server is back; it must be the old or the new one."""
import collections
import hashlib
import http.client
import json
import random
import threading
import time
import urllib.parse

import ws
from common import multipart

RECORDS = "/api/collections/{}/records"
ALIVE_MAX = 60
FIELDS_MAX = 4
RUN_SECONDS = 180


class Stopped(Exception):
    """The load is over."""


class Answer:
    def __init__(self, status, headers, body):
        self.status, self.version, self.body = status, headers.get("X-Vski-Version"), body

    def json(self):
        return json.loads(self.body)


class World:
    """Shared by all clients: the servers, the violations, and the changes that receivers must get."""

    def __init__(self, nodes, token, seed, rate):
        self.nodes, self.token, self.seed, self.rate = nodes, token, seed, rate
        self.lock, self.is_over = threading.Lock(), threading.Event()
        self.wrong, self.counts, self.runs = [], collections.Counter(), {}
        # Changes that were made and not told, and told and not known to be made yet.
        self.untold, self.unknown = set(), set()

    def bad(self, text):
        with self.lock:
            self.wrong.append(f"{time.strftime('%H:%M:%S')} {text}"[:600])
            print(f"WRONG: {self.wrong[-1]}", flush=True)

    def count(self, what, by=1):
        with self.lock:
            self.counts[what] += by

    def made(self, changes):
        with self.lock:
            changes = set(changes)
            self.untold |= changes - self.unknown
            self.unknown -= changes

    def told(self, change):
        with self.lock:
            if change in self.untold:
                self.untold.remove(change)
            else:
                self.unknown.add(change)


class Client(threading.Thread):
    """Does `act` again and again, with pauses; so many times in a second on average."""

    per_second = 1

    def __init__(self, world, number):
        super().__init__(daemon=True)
        self.world, self.number, self.master = world, number, world.nodes[0]
        self.name = f"{type(self).__name__.lower()}{number}"
        self.rng, self.connections = random.Random(f"{world.seed} {self.name}"), {}

    def run(self):
        try:
            while True:
                self.pause(self.rng.expovariate(self.per_second * self.world.rate))
                self.act()
        except Stopped:
            pass
        except Exception as error:
            self.world.bad(f"of the script: {error!r} in {self.name}")
            raise

    def pause(self, seconds):
        if self.world.is_over.wait(seconds):
            raise Stopped

    def call(self, node, method, path, body=None, headers=None, token=True):
        """The answer, or None when there was none."""
        connection = self.connections.get(node)
        if connection is None:
            connection = self.connections[node] = http.client.HTTPConnection("127.0.0.1", node.port, timeout=45)
        headers = {**({"Authorization": self.world.token if token is True else token} if token else {}), **(headers or {})}
        if body is not None and not isinstance(body, bytes):
            body = json.dumps(body)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            answer = Answer(response.status, response.headers, response.read())
        except (OSError, http.client.HTTPException):
            connection.close()
            self.world.count("requests without an answer")
            return None
        self.world.count("requests")
        if answer.status == 503:
            self.world.count("answers 503")
        elif answer.status >= 500:
            self.world.bad(f"{node.name} answers {method} {path} with {answer.status} {answer.body[:200]}")
        return answer

    def sure(self, node, method, path, body=None, expected=(200, 204), **more):
        """An answer, however long it takes. Only for what may be done twice."""
        for tries in range(1000):
            answer = self.call(node, method, path, body, **more)
            if answer and answer.status in expected:
                return answer
            if answer and answer.status < 500:
                self.world.bad(f"{node.name} answers {method} {path} with {answer.status} {answer.body[:300]}")
                return answer
            # Requests in progress are checked even when the load is over.
            if self.world.is_over.is_set() and tries > 120:
                raise Stopped
            time.sleep(0.5)
        raise Stopped

    def replica(self):
        return self.rng.choice(self.world.nodes[1:] or [self.master])


class Keeper(Client):
    """Makes, changes and deletes records of its own in a collection. `alive` is {id: (n, SHA-256 of its file)}."""

    collection = None

    def __init__(self, world, number):
        super().__init__(world, number)
        self.alive, self.n, self.version = {}, 0, None
        self.path = RECORDS.format(self.collection)

    def plan_one(self, taken=()):
        """One change: (action, id, n)."""
        self.n += 1
        free = [id for id in self.alive if id not in taken]
        if not free or (len(self.alive) < ALIVE_MAX and self.rng.random() < 0.35):
            return "create", f"{self.name}r{self.n:08}", self.n
        id = self.rng.choice(free)
        if self.rng.random() < 0.35:
            return "delete", id, self.alive[id][0]
        return "update", id, self.n

    def write(self, changes, method, path, body, headers=None, digest=""):
        """Makes changes that happen together or not at all; finds out which it was."""
        answer = self.call(self.master, method, path, body, headers)
        is_made = bool(answer) and answer.status in (200, 204)
        if answer and not is_made and answer.status != 503:
            self.world.bad(f"{method} {path}: {answer.status} {answer.body[:300]}")
        self.version = answer.version if is_made else None
        if answer is None:
            is_made = self.find_out(changes)
        if not is_made:
            return
        for action, id, n in changes:
            if action == "delete":
                del self.alive[id]
            else:
                self.alive[id] = n, digest or self.alive.get(id, (0, ""))[1]
        self.world.made((self.collection, *change) for change in changes)
        self.world.count(f"changes of {self.collection}", len(changes))

    def find_out(self, changes):
        found = set()
        for action, id, n in changes:
            answer = self.sure(self.master, "GET", f"{self.path}/{id}", expected=(200, 404))
            now = answer.json()["n"] if answer.status == 200 else None
            after, before = None if action == "delete" else n, self.alive.get(id, (None,))[0]
            if now not in (before, after):
                self.world.bad(f"{self.collection} {id} is {now} after a {action} from {before} to {after} without an answer")
            found.add(now == after)
        if len(found) > 1:
            self.world.bad(f"only some of {changes} were made")
        return True in found

    def look(self):
        """Lists its records, somewhere, as of its last write, with a filter."""
        node = self.rng.choice(self.world.nodes) if self.version else self.master
        low = self.rng.choice([0, self.n // 2, max(0, self.n - 50)])
        query = urllib.parse.urlencode({"filter": f"writer = '{self.name}' && n >= {low}", "perPage": 500, "sort": "-n"})
        answer = self.call(node, "GET", f"{self.path}?{query}", headers={"X-Vski-Version": self.version} if self.version else {})
        if answer is None or answer.status in (307, 503):
            self.world.count("lists that were not answered here")
            return
        got = {item["id"]: item["n"] for item in answer.json()["items"]} if answer.status == 200 else answer.body[:200]
        wanted = {id: n for id, (n, _) in self.alive.items() if n >= low}
        if got != wanted:
            self.world.bad(f"{node.name} lists {got} for {self.name} from {low} at {self.version}, not {wanted}")
        self.world.count(f"lists compared, {node.name}")


class Notes(Keeper):
    """Records, alone, in batches and in bulk."""

    collection, per_second = "notes", 11

    def act(self):
        draw = self.rng.random()
        if draw < 0.25:
            return self.look()
        if draw < 0.35:
            changes = []
            for _ in range(self.rng.randrange(2, 8)):
                changes.append(self.plan_one({change[1] for change in changes}))
            return self.write(changes, "POST", "/api/batch", {"requests": [self.request(*change) for change in changes]})
        if draw < 0.42 and len(self.alive) > 5:
            ids = self.rng.sample(list(self.alive), 4)
            self.n += 1
            if len(self.alive) > ALIVE_MAX / 2:
                return self.write([("delete", id, self.alive[id][0]) for id in ids], "DELETE", self.path, {"ids": ids})
            return self.write([("update", id, self.n) for id in ids], "PATCH", self.path, {"ids": ids, "data": {"n": self.n}})
        change = self.plan_one()
        request = self.request(*change)
        self.write([change], request["method"], request["url"], request.get("body"))

    def request(self, action, id, n):
        if action == "delete":
            return {"method": "DELETE", "url": f"{self.path}/{id}"}
        body = {"n": n, "text": f"{n} " * self.rng.randrange(1, 200)}
        if action == "create":
            return {"method": "POST", "url": self.path, "body": {"id": id, "writer": self.name, **body}}
        return {"method": "PATCH", "url": f"{self.path}/{id}", "body": body}


class Docs(Keeper):
    """Records with a file each, which is replaced, and compared on all servers."""

    collection, per_second = "docs", 2.4

    def act(self):
        if self.alive and self.rng.random() < 0.4:
            return self.download()
        action, id, n = self.plan_one()
        if action == "delete":
            return self.write([(action, id, n)], "DELETE", f"{self.path}/{id}", None)
        content = self.rng.randbytes(int(1024 * 2 ** self.rng.uniform(0, 11)))
        fields = {"n": n, "writer": self.name, **({"id": id} if action == "create" else {})}
        form, headers = multipart(fields, {"doc": ("doc.bin", content)})
        method, path = ("POST", self.path) if action == "create" else ("PATCH", f"{self.path}/{id}")
        self.write([(action, id, n)], method, path, form, headers, hashlib.sha256(content).hexdigest())

    def download(self):
        id = self.rng.choice(list(self.alive))
        record = self.call(self.master, "GET", f"{self.path}/{id}")
        node = self.rng.choice(self.world.nodes) if self.version else self.master
        if record is None or record.status != 200:
            if record and record.status != 503:
                self.world.bad(f"a record of a file is not there: {id} {record.status}")
            return
        answer = self.call(node, "GET", f"/api/files/docs/{id}/{record.json()['doc']}",
                           headers={"X-Vski-Version": self.version} if self.version else {})
        if answer is None or answer.status in (307, 503):
            self.world.count("downloads that were not answered here")
        elif answer.status != 200 or hashlib.sha256(answer.body).hexdigest() != self.alive[id][1]:
            self.world.bad(f"{node.name} has another file for {id}: {answer.status}, {len(answer.body)} bytes")
        else:
            self.world.count(f"downloads compared, {node.name}")


class Accounts(Client):
    """Registers, signs in here and there, refreshes, goes."""

    per_second = 0.2

    def __init__(self, world, number):
        super().__init__(world, number)
        self.accounts, self.n = [], 0

    def act(self):
        if len(self.accounts) < 15:
            self.n += 1
            email = f"{self.name}-{self.n}@example.org"
            answer = self.call(self.master, "POST", "/api/auth/register", {"email": email, "password": "a-good-password"}, token=None)
            if answer and answer.status == 200:
                self.accounts.append((email, answer.json()["id"], answer.version))
            elif answer and answer.status not in (429, 503):
                self.world.bad(f"registering {email}: {answer.status} {answer.body[:300]}")
            return
        at = self.rng.randrange(len(self.accounts))
        email, id, version = self.accounts[at]
        if self.rng.random() < 0.4:
            self.accounts.pop(at)
            self.sure(self.master, "DELETE", f"{RECORDS.format('_users')}/{id}", expected=(204, 404))
            return
        node = self.replica() if version else self.master
        body = {"identity": email, "password": "a-good-password"}
        answer = self.call(node, "POST", "/api/auth/login", body, {"X-Vski-Version": version} if version else {}, token=None)
        if answer is None or answer.status in (307, 429, 503):
            return
        if answer.status != 200:
            self.world.count(f"log-ins answered {answer.status} by {node.name}")
            # Only lists and the like wait for a version; an old account is there all the same.
            if node is self.master:
                self.world.bad(f"{email} cannot sign in: {answer.status} {answer.body[:300]}")
            return
        token = answer.json()["token"]
        for node in (node, self.master):
            answer = self.call(node, "POST", "/api/auth/refresh", {}, token=token)
            if answer and answer.status not in (200, 503):
                self.world.bad(f"{node.name} does not refresh the token of {email}: {answer.status} {answer.body[:300]}")
        self.world.count("accounts signed in")


class Runs(Client):
    """Starts runs, on master and replica, and watches each until it has ended."""

    per_second = 3

    def __init__(self, world, number):
        super().__init__(world, number)
        self.n = 0

    def act(self):
        node, self.n = self.world.nodes[:2][self.n % len(self.world.nodes[:2])], self.n + 1
        body = {"workflow": "soak", "input": {"n": self.n}, "idempotencyKey": f"{self.name}-{self.n}"}
        run = self.sure(node, "POST", "/api/workflow/runs", body)
        if run.status == 200:
            self.world.runs[run.json()["runId"]] = node, time.monotonic()
        self.watch(self.rng.sample(list(self.world.runs), min(4, len(self.world.runs))))

    def watch(self, runs):
        for run in runs:
            node, begun = self.world.runs[run]
            answer = self.call(node, "GET", f"/api/workflow/runs/{run}")
            if answer is None or answer.status == 503:
                continue
            status = answer.json()["status"] if answer.status == 200 else answer.status
            if status == "completed":
                del self.world.runs[run]
                self.world.count(f"runs completed, {node.name}")
                if time.monotonic() - begun > RUN_SECONDS:
                    self.world.count(f"of them seen late, {node.name}")
            elif status not in ("pending", "running"):
                del self.world.runs[run]
                self.world.bad(f"run {run} on {node.name} has ended as {status}")


class Tenants(Client):
    """Makes a database, fills it, reads it on a replica, deletes it."""

    per_second = 1 / 40

    def __init__(self, world, number):
        super().__init__(world, number)
        self.n = 0

    def act(self):
        self.n += 1
        name = f"tenant-{self.n}"
        path = f"/db/{name}{RECORDS.format('things')}"
        self.sure(self.master, "POST", "/api/databases", {"name": name}, expected=(200, 409))
        definition = {"id": f"things_{self.n}", "name": "things", "fields": [{"name": "n", "type": "number"}]}
        self.sure(self.master, "POST", f"/db/{name}/api/collections", definition, expected=(200, 400, 409))
        self.sure(self.master, "POST", path, {"id": "one", "n": 0}, expected=(200, 400))
        for n in range(1, 10):
            answer = self.sure(self.master, "PATCH", f"{path}/one", {"n": n})
        for _ in range(60):
            seen = self.call(self.replica(), "GET", f"{path}/one", headers={"X-Vski-Version": answer.version} if answer.version else {})
            if seen and seen.status == 200 and seen.json()["n"] == 9:
                self.world.count("tenants read on a replica")
                break
            self.pause(0.5)
        self.sure(self.master, "DELETE", f"/api/databases/{name}", expected=(204, 404))
        self.world.count("tenants deleted")


class Fields(Client):
    """Gives `notes` another field, takes the oldest away, and makes that final now and then."""

    per_second = 1 / 30

    def __init__(self, world, number):
        super().__init__(world, number)
        self.n = 0

    def act(self):
        path = "/api/collections/notes"
        self.n += 1
        fields = self.sure(self.master, "GET", path).json()["fields"]
        extra = [field for field in fields if field["name"].startswith("extra")]
        fields = [field for field in fields if field not in extra] + extra[-FIELDS_MAX:]
        fields.append({"name": f"extra{self.n}", "type": "text"})
        self.sure(self.master, "PATCH", path, {"fields": fields})
        if self.n % 5 == 0:
            self.sure(self.master, "POST", "/api/databases/default/purge", {})
        self.world.count("fields added")


class Subscribers(Client):
    """Subscribes to notes by one way or the other, listens for a while, and goes, sometimes without a word."""

    per_second = 0.2

    def act(self):
        try:
            (self.websocket if self.rng.random() < 0.6 else self.stream)(time.monotonic() + self.rng.uniform(2, 30))
        except (OSError, ws.Closed, ws.Refused, http.client.HTTPException):
            self.world.count("subscriptions that broke")

    def websocket(self, until):
        socket = ws.Socket(self.master.port, "/api/realtime", {"Authorization": self.world.token})
        try:
            socket.send(json.dumps({"t": "subscribe", "ref": 1, "sub": "n", "collection": "notes", "filter": "n > 3"}))
            while time.monotonic() < until and not self.world.is_over.is_set():
                for text in socket.read(1):
                    frame = json.loads(text)
                    self.world.count(f"WebSocket {frame['t']}")
                    if frame["t"] in ("no", "ended"):
                        self.world.bad(f"a subscription was answered {frame}")
        finally:
            (socket.abort if self.rng.random() < 0.3 else socket.close)()

    def stream(self, until):
        connection = http.client.HTTPConnection("127.0.0.1", self.master.port, timeout=25)
        try:
            connection.request("GET", "/api/realtime", headers={"Accept": "text/event-stream"})
            response = connection.getresponse()
            while time.monotonic() < until and not self.world.is_over.is_set():
                line = response.readline()
                if not line:
                    self.world.count("streams that were closed")
                    return
                if line.startswith(b"data:") and b'"clientId"' in line:
                    body = {"clientId": json.loads(line[5:])["clientId"], "subscriptions": ["notes/*"]}
                    answer = self.call(self.master, "POST", "/api/realtime", body)
                    if answer and answer.status not in (204, 404, 503):
                        self.world.bad(f"subscriptions were answered {answer.status} {answer.body[:300]}")
                elif line.startswith(b"data:"):
                    self.world.count("server-sent events")
        finally:
            connection.close()


def make(world):
    """All clients."""
    kinds = [Notes] * 4 + [Docs] * 2 + [Accounts, Runs, Tenants, Fields] + [Subscribers] * 5
    return [kind(world, number) for number, kind in enumerate(kinds)]
