"""Files: the speed of uploads and downloads with vski and PocketBase, and the memory that one large
file costs each. In turns, round by round; between two runs everything is on disk and the files of
the last run are deleted.

The client is curl with many transfers at a time, in one process on the same machine. What it reaches
with a server that does nothing (a few lines of Python) is measured, too, and how much of a core it takes:
a figure near either is one of curl's. Uploads have two figures: until the
last answer, and until the disk has it all. vski answers when a file is on disk, PocketBase when it is with
the kernel. Downloads come from files that are in memory: they were written just before.

tools/bench.sh --files brings PocketBase and a build of vski and calls this."""
import argparse
import concurrent.futures
import multiprocessing
import os
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

import servers
from common import Failed, Http, free_port, proc_cpu, proc_memory

MIB = 1 << 20
RECORDS = servers.RECORDS.format("files")
LARGE_MIB = 1024
BODY_MB = 2048


class Vski(servers.Vski):
    def environment(self, port):
        return {**super().environment(port), "MAX_BODY_MB": str(BODY_MB)}


class PocketBase(servers.PocketBase):
    def environment(self, port):
        # Where it keeps a form while it arrives: on the same disk as the rest.
        return {"TMPDIR": self.folder}


class Sink:
    """A server that does nothing: takes a body and throws it away, answers GET /N with N zeros."""

    name = "sink"
    zeros = memoryview(bytes(MIB))

    def start(self):
        listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.base = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self.process = multiprocessing.Process(target=self.serve, args=(listener,), daemon=True)
        self.process.start()
        listener.close()

    def serve(self, listener):
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with concurrent.futures.ThreadPoolExecutor(64) as pool:
            while True:
                pool.submit(self.answer, listener.accept()[0])

    def answer(self, peer):
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        room, have = memoryview(bytearray(MIB)), b""
        while True:
            while b"\r\n\r\n" not in have:
                got = peer.recv_into(room)
                if not got:
                    return
                have += room[:got]
            head, _, have = have.partition(b"\r\n\r\n")
            lines = head.decode().split("\r\n")
            left = next((int(line[15:]) for line in lines if line.lower().startswith("content-length:")), 0) - len(have)
            have = b""
            while left > 0:
                left -= peer.recv_into(room)
            size = int(lines[0].split()[1].rpartition("/")[2] or 0) if lines[0].startswith("GET") else 0
            peer.sendall(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode())
            while size > 0:
                size -= peer.send(self.zeros[:size])

    def stop(self):
        self.process.terminate()
        self.process.join()


class Case:
    """COUNT files of SIZE bytes over so many connections."""

    def __init__(self, name, count, size, connections):
        self.name, self.count, self.size, self.connections = name, count, size, connections

    def __str__(self):
        size = f"{self.size // MIB} MiB" if self.size >= MIB else f"{self.size >> 10} KiB"
        return f"{self.count:,} x {size}, {self.connections} connections"


CASES = [Case("1MiB", 200, MIB, 8), Case("64MiB", 16, 64 * MIB, 4), Case("16KiB", 2000, 16 << 10, 16)]


class Client:
    """curl; works in a folder of its own."""

    def __init__(self, folder):
        self.folder = folder

    def source(self, size):
        """A file of random bytes of this size."""
        path = os.path.join(self.folder, f"source-{size}")
        if not os.path.exists(path):
            with open(path, "wb") as f:
                for _ in range(0, size, MIB):
                    f.write(os.urandom(min(size, MIB)))
        return path

    def send(self, base, count, size, connections):
        """Uploads; seconds, and how much of a core curl took."""
        section = (f'url = "{base}{RECORDS}"\nform = "title=x"\nform = "file=@{self.source(size)};'
                   'type=application/octet-stream"\n')
        return self.run([section] * count, connections, lambda answer: answer[1] >= size)

    def fetch(self, links, size, connections):
        """Downloads; the same."""
        return self.run([f'url = "{link}"\n' for link in links], connections, lambda answer: answer[2] == size)

    def run(self, sections, connections, is_whole):
        config = os.path.join(self.folder, "curl.conf")
        with open(config, "w", encoding="ascii") as f:
            # Without Expect curl does not ask first, which would be one more round trip.
            f.write("next\n".join(section + 'header = "Expect:"\noutput = "/dev/null"\nnoproxy = "*"\n'
                                  'write-out = "%{http_code} %{size_upload} %{size_download}\\n"\n'
                                  for section in sections))
        # Bars are drawn into the void; errors show in the status.
        before, begun = children_cpu(), time.perf_counter()
        done = subprocess.run(["curl", "--parallel", "--parallel-max", str(connections), "-K", config],
                              capture_output=True, text=True)
        spent = time.perf_counter() - begun
        answers = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
        good = sum(answer[0] == 200 and is_whole(answer) for answer in answers)
        if good != len(sections):
            bad = next((answer for answer in answers if answer[0] != 200 or not is_whole(answer)), "no answer")
            raise Failed(f"{good} of {len(sections)} transfers succeeded; another: {bad}; curl ended with {done.returncode}")
        return spent, (children_cpu() - before) / spent


