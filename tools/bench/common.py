"""Shared by all parts of the benchmark: the rows, a small HTTP client, readers of /proc.
Standard library only."""
import http.client
import json
import os
import socket
import urllib.parse

CONTENT = ("The quick brown fox jumps over the lazy dog and runs on. " * 6)[:300]


class Failed(Exception):
    """Ends the run with one line."""


def row(i):
    """Row i of the data set: views is spread evenly over 0..999, so that views>500
    matches 49.9 % of the rows."""
    return {
        "title": f"Post number {i:05d}",
        "content": CONTENT[:294] + f"{i:06d}",
        "published": i % 2 == 0,
        "views": (i * 7919) % 1000,
    }


class Http:
    """One keep-alive connection."""

    def __init__(self, base, token=None):
        u = urllib.parse.urlsplit(base)
        self.host, self.port = u.hostname, u.port
        self.headers = {"Authorization": token} if token else {}
        self.connection = None

    def request(self, method, path, body=None, headers=None):
        """Status and body. Tried once more on a new connection, for the server may have
        closed the old one."""
        h = {**self.headers, **(headers or {})}
        if body is not None and not isinstance(body, (bytes, str)):
            body = json.dumps(body)
            h.setdefault("Content-Type", "application/json")
        for last in (False, True):
            if self.connection is None:
                self.connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
                self.connection.connect()
                self.connection.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            try:
                self.connection.request(method, path, body, h)
                r = self.connection.getresponse()
                return r.status, r.read()
            except (http.client.HTTPException, OSError):
                self.connection.close()
                self.connection = None
                if last:
                    raise

    def json(self, method, path, body=None, headers=None):
        status, data = self.request(method, path, body, headers)
        if status not in (200, 201, 204):
            raise Failed(f"{method} {path} -> {status} {data[:500].decode(errors='replace')}")
        return json.loads(data) if data else None


def multipart(fields, files):
    """Body and headers of a form."""
    b = "----bench7MA4YWxkTrZu0gW"
    out = b""
    for k, v in fields.items():
        out += f'--{b}\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n'.encode()
    for k, (name, data) in files.items():
        out += (f'--{b}\r\nContent-Disposition: form-data; name="{k}"; filename="{name}"\r\n'
                "Content-Type: application/octet-stream\r\n\r\n").encode() + data + b"\r\n"
    return out + f"--{b}--\r\n".encode(), {"Content-Type": f"multipart/form-data; boundary={b}"}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def proc_memory(pid):
    """Resident memory now and at its peak, in MB (10^6 bytes)."""
    r = {}
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as f:
        for line in f:
            k, _, v = line.partition(":")
            if k in ("VmRSS", "VmHWM"):
                r[k] = int(v.split()[0]) * 1024 / 1e6
    return {"now": r["VmRSS"], "peak": r["VmHWM"]}


def proc_cpu(pid):
    """CPU seconds used so far by the process (user + system, all threads)."""
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as f:
        fields = f.read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def machine_cpu():
    """CPU seconds that the whole machine was busy so far, with what the host took away."""
    with open("/proc/stat", encoding="ascii") as f:
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, f.readline().split()[1:9])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
