#!/usr/bin/env python3
"""Chaos for realtime: one server, many subscribers over WebSockets and server-sent events, many writers; each event is checked.

Writers create, change and delete records of several collections, singly, in bulk and in batches, so that they move in and out of view.
Meanwhile rules change, accounts change their role, team and groups, and connections open and close; WebSockets resume with `after`. This
file implements the rules and filters a second time, in Python. It checks:

  sound     the rule and the filter admit the record as the event shows it, for the caller as of that change or later
  equal     the event shows what the answer to the write showed: every field that the caller can see, and none that is hidden
  order     versions of a record grow, ids of events too; nothing arrives twice, not even after resuming
  complete  a change that began after `ok` arrives if the subscriber could see it all the time, unless `resync` or `ended` arrived

Documented slack: rules and accounts count as they were at some time between the start of the write and the arrival of its event (for missing
events: --lag seconds, and as long as streams had to wait in that second, after the end of the write). "by later caller" counts the events that
only the caller after the change can see.

Standard library only. Exit code 1: a check failed; the folder with data and log is kept."""
import argparse
import bisect
import collections
import http.client
import json
import os
import random
import selectors
import shutil
import socket
import sys
import tempfile
import threading
import time
import urllib.parse

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "scripts", "common"))

import ws  # noqa: E402
from server import Server  # noqa: E402

TEAMS = ["red", "green", "blue"]
STAFF = ["v", "team", "n", "public", "price"]
FIELDS = [{"name": "v", "type": "number"}, {"name": "team", "type": "text"}, {"name": "n", "type": "number"},
          {"name": "public", "type": "bool"}, {"name": "owner", "type": "text"}, {"name": "price", "type": "number"},
          {"name": "meta", "type": "json"}, {"name": "body", "type": "text"}, {"name": "secret", "type": "text", "hidden": True}]

# The rule, and its meaning for a record and an account (none for an anonymous caller).
RULES = [
    ("", lambda r, u: True),
    ("public = true", lambda r, u: r["public"]),
    ("owner = @request.auth.id", lambda r, u: bool(u) and r["owner"] == u["id"]),
    ("team = @request.auth.team", lambda r, u: bool(u) and r["team"] == u["team"]),
    ("public = true || @request.auth.role = 'chief'", lambda r, u: r["public"] or bool(u) and u["role"] == "chief"),
    ("n >= 3 && @request.auth.id != null", lambda r, u: bool(u) and r["n"] >= 3),
    ("team != 'red' && public = true || owner = @request.auth.id",
     lambda r, u: r["team"] != "red" and r["public"] or bool(u) and r["owner"] == u["id"]),
    (None, lambda r, u: False),
]
FILTERS = [("", lambda r: True), ("n > 4", lambda r: r["n"] > 4), ("team = 'red'", lambda r: r["team"] == "red"),
           ("public = true && n <= 6", lambda r: r["public"] and r["n"] <= 6), ("v > 2", lambda r: r["v"] > 2),
           ("team ~ 'RE' || n = 1", lambda r: "re" in r["team"] or r["n"] == 1)]


class Past:
    """The states of something over time: each may have held from the start of its request to the end of the next one."""

    def __init__(self, state):
        self.starts, self.ends, self.states = [0.0], [float("inf")], [state]

    def change(self, begun, ended, state):
        self.ends[-1] = ended
        self.starts.append(begun)
        self.ends.append(float("inf"))
        self.states.append(state)

    def between(self, low, high):
        found = []
        for at in range(bisect.bisect_right(self.starts, high) - 1, -1, -1):
            if self.ends[at] < low:
                break
            found.append(self.states[at])
        return found


