"""The table: what was measured, its ratio to the first server, and the goals beside it."""

# Goals. Limits hold for the server named; a ratio is to PocketBase in the same run.
RATIO_GOALS = {  # requests per second, {case: {connections or None for any: [(server, factor)]}}
    "get": {None: [("vski", 4)]},
    "create": {64: [("vski", 3), ("vski-normal", 5)]},
}
CPU_GOALS_US = {"get": 70, "create": 100, "list": 4000, "list_idx_nototal": 180, "upload_1MiB": 2000}
PROCESS_ROWS = [  # key, heading, unit, limit
    ("cold_start_ms", "cold start to first answer", "ms", 20),
    ("stop_ms", "stop on SIGTERM, idle", "ms", None),
    ("rss_idle_mb", "memory idle, 2 s after the start", "MB", 12),
    ("rss_after_mb", "memory after the load", "MB", 60),
    ("rss_peak_mb", "memory at its peak", "MB", 100),
    ("binary_mb", "binary (the goal is for the static one)", "MB", 6),
    ("disk_mb", "data directory after the load", "MB", None),
]
CPU_ROWS = ["get", "list", "create"]  # of the brief table
BASELINE = "pocketbase"
OURS = "vski"


def number(x):
    if x >= 100 or isinstance(x, int):
        return f"{x:,.0f}"
    return f"{x:.1f}" if x >= 10 else f"{x:.2f}"


def with_ratio(x, base):
    """A number and how many times the baseline it is."""
    if base is None or base <= 0:
        return number(x)
    return f"{number(x)} ({x / base:.2f}x)"


def row_of(label, values, base_name, goals):
    """One line: the values of all servers, the goals as text, and whether they are met.
    `values` is {server: number or None}; goals are (server, text, test of a number)."""
    base = values.get(base_name)
    cells = [label]
    for server, value in values.items():
        if value is None:
            cells.append("-")
        elif server == base_name:
            cells.append(number(value))
        else:
            cells.append(with_ratio(value, base))
    held = [(server, text, test) for server, text, test in goals if values.get(server) is not None]
    cells.append(", ".join(text if len(held) < 2 else f"{server} {text}" for server, text, _ in held))
    cells.append(", ".join("yes" if test(values[server]) else "**no**" for server, _, test in held))
    return cells


def rps_goals(case, connections, base):
    """The goals on requests per second; none without a baseline to compare with."""
    by_connections = RATIO_GOALS.get(case, {})
    wanted = by_connections.get(connections, by_connections.get(None, []))
    if not base:
        return []
    return [(server, f">= {factor}x", lambda v, f=factor: v >= f * base) for server, factor in wanted]


def limit_goal(limit):
    if limit is None:
        return []
    return [(OURS, f"< {limit:,}", lambda v: v < limit)]


def table(names, results, processes):
    """Markdown. `results` is {(case, connections): {server: medians}}, `processes`
    {server: {key: number}}."""
    base_name = BASELINE if BASELINE in names else names[0]
    rows = [["measure", *names, "goal", "met"]]
    for (case, connections), measured in results.items():
        def of(key):
            return {n: measured[n][key] if n in measured else None for n in names}
        at = f"{case} at {connections}"
        base = of("rps").get(BASELINE)
        rows.append(row_of(f"{at}: requests/s", of("rps"), base_name, rps_goals(case, connections, base)))
        rows.append(row_of(f"{at}: CPU us/request", of("cpu_us"), base_name, limit_goal(CPU_GOALS_US.get(case))))
        rows.append([f"{at}: p50 / p99 ms"]
                    + [f"{number(m['p50_ms'])} / {number(m['p99_ms'])}" if (m := measured.get(n)) else "-" for n in names]
                    + ["", ""])
        if any(m["errors"] for m in measured.values()):
            rows.append(row_of(f"{at}: failed requests, worst run", of("errors"), None,
                               [(OURS, "none", lambda v: v == 0)]))
    for key, heading, unit, limit in PROCESS_ROWS:
        values = {n: processes.get(n, {}).get(key) for n in names}
        if any(v is not None for v in values.values()):
            rows.append(row_of(f"{heading}, {unit}", values, base_name, limit_goal(limit)))
    last = len(rows[0]) - 1
    return markdown(rows, {0, last - 1, last})


def brief(names, results, processes):
    """Markdown: one line for each case, requests per second; and what the processes take."""
    base_name = BASELINE if BASELINE in names else names[0]
    rows = [["", *names]]
    for (case, connections), measured in results.items():
        values = {n: measured[n]["rps"] if n in measured else None for n in names}
        rows.append(row_of(f"{case} at {connections}, requests/s", values, base_name, [])[:-2])
    for case in CPU_ROWS:
        for (name, connections), measured in results.items():
            if name == case:
                values = {n: measured[n]["cpu_us"] if n in measured else None for n in names}
                rows.append(row_of(f"{case} at {connections}, CPU us/request", values, base_name, [])[:-2])
    for key, heading, unit, _ in PROCESS_ROWS:
        values = {n: processes.get(n, {}).get(key) for n in names}
        if any(v is not None for v in values.values()):
            rows.append(row_of(f"{heading.split(' (')[0]}, {unit}", values, base_name, [])[:-2])
    return markdown(rows, {0})


def markdown(rows, texts):
    """`texts` are the columns of words; the others hold numbers."""
    width = [max(len(r[c]) for r in rows) for c in range(len(rows[0]))]
    lines = ["| " + " | ".join(cell.ljust(w) if c in texts else cell.rjust(w)
                               for c, (cell, w) in enumerate(zip(r, width))) + " |" for r in rows]
    rule = "|" + "|".join("-" * (w + 1) + ("-" if c in texts else ":") for c, w in enumerate(width)) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])
