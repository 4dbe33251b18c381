"""How the cost of a request grows with the rows of a table and with the number of tenants.

Server CPU per request on one connection, of one or two builds in turns, each on its own data;
for rows also the CPU of the same SQL in Python's sqlite3 on a copy of the file. The machine
may be busy: compare within one run."""
import argparse
import os
import resource
import shutil
import sqlite3
import statistics
import sys
import tempfile
import time

from common import Failed, Http, proc_cpu, proc_memory
from servers import FIELDS, RECORDS, RULES, Before, Vski

FILL = """
INSERT INTO {table} (id, created, updated, title, content, published, views)
WITH RECURSIVE n(i) AS (SELECT {first} UNION ALL SELECT i + 1 FROM n WHERE i + 1 < {end})
SELECT lower(hex(randomblob(16))) || 'abcd', t, t, printf('Post number %07d', i),
       substr(hex(randomblob(150)), 1, 300), i % 2, (i * 7919) % 1000
FROM (SELECT i, strftime('%Y-%m-%dT%H:%M:%fZ', 1.7e9 + i * 7919 % 10000019 / 10.0, 'unixepoch') AS t FROM n)
"""
# Case: table, query of the list, the same work in SQL ({half}: half of the rows).
CASES = {
    "page": ("posts", "perPage=30&skipTotal=1", ["SELECT rowid FROM posts ORDER BY rowid LIMIT 30"]),
    "page counted": ("posts", "perPage=30", [
        "SELECT rowid FROM posts ORDER BY rowid LIMIT 30", "SELECT count(*) FROM posts"]),
    "page deep": ("posts", "perPage=30&skipTotal=1&page={page}",
                  ["SELECT rowid FROM posts ORDER BY rowid LIMIT 30 OFFSET {half}"]),
    "sorted": ("posts", "perPage=30&skipTotal=1&sort=-created",
               ["SELECT rowid FROM posts ORDER BY created DESC, rowid DESC LIMIT 30"]),
    "sorted deep": ("posts", "perPage=30&skipTotal=1&sort=-created&page={page}",
                    ["SELECT rowid FROM posts ORDER BY created DESC, rowid DESC LIMIT 30 OFFSET {half}"]),
    "filtered counted": ("posts", "perPage=30&filter=views%3E500&sort=-created", [
        "SELECT rowid FROM posts WHERE views > 500 ORDER BY created DESC, rowid DESC LIMIT 30",
        "SELECT count(*) FROM posts WHERE views > 500"]),
    "index counted": ("posts_idx", "perPage=30&filter=views%3E500&sort=-created", [
        "SELECT rowid FROM posts_idx WHERE views > 500 ORDER BY created DESC, rowid DESC LIMIT 30",
        "SELECT count(*) FROM posts_idx WHERE views > 500"]),
    "index deep": ("posts_idx", "perPage=30&skipTotal=1&sort=-created&page={page}",
                   ["SELECT rowid FROM posts_idx ORDER BY created DESC, rowid DESC LIMIT 30 OFFSET {half}"]),
}


def options():
    p = argparse.ArgumentParser(prog="tools/bench/scaling.py", description=__doc__.splitlines()[0])
    p.add_argument("--vski", required=True, help="the program to measure")
    p.add_argument("--before", help="another one to compare with")
    p.add_argument("--rows", default="10000,100000,1000000", help="0: none")
    p.add_argument("--tenants", default="1,64,100,1000,5000", help="0: none")
    p.add_argument("--only", default="", help="cases of rows, separated by commas")
    p.add_argument("--runs", type=int, default=5)
    o = p.parse_args()
    o.vski, o.before = os.path.abspath(o.vski), o.before and os.path.abspath(o.before)
    o.rows = [int(n) for n in o.rows.split(",") if n != "0"]
    o.tenants = [int(n) for n in o.tenants.split(",") if n != "0"]
    o.cases = {k: v for k, v in CASES.items() if not o.only or k in o.only.split(",")}
    return o


def start(o, folder):
    """The servers, started, and a client of each."""
    servers = [Before(o.before, os.path.join(folder, "before"))] if o.before else []
    servers.append(Vski(o.vski, os.path.join(folder, "vski")))
    for server in servers:
        server.synchronous = "normal"
        server.start()
        server.token = server.first_admin()
    return servers


def cost(server, http, requests, send):
    """Microseconds of server CPU for a request; the clock of the kernel counts in steps of 10 ms."""
    begun = proc_cpu(server.pid)
    for number in range(requests):
        send(http, number)
    return (proc_cpu(server.pid) - begun) * 1e6 / requests


def ask(http, path):
    status, body = http.request("GET", path)
    if status != 200:
        raise Failed(f"GET {path}: {status} {body[:200]}")


