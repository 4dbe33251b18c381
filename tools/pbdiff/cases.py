"""Cases: requests under random rules, sent to both servers."""
import copy
import json
import re
import urllib.parse

from .conditions import CHOICES, Maker, render, smaller
from .sides import codes, form, plain
from .world import shape_of

REFUSED = "refused"


class Case:
    """One request. `like` is another case, whose rule it shares."""

    collection, caller, tree, rule = None, None, None, None

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

    def changed(self, **values):
        change = copy.copy(self)
        change.__dict__.update(values)
        return change

    def changes(self):
        for name, empty in self.EMPTY.items():
            if getattr(self, name) != empty:
                yield self.changed(**{name: empty})
        if self.tree:
            for tree in smaller(self.tree):
                yield self.changed(tree=tree)
            if self.rule:
                yield self.changed(tree=None)

    def shape(self):
        filled = [name for name, empty in self.EMPTY.items() if getattr(self, name) != empty]
        return f"{type(self).__name__} {self.rule} {shape_of(render(self.tree)) if self.tree else ''} {filled}"

    def set_rule(self, world, at):
        """Sets the rule at one server, and no other; false if that refuses it."""
        rules = world.rules[at]
        for collection, name in rules:
            if rules[collection, name] and (collection, name) != (self.collection, self.rule):
                self.patch_rule(world, at, collection, name, "")
        text = render(self.tree, at == 1) if self.rule and self.tree else ""
        if rules.get((self.collection, self.rule), "") == text:
            return True
        return self.patch_rule(world, at, self.collection, self.rule, text)

    def patch_rule(self, world, at, collection, name, text):
        side = world.sides[at]
        status, _ = side.call("PATCH", f"/api/collections/{collection}", {name: text}, side.admin)
        if status == 200:
            world.rules[at][collection, name] = text
        return status == 200

    def text(self, world):
        lines = [f"{len(world.names)} collections as of this seed; caller {self.caller or 'guest'}"]
        if self.rule:
            lines.append(f"PATCH /api/collections/{self.collection} "
                         + json.dumps({self.rule: render(self.tree) if self.tree else ""}, ensure_ascii=False))
        return "\n  ".join(lines + self.requests())


class ListCase(Case):
    """A list under a rule, or with a filter."""

    EMPTY = {"sort": [], "expand": [], "page": {}, "fields": "", "caller": None}

    def __init__(self, world, like=None):
        rng, maker = world.rng, Maker(world)
        self.collection = like.collection if like else rng.choice(world.read)
        self.caller = rng.choice([None, *world.tokens, *world.tokens, "admin"])
        self.rule = "listRule" if like or rng.random() < 0.4 else None
        self.tree = like.tree if like else maker.condition(self.collection, "list" if self.rule else "filter")
        if self.rule and self.caller == "admin":
            self.caller = None
        self.sort = [rng.choice(["", "-"]) + self.sort_key(maker) for _ in range(rng.choice([0, 0, 1, 2]))]
        self.expand = [self.expansion(maker) for _ in range(rng.choice([0, 0, 1, 2]))]
        self.page = rng.choice([{}, {}, {"perPage": 2}, {"page": 2, "perPage": 2}, {"skipTotal": 1}, {"page": 9}])
        step = self.expand[0].split(".")[0] if self.expand else "rm"
        self.fields = rng.choice(["", "", "", "id,key", f"*,expand.{step}.id", "id,h:excerpt(4,true),t:excerpt(1)",
                                  f"key,expand.{step}.key,j", "*,h:excerpt(3)"])

    def sort_key(self, maker):
        # PocketBase sorts by what the list rule of a related record admits.
        steps, name = maker.steps(self.collection, 0 if self.rule else 2, 0.3, is_single=True)
        plain_types = ("text", "number", "bool", "date", "email", "url")
        fields = [it["name"] for it in maker.world.fields[name].values() if it["type"] in plain_types]
        return ".".join([*steps, maker.rng.choice(fields if steps else [*fields, "id"])])

    def expansion(self, maker):
        steps, _ = maker.steps(self.collection, 7, 0.75)
        return ".".join(steps) or maker.rng.choice(["nothing", "key"])

    def query(self, at):
        query = {"perPage": 200, **self.page, "sort": ",".join([*self.sort, "key"]), "expand": ",".join(self.expand), "q": "abc"}
        if not self.rule:
            query["filter"] = render(self.tree, at == 1)
        if self.fields:
            query["fields"] = self.fields
        return f"/api/collections/{self.collection}/records?" + urllib.parse.urlencode({k: v for k, v in query.items() if v != ""})

    def requests(self):
        return ["GET " + urllib.parse.unquote_plus(self.query(0))]

    def run(self, world):
        return [self.ask(world, at, side) for at, side in enumerate(world.sides)]

    def ask(self, world, at, side):
        if not self.set_rule(world, at):
            return REFUSED
        status, answer = side.call("GET", self.query(at), None, world.token(self.caller, at))
        if status != 200:
            return REFUSED, status
        return [plain(it) for it in answer["items"]], [answer[it] for it in ("page", "perPage", "totalItems", "totalPages")]


