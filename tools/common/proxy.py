"""An unreliable TCP proxy: it stops forwarding for some seconds as if the other side had disappeared, then continues
or cuts the connection, also in the middle of a frame.

    proxy.py PORT TO-PORT SEED LOG [SECONDS]

SECONDS is the average time between faults of a connection (6)."""
import os
import random
import select
import socket
import sys
import time


class Pair:
    def __init__(self, client, server, rng, pause):
        self.ends, self.rng, self.pause = {client: server, server: client}, rng, pause
        self.plan()

    def plan(self):
        """The next fault of this connection, and its time."""
        self.at = time.monotonic() + self.rng.expovariate(1 / self.pause)
        self.what = self.rng.choice(["stall", "stall", "stall and cut", "cut", "cut in a frame", "one way"])
        self.until, self.deaf = 0, ()


def main():
    port, to, seed, log = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3], sys.argv[4]
    pause = float(sys.argv[5]) if len(sys.argv) > 5 else 6
    rng = random.Random(f"proxy {seed}")
    log = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    listener = socket.create_server(("127.0.0.1", port))
    pairs = {}

    def note(what):
        os.write(log, f'["F", {time.monotonic():.4f}, "proxy: {what}"]\n'.encode())

    def drop(pair):
        for end in pair.ends:
            pairs.pop(end, None)
            end.close()

    while True:
        now = time.monotonic()
        for pair in set(pairs.values()):
            if pair.until and now >= pair.until:
                if pair.what == "stall and cut":
                    drop(pair)
                else:
                    pair.plan()
            elif not pair.until and now >= pair.at and pair.what != "cut in a frame":
                note(pair.what)
                if pair.what == "cut":
                    drop(pair)
                    continue
                pair.until = now + rng.uniform(0.5, 8)
                pair.deaf = tuple(pair.ends) if pair.what != "one way" else (rng.choice(list(pair.ends)),)
        deaf = {end for pair in pairs.values() for end in pair.deaf}
        readable, _, _ = select.select([listener] + [end for end in pairs if end not in deaf], [], [], 0.05)
        for end in readable:
            if end is listener:
                client, _ = listener.accept()
                try:
                    server = socket.create_connection(("127.0.0.1", to), 2)
                except OSError:
                    client.close()
                    continue
                for one in (client, server):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    one.settimeout(2)
                pair = Pair(client, server, rng, pause)
                pairs[client] = pairs[server] = pair
                continue
            pair = pairs.get(end)
            if pair is None:
                continue
            try:
                data = end.recv(1 << 16)
                if data and pair.what == "cut in a frame" and now >= pair.at:
                    note(pair.what)
                    pair.ends[end].sendall(data[:rng.randrange(len(data))])
                    data = b""
                if data:
                    pair.ends[end].sendall(data)
            except OSError:
                data = b""
            if not data:
                drop(pair)


if __name__ == "__main__":
    main()
