"""The clients of the workflow benchmark, each a process of its own: a worker, a starter of runs, and thousands of idle
workers. They are lean on purpose: the server shares the machine with them.
Standard library only."""
import base64
import errno
import json
import os
import random
import select
import socket
import struct
import time

PATH = "/api/workflow/ws"


class Socket:
    """A WebSocket connection of a worker. Frames go out masked with zeros, which costs nothing."""

    def __init__(self, port, hello):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = bytearray()
        self.socket.sendall(handshake(port))
        while b"\r\n\r\n" not in self.buffer:
            self.fill()
        head, _, rest = bytes(self.buffer).partition(b"\r\n\r\n")
        if b" 101 " not in head:
            raise OSError(f"no WebSocket: {head[:100]!r}")
        self.buffer = bytearray(rest)
        self.send([json.dumps(hello)])
        self.welcome = next(self.frames())

    def fill(self):
        data = self.socket.recv(1 << 18)
        if not data:
            raise OSError("the server closed the connection")
        self.buffer += data

    def send(self, texts):
        self.socket.sendall(b"".join(map(framed, texts)))

    def arrived(self):
        """The frames that are there, without waiting."""
        texts, pings, self.buffer = parse(self.buffer)
        for ping in pings:
            self.socket.sendall(pong(ping))
        return map(json.loads, texts)

    def frames(self):
        while True:
            yield from self.arrived()
            self.fill()


def hello(worker, credit, token, workflow="bench"):
    return {"t": "hello", "proto": [1], "worker": worker, "instance": f"{worker}-{os.getpid()}", "token": token,
            "workflows": [{"name": workflow, "version": "1"}], "credit": credit}


def handshake(port):
    key = base64.b64encode(os.urandom(16)).decode()
    return (f"GET {PATH} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n"
            "Sec-WebSocket-Protocol: vski.workflow.v1\r\n\r\n").encode()


def framed(text, opcode=0x81):
    data = text.encode() if isinstance(text, str) else text
    if len(data) < 126:
        return struct.pack(">BBI", opcode, 0x80 | len(data), 0) + data
    if len(data) < 65536:
        return struct.pack(">BBHI", opcode, 0xFE, len(data), 0) + data
    return struct.pack(">BBQI", opcode, 0xFF, len(data), 0) + data


def pong(data):
    return framed(data, 0x8A)


def parse(buffer):
    """Texts and pings of whole messages at the start of a buffer, and the rest. A long message comes in pieces."""
    texts, pings, pieces, at, kept = [], [], [], 0, 0
    while len(buffer) - at >= 2:
        first, length, begin = buffer[at], buffer[at + 1], at + 2
        if length == 126:
            if len(buffer) < begin + 2:
                break
            length, begin = struct.unpack_from(">H", buffer, begin)[0], begin + 2
        elif length == 127:
            if len(buffer) < begin + 8:
                break
            length, begin = struct.unpack_from(">Q", buffer, begin)[0], begin + 8
        if len(buffer) < begin + length:
            break
        data = bytes(buffer[begin:begin + length])
        at = begin + length
        opcode = first & 15
        if opcode < 2:
            pieces.append(data)
            if first & 0x80:
                texts.append(b"".join(pieces))
                pieces = []
        elif opcode == 9:
            pings.append(data)
        elif opcode == 8:
            raise OSError(f"closed by the server: {data[2:].decode(errors='replace')}")
        if not pieces:
            kept = at
    return texts, pings, buffer[kept:]


def serve_runs(port, token, count, credit, is_pipelined, pipe):
    """Runs workflows of four steps until `count` of them have ended; sends when the last did, and how many
    reports were refused. Waiting for the answer to each step before the next, or with all of a run under way."""
    worker = Socket(port, hello("load", credit, token))
    pipe.send("ready")
    steps, ended, refused, awaits = 4, 0, 0, {}
    ok = '{"state":"ok","amount":42}'
    while ended < count:
        out = []
        for frame in worker.arrived():
            kind = frame["t"]
            if kind == "job":
                run, epoch = frame["job"], frame["epoch"]
                lease = f'"job":"{run}","epoch":{epoch}'
                out.append(f'{{"t":"ack",{lease}}}')
                if is_pipelined:
                    for step in range(steps):
                        out.append(f'{{"t":"step","ref":0,{lease},"key":"s{step}#0","ok":{ok}}}')
                    out.append(f'{{"t":"done","ref":1,{lease},"output":{ok}}}')
                    continue
                frame = {"t": "acks", "refs": [run]}
                awaits[run] = [0, lease]
            if kind in ("no", "error"):
                refused += 1
            elif frame["t"] in ("ok", "acks"):
                for ref in frame.get("refs") or [frame["ref"]]:
                    if is_pipelined:
                        ended += ref
                        continue
                    state = awaits[ref]
                    step, lease = state
                    state[0] += 1
                    if step < steps:
                        out.append(f'{{"t":"step","ref":"{ref}",{lease},"key":"s{step}#0","ok":{ok}}}')
                    elif step == steps:
                        out.append(f'{{"t":"done","ref":"{ref}",{lease},"output":{ok}}}')
                    else:
                        del awaits[ref]
                        ended += 1
        if out:
            worker.send(out)
        if ended < count:
            worker.fill()
    pipe.send((time.perf_counter(), refused))
    pipe.poll(None)  # stays, so that what it has used can be read