def own_cpu():
    r = resource.getrusage(resource.RUSAGE_SELF)
    return r.ru_utime + r.ru_stime


def sql_cost(file, statements, half):
    """Microseconds of CPU for the statements in this process, once the cache is warm."""
    with sqlite3.connect(file) as db:
        times = []
        for _ in range(3):
            begun = own_cpu()
            for statement in statements:
                db.execute(statement.format(half=half)).fetchall()
            times.append((own_cpu() - begun) * 1e6)
    return min(times)


def measure_rows(o, folder):
    servers = start(o, folder)
    for server in servers:
        admin = Http(server.base, server.token)
        for name, indexes in (("posts", []), ("posts_idx", [{"fields": ["created"]}])):
            admin.json("POST", "/api/collections",
                       {"name": name, "type": "base", "fields": FIELDS, "indexes": indexes, **RULES})
        server.stop()
    print(f"{'rows':>9} {'case':18}" + "".join(f"{s.name:>10}" for s in servers) + f"{'sqlite3':>10}  us CPU", flush=True)
    filled = 0
    for rows in o.rows:
        for server in servers:
            with sqlite3.connect(os.path.join(server.folder, "data", "default.db")) as db:
                for table in ("posts", "posts_idx"):
                    db.execute(FILL.format(table=table, first=filled, end=rows))
                db.commit()
                db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            server.start()
        filled = rows
        half, page = rows // 60 * 30, rows // 60 + 1
        for case, (table, query, statements) in o.cases.items():
            path = RECORDS.format(table) + "?" + query.format(page=page)
            clients = [(s, Http(s.base)) for s in servers]
            requests = max(5, 1_000_000 // rows) if case != "page" else 500
            measured = {s.name: [] for s in servers}
            for run in range(o.runs + 1):  # the first one warms up
                for server, http in clients:
                    us = cost(server, http, requests, lambda http, _: ask(http, path))
                    if run:
                        measured[server.name].append(us)
            file = os.path.join(servers[-1].folder, "data", "default.db")
            print(f"{rows:>9} {case:18}" + "".join(f"{statistics.median(m):>10.0f}" for m in measured.values())
                  + f"{sql_cost(file, statements, half):>10.0f}", flush=True)
        print(f"{rows:>9} {'memory, MB':18}" + "".join(f"{proc_memory(s.pid)['now']:>10.0f}" for s in servers), flush=True)
        for server in servers:
            server.stop()


def measure_tenants(o, folder):
    servers = start(o, folder)
    print(f"{'tenants':>9} {'case':18}" + "".join(f"{s.name:>10}" for s in servers) + "  us CPU", flush=True)
    count = 0
    for tenants in o.tenants:
        for server in servers:
            admin = Http(server.base, server.token)
            for number in range(count, tenants):
                admin.json("POST", "/api/databases", {"name": f"t{number}"})
                admin.json("POST", f"/db/t{number}/api/collections",
                           {"name": "posts", "type": "base", "fields": FIELDS, **RULES})
                for row in range(5):
                    made = admin.json("POST", f"/db/t{number}" + RECORDS.format("posts"), {"title": f"Post {row}"})
                server.ids = getattr(server, "ids", []) + [made["id"]]
        count = tenants
        kinds = {
            "get": lambda http, n: ask(http, f"/db/t{n % tenants}{RECORDS.format('posts')}/{http.ids[n % tenants]}"),
            "list": lambda http, n: ask(http, f"/db/t{n % tenants}{RECORDS.format('posts')}"),
            "create": lambda http, n: http.json(
                "POST", f"/db/t{n % tenants}{RECORDS.format('posts')}", {"title": "Post"}),
        }
        for case, send in kinds.items():
            measured = {s.name: [] for s in servers}
            for run in range(o.runs + 1):
                for server in servers:
                    http = Http(server.base)
                    http.ids = server.ids
                    us = cost(server, http, max(tenants, 2000), send)
                    if run:
                        measured[server.name].append(us)
            print(f"{tenants:>9} {case:18}" + "".join(f"{statistics.median(m):>10.0f}" for m in measured.values()), flush=True)
        print(f"{tenants:>9} {'memory, MB':18}" + "".join(f"{proc_memory(s.pid)['now']:>10.0f}" for s in servers), flush=True)
    for server in servers:
        server.stop()


def main():
    o = options()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    folder = tempfile.mkdtemp(prefix="vski-scaling-")
    try:
        if o.rows:
            measure_rows(o, os.path.join(folder, "rows"))
        if o.tenants:
            measure_tenants(o, os.path.join(folder, "tenants"))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    try:
        main()
    except Failed as e:
        sys.exit(f"scaling: {e}")
