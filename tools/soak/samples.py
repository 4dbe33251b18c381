"""Samples of the servers, what they say about growth, and their curves as one SVG."""
import os
import statistics
import time

from common import proc_cpu, proc_memory

# Limits on growth: the median of the last third of a life can exceed that of the second by this fraction, or this amount.
FLAT = {"rss_mb": (0.10, 6), "descriptors": (0.15, 12), "threads": (0.15, 6)}
# Lives from this length on are judged. Memory only in longer ones: a server keeps the changes of five minutes for realtime
# clients that come back (32 MiB at most), and fills the caches of its databases.
LIFE_SECONDS = {"rss_mb": 900, "descriptors": 300, "threads": 300}
WAL_MAX_MB = 32
PANELS = [("rss_mb", "memory, MB"), ("descriptors", "descriptors"), ("threads", "threads"), ("cpu", "CPU, % of a core"),
          ("db_mb", "databases, MB"), ("wal_mb", "largest log, MB"), ("files_mb", "stored files, MB"),
          ("webhooks", "webhooks that wait"), ("runs", "runs that have not ended"), ("behind_s", "seconds behind")]
COLOURS = ["#1f6feb", "#d1242f", "#1a7f37", "#9a6700", "#8250df", "#bf3989", "#57606a", "#0a3069", "#4d2d00"]


def sizes(folder, endings):
    """The sizes in MB of the files right below a folder, by their names."""
    found = {}
    for entry in os.scandir(folder):
        try:
            if entry.name.endswith(endings):
                found[entry.name] = entry.stat().st_size / 1e6
        except FileNotFoundError:
            pass
    return found


def stored(folder):
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.path.getsize(os.path.join(path, name))
            except FileNotFoundError:
                pass
    return total / 1e6


def metrics(text):
    """The content of /metrics, as {name with labels: number}."""
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#")]
    return {name: float(value) for name, value in lines}


def take(node, said, begun):
    """One sample of a running server; `said` are its metrics, empty when it did not answer."""
    pid = node.pid
    return {"node": node.name, "at": round(time.monotonic() - begun, 1), "life": node.life,
            "rss_mb": round(proc_memory(pid)["now"], 2), "cpu_s": proc_cpu(pid),
            "descriptors": len(os.listdir(f"/proc/{pid}/fd")), "threads": len(os.listdir(f"/proc/{pid}/task")),
            "db_mb": round(sum(sizes(node.data, ".db").values()), 3),
            "wal_mb": round(max(sizes(node.data, "-wal").values(), default=0), 3),
            "files_mb": round(stored(os.path.join(node.data, "storage")), 3),
            "webhooks": said.get("vski_webhook_pending"), "behind_s": said.get("vski_replica_seconds_behind"),
            "runs": sum(value for name, value in said.items() if name.startswith("vski_workflow_queue{")) if said else None}


def lives(samples):
    """The samples of each life of a process, in order."""
    found = {}
    for sample in samples:
        found.setdefault((sample["node"], sample["life"]), []).append(sample)
    return found


def add_cpu(samples):
    """The fraction of a core that each used since the previous sample."""
    for life in lives(samples).values():
        for before, now in zip(life, life[1:]):
            now["cpu"] = round(100 * (now["cpu_s"] - before["cpu_s"]) / max(now["at"] - before["at"], 0.1), 1)


def judge(samples):
    """Lines about each life that is long enough, and those of them that say that something grew."""
    said, wrong = [], []
    for (node, number), life in lives(samples).items():
        seconds = life[-1]["at"] - life[0]["at"]
        if seconds < 150:
            continue
        third = len(life) // 3
        for metric, (part, much) in FLAT.items():
            middle, last = (statistics.median(s[metric] for s in some) for some in (life[third:2 * third], life[2 * third:]))
            bound = middle + max(middle * part, much)
            is_judged = seconds >= LIFE_SECONDS[metric] - 10
            line = (f"{node} life {number}, {seconds:.0f} s, {metric}: {middle:.1f} in its second third, {last:.1f} in its last, "
                    + (f"bound {bound:.1f}" if is_judged else f"not judged below {LIFE_SECONDS[metric]} s"))
            said.append(line)
            if is_judged and last > bound:
                wrong.append("has grown: " + line)
    largest = max(samples, key=lambda s: s["wal_mb"])
    said.append(f"largest log: {largest['wal_mb']:.1f} MB on {largest['node']}, bound {WAL_MAX_MB}")
    if largest["wal_mb"] > WAL_MAX_MB:
        wrong.append(said[-1])
    return said, wrong


def svg(samples, marks):
    """The curves. Marks are (seconds, server, what): ticks at the foot of each panel."""
    width, height, left, gap = 1000, 110, 60, 34
    end = max(s["at"] for s in samples) or 1
    nodes = sorted({s["node"] for s in samples})
    colours = {node: COLOURS[i % len(COLOURS)] for i, node in enumerate(nodes)}
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + width + 20}" height="{40 + len(PANELS) * (height + gap)}" '
           'font-family="sans-serif" font-size="12">', '<rect width="100%" height="100%" fill="white"/>']
    for i, node in enumerate(nodes):
        out.append(f'<text x="{left + i * 120}" y="18" fill="{colours[node]}">{node}</text>')
    out.append(f'<text x="{left + len(nodes) * 120}" y="18" fill="#57606a">{end / 60:.1f} minutes; ticks are kills, stops and cuts</text>')
    for i, (metric, title) in enumerate(PANELS):
        top = 40 + i * (height + gap)
        highest = max((s[metric] for s in samples if s.get(metric) is not None), default=0) or 1
        out.append(f'<rect x="{left}" y="{top}" width="{width}" height="{height}" fill="none" stroke="#d0d7de"/>'
                   f'<text x="{left}" y="{top - 4}">{title}</text>'
                   f'<text x="{left - 4}" y="{top + 10}" text-anchor="end">{highest:.4g}</text>'
                   f'<text x="{left - 4}" y="{top + height}" text-anchor="end">0</text>')
        for (node, _), life in lives(samples).items():
            points = " ".join(f'{left + s["at"] / end * width:.1f},{top + height - s[metric] / highest * height:.1f}'
                              for s in life if s.get(metric) is not None)
            out.append(f'<polyline points="{points}" fill="none" stroke="{colours[node]}" stroke-width="1.3"/>')
        for at, node, what in marks:
            x = left + min(at / end, 1) * width
            out.append(f'<line x1="{x:.1f}" y1="{top + height - 8}" x2="{x:.1f}" y2="{top + height}" '
                       f'stroke="{colours.get(node, "black")}"><title>{what}</title></line>')
    return "\n".join([*out, "</svg>", ""])
