"""Random conditions: trees of comparisons, as text for each server, and smaller ones."""
import json
from typing import NamedTuple

MACROS = ["@now", "@todayStart", "@todayEnd", "@monthStart", "@monthEnd", "@yearStart", "@yearEnd", "@yesterday", "@tomorrow"]
TEXTS = ["", "a", "b", "ab", "A b", "x_y", "50%", "c\\d", "1", "ä"]
NUMBERS = [0, 1, 2, -1, 2.5, 10]
CHOICES = ["a", "b", "ab", "c"]
DATES = ["", "2020-01-01 00:00:00.000Z", "2022-02-02 12:30:45.123Z", "2026-12-31 23:59:59.000Z"]
COMPARE = ["=", "!=", ">", ">=", "<", "<="]
TEXT_TYPES = ("text", "select", "email", "url", "editor")


class Compare(NamedTuple):
    left: str
    op: str
    right: str
    comment: str = ""

    def text(self):
        return f"{self.left} {self.op} {self.right}{self.comment}"

    def of_pocketbase(self):
        """The words that mean there what ours mean here. A value that the request does not have equals nothing here; there
        it is the empty string (the table of from-pocketbase.md)."""
        request = [it for it in (self.left, self.right) if it.startswith("@request.") and ":" not in it.replace(":lower", "")]
        op = self.op.lstrip("?")
        if self.left.startswith("@request.") and self.left.endswith(":length"):
            # Nor has it a length here; there it is 0.
            is_of_body = self.left.startswith("@request.body.")
            asked, no, yes = (self.left.replace(":length", ":isset"), "= false", "= true") if is_of_body else ("@request.auth.id", '= ""', '!= ""')
            return f"({self.text()} || {asked} {no})" if op == "!=" else f"({self.text()} && {asked} {yes})"
        if len(request) != 1 or (op in ("=", "!=") and {'""', "null"} & {self.left, self.right}):
            return self.text()
        value = request[0].replace(":lower", "")
        if op == "!=":
            return f'({self.text()} || {value} = "")'
        return self.text() if op == "!~" else f'({self.text()} && {value} != "")'


def render(tree, is_pocketbase=False):
    if isinstance(tree, Compare):
        return tree.of_pocketbase() if is_pocketbase else tree.text()
    return "(" + f" {tree[0]} ".join(render(it, is_pocketbase) for it in tree[1:]) + ")"


def smaller(tree):
    """Trees with a part less."""
    if isinstance(tree, Compare) and tree.comment:
        yield tree._replace(comment="")
    if isinstance(tree, list):
        yield from tree[1:]
        for at in range(1, len(tree)):
            if len(tree) > 3:
                yield tree[:at] + tree[at + 1:]
            for part in smaller(tree[at]):
                yield tree[:at] + [part] + tree[at + 1:]


def quote(text):
    return json.dumps(text, ensure_ascii=False) if "\\" not in text else "'" + text.replace("\\", "\\\\") + "'"


