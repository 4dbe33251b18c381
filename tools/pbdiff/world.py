"""Random definitions and records, equal at both servers."""
import re

from .conditions import CHOICES, DATES, NUMBERS, TEXTS
from .sides import PASSWORD

JSONS = [None, 1, "a", True, [1, 2], {"a": 1, "b": {"c": ["x", 2]}}, {"a": "z"}, ""]
VALUES = {"text": TEXTS, "number": NUMBERS, "bool": [True, False], "date": DATES, "json": JSONS, "email": ["", "a@example.com"],
          "url": ["", "https://example.com/a?b"], "editor": ["", "a", "<p>some <b>bold</b> text</p>"],
          "geoPoint": [{"lon": 0, "lat": 0}, {"lon": 9.5, "lat": 48.1}, {"lon": -60, "lat": -10.25}]}
ID = {"name": "id", "type": "text", "primaryKey": True, "required": True, "system": True, "min": 15, "max": 15,
      "pattern": "^[a-z0-9]+$", "autogeneratePattern": "[a-z0-9]{15}"}
FIELDS = [("t", {"type": "text"}), ("n", {"type": "number"}), ("b", {"type": "bool"}), ("d", {"type": "date"}),
          ("s", {"type": "select", "values": CHOICES, "maxSelect": 3}),
          ("o", {"type": "select", "values": CHOICES, "maxSelect": 1}), ("j", {"type": "json"}), ("e", {"type": "email"}),
          ("u", {"type": "url"}), ("h", {"type": "editor"}), ("g", {"type": "geoPoint"})]