class ViewCase(Case):
    """A record under a view rule, by itself or in the expansion of others."""

    EMPTY = {"caller": None}

    def __init__(self, world, like=None):
        rng, maker = world.rng, Maker(world)
        self.collection, self.rule = like.collection if like else rng.choice(world.read), "viewRule"
        self.caller = rng.choice([None, *world.tokens])
        self.tree = like.tree if like else maker.condition(self.collection, "view")
        self.key = rng.choice(world.keys[self.collection])
        self.route = None
        if rng.random() < 0.5:
            start = rng.choice(world.read)
            steps, end = maker.steps(start, 4, 0.9)
            if end == self.collection and steps:
                self.route = (start, ".".join(steps))

    def path(self, world):
        if self.route:
            return f"/api/collections/{self.route[0]}/records?sort=key&q=abc&perPage=200&expand={self.route[1]}"
        return f"/api/collections/{self.collection}/records/{world.id(self.key)}?q=abc"

    def requests(self):
        return ["GET " + (f"{self.route[0]} expand={self.route[1]}" if self.route else f"{self.collection}/{self.key}")]

    def run(self, world):
        out = []
        for at, side in enumerate(world.sides):
            if not self.set_rule(world, at):
                out.append(REFUSED)
                continue
            status, answer = side.call("GET", self.path(world), None, world.token(self.caller, at))
            out.append((status, [plain(it) for it in answer.get("items", [answer])] if status == 200 else None))
        return out