class World:
    """The model: what was written, who the callers were, which rules held."""

    def __init__(self, options):
        self.options, self.random = options, random.Random(options.seed)
        self.lock = threading.Lock()
        self.rules, self.users, self.tokens = {}, {}, {}
        self.made = {}        # (record, version) -> (collection, state, begun, ended, action)
        self.last = {}        # record -> its last known version
        self.deleted = {}     # record -> (collection, begun, ended)
        self.living = collections.defaultdict(list)
        self.wrong, self.counts = [], collections.Counter()
        self.lags = [0.0]
        self.slow = collections.Counter()  # by second, how late streams heard, which never catch up on anything

    def violate(self, what):
        with self.lock:
            self.wrong.append(what)
        if len(self.wrong) < 30:
            print("VIOLATION", what[:1500], flush=True)

    def sees(self, collection, who, rule, user, state):
        """The names of the fields that a caller sees of a record; none when it does not see it."""
        if who == "admin":
            return state.keys()
        if user and "staff" in user["groups"] and collection == "c0":
            return {*STAFF, "id", "created", "updated", "collectionId", "collectionName"}
        return state.keys() - {"secret"} if rule(state, user) else None

    def views(self, collection, who, by_id, state, low, high):
        """The views of a record that the caller may have had between these times."""
        rules = [RULES[pair[by_id]][1] for pair in self.rules[collection].between(low, high)]
        users = self.users[who].between(low, high) if who in self.users else [None]
        return [self.sees(collection, who, rule, user, state) for rule in rules for user in users]