def children_cpu():
    r = resource.getrusage(resource.RUSAGE_CHILDREN)
    return r.ru_utime + r.ru_stime


class Subject:
    """One of the servers, with what is done to it between the runs."""

    def __init__(self, server):
        self.server, self.name = server, server.name

    def prepare(self):
        self.server.start()
        self.admin = Http(self.server.base, self.server.first_admin())
        self.admin.json("POST", "/api/collections", {"name": "files", "type": "base", **servers.RULES, "fields": [
            {"type": "text", "name": "title"},
            {"type": "file", "name": "file", "maxSelect": 1, "maxSize": BODY_MB * MIB - MIB}]})

    def restart(self):
        self.server.stop()
        self.server.start()
        self.admin = Http(self.server.base, self.admin.headers["Authorization"])

    def links(self):
        links, page = [], 1
        while True:
            answer = self.admin.json("GET", f"{RECORDS}?perPage=500&page={page}&fields=id,file")
            links += [f"{self.server.base}/api/files/files/{it['id']}/{it['file']}" for it in answer["items"]]
            if page >= answer["totalPages"]:
                return links
            page += 1

    def clear(self):
        """Deletes all records, waits until their files are gone, too, and the disk is quiet."""
        ids = [link.split("/")[-2] for link in self.links()]
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda some: [self.delete(id) for id in some], [ids[at::8] for at in range(8)]))
        until = time.monotonic() + 60
        while files_bytes(self.server.folder) > MIB:
            if time.monotonic() > until:
                raise Failed(f"{self.name} keeps files of deleted records")
            time.sleep(0.1)
        os.sync()

    def delete(self, id):
        Http(self.server.base, self.admin.headers["Authorization"]).json("DELETE", f"{RECORDS}/{id}")


def files_bytes(folder):
    total = 0
    for at, _, names in os.walk(os.path.join(folder, "data", "storage")):
        for name in names:
            try:
                total += os.path.getsize(os.path.join(at, name))
            except FileNotFoundError:  # is being deleted
                pass
    return total


def measure(client, subject, case):
    """One round of a case: seconds of the upload, of the upload with a sync, of the download; CPU
    seconds of the server for both; the share of a core that the client took."""
    os.sync()
    pid = subject.server.pid
    cpu = proc_cpu(pid)
    begun = time.perf_counter()
    up, client_up = client.send(subject.server.base, case.count, case.size, case.connections)
    os.sync()
    on_disk = time.perf_counter() - begun
    cpu_up = proc_cpu(pid) - cpu
    links = subject.links()
    if len(links) != case.count:
        raise Failed(f"{subject.name} has {len(links)} files and not {case.count}")
    cpu = proc_cpu(pid)
    down, client_down = client.fetch(links, case.size, case.connections)
    cpu_down = proc_cpu(pid) - cpu
    subject.clear()
    return {"up": up, "on disk": on_disk, "down": down, "cpu up": cpu_up, "cpu down": cpu_down,
            "client up": client_up, "client down": client_down}


def client_limit(client, case):
    """Seconds that curl takes for a case when the server does nothing."""
    sink = Sink()
    sink.start()
    try:
        up, _ = client.send(sink.base, case.count, case.size, case.connections)
        down, _ = client.fetch([f"{sink.base}/{case.size}"] * case.count, case.size, case.connections)
    finally:
        sink.stop()
    return {"up": up, "down": down}


def large(client, subject):
    """Peak memory, MB, of a server that was just started and takes or gives one large file; seconds."""
    size = LARGE_MIB * MIB
    result = {}
    subject.restart()
    result["idle"] = proc_memory(subject.server.pid)["peak"]
    result["up s"], _ = client.send(subject.server.base, 1, size, 1)
    result["up"] = proc_memory(subject.server.pid)["peak"]
    subject.restart()
    result["down s"], _ = client.fetch(subject.links(), size, 1)
    result["down"] = proc_memory(subject.server.pid)["peak"]
    subject.clear()
    return result


