"""Leaks and costs of logins: can the time of an answer tell an existing account from a missing one, and does
a flood of wrong passwords slow other requests?

  python3 tools/bench/logins.py VSKI [--rounds N] [--seconds N] [--tries N]

Starts VSKI on a directory of its own. Addresses of 127.0.0.0/8 stand for as many clients. Needs wrk;
standard library otherwise. The machine should have nothing else to do."""
import argparse
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

from common import Failed, Http, free_port

ACCOUNTS = 50
FLOOD_PER_SECOND = 10_000 / 60
CONNECTIONS = 16


def start(binary, folder):
    port = free_port()
    environment = {"DATA_DIR": f"{folder}/data", "PORT": str(port), "LOG": "error", "AUTH_COLLECTION": "users"}
    process = subprocess.Popen([binary, "serve"], env=environment, stdout=subprocess.PIPE, stderr=sys.stderr)
    if not process.stdout.readline():
        raise Failed("the server did not start")
    return process, port


def fill(port):
    http = Http(f"http://127.0.0.1:{port}")
    admin = {"email": "admin@example.com", "password": "password-1"}
    http.headers["Authorization"] = http.json("POST", "/api/admins/init", admin)["token"]
    http.json("POST", "/api/collections", {"name": "users", "type": "auth"})
    http.json("POST", "/api/collections", {
        "name": "posts", "listRule": "", "viewRule": "", "fields": [{"name": "title", "type": "text"}]})
    for at in range(ACCOUNTS):
        http.json("POST", "/api/collections/users/records",
                  {"email": f"user-{at}@example.com", "password": "password-1"})
    http.json("POST", "/api/collections/posts/records", {"id": "one", "title": "x" * 300})


class LogIns:
    """One connection from an address of its own."""

    def __init__(self, port, address):
        self.socket = socket.create_connection(("127.0.0.1", port), 30, (address, 0))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.answer = self.socket.makefile("rb")

    def attempt(self, account):
        """Status and seconds of a log-in with a wrong password; without an account, of a request
        that costs nothing."""
        if account is None:
            return self.send(b"GET /api/health HTTP/1.1\r\nHost: x\r\n\r\n")
        body = f'{{"identity":"{account}@example.com","password":"wrong-{time.time_ns()}"}}'.encode()
        head = (f"POST /api/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                f"Content-Length: {len(body)}\r\n\r\n").encode()
        return self.send(head + body)

    def send(self, request):
        begun = time.perf_counter()
        self.socket.sendall(request)
        status, length = int(self.answer.readline().split()[1]), 0
        while (line := self.answer.readline()) != b"\r\n":
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        self.answer.read(length)
        return status, time.perf_counter() - begun

    def close(self):
        self.answer.close()
        self.socket.close()


def address(number):
    return f"127.{1 + number // 62500 % 250}.{1 + number // 250 % 250}.{1 + number % 250}"


def compare(port, tries):
    """Times of log-ins on accounts that exist and on others, in turns."""
    times = {"known": [], "unknown": []}
    for at in range(tries):
        pair = [("known", f"user-{at % ACCOUNTS}"), ("unknown", f"nobody-{at % ACCOUNTS}")]
        for kind, account in pair if at % 2 else reversed(pair):
            # Few failures of each account from each address, so that none is throttled.
            client = LogIns(port, address(at))
            status, seconds = client.attempt(account)
            client.close()
            if status == 401:
                times[kind].append(seconds * 1000)
            elif status != 429:
                raise Failed(f"{account}: {status}")
    return times


def told_apart(a, b):
    """The probability that a random one of `a` is longer than one of `b` (the statistic of Mann and Whitney):
    0.5 is a coin. With the error that chance alone explains, two sigma."""
    order = sorted([(x, 0) for x in a] + [(x, 1) for x in b])
    ranks = sum(rank for rank, (_, kind) in enumerate(order, 1) if kind == 0)
    n, m = len(a), len(b)
    return (ranks - n * (n + 1) / 2) / (n * m), 2 * ((n + m + 1) / (12 * n * m)) ** 0.5


class Flood(threading.Thread):
    """Sends wrong passwords at a steady rate, whatever becomes of them; for no accounts, as many
    requests that cost nothing, to see what the sender itself takes of the machine."""

    def __init__(self, port, accounts, addresses, connections=32):
        super().__init__()
        self.port, self.accounts, self.addresses, self.connections = port, accounts, addresses, connections
        self.done, self.statuses = threading.Event(), {}

    def run(self):
        begun, self.sent, self.lock = time.monotonic(), 0, threading.Lock()
        workers = [threading.Thread(target=self.work, args=(begun,)) for _ in range(self.connections)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()

    def work(self, begun):
        client, used = None, 0
        while not self.done.is_set():
            with self.lock:
                number, self.sent = self.sent, self.sent + 1
            wait = begun + number / FLOOD_PER_SECOND - time.monotonic()
            if wait > 0 and self.done.wait(wait):
                break
            if client is None or (self.addresses > 1 and used >= 8):
                if client:
                    client.close()
                client, used = LogIns(self.port, address(number % self.addresses)), 0
            used += 1
            account = f"user-{number % self.accounts}" if self.accounts else None
            status, _ = client.attempt(account)
            with self.lock:
                self.statuses[status] = self.statuses.get(status, 0) + 1
        if client:
            client.close()


def rate(port, seconds):
    """Requests per second for one record, and the 99th percentile in ms."""
    command = ["wrk", "-t1", f"-c{CONNECTIONS}", f"-d{seconds}s", "--latency",
               f"http://127.0.0.1:{port}/api/collections/posts/records/one"]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    p99, unit = re.search(r"99%\s+([\d.]+)(us|ms|s)", text).groups()
    return (float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1]),
            float(p99) * {"us": 0.001, "ms": 1, "s": 1000}[unit])