def start_runs(port, token, bodies, connections, pipe=None):
    """Starts a run for each body, with one request under way on each keep-alive connection; seconds that it
    took. With `pipe`, waits for a word and sends when it began and how long it took."""
    head = (f"POST /api/workflow/runs HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {token}\r\n"
            "Content-Type: application/json\r\nContent-Length: ")
    poll, sockets = select.epoll(), {}
    for _ in range(min(connections, len(bodies))):
        s = socket.create_connection(("127.0.0.1", port))
        s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        poll.register(s.fileno(), select.EPOLLIN)
        sockets[s.fileno()] = s
    if pipe:
        pipe.send("ready")
        pipe.recv()
    begun, todo, left = time.perf_counter(), iter(bodies), len(bodies)

    def ask(s):
        body = next(todo, None)
        if body is not None:
            s.sendall(f"{head}{len(body)}\r\n\r\n{body}".encode())

    for s in sockets.values():
        ask(s)
    while left:
        for number, _ in poll.poll():
            answer = sockets[number].recv(65536)  # short, and so in one piece
            if not answer.startswith(b"HTTP/1.1 20"):
                raise OSError(f"no run was started: {answer[:300]!r}")
            left -= 1
            ask(sockets[number])
    spent = time.perf_counter() - begun
    for s in sockets.values():
        s.close()
    poll.close()
    if pipe:
        pipe.send((begun, spent))
        pipe.poll(None)  # stays, so that what it has used can be read
    return spent


class Swarm:
    """Many workers that have nothing to do, in one process. They answer pings, and when their connection ends they do
    what the protocol says: wait as `going_away` asks, or for a random time of up to 0.5 s, doubling to 30 s."""

    def __init__(self, port, token, count):
        self.port, self.token = port, token
        self.poll = select.epoll()
        self.open, self.number_of, self.state, self.buffers = {}, {}, {}, {}
        self.failures, self.away = [0] * count, [None] * count
        self.due = {number: 0.0 for number in range(count)}
        self.welcomed = set()
        self.random = random.Random(7)

    def connect(self, number):
        s = socket.socket()
        s.setblocking(False)
        # So many connections to one address need several of one's own.
        s.bind((f"127.0.0.{2 + number % 50}", 0))
        code = s.connect_ex(("127.0.0.1", self.port))
        if code not in (0, errno.EINPROGRESS):
            s.close()
            return self.failed(number)
        file = s.fileno()
        self.open[file], self.number_of[file], self.state[file] = s, number, "connecting"
        self.buffers[file] = bytearray()
        self.poll.register(file, select.EPOLLOUT)

    def failed(self, number):
        pause = self.random.uniform(0, min(30, 0.5 * 2 ** self.failures[number]))
        if self.away[number] is not None:
            pause, self.away[number] = self.away[number], None
        self.failures[number] += 1
        self.due[number] = time.monotonic() + pause

    def end(self, file):
        self.poll.unregister(file)
        self.open.pop(file).close()
        self.buffers.pop(file)
        self.state.pop(file)
        number = self.number_of.pop(file)
        self.welcomed.discard(number)
        self.failed(number)

    def ready(self, file):
        number, s = self.number_of[file], self.open[file]
        if self.state[file] == "connecting":
            if s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                return self.end(file)
            s.send(handshake(self.port))
            self.poll.modify(file, select.EPOLLIN)
            self.state[file] = "handshake"
            return None
        data = s.recv(65536)
        if not data:
            return self.end(file)
        self.buffers[file] += data
        if self.state[file] == "handshake":
            head, end, rest = bytes(self.buffers[file]).partition(b"\r\n\r\n")
            if not end:
                return None
            if b" 101 " not in head:
                return self.end(file)
            self.state[file], self.buffers[file] = "open", bytearray(rest)
            s.send(framed(json.dumps(hello(f"idle-{number}", 10, self.token))))
        texts, pings, self.buffers[file] = parse(self.buffers[file])
        for ping in pings:
            s.send(pong(ping))
        for frame in map(json.loads, texts):
            if frame["t"] == "welcome":
                self.welcomed.add(number)
                self.failures[number] = 0
            elif frame["t"] == "going_away":
                self.away[number] = (frame["after_ms"] + self.random.random() * frame["jitter_ms"]) / 1000
        return None

    def turn(self):
        now = time.monotonic()
        # At most so many attempts at a time, so that the backlog of the listener is no part of the measurement.
        busy = sum(state != "open" for state in self.state.values()) if self.due else 0
        for number in [number for number, due in self.due.items() if due <= now][:max(0, 200 - busy)]:
            del self.due[number]
            self.connect(number)
        for file, _ in self.poll.poll(0.01 if self.due else 0.2, 512):
            try:
                self.ready(file)
            except OSError:
                self.end(file)


def swarm(port, token, count, pipe):
    """Says how many are connected whenever that has become all, or none any more."""
    workers = Swarm(port, token, count)
    was_full = False
    while not pipe.poll():
        workers.turn()
        is_full = len(workers.welcomed) == count
        if is_full != was_full:
            pipe.send((is_full, time.perf_counter()))
            was_full = is_full
