"""The attacks, one process each: `attacks.py PORT NAME NUMBER SECONDS`."""
import http.client
import json
import os
import socket
import sys
import threading
import time
import urllib.parse

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "common"))

import setup  # noqa: E402
import ws  # noqa: E402

MIB = 1 << 20
# A refused attacker comes back after this, as a greedy client would.
PAUSE = 0.05
NETWORKS = 4


class Attack:
    """Where and for how long; each thread has one of four addresses of this attack."""

    def __init__(self, port, number, seconds):
        self.port, self.number, self.end = port, number, time.monotonic() + seconds

    def goes_on(self):
        return time.monotonic() < self.end

    def address(self, thread):
        return f"127.0.{self.number + 1}.{thread % NETWORKS + 1}"

    def ask(self, thread, method, path, body=None, headers=None):
        """Sends a request on a connection of its own; the status, or none if the server hung up."""
        source = (self.address(thread), 0)
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30, source_address=source)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json", **(headers or {})})
            answer = connection.getresponse()
            answer.read()
            return answer.status
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    def repeat(self, threads, body):
        """Calls `body(thread)` again and again in each of so many threads."""
        def loop(thread):
            while self.goes_on():
                try:
                    body(thread)
                except (OSError, ws.Closed, ws.Refused):
                    pass
                time.sleep(PAUSE)
        for thread in range(threads):
            threading.Thread(target=loop, args=(thread,), daemon=True).start()
        while self.goes_on():
            time.sleep(0.1)

    def stall(self, thread, data, path, content_type, length=60 * MIB):
        """Begins a request with `data` as the first part of its body, and then says nothing."""
        connection = socket.create_connection(("127.0.0.1", self.port), 30, (self.address(thread), 0))
        with connection:
            head = (f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {content_type}\r\n"
                    f"Content-Length: {length}\r\n\r\n")
            connection.sendall(head.encode() + data)
            connection.settimeout(max(0.1, min(20, self.end - time.monotonic())))
            connection.recv(1000)


def part(name, file_name=None):
    file = f'; filename="{file_name}"' if file_name else ""
    return f'--b\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode()


def records(collection, query=""):
    return f"/api/collections/{collection}/records{query}"


def filters(attack):
    text = " || ".join(f"t ~ 'zz{at}'" for at in range(198))
    path = records("pub", "?perPage=1&filter=" + urllib.parse.quote(text))
    attack.repeat(16, lambda thread: attack.ask(thread, "GET", path))


def patterns(attack):
    query = urllib.parse.quote("t ~ '" + "a" * 8000 + "b'")
    search = records("long", "?perPage=1&filter=" + query)
    costly = json.dumps({"t": "a" * MIB})

    def one(thread):
        if thread % 2:
            attack.ask(thread, "GET", search)
        else:
            attack.ask(thread, "POST", records("patterns"), costly)
    attack.repeat(8, one)


def topics(attack):
    body = json.dumps({"clientId": "x", "subscriptions": ["d/*"] * 600_000}, separators=(",", ":"))
    attack.repeat(8, lambda thread: attack.ask(thread, "POST", "/api/realtime", body))


def forms(attack):
    stalled = part("t") + b"x" * 4_100_000
    many = b"".join(part("@jsonPayload") + b'{"f%d": 1}\r\n' % at for at in range(40_000)) + b"--b--\r\n"

    def one(thread):
        if thread % 4:
            attack.stall(thread, stalled, records("pub"), "multipart/form-data; boundary=b")
        else:
            attack.ask(thread, "POST", records("pub"), many, {"Content-Type": "multipart/form-data; boundary=b"})
    attack.repeat(60, one)


def uploads(attack):
    def one(thread):
        name, collection = ("doc", "forms") if thread % 2 else ("nothing", "pub")
        data = part(name, "big.bin") + b"x" * (59 * MIB)
        attack.stall(thread, data, records(collection), "multipart/form-data; boundary=b")
    attack.repeat(16, one)


def large_json(attack):
    names = json.dumps({f"f{at}": 1 for at in range(340_000)}, separators=(",", ":"))[:4 * MIB - 1]
    names = names[:names.rindex(",")] + "}"
    lists = records("long", "?perPage=500")

    def one(thread):
        if thread % 3:
            attack.ask(thread, "GET", lists, headers={"Accept-Encoding": "gzip"})
        else:
            attack.ask(thread, "POST", records("pub"), names)
    attack.repeat(40, one)


def subscribe(attack, thread, filter_of, count):
    """A socket with subscriptions to the loud collection."""
    link = ws.Socket(attack.port, "/api/realtime", {}, source=(attack.address(thread), 0))
    for at in range(count):
        frame = {"t": "subscribe", "ref": at, "sub": f"s{thread}-{at}", "collection": "loud", "filter": filter_of(at)}
        link.send(json.dumps(frame))
    return link


def subscriptions(attack):
    def filter_of(at):
        return " || ".join(f"t ~ 'zz{at}x{comparison}'" for comparison in range(195))

    def one(thread):
        if thread == 0:
            attack.ask(thread, "POST", records("loud"), json.dumps({"t": "x" * 100_000}))
            return time.sleep(1)
        link = subscribe(attack, thread, filter_of, 100)
        while attack.goes_on():
            link.read(1)
    attack.repeat(11, one)


def deaf(attack):
    def one(thread):
        if thread == 0:
            attack.ask(thread, "POST", records("loud"), json.dumps({"t": "y" * 60_000}))
            return time.sleep(0.5)
        link = subscribe(attack, thread, lambda at: "", 1)
        link.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        while attack.goes_on():
            time.sleep(1)
    attack.repeat(300, one)


def log_ins(attack):
    def one(thread):
        body = json.dumps({"email": setup.GUESTS[thread % 3], "password": setup.PASSWORD})
        attack.ask(thread, "POST", "/api/auth/login", body)
    attack.repeat(30, one)


RUN = dict(zip(setup.ATTACKS, [filters, patterns, topics, forms, uploads, large_json, subscriptions, deaf, log_ins]))

if __name__ == "__main__":
    RUN[sys.argv[2]](Attack(int(sys.argv[1]), int(sys.argv[3]), float(sys.argv[4])))
    # Threads that still wait for an answer are not waited for.
    os._exit(0)
