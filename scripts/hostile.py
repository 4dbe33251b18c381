#!/usr/bin/env python3
"""Attacks a server over many connections for as long as you like, and times an ordinary client meanwhile.

The attackers come from addresses of their own (127.0.1.1 and so on), most of them without credentials. They run at once:

  filters        filters with many comparisons over 20,000 records, again and again
  patterns       a search for a long string in a record of 4 MB; a field with a costly pattern, filled with long strings
  topics         event streams that are asked for hundreds of thousands of topics
  forms          multipart forms with values of unlimited length
  uploads        large files for a collection that has no file field, and for one that has
  json           bodies of 4 MB with hundreds of thousands of names; long lists that are answered compressed
  subscriptions  sockets with many costly filters, and large changes that all of them have to evaluate
  deaf           sockets that subscribe and do not read
  log-ins        three accounts that sign in with the right password without a pause

The ordinary client, from 127.0.0.1, reads and lists records, writes one, signs in and receives its own write over a
WebSocket. It passes if 99 of 100 of its requests take less than a second, none is answered with 5xx, and all events arrive. The server
passes if its memory stays below 300 MB, nothing in its log is an error, and it leaves the reserve of its disk free.

As root, the data is on a RAM disk of 1 GiB, which uploads try to fill; otherwise on the disk of the temporary folder.
Standard library only. Exit code 1: a condition above failed; the folder with data and log is kept."""
import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "common"))
sys.path.insert(0, os.path.join(HERE, "hostile"))

from client import Quiet  # noqa: E402
from server import Failed, Server  # noqa: E402
import setup  # noqa: E402

MEMORY_MB_MAX = 300
P99_SECONDS_MAX = 1.0
DISK_MB, RESERVE_MB = 1024, 256
# Attackers get the processor after the client and the server, so that the script does not measure itself.
NICENESS = 10


class Watch(threading.Thread):
    """Looks at the memory of the server and the room on its disk, four times a second."""

    def __init__(self, server, folder):
        super().__init__(daemon=True)
        self.server, self.folder = server, folder
        self.memory_mb, self.free_mb, self.is_over = 0, 1 << 40, threading.Event()

    def run(self):
        while not self.is_over.wait(0.25):
            try:
                with open(f"/proc/{self.server.process.pid}/statm", encoding="ascii") as f:
                    pages = int(f.read().split()[1])
            except OSError:
                return
            self.memory_mb = max(self.memory_mb, pages * os.sysconf("SC_PAGE_SIZE") / 1e6)
            disk = os.statvfs(self.folder)
            self.free_mb = min(self.free_mb, disk.f_bavail * disk.f_frsize / (1 << 20))


def mount(folder):
    """A small disk for the data; false if that is not allowed here."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "vski-hostile", folder]
    return os.geteuid() == 0 and subprocess.run(command, stderr=subprocess.DEVNULL, check=False).returncode == 0


def attack(port, names, seconds):
    """Starts a process for each attack."""
    command = [sys.executable, os.path.join(HERE, "hostile", "attacks.py"), str(port)]
    return [subprocess.Popen([*command, name, str(at), str(seconds)], preexec_fn=lambda: os.nice(NICENESS))
            for at, name in enumerate(names)]


def judge(options, server, watch, client, is_mounted):
    """A condition that failed."""
    wrong = []
    for name, times in sorted(client.times.items()):
        times.sort()
        p50, p99 = times[len(times) // 2], times[min(len(times) - 1, len(times) * 99 // 100)]
        print(f"  {name:7} {len(times):6} times  p50 {p50 * 1000:7.1f} ms  p99 {p99 * 1000:7.1f} ms  longest {times[-1] * 1000:7.1f} ms")
        if p99 > options.p99:
            wrong.append(f"{name}: p99 is {p99:.2f} s, more than {options.p99} s")
    wrong += [f"the client's {it}" for it in client.wrong[:10]]
    print(f"  memory at most {watch.memory_mb:.0f} MB, disk at least {watch.free_mb:.0f} MB free")
    if watch.memory_mb > options.memory:
        wrong.append(f"memory was {watch.memory_mb:.0f} MB, more than {options.memory} MB")
    if is_mounted and watch.free_mb < RESERVE_MB - 64:
        wrong.append(f"only {watch.free_mb:.0f} MB of the disk were free")
    if server.process.poll() is not None:
        wrong.append(f"the server ended with code {server.process.returncode}: {server.last_word()}")
    return wrong + server.wrong()[:5]


def run(options, folder, is_mounted):
    server = Server(options.binary, folder, settings={"JWT_SECRET": "hostile-" * 5})
    attackers, watch = [], None
    try:
        server.start()
        token = server.init_admin()
        setup.make(server, token)
        client = Quiet(server.port, token)
        client.warm_up()
        watch = Watch(server, folder)
        watch.start()
        attackers = attack(server.port, options.attacks, options.seconds)
        client.run(options.seconds)
        for attacker in attackers:
            attacker.wait(30)
        watch.is_over.set()
        return judge(options, server, watch, client, is_mounted)
    finally:
        for attacker in attackers:
            if attacker.poll() is None:
                attacker.send_signal(signal.SIGKILL)
                attacker.wait()
        server.end()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/release/vski", help="the server to attack (%(default)s)")
    parser.add_argument("--seconds", type=int, default=300, help="how long (%(default)s)")
    parser.add_argument("--attacks", type=lambda it: it.split(","), default=setup.ATTACKS, help="only these, with commas between")
    parser.add_argument("--p99", type=float, default=P99_SECONDS_MAX, help="seconds that the client accepts (%(default)s)")
    parser.add_argument("--memory", type=float, default=MEMORY_MB_MAX, help="MB that the server may use (%(default)s)")
    options = parser.parse_args()
    unknown = set(options.attacks) - set(setup.ATTACKS)
    if unknown:
        parser.error(f"there is no attack {', '.join(sorted(unknown))}; there are {', '.join(setup.ATTACKS)}")
    folder = tempfile.mkdtemp(prefix="vski-hostile-")
    is_mounted = mount(folder)
    wrong = []
    try:
        wrong = run(options, folder, is_mounted)
    except Failed as failure:
        wrong = [str(failure)]
    for line in wrong:
        print(f"WRONG: {line}")
    if wrong:
        kept = folder if not is_mounted else shutil.copytree(folder, tempfile.mkdtemp(prefix="vski-hostile-kept-"), dirs_exist_ok=True,
                                                             ignore=shutil.ignore_patterns("*.part", "storage"))
        print(f"data and log: {kept}")
    if is_mounted:
        subprocess.run(["umount", folder], check=False)
    if not wrong or is_mounted:
        shutil.rmtree(folder, ignore_errors=True)
    print("hostile.py: " + ("FAILED" if wrong else "passed"))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