def row(*cells):
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def tables(results, limits, memory, rounds):
    """The results in Markdown. `results` is {case: {server: [round, ...]}}."""
    lines = [f"Medians of {rounds} round{'s' * (rounds > 1)}, in turns; MB/s (10^6 bytes), for small files also files/s. A ratio above 1: vski is "
             "faster; the range is that of the rounds. No server: curl with one that does nothing. CPU seconds are those of all the "
             "files of a case; curl's core is the share of one that curl takes with vski and with PocketBase.", "",
             row("case", "vski", "PocketBase", "ratio", "no server", "CPU s vski", "CPU s PocketBase", "curl's core"),
             row("---", *["--:"] * 7)]
    for case, by_server in results.items():
        megabytes = case.count * case.size / 1e6
        for what, cpu, title in (("up", "cpu up", "upload, answered"), ("on disk", "cpu up", "upload, on disk"),
                                 ("down", "cpu down", "download")):
            rates = {name: megabytes / statistics.median(r[what] for r in runs) for name, runs in by_server.items()}
            spent = {name: statistics.median(r[cpu] for r in runs) for name, runs in by_server.items()}
            ratios = [b[what] / a[what] for a, b in zip(by_server["vski"], by_server["pocketbase"])]

            def rate(value):
                return f"{value:.0f}" + (f" ({value * 1e6 / case.size:.0f}/s)" if case.size < MIB else "")

            limit = rate(megabytes / limits[case][what]) if what in limits[case] else ""
            share = f"client {'down' if what == 'down' else 'up'}"
            shares = " / ".join(f"{statistics.median(r[share] for r in runs):.0%}" for runs in by_server.values())
            lines.append(row(f"{title}: {case}", rate(rates["vski"]), rate(rates["pocketbase"]),
                             f"{statistics.median(ratios):.2f} ({min(ratios):.2f}..{max(ratios):.2f})", limit,
                             f"{spent['vski']:.2f}", f"{spent['pocketbase']:.2f}", shares))
    if memory:
        lines += ["", f"One file of {LARGE_MIB} MiB, a fresh server each time; medians of peak memory (VmHWM), MB, and of seconds:", "",
                  row("", "started", "after the upload", "after the download", "upload s", "download s"),
                  row("---", *["--:"] * 5)]
        for name, runs in memory.items():
            lines.append(row(name, *(f"{statistics.median(r[key] for r in runs):.{digits}f}" for key, digits in
                                     (("idle", 0), ("up", 0), ("down", 0), ("up s", 1), ("down s", 1)))))
    return "\n".join(lines)


def options():
    p = argparse.ArgumentParser(prog="files.py", allow_abbrev=False, description=__doc__,
                                formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--check", action="store_true", help="check the options and do nothing")
    p.add_argument("--vski", default="", metavar="PATH", help="its binary")
    p.add_argument("--pocketbase", default="", metavar="PATH", help="its binary; tools/bench.sh --fetch-only says where it is")
    p.add_argument("--rounds", type=int, default=5, metavar="N", help="rounds of each case (default 5)")
    p.add_argument("--only", default="1MiB,64MiB,16KiB,large", metavar="A,B", help="of 1MiB, 64MiB, 16KiB and large")
    p.add_argument("--out", metavar="PATH", help="where the data directories are made (default: the folder for "
                   "temporary files); they take up to 5 GB and are removed")
    o = p.parse_args()
    o.only = o.only.split(",")
    unknown = set(o.only) - {case.name for case in CASES} - {"large"}
    if unknown or o.rounds < 1:
        p.error(f"--only: no {', '.join(unknown)}" if unknown else "--rounds takes numbers from 1")
    for option in () if o.check else ("vski", "pocketbase"):
        if not os.access(getattr(o, option), os.X_OK):
            p.error(f"--{option} names no binary: {getattr(o, option)}")
    return o


def run(o, folder):
    client = Client(folder)
    subjects = [Subject(Vski(os.path.abspath(o.vski), os.path.join(folder, "vski"))),
                Subject(PocketBase(os.path.abspath(o.pocketbase), os.path.join(folder, "pocketbase")))]
    try:
        for subject in subjects:
            subject.prepare()
        results, limits, memory = {}, {}, {}
        for case in [case for case in CASES if case.name in o.only]:
            client.source(case.size)
            limits[case] = {what: min(run[what] for run in runs) for runs in
                            [[client_limit(client, case) for _ in range(3)]] for what in ("up", "down")}
            results[case] = {subject.name: [] for subject in subjects}
            for number in range(o.rounds + 1):  # round 0 warms up and is thrown away
                for subject in subjects if number % 2 else subjects[::-1]:
                    measured = measure(client, subject, case)
                    print(f"{case}: round {number}, {subject.name}: "
                          + ", ".join(f"{what} {value:.2f}" for what, value in measured.items()), flush=True)
                    if number:
                        results[case][subject.name].append(measured)
        if "large" in o.only:
            client.source(LARGE_MIB * MIB)
            memory = {subject.name: [] for subject in subjects}
            for number in range(min(o.rounds, 3)):
                for subject in subjects:
                    measured = large(client, subject)
                    print(f"one large file: round {number + 1}, {subject.name}: "
                          + ", ".join(f"{what} {value:.1f}" for what, value in measured.items()), flush=True)
                    memory[subject.name].append(measured)
        print("\n" + tables(results, limits, memory, o.rounds))
    finally:
        for subject in subjects:
            subject.server.stop()


def main():
    o = options()
    if o.check:
        return
    if not shutil.which("curl"):
        raise Failed("no curl on this system")
    if o.out:
        os.makedirs(o.out, exist_ok=True)
    folder = tempfile.mkdtemp(prefix="vski-files.", dir=o.out)
    try:
        run(o, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        main()
    except Failed as error:
        sys.exit(f"files.py: {error}")
    except KeyboardInterrupt:
        sys.exit(130)