class Stream:
    """Server-sent events, with the interface of ws.Socket."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), 20)
        self.socket.sendall(b"GET /api/realtime HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n")
        self.buffer = b""
        while b"\r\n\r\n" not in self.buffer:
            self.fill()
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        if b" 200 " not in head.split(b"\r\n")[0]:
            raise ws.Refused(head)

    fill = ws.Socket.fill
    close = ws.Socket.close
    abort = ws.Socket.abort

    def frames(self):
        *events, self.buffer = bytes(self.buffer).split(b"\n\n")
        self.buffer = bytearray(self.buffer)
        found = []
        for event in events:
            lines = dict(line.split(":", 1) for line in event.decode().split("\n") if not line.startswith(":"))
            if lines:
                found.append({"t": lines["event"], "data": json.loads(lines["data"])})
        return found


class Subscription:
    def __init__(self, name, collection, wish, filter_at, fields):
        self.name, self.collection, self.record, self.filter_at, self.fields = name, collection, wish, filter_at, fields
        self.lives = []       # [begin, end, gaps, what has arrived], the end is open for a living one
        self.after, self.seen, self.is_live = None, {}, False
        self.ended_at = 0

    def begin(self, now):
        self.lives.append([now, None, [], set()])
        self.seen, self.is_live = {}, True

    def end(self, now):
        if self.is_live:
            self.lives[-1][1] = now
        self.is_live, self.after = False, None


class Client:
    """One subscriber; all calls come from the one thread that reads."""

    def __init__(self, world, port, number, selector):
        self.world, self.port, self.number, self.selector = world, port, number, selector
        self.random = random.Random(f"{world.options.seed} {number}")
        self.is_stream = number % 4 == 3
        self.who = self.random.choice([*world.users, *world.users, "nobody", "admin"])
        self.link, self.back_at, self.away_since, self.end_at, self.refs, self.drained_at = None, 0, None, 0, {}, 0
        names = sorted(world.rules)
        self.subs = {}
        for at in range(self.random.randint(1, 5)):
            collection = self.random.choice(names)
            filter_at = self.random.randrange(len(FILTERS)) if self.random.random() < 0.6 else 0
            fields = self.random.choice(["", "", "id,v,team,n,public"])
            sub = Subscription(f"s{at}", collection, None, filter_at, fields)
            if self.is_stream:
                query = {"filter": FILTERS[filter_at][0], "fields": fields}
                sub.name = f"{collection}/*?options={urllib.parse.quote(json.dumps({'query': query}))}"
            self.subs[sub.name] = sub

    def connect(self, now):
        token = self.world.tokens.get(self.who)
        try:
            self.link = Stream(self.port) if self.is_stream else ws.Socket(
                self.port, "/api/realtime", {"Authorization": f"Bearer {token}"} if token else {}, 20)
        except (ws.Refused, OSError) as error:
            self.world.violate(f"client {self.number} cannot connect: {error}")
            self.back_at = now + 1
            return
        self.selector.register(self.link.socket, selectors.EVENT_READ, self)
        self.end_at = now + self.random.expovariate(1 / self.world.options.life)
        self.world.counts["connections"] += 1
        self.drained_at = now
        if not self.is_stream:
            for sub in self.subs.values():
                self.subscribe(sub)
        self.take(self.link.frames())

    def subscribe(self, sub):
        self.refs[len(self.refs) + 1] = sub
        frame = {"t": "subscribe", "ref": len(self.refs), "sub": sub.name, "collection": sub.collection,
                 "filter": FILTERS[sub.filter_at][0], "fields": sub.fields}
        if sub.after:
            frame["after"] = sub.after
        self.link.send(json.dumps(frame))

    def set_topics(self, client):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        token = self.world.tokens.get(self.who)
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
        body = {"clientId": client, "subscriptions": list(self.subs)}
        begun = time.monotonic()
        connection.request("POST", "/api/realtime", json.dumps(body), headers)
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        if answer.status != 204:
            self.world.violate(f"topics: {answer.status} {text}")
        now = time.monotonic()
        for sub in self.subs.values():
            # Those that the rules shut are passed over.
            rules = [RULES[pair[0]][0] for pair in self.world.rules[sub.collection].between(begun, now)]
            if self.who == "admin" or None not in rules:
                sub.begin(now)

    def leave(self, now, is_abort):
        self.selector.unregister(self.link.socket)
        self.link.abort() if is_abort else self.link.close()
        # Events that arrived and were not read arrive again.
        self.link, self.refs, self.away_since = None, {}, min(now, self.drained_at)
        self.back_at = now + self.random.random() * self.world.options.away
        for sub in self.subs.values():
            if self.is_stream or not sub.is_live:
                sub.end(self.away_since)

    def look(self, now):
        if self.link is None:
            if now >= self.back_at:
                self.connect(now)
        elif now >= self.end_at:
            self.leave(now, self.random.random() < 0.5)
        elif not self.is_stream:
            for sub in self.subs.values():
                if not sub.is_live and sub.ended_at and now > sub.ended_at + 1:
                    sub.ended_at = 0
                    self.subscribe(sub)

    def read(self):
        try:
            now, before = time.monotonic(), len(self.link.buffer)
            self.link.fill()
            if len(self.link.buffer) - before < 1 << 16:
                self.drained_at = now
            self.take(self.link.frames())
        except (ws.Closed, OSError) as error:
            code = getattr(error, "code", None)
            self.world.counts[f"closed by the server {code}"] += 1
            self.leave(time.monotonic(), False)

    def take(self, frames):
        now = time.monotonic()
        for frame in frames:
            frame = json.loads(frame) if isinstance(frame, str) else frame
            kind = frame["t"]
            if kind == "event":
                self.event(self.subs[frame["sub"]], frame["action"], frame["record"], frame["id"], now)
            elif self.is_stream and kind == "PB_CONNECT":
                self.set_topics(frame["data"]["clientId"])
            elif self.is_stream:
                self.event(self.subs[kind], frame["data"]["action"], frame["data"]["record"], None, now)
            elif kind == "ok":
                self.granted(self.refs[frame["ref"]], frame, now)
            elif kind == "no":
                sub = self.refs[frame["ref"]]
                self.world.counts[f"refused {frame['status']}"] += 1
                if frame["status"] not in (400, 403, 409):
                    self.world.violate(f"refused: {frame}")
                sub.end(now)
                sub.ended_at = now
            elif kind == "resync":
                sub = self.subs[frame["sub"]]
                self.world.counts["resyncs"] += 1
                sub.end(now)
                sub.begin(now)
                sub.after = frame["last"]
            elif kind == "ended":
                sub = self.subs[frame["sub"]]
                self.world.counts[f"ended {frame['status']}"] += 1
                sub.end(now)
                sub.ended_at = now
            elif kind != "welcome":
                self.world.violate(f"what is {frame}")

    def granted(self, sub, frame, now):
        if sub.is_live and sub.after:
            self.world.counts["resumed"] += 1
            sub.lives[-1][2].append((self.away_since, now))
            # Missed events arrive now; `last` does not stand for them.
        else:
            sub.begin(now)
            sub.after = frame["last"]

    def event(self, sub, action, record, event_id, now):
        world = self.world
        world.counts["events"] += 1
        world.counts["over streams"] += self.is_stream
        if not sub.is_live and not self.is_stream:
            return world.violate(f"an event for what has ended: client {self.number} {sub.name} {record}")
        if event_id:
            if sub.after and int(event_id.split(".")[1]) <= int(sub.after.split(".")[1]) and event_id[:8] == sub.after[:8]:
                world.violate(f"client {self.number}: event {event_id} after {sub.after}")
            sub.after = event_id
        rank = record["v"] + (0.5 if action == "delete" else 0)
        if sub.seen.get(record["id"], -1) >= rank:
            world.violate(f"client {self.number} {sub.name}: {action} of {record['id']} v {rank} after {sub.seen[record['id']]}")
        sub.seen[record["id"]] = rank
        if sub.lives:
            sub.lives[-1][3].add((record["id"], rank))
        world.pending.append((now, self, sub, action, record))

    def check(self, now, sub, action, record):
        """Sound and equal."""
        world, key = self.world, (record["id"], record["v"])
        if key not in world.made or (action == "delete" and record["id"] not in world.deleted):
            return False
        collection, state, begun, ended, made_by = world.made[key]
        if action == "delete":
            _, begun, ended = world.deleted[record["id"]]
        elif action != made_by:
            world.violate(f"{action} of {key} is {made_by}")
        world.lags.append(now - ended)
        if self.is_stream:
            world.slow[int(ended)] = max(world.slow[int(ended)], now - ended)
        if collection != sub.collection:
            world.violate(f"{sub.collection} heard of {collection}: {record}")
        if not FILTERS[sub.filter_at][1](state):
            world.violate(f"client {self.number}: filter {FILTERS[sub.filter_at][0]} does not admit {action} {record}")
        views = world.views(collection, self.who, 0, state, begun, now)
        wanted = sub.fields.split(",") if sub.fields else state.keys()
        shown = [{name: state[name] for name in names if name in wanted} for names in views if names is not None]
        if record not in shown:
            rules = [RULES[it[0]][0] for it in world.rules[collection].between(begun, now)]
            users = world.users[self.who].between(begun, now) if self.who in world.users else self.who
            world.violate(f"client {self.number}: {action} {record} is none of {shown}; {rules} {users} {state}")
        elif self.who in world.users:
            at_once = world.views(collection, self.who, 0, state, begun, ended)
            if all(names is None for names in at_once):
                world.counts["by later caller"] += 1
        return True


class Writer(threading.Thread):
    def __init__(self, world, port, number):
        super().__init__(daemon=True)
        self.world, self.port, self.number = world, port, number
        self.random = random.Random(f"{world.options.seed} writer {number}")
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        self.is_over = False

    def ask(self, method, path, body=None):
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self.world.tokens['admin']}"}
        begun = time.monotonic()
        self.connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = self.connection.getresponse()
        text = answer.read()
        return answer.status, json.loads(text) if text else None, begun, time.monotonic()

    def run(self):
        pause = self.world.options.writers / self.world.options.rate
        next_at = time.monotonic()
        while not self.is_over:
            try:
                next_at = max(next_at, time.monotonic() - 1) + pause * self.step()
            except Exception as error:  # noqa: BLE001
                self.world.violate(f"writer {self.number}: {error!r}")
                self.connection.close()
            time.sleep(max(0, next_at - time.monotonic()))

    def values(self, is_whole=False):
        pick = self.random
        value = {"team": pick.choice(TEAMS), "n": pick.randrange(10), "public": pick.random() < 0.5,
                 "owner": pick.choice(self.world.ids), "price": pick.randrange(100), "secret": "hidden-" + str(pick.random()),
                 "meta": pick.choice([None, {"a": "line\nend \u2028 \"q\""}, [1, 2, {"data": "event: x\n\n"}]]),
                 "body": "b" * pick.choice([0, 10, 100, 1000])}
        return {name: value[name] for name in (value if is_whole else pick.sample(sorted(value), pick.randint(1, 8)))}

    def note(self, collection, state, begun, ended, action):
        key = (state["id"], state["v"])
        with self.world.lock:
            if key in self.world.made:
                self.world.wrong.append(f"{key} is there twice")
            self.world.made[key] = (collection, state, begun, ended, action)
            self.world.last[state["id"]] = max(self.world.last.get(state["id"], 0), state["v"])
            if action == "create":
                self.world.living[collection].append(state["id"])

    def choose(self, collection, count):
        with self.world.lock:
            living = self.world.living[collection]
            return self.random.sample(living, min(count, len(living)))

    def remove(self, collection, ids):
        """Takes ids out of the list of those that writers choose from; those that were still in it."""
        with self.world.lock:
            living = self.world.living[collection]
            found = [it for it in ids if it in living]
            for it in found:
                living.remove(it)
            return found

    def gone(self, collection, ids, begun, ended):
        with self.world.lock:
            for it in ids:
                self.world.deleted[it] = (collection, begun, ended)

    def step(self):
        """One request; how many changes it made."""
        collection = self.random.choice(sorted(self.world.rules))
        path, kind = f"/api/collections/{collection}/records", self.random.random()
        many = len(self.world.living[collection])
        if many < 20 or kind < 0.2 and many < self.world.options.records:
            status, state, begun, ended = self.ask("POST", path, {**self.values(True), "v": 1})
            self.good(status, state)
            self.note(collection, state, begun, ended, "create")
        elif kind < 0.55:
            [it] = self.choose(collection, 1)
            status, state, begun, ended = self.ask("PATCH", f"{path}/{it}", {**self.values(), "v+": 1})
            if status != 404:
                self.good(status, state)
                self.note(collection, state, begun, ended, "update")
        elif kind < 0.7:
            ids = self.remove(collection, self.choose(collection, 1))
            for it in ids:
                status, body, begun, ended = self.ask("DELETE", f"{path}/{it}")
                self.good(status, body)
                self.gone(collection, ids, begun, ended)
        elif kind < 0.8:
            ids = self.choose(collection, self.random.randint(2, 15))
            status, body, begun, ended = self.ask("PATCH", path, {"ids": ids, "data": {**self.values(), "v+": 1}})
            if status != 404:
                self.good(status, body)
                for state in body["items"]:
                    self.note(collection, state, begun, ended, "update")
                return len(ids)
        elif kind < 0.83:
            ids = self.remove(collection, self.choose(collection, self.random.randint(2, 5)))
            if ids:
                status, body, begun, ended = self.ask("DELETE", path, {"ids": ids})
                self.good(status, body)
                self.gone(collection, ids, begun, ended)
        else:
            return self.batch(collection, path)
        return 1

    def batch(self, collection, path):
        requests = [{"method": "POST", "url": path, "body": {**self.values(True), "v": 1}} for _ in range(self.random.randint(1, 4))]
        for it in self.choose(collection, 5):
            requests.append({"method": "PATCH", "url": f"{path}/{it}", "body": {**self.values(), "v+": 1}})
        fails = self.random.random() < 0.3
        if fails:
            requests.append({"method": "PATCH", "url": f"{path}/none", "body": {"n": 1}})
        status, body, begun, ended = self.ask("POST", "/api/batch", {"requests": requests})
        if fails or status == 400:
            # A record may have been deleted meanwhile. Its events would have unknown versions.
            self.world.counts["batches undone"] += 1
            if status != 400:
                self.world.violate(f"batch: {status}")
            return 1
        self.good(status, body)
        for request, item in zip(requests, body):
            self.note(collection, item["body"], begun, ended, "create" if request["method"] == "POST" else "update")
        return len(requests)

    def good(self, status, body):
        if status not in (200, 204):
            raise ValueError(f"{status} {str(body)[:300]}")


class Changer(Writer):
    """Changes rules and accounts."""

    def run(self):
        try:
            while not self.is_over:
                self.step()
                time.sleep(self.random.random() * self.world.options.pause)
        except Exception as error:  # noqa: BLE001
            self.world.violate(f"changer: {error!r}")

    def step(self):
        world = self.world
        if self.random.random() < 0.2:
            collection, rules = self.random.choice(sorted(world.rules)), [self.random.randrange(len(RULES)) for _ in range(2)]
            body = {"listRule": RULES[rules[0]][0], "viewRule": RULES[rules[1]][0]}
            status, answer, begun, ended = self.ask("PATCH", f"/api/collections/{collection}", body)
            self.good(status, answer)
            world.rules[collection].change(begun, ended, rules)
            world.counts["changes of rules"] += 1
            return
        for who in self.random.sample(sorted(world.users), self.random.choice([1, 1, 3])):
            # Now and then twice within a moment.
            for _ in range(self.random.choice([1, 1, 2])):
                user = random_user(self.random)
                status, answer, begun, ended = self.ask("PATCH", f"/api/collections/people/records/{who}", user)
                self.good(status, answer)
                world.users[who].change(begun, ended, {**user, "id": who})
                world.counts["changes of accounts"] += 1


def random_user(pick):
    return {"role": pick.choice(["chief", "clerk"]), "team": pick.choice(TEAMS),
            "groups": ["staff"] if pick.random() < 0.3 else []}


def set_up(world, port):
    maker = Writer(world, port, "setup")
    world.tokens["admin"] = ""
    status, answer, *_ = maker.ask("POST", "/api/admins/init", {"email": "admin@example.com", "password": "password-1"})
    maker.good(status, answer)
    world.tokens["admin"] = answer["token"]

    def must(method, path, body):
        status, answer, *_ = maker.ask(method, path, body)
        maker.good(status, answer)
        return answer

    must("POST", "/api/collections", {"name": "people", "type": "auth", "listRule": "", "viewRule": "", "fields": [
        {"name": "role", "type": "text"}, {"name": "team", "type": "text"}, {"name": "groups", "type": "json"}]})
    for at in range(world.options.users):
        user, email = random_user(world.random), f"u{at}@example.com"
        made = must("POST", "/api/collections/people/records", {**user, "email": email, "password": "password-1"})
        path = "/api/collections/people/auth-with-password"
        world.tokens[made["id"]] = must("POST", path, {"identity": email, "password": "password-1"})["token"]
        world.users[made["id"]] = Past({**user, "id": made["id"]})
    world.ids = sorted(world.users)
    for at in range(world.options.collections):
        rules = [world.random.randrange(len(RULES)) for _ in range(2)]
        body = {"name": f"c{at}", "fields": FIELDS, "listRule": RULES[rules[0]][0], "viewRule": RULES[rules[1]][0]}
        if at == 0:
            body["fieldRules"] = {"staff": STAFF}
        must("POST", "/api/collections", body)
        world.rules[f"c{at}"] = Past(rules)


def check_complete(world, clients, end):
    """The changes that should have arrived and have not."""
    options, by_collection = world.options, collections.defaultdict(list)
    lag = options.lag
    for (record, version), (collection, state, begun, ended, action) in world.made.items():
        by_collection[collection].append((begun, ended, record, version, state, action))
    for record, (collection, begun, ended) in world.deleted.items():
        version = world.last[record]
        state = world.made[record, version][1]
        by_collection[collection].append((begun, ended, record, version + 0.5, state, "delete"))
    for changes in by_collection.values():
        changes.sort(key=lambda it: it[0])
    checked = missing = 0
    for client in clients:
        for sub in client.subs.values():
            changes = by_collection[sub.collection]
            starts = [it[0] for it in changes]
            for first, last, gaps, arrived in sub.lives:
                last = end + lag if last is None and client.link else last or client.away_since or end
                for change in changes[bisect.bisect_right(starts, first):]:
                    begun, ended, record, version, state, action = change
                    if begun > last:
                        break
                    lag = options.lag + max(world.slow[int(ended) + it] for it in (-1, 0, 1, 2))
                    until = max([ended] + [back for away, back in gaps if away - lag < ended and begun < back]) + lag
                    if until > last or not FILTERS[sub.filter_at][1](state):
                        continue
                    views = world.views(sub.collection, client.who, 0, state, begun, until)
                    if None in views or sub.fields and not FILTERS[sub.filter_at][1](state):
                        continue
                    checked += 1
                    if (record, version) not in arrived:
                        missing += 1
                        world.violate(f"missing: client {client.number} ({client.who}) {sub.name} {FILTERS[sub.filter_at][0]!r} did not get "
                                      f"{action} {record} {version} begun {begun:.3f} ended {ended:.3f}; life {first:.3f}..{last:.3f} {gaps}")
    print(f"slowest second: {max(world.slow.values(), default=0):.1f} s", flush=True)
    print(f"complete: {checked} changes had to arrive, {missing} are missing", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/release/vski")
    parser.add_argument("--events", type=int, default=100_000, help="end after this many events (100000)")
    parser.add_argument("--minutes", type=float, default=10, help="end after this time at the latest (10)")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--clients", type=int, default=40)
    parser.add_argument("--users", type=int, default=8)
    parser.add_argument("--collections", type=int, default=3)
    parser.add_argument("--records", type=int, default=300, help="records per collection, at most")
    parser.add_argument("--writers", type=int, default=6)
    parser.add_argument("--rate", type=float, default=250, help="changes per second, all writers together (250)")
    parser.add_argument("--life", type=float, default=15, help="seconds that a connection lasts, on average (15)")
    parser.add_argument("--away", type=float, default=3, help="seconds until it reconnects, at most (3)")
    parser.add_argument("--pause", type=float, default=0.5, help="seconds between two changes of rules or accounts, at most (0.5)")
    parser.add_argument("--lag", type=float, default=3, help="seconds that an event may take, for what must arrive (3)")
    options = parser.parse_args()
    options.seed = int.from_bytes(os.urandom(4), "big") if options.seed is None else options.seed
    folder = tempfile.mkdtemp(prefix="vski-chaos-realtime-")
    print(f"seed {options.seed}, folder {folder}", flush=True)
    server = Server(os.path.abspath(options.binary), folder)
    try:
        server.start()
        is_good = run(options, server)
    finally:
        server.end()
    bad = server.wrong()
    if bad:
        print("log:", *bad[:5])
    if is_good and not bad:
        shutil.rmtree(folder)
        return 0
    print(f"kept: {folder}")
    return 1


def run(options, server):
    world, port = World(options), server.port
    world.pending = collections.deque()
    set_up(world, port)
    selector = selectors.DefaultSelector()
    clients = [Client(world, port, at, selector) for at in range(options.clients)]
    for client in clients:
        client.connect(time.monotonic())
    writers = [Writer(world, port, at) for at in range(options.writers)] + [Changer(world, port, "changer")]
    for writer in writers:
        writer.start()
    begun, said_at, quiet_since, end, heard = time.monotonic(), 0, None, None, 0
    while True:
        now = time.monotonic()
        ready = selector.select(0.05)
        for key, _ in ready:
            if key.data.link is not None and key.data.link.socket is key.fileobj:
                key.data.read()
        if end is None:
            for client in clients:
                client.look(now)
        while world.pending and world.pending[0][0] < now - 0.5:
            at, client, sub, action, record = world.pending[0]
            if not client.check(at, sub, action, record):
                if now - at < 10:
                    break
                world.violate(f"no writer wrote {action} {record}")
            world.pending.popleft()
        if now - said_at > 5:
            said_at, lags = now, sorted(world.lags)
            world.lags = lags[-100:]
            print(f"{now - begun:5.0f} s  {len(world.made) + len(world.deleted)} changes  lag p50 {lags[len(lags) // 2] * 1000:.0f} "
                  f"max {lags[-1] * 1000:.0f} ms  {dict(sorted(world.counts.items()))}  {len(world.wrong)} wrong", flush=True)
        is_done = world.counts["events"] >= options.events or now - begun > options.minutes * 60 or len(world.wrong) > 100
        if end is None and (is_done or server.process.poll() is not None):
            for writer in writers:
                writer.is_over = True
            for writer in writers:
                writer.join(60)
            end = time.monotonic()
        if world.counts["events"] != heard or quiet_since is None:
            heard, quiet_since = world.counts["events"], now
        if end is not None and not world.pending and now - quiet_since > options.lag + 1:
            break
    if server.process.poll() is not None:
        world.violate(f"the server ended with code {server.process.returncode}")
    check_complete(world, clients, end)
    print(f"{'ok' if not world.wrong else 'WRONG'}: seed {options.seed}, {len(world.made) + len(world.deleted)} changes, "
          f"{dict(sorted(world.counts.items()))}, {len(world.wrong)} violations", flush=True)
    return not world.wrong


if __name__ == "__main__":
    sys.exit(main())
