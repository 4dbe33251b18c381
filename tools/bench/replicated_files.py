"""The files of records on a replica, beside rsync of the same files over loopback. A part of
replication.py."""
import json
import os
import secrets
import shutil
import subprocess
import threading
import time

from common import Failed
from servers import RECORDS

SMALL_RATIO, LARGE_RATIO = 0.5, 0.8
SMALL_BYTES = 4096
UPLOADS = 8
BOUNDARY = "x" * 16
HEAD = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="doc"; filename="a.bin"\r\n\r\n'.encode()
TAIL = f"\r\n--{BOUNDARY}--\r\n".encode()
HEADERS = {"Content-Type": f"multipart/form-data; boundary={BOUNDARY}"}


class Form:
    """The body of an upload of so many random bytes, as a file that http.client reads."""

    def __init__(self, size):
        self.left, self.parts = size, [HEAD]
        self.length = len(HEAD) + size + len(TAIL)
        self.tail = TAIL

    def read(self, _size=-1):
        if self.parts:
            return self.parts.pop()
        if self.left:
            piece = secrets.token_bytes(min(self.left, 1 << 20))
            self.left -= len(piece)
            return piece
        tail, self.tail = self.tail, b""
        return tail


def upload(master, size, count):
    http = master.http()
    http.json("GET", "/api/health")  # the connection is there
    for _ in range(count):
        form = Form(size)
        headers = {**HEADERS, "Content-Length": str(form.length)}
        http.connection.request("POST", RECORDS.format("docs"), form, headers)
        answer = http.connection.getresponse()
        data = answer.read()
        if answer.status != 200:
            raise Failed(f"upload -> {answer.status} {data[:200].decode(errors='replace')}")


def upload_all(master, size, count):
    each, threads, failed = max(1, count // UPLOADS), [], []

    def run():
        try:
            upload(master, size, each)
        except (Failed, OSError) as e:
            failed.append(e)

    for _ in range(min(UPLOADS, count)):
        threads.append(threading.Thread(target=run))
        threads[-1].start()
    for thread in threads:
        thread.join()
    if failed:
        raise failed[0]
    return each * len(threads)


def replicate(cluster, count):
    """Seconds from the start of a new replica until it has all files, durably."""
    replica = cluster.add()
    os.sync()
    begun = time.perf_counter()
    cluster.run(replica)
    while True:
        status, data = replica.http().request("GET", "/api/replica/status")
        if status == 200:
            files = json.loads(data)["replica"]["files"]
            if files["state"] == "current" and files["fetched"] >= count:
                return time.perf_counter() - begun, replica
        if time.perf_counter() - begun > 600 or replica.process.poll() is not None:
            raise Failed(f"the files did not arrive: {replica.folder}/log")
        time.sleep(0.01)


def rsync(cluster, name):
    """Seconds that rsync takes over loopback, and with the sync after it."""
    folder = os.path.join(cluster.folder, name)
    os.makedirs(folder)
    config = os.path.join(folder, "conf")
    port = 20000 + os.getpid() % 20000
    with open(config, "w", encoding="utf-8") as f:
        f.write(f"port = {port}\naddress = 127.0.0.1\nuse chroot = no\nuid = {os.getuid()}\ngid = {os.getgid()}\n"
                f"[storage]\npath = {cluster.master.data}/storage\n")
    daemon = subprocess.Popen(["rsync", "--daemon", "--no-detach", f"--config={config}"])
    try:
        time.sleep(0.5)
        os.sync()
        begun = time.perf_counter()
        subprocess.run(["rsync", "-a", "--exclude=/.*", f"rsync://127.0.0.1:{port}/storage/", f"{folder}/to/"], check=True)
        plain = time.perf_counter() - begun
        os.sync()
        return plain, time.perf_counter() - begun
    finally:
        daemon.terminate()
        daemon.wait()
        shutil.rmtree(folder, ignore_errors=True)


def files(b):
    if not shutil.which("rsync"):
        raise Failed("no rsync on this system: apt-get install rsync, or leave out files (--only)")
    many, large = (1000, 256 << 20) if b.o.quick else (10_000, 2 << 30)
    for label, size, count, goal in (("small", SMALL_BYTES, many, SMALL_RATIO), ("large", large, 1, LARGE_RATIO)):
        cluster = b.cluster("files-" + label)
        cluster.master.settings["MAX_BODY_MB"] = "4096"
        cluster.start()
        cluster.master.http().json("POST", "/api/collections", {
            "name": "docs", "createRule": "", "fields": [{"name": "doc", "type": "file", "maxSize": 4 << 30}]})
        count = upload_all(cluster.master, size, count)
        what = f"{count:,} of {size // 1024} KiB" if count > 1 else f"one of {size >> 20:,} MiB"
        for attempt in ("first", "second"):
            cluster.master.mark_cpu()
            plain, synced = rsync(cluster, "rsync-" + attempt)
            seconds, replica = replicate(cluster, count)
            b.add(f"files: {what}: {attempt} replica, until all is on its disk", f"{seconds:.1f} s, {count * size / seconds / (1 << 20):.0f} MiB/s")
            b.add(f"files: {what}: rsync -a, and with sync", f"{plain:.1f} s, {synced:.1f} s")
            b.add(f"files: {what}: of what rsync -a reaches (with sync)", f"{plain / seconds:.0%} ({synced / seconds:.0%})",
                  f">= {goal:.0%}", plain / seconds >= goal)
            b.usage(f"files: {what}", [cluster.master, replica])
        b.end(cluster)