class Maker:
    """Makes conditions on records of a world."""

    def __init__(self, world):
        self.world, self.rng = world, world.rng

    def steps(self, name, depth, chance=0.5, is_single=False):
        """A path over relations, and the collection it leads to."""
        rng, world, steps = self.rng, self.world, []
        while depth and rng.random() < chance:
            choice = [(field, to) for field, (to, several) in world.relations[name].items() if not is_single or several == 1]
            if not is_single:
                choice += [(f"{other}_via_{field}", other) for other, fields in world.relations.items()
                           for field, (to, _) in fields.items() if to == name]
            if not choice:
                break
            step, name = rng.choice(choice)
            steps.append(step)
            depth -= 1
        return steps, name

    def end(self, field):
        """The end of a path at a field."""
        rng, name, kind = self.rng, field["name"], field["type"]
        if kind == "json":
            return name + rng.choice(["", ".a", ".b.c.0", ".0"])
        if kind == "geoPoint":
            return name + rng.choice([".lon", ".lat"])
        if kind == "file":
            return name + ":length"
        if kind == "select":
            # A list in filters is text at PocketBase, so only its modifiers are alike.
            return name + rng.choice([":each", ":each", ":length"] if field["maxSelect"] > 1 else ["", "", ":lower"])
        return name + (rng.choice(["", "", "", ":lower"]) if kind in TEXT_TYPES else "")

    def path(self, name, depth=2):
        """A path from a collection, and its field; none for an id."""
        steps, name = self.steps(name, depth)
        field = self.rng.choice([*self.world.fields[name].values(), None])
        return ".".join([*steps, "id" if field is None else self.end(field)]), field

    def literal(self, path, field):
        rng = self.rng
        if field is None:
            return quote(self.world.id(rng.choice(sum(self.world.keys.values(), []))))
        kind = "number" if path.endswith((":length", ".lon", ".lat")) else field["type"]
        if kind == "number":
            return str(rng.choice(NUMBERS))
        if kind == "bool":
            return rng.choice(["true", "false"])
        if kind == "date":
            return rng.choice([quote(rng.choice(DATES)), rng.choice(MACROS)])
        if kind == "json":
            return rng.choice(["1", "2", "'a'", "'x'", "'z'", "null", "true"])
        return quote(rng.choice(CHOICES if kind == "select" else TEXTS))

    def compare(self, name, place):
        """`place` is `filter`, or the verb of the rule."""
        rng, prefix, at = self.rng, "", name
        if place != "filter":
            if rng.random() < 0.25:
                return self.of_request(name, place)
            if rng.random() < 0.15:
                at = rng.choice(list(self.world.relations))
                # PocketBase refuses one alias for two collections.
                prefix = f"@collection.{at}{rng.choice(['', '', ':' + at[0]])}."
        path, field = self.path(at, 1 if prefix else 2)
        op, right = self.operator(path, field), self.literal(path, field)
        if place != "filter" and field is None and rng.random() < 0.6:
            right = "@request.auth.id"
        elif field is None and rng.random() < 0.3:
            single = [f"{it}.id" for it, (_, several) in self.world.relations[name].items() if several == 1]
            right = rng.choice(single or ["id"])
        if field and field["type"] == "date" and rng.random() < 0.1:
            return Compare(f"strftime('%Y', {prefix}{path})", rng.choice(["=", "?=", "!=", "?!=", ">", "?<="]), "'2022'")
        if field and field["type"] == "geoPoint" and rng.random() < 0.5:
            point = prefix + path[:-4]
            return Compare(f"geoDistance({point}.lon, {point}.lat, 9, 48)", rng.choice(["<", ">", "<="]), "700")
        return Compare(prefix + path, ("?" if rng.random() < 0.4 else "") + op, right)

    def operator(self, path, field):
        if field is None or field["type"] in ("bool", "json"):
            return self.rng.choice(["=", "!="])
        if field["type"] in TEXT_TYPES and ":length" not in path and self.rng.random() < 0.3:
            return self.rng.choice(["~", "!~"])
        return self.rng.choice(COMPARE)

    def of_request(self, name, place):
        """A comparison with what the request says."""
        rng, world = self.rng, self.world
        pick = rng.random()
        # In a batch PocketBase has another context.
        if pick < 0.05 and place in ("list", "view"):
            return Compare("@request.context", *rng.choice([("=", '"default"'), ("!=", '"expand"')]))
        if pick < 0.25:
            return Compare(*rng.choice([("@request.method", "=", '"GET"'), ("@request.method", "!=", '"PATCH"'),
                                        ("@request.query.q:isset", "=", "true"), ("@request.query.no:isset", "=", "true"),
                                        ("@request.headers.x_a", "=", '"1"'),
                                        ("@request.query.q", "~", '"a"'), ("@request.query.q:lower", "=", '"abc"'),
                                        ("@request.query.no", "!~", '"a"')]))
        of_body = place in ("create", "update") and pick < 0.7
        field = rng.choice([it for it in world.fields[name if of_body else world.users].values() if it["type"] != "file"])
        path = ("@request.body." if of_body else "@request.auth.") + field["name"]
        if of_body and rng.random() < 0.4:
            return Compare(f"{path}:{rng.choice(['isset', 'changed'])}", "=", rng.choice(["true", "false"]))
        if of_body and rng.random() < 0.3:
            relation = rng.choice([it for it, (_, several) in world.relations[name].items() if several == 1] or [None])
            if relation:
                return Compare(f"@request.body.{relation}.key", rng.choice(["=", "!=", "~"]), quote(rng.choice(["m0", "t1", "p"])))
        if not of_body and rng.random() < 0.3:
            return Compare(rng.choice(["@request.auth.ru.key", "@request.auth.ru.id", "@request.auth.collectionName"]),
                           rng.choice(["=", "!=", "?="]), quote(rng.choice(["m0", "m1", world.users, world.id("m0")])))
        end = path.split(".")[0] + "." + path.split(".")[1] + "." + self.end(field)
        if field["type"] in ("json", "geoPoint"):
            end = path + (".a" if field["type"] == "json" else ".lon")
        op, right = self.operator(end, field), self.literal(end, field)
        # An empty field of the request contains no text here, not even the empty one.
        return Compare(end, op, '"a"' if op == "!~" and right == '""' else right)

    def condition(self, name, place, depth=2):
        """A tree: a comparison, or a list of trees behind && or ||."""
        if depth == 0 or self.rng.random() < 0.5:
            return self.compare(name, place)._replace(comment=self.rng.choice([" // x\n", *[""] * 9]))
        joint = self.rng.choice(["&&", "&&", "||"])
        return [joint, *(self.condition(name, place, depth - 1) for _ in range(self.rng.randint(2, 3)))]
