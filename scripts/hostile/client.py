"""The ordinary client: five things one after another, each of them timed."""
import collections
import http.client
import json
import threading
import time

import setup
import ws

# A person's pace.
PAUSE = 0.1
LOG_IN_EVERY = 5
EVENT_SECONDS_MAX = 10


class Quiet:
    """`times` has the seconds that each kind of request took, `wrong` what should not have been."""

    def __init__(self, port, token):
        self.port, self.token = port, token
        self.times, self.wrong = collections.defaultdict(list), []
        self.connection, self.events, self.count = None, None, 0

    def ask(self, kind, method, path, body=None):
        """Asks, times and judges; the JSON of the answer."""
        begun = time.monotonic()
        try:
            if self.connection is None:
                self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
            headers = {"Authorization": self.token, "Content-Type": "application/json"}
            self.connection.request(method, path, None if body is None else json.dumps(body), headers)
            answer = self.connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self.connection = None
            self.wrong.append(f"{method} {path}: {error!r} after {time.monotonic() - begun:.1f} s")
            return None
        self.times[kind].append(time.monotonic() - begun)
        if answer.status >= 400:
            self.wrong.append(f"{method} {path}: {answer.status} {text[:200]!r}")
            return None
        return json.loads(text)

    def subscribe(self):
        self.events = ws.Socket(self.port, "/api/realtime", {"Authorization": self.token})
        self.events.send(json.dumps({"t": "subscribe", "ref": 1, "sub": "mine", "collection": "quiet"}))
        while not any(json.loads(text)["t"] == "ok" for text in self.events.read(10)):
            pass

    def hear(self, record, begun):
        """Waits for the event of a record."""
        deadline = begun + EVENT_SECONDS_MAX
        while time.monotonic() < deadline:
            for text in self.events.read(deadline - time.monotonic() + 0.01):
                frame = json.loads(text)
                if frame.get("record", {}).get("id") == record:
                    self.times["event"].append(time.monotonic() - begun)
                    return
                if frame["t"] in ("resync", "ended"):
                    self.wrong.append(f"subscription got {text}")
        self.wrong.append(f"event of {record} did not come within {EVENT_SECONDS_MAX} s")

    def warm_up(self):
        self.subscribe()
        for _ in range(3):
            self.once()
        self.times.clear()
        if self.wrong:
            raise RuntimeError(f"the client does not work before the attack: {self.wrong[0]}")

    def once(self):
        self.count += 1
        self.ask("get", "GET", f"/api/collections/quiet/records/q{self.count % 200}")
        self.ask("list", "GET", "/api/collections/quiet/records?filter=n%3E50&sort=-n&perPage=20")
        begun = time.monotonic()
        record = self.ask("create", "POST", "/api/collections/quiet/records", {"t": "new", "n": -1})
        if record is not None:
            self.hear(record["id"], begun)
        if self.count % LOG_IN_EVERY == 0:
            self.ask("log-in", "POST", "/api/auth/login", {"email": setup.QUIET, "password": setup.PASSWORD})

    def run(self, seconds):
        """Works for so long."""
        end, pause = time.monotonic() + seconds, threading.Event()
        while time.monotonic() < end:
            try:
                self.once()
            except (ws.Closed, ws.Refused, OSError) as error:
                self.wrong.append(f"socket ended: {error!r}")
                self.subscribe()
            pause.wait(PAUSE)