class WriteCase(Case):
    """A create, an update or a delete of a memo under its rule, or several in a batch."""

    EMPTY = {"caller": None}

    def __init__(self, world, like=None):
        rng, maker = world.rng, Maker(world)
        self.collection, self.caller = world.memo, rng.choice([None, *world.tokens, *world.tokens, "admin"])
        self.rule = like.rule if like else rng.choice(["createRule", "updateRule", "deleteRule"])
        verb = self.rule[:-4]
        world.relations[world.memo] = world.memo_relations
        self.tree = like.tree if like else maker.condition(world.memo, verb) if rng.random() < 0.7 else None
        del world.relations[world.memo]
        several = rng.random() < 0.2
        verbs = [rng.choice(["create", "update", "delete", "put"]) for _ in range(rng.randint(1, 3))] if several else [verb]
        self.is_batch, self.writes = several, [self.write(world, it) for it in verbs]

    def write(self, world, verb):
        """Method, key and body."""
        rng, key = world.rng, world.rng.choice(world.keys[world.memo])
        if verb in ("create", "put"):
            key = rng.choice(["mx0", "mx1", key]) if verb == "put" or rng.random() < 0.2 else "mx0"
        if verb == "delete":
            return "DELETE", key, None
        body = world.body(world.memo, key)
        if verb == "update":
            del body["id"]
        for name in list(body):
            if name != "id" and rng.random() < (0.75 if verb == "update" else 0.2):
                del body[name]
        if verb == "update" and rng.random() < 0.3:
            # A value that is there moves to the end here, and stays in place there.
            new = [it for it in CHOICES if it not in world.bodies.get(key, {}).get("s", [])]
            body |= rng.choice([{"n+": 1}, {"s+": new[:1]}, {"s-": ["a", "b"]}, {"n-": 2.5}, {"+s": new[:1]}])
            # A field both plain and with a modifier is refused here.
            for name in [it.strip("+-") for it in body if it.strip("+-") != it]:
                body.pop(name, None)
        if rng.random() < 0.1:
            body |= rng.choice([{"o": "zz"}, {"s": ["a", "zz"]}, {"e": "no address"}, {"u": "no url"}, {"unknown": 1}, {"rm": "none"},
                                {"rm": world.id("m0")}, {"id": "short"}, {"id": world.id("m!")}, {"g": {"lon": 500, "lat": 0}}])
        return {"create": "POST", "update": "PATCH", "put": "PUT"}[verb], key, body

    def changes(self):
        yield from super().changes()
        if len(self.writes) > 1:
            for at in range(len(self.writes)):
                yield self.changed(writes=self.writes[:at] + self.writes[at + 1:])
        for at, (method, key, body) in enumerate(self.writes):
            for name in body or {}:
                less = {it: value for it, value in body.items() if it != name}
                yield self.changed(writes=[*self.writes[:at], (method, key, less), *self.writes[at + 1:]])

    def shape(self):
        methods = [(method, sorted(body or {})) for method, _, body in self.writes]
        return f"{super().shape()} {methods if len(methods) == 1 else [it[0] for it in methods]} {self.is_batch}"

    def path(self, world, method, key):
        return f"/api/collections/{world.memo}/records" + ("" if method in ("POST", "PUT") else f"/{world.id(key)}")

    def requests(self):
        return [f"{'batch of ' if self.is_batch else ''}{method} {self.collection}/{key} {json.dumps(body, ensure_ascii=False)}"
                for method, key, body in self.writes]

    def run(self, world):
        out, token = [], None
        is_changed = False
        for at, side in enumerate(world.sides):
            token = world.token(self.caller, at)
            if not self.set_rule(world, at):
                out.append(REFUSED)
                continue
            status, answer = self.send(world, side, token)
            is_changed |= status < 300
            # What a required relation refers to cannot be deleted: 409 here, 400 there.
            status = 400 if status == 409 else status
            out.append([status, self.answer(status, answer), self.stored(world, side) if status < 300 else None])
        if is_changed:
            world.fill()
        if REFUSED not in out and self.asks_for_invalid(out):
            out = [[400, None, None]] * 2
        if REFUSED not in out and out[0][0] == out[1][0] == 400:
            out[0][1], out[1][1] = without_relations(out[0][1]), without_relations(out[1][1])
            out[0][1] = without_fields(out[0][1], out[1][1])
            # A wrong id is named before or after other errors.
            if any((body or {}).get("id", world.id(key)) != world.id(key) for _, key, body in self.writes):
                out[0][1] = out[1][1] = None
        return out

    def asks_for_invalid(self, out):
        """True if both refuse the request, and its rule asks for a field whose value is invalid, which a rule does not see here."""
        rule = render(self.tree) if self.tree else ""
        fields = set().union(*(fields_of(errors) for _, errors, _ in out))
        is_asked = any(re.search(rf"@request\.body\.{it}\b", rule) for it in fields)
        return is_asked and all(status >= 400 for status, _, _ in out)

    def send(self, world, side, token):
        if self.is_batch:
            requests = [{"method": method, "url": self.path(world, method, key), "body": body or {}}
                        for method, key, body in self.writes]
            return side.call("POST", "/api/batch", {"requests": requests}, token)
        [(method, key, body)] = self.writes
        path = self.path(world, method, key) + "?q=abc"
        if method == "POST" and body.get("key", "x")[-1] == "0":
            sent, headers = form(body, {"f": ["one.txt", "two.txt"][:len(body) % 3]})
            return side.call(method, path, sent, token, headers)
        return side.call(method, path, body, token)

    def answer(self, status, answer):
        if status >= 400:
            return codes(answer.get("data"))
        return without_new_ids(plain(answer))

    def stored(self, world, side):
        """What the admin sees afterwards."""
        lists = [side.ask("GET", f"/api/collections/{name}/records?sort=key,id&perPage=200") for name in (world.memo, world.label)]
        return [without_new_ids(plain(it["items"])) for it in lists]


def without_fields(ours, theirs):
    """Errors of fields of a create that the rule refuses as well: ours names them, PocketBase does not."""
    if theirs == {} and all(isinstance(it, dict) and set(it) == {"code"} for it in ours.values()):
        return {}
    if isinstance(ours, dict) and isinstance(theirs, dict) and set(ours) == set(theirs):
        return {name: without_fields(it, theirs[name]) if isinstance(it, dict) else it for name, it in ours.items()}
    return ours


def fields_of(errors):
    """The names of fields in errors."""
    if not isinstance(errors, dict):
        return set()
    own = {name for name, it in errors.items() if isinstance(it, dict) and set(it) == {"code"}}
    return own.union(*map(fields_of, errors.values()))


def without_relations(errors):
    """Errors without relations to no record among other wrong fields: one server names these only once the others are right."""
    if not isinstance(errors, dict):
        return errors
    left = {name: it for name, it in errors.items() if it != {"code": "validation_missing_rel_records"}}
    return {name: without_relations(it) for name, it in (left or errors).items()}


def without_new_ids(value):
    """An id that the server chose is the same everywhere."""
    return json.loads(re.sub(r'"id": "(?![a-z]{1,3}\d0{10})([a-z0-9]{15}|[a-f0-9-]{36})"', '"id": "new"', json.dumps(value)))