class World:
    """Collections of accounts, teams, posts and notes with random fields, and relations between them; memos, which requests
    write; labels, which name memos. Every record has a text `key`, from which its id is made."""

    def __init__(self, rng, sides, number):
        self.rng, self.sides = rng, sides
        self.users, self.memo, self.label = f"member{number}", f"memo{number}", f"label{number}"
        self.read = [self.users, *(f"{name}{number}" for name in ("team", "post", "note"))]
        self.names = [*self.read, self.memo, self.label]
        self.fields, self.bodies, self.keys = {}, {}, {}
        self.relations = {name: {} for name in self.read}
        self.all_relations = {}
        self.define()
        for name in self.read:
            self.insert(name)
        for name in (self.memo, self.label):
            self.keys[name] = [f"{name[0]}{name[1]}{at}" for at in range(3)]
            self.bodies.update({key: self.body(name, key) for key in self.keys[name]})
        self.fill()
        self.sign_in()

    def id(self, key):
        return key.ljust(15, "0")

    def every(self, method, path, body=None):
        return [side.ask(method, path, body) for side in self.sides]

    def define(self):
        for name in self.names:
            fields = [{"name": "key", "type": "text"}]
            for field, options in FIELDS:
                if name == self.memo:
                    fields.append({"name": field, **options, **self.options(field)})
                elif name != self.label and self.rng.random() < 0.6:
                    fields.append({"name": field, **options})
            if name == self.memo:
                fields.append({"name": "f", "type": "file", "maxSelect": 2})
            self.fields[name] = {field["name"]: field for field in fields}
            relations = self.relations_of(name)
            self.all_relations[name] = dict(relations)
            if name in self.relations or name == self.memo:
                self.relations[name] = relations
            self.create(name, fields, relations)
        # Paths of conditions do not lead over memos, which change.
        self.memo_relations = self.relations.pop(self.memo)
        self.relations[self.users]["ru"] = (self.users, 1)
        for side in self.sides:
            made = side.ask("GET", f"/api/collections/{self.users}")
            fields = [*made["fields"], {"name": "ru", "type": "relation", "maxSelect": 1, "collectionId": made["id"]}]
            side.ask("PATCH", f"/api/collections/{self.users}", {"fields": fields})

    def options(self, field):
        """Random limits of a field of memos."""
        some = {"t": [{}, {"max": 3}, {"min": 2}, {"required": True}, {"pattern": "^[a-z]*$"}], "n": [{}, {"max": 2}, {"min": 0},
                {"onlyInt": True}, {"required": True}], "b": [{}, {}, {"required": True}], "d": [{}, {"min": DATES[2]}, {"required": True}],
                "s": [{}, {"maxSelect": 2}, {"required": True}], "o": [{}, {"required": True}], "e": [{}, {"exceptDomains": ["example.com"]}],
                "u": [{}, {"onlyDomains": ["example.org"]}]}
        return self.rng.choice(some.get(field, [{}]))

    def relations_of(self, name):
        if name == self.label:
            return {"rm": (self.memo, 1)}
        found = {}
        for to in self.read[:self.names.index(name)]:
            if to == self.users or self.rng.random() < 0.8:
                found[f"r{to[0]}"] = (to, self.rng.choice([1, 1, 3]))
        return found

    def create(self, name, fields, relations):
        options = {"rm": self.rng.choice([{}, {"required": True}, {"cascadeDelete": True}])} if name == self.label else {}
        for side in self.sides:
            ids = side.__dict__.setdefault("ids", {})
            related = [{"name": field, "type": "relation", "maxSelect": several, "collectionId": ids[to], **options.get(field, {})}
                       for field, (to, several) in relations.items()]
            # A definition that does not list the id allows shorter ones here.
            body = {"name": name, "type": "auth" if name == self.users else "base", "fields": [ID, *fields, *related], "listRule": "",
                    "viewRule": "", "createRule": "", "updateRule": "", "deleteRule": ""}
            ids[name] = side.ask("POST", "/api/collections", body)["id"]

    def insert(self, name):
        self.keys[name] = [f"{name[0]}{at}" for at in range(self.rng.randint(2, 6))]
        for key in self.keys[name]:
            self.every("POST", f"/api/collections/{name}/records", self.body(name, key))

    def fill(self):
        """Writes the memos and labels that a case may have changed."""
        for name in (self.label, self.memo):
            self.every("DELETE", f"/api/collections/{name}/truncate")
        for name in (self.memo, self.label):
            for key in self.keys[name]:
                while True:
                    answers = [side.call("POST", f"/api/collections/{name}/records", self.bodies[key], side.admin)
                               for side in self.sides]
                    if all(status == 200 for status, _ in answers):
                        break
                    # The limits of the fields refuse it: another one.
                    for side in self.sides:
                        side.call("DELETE", f"/api/collections/{name}/records/{self.id(key)}", None, side.admin)
                    self.bodies[key] = self.body(name, key)

    def sign_in(self):
        self.tokens = {}
        for key in self.keys[self.users]:
            boss = self.rng.choice(["", *map(self.id, self.keys[self.users])])
            self.every("PATCH", f"/api/collections/{self.users}/records/{self.id(key)}", {"ru": boss})
        for key in self.keys[self.users][:2]:
            login = {"identity": f"{key}@example.com", "password": PASSWORD}
            path = f"/api/collections/{self.users}/auth-with-password"
            self.tokens[key] = [answer["token"] for answer in self.every("POST", path, login)]

    def token(self, caller, at):
        return self.sides[at].admin if caller == "admin" else self.tokens[caller][at] if caller else None

    def value(self, field):
        if field["type"] == "select":
            some = self.rng.sample(CHOICES, self.rng.randint(0, 3))
            return some if field["maxSelect"] > 1 else self.rng.choice(["", *CHOICES])
        return self.rng.choice(VALUES[field["type"]])

    def related(self, name, field):
        to, several = self.all_relations[name][field]
        ids = [self.id(key) for key in self.keys[to]]
        some = self.rng.sample(ids, min(len(ids), self.rng.randint(0, 3)))
        return some if several > 1 else (some or [""])[0]

    def body(self, name, key):
        body = {"id": self.id(key), "key": key}
        body |= {field: self.value(it) for field, it in self.fields[name].items() if field not in ("key", "f")}
        body |= {field: self.related(name, field) for field in self.all_relations[name]}
        if name == self.users:
            body |= {"email": f"{key}@example.com", "password": PASSWORD, "passwordConfirm": PASSWORD, "verified": True,
                     "emailVisibility": self.rng.random() < 0.5}
        return body

    def drop(self):
        rules = dict.fromkeys(("createRule", "updateRule", "deleteRule", "listRule", "viewRule"), "")
        for name in self.names:
            self.every("PATCH", f"/api/collections/{name}", rules)
        for name in reversed(self.names):
            self.every("DELETE", f"/api/collections/{name}")


def shape_of(text):
    """The same for texts that differ in names and values only."""
    text = re.sub(r"'[^']*'|\"[^\"]*\"|\b-?\d+(\.\d+)?\b", "X", text)
    return re.sub(r"\b(team|post|note|member|memo|label)\d+", r"\1", text)