def slowdown(port, rounds, seconds, accounts, addresses):
    """Rates beside as many harmless requests and beside the flood, in turns."""
    quiet, flooded, statuses = [], [], {}
    for at in range(rounds):
        for rates, of in [(quiet, 0), (flooded, accounts)][:: 1 if at % 2 else -1]:
            flood = Flood(port, of, addresses)
            flood.start()
            time.sleep(0.5)
            rates.append(rate(port, seconds))
            flood.done.set()
            flood.join()
            for status, count in flood.statuses.items() if of else ():
                statuses[status] = statuses.get(status, 0) + count
    ratios = [b[0] / a[0] for a, b in zip(quiet, flooded)]
    return ratios, quiet, flooded, statuses


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("binary")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--seconds", type=int, default=6)
    options.add_argument("--tries", type=int, default=400)
    o = options.parse_args()
    folder = tempfile.mkdtemp(prefix="vski-logins.")
    process, port = start(os.path.abspath(o.binary), folder)
    try:
        fill(port)
        compare(port, 10)
        times = compare(port, o.tries)
        print(f"log-ins with a wrong password, {o.tries} of each kind in turns, ms:")
        for kind, list_ in times.items():
            q = statistics.quantiles(list_, n=20)
            print(f"  {kind:8} n={len(list_)} p5={q[0]:.2f} p25={q[4]:.2f} median={q[9]:.2f} "
                  f"p75={q[14]:.2f} p95={q[18]:.2f}")
        chance, error = told_apart(times["known"], times["unknown"])
        print(f"  a known one takes longer in {chance:.3f} of all pairs; a coin: 0.500 +- {error:.3f}")
        for name, accounts, addresses in (("one address", 1, 1), ("2,000 addresses, 50 accounts", ACCOUNTS, 2000),
                                          ("2,000 addresses, a million accounts", 1_000_000, 2000)):
            ratios, quiet, flooded, statuses = slowdown(port, o.rounds, o.seconds, accounts, addresses)
            print(f"10,000 wrong passwords a minute from {name}; get one record, {CONNECTIONS} connections:")
            print("  req/s beside as many health checks " + " ".join(f"{r:.0f}" for r, _ in quiet)
                  + ", beside the flood " + " ".join(f"{r:.0f}" for r, _ in flooded))
            print(f"  ratio median {statistics.median(ratios):.3f} (" + " ".join(f"{r:.3f}" for r in ratios)
                  + f"), p99 {statistics.median(p for _, p in quiet):.2f} -> "
                  f"{statistics.median(p for _, p in flooded):.2f} ms; answers {dict(sorted(statuses.items()))}")
    finally:
        process.terminate()
        process.wait(15)
        shutil.rmtree(folder)


if __name__ == "__main__":
    try:
        main()
    except Failed as error:
        sys.exit(f"logins.py: {error}")
