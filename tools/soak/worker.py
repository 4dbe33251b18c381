"""A worker of the workflow `soak`: two steps, a sleep, and a third one. It keeps nothing when its connection breaks:
the server hands its runs out again, to any worker.

    VSKI_TOKEN=... worker.py NAME PORT"""
import json
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "scripts", "common"))

import ws  # noqa: E402

SLEEP_MS = 700


def next_report(journal):
    """The next action, given the journal."""
    done = {entry["key"] for entry in journal if entry["kind"] in ("step", "wake")}
    for key in ("reserve#0", "charge#0", "sleep#0", "ship#0"):
        if key not in done:
            if key == "sleep#0":
                seen = max(entry["seq"] for entry in journal)
                return key, {"t": "park", "seen": seen, "on": [{"sleep": key, "ms": SLEEP_MS}]}
            return key, {"t": "step", "key": key, "ok": {"did": key}}
    return "", {"t": "done", "output": "shipped"}


def serve(name, port, token):
    """Serves one connection until it ends."""
    socket = ws.Socket(port, "/api/workflow/ws", {"Authorization": token, "Sec-WebSocket-Protocol": "vski.workflow.v1"})
    socket.send(json.dumps({"t": "hello", "proto": [1], "worker": name, "instance": f"{name}-{os.getpid()}-{time.time_ns()}",
                            "workflows": [{"name": "soak", "version": "1"}], "credit": 20}))
    asked, jobs, number, beat_at = {}, {}, 0, time.monotonic()

    def report(run):
        nonlocal number
        number += 1
        epoch, journal, _ = jobs[run]
        key, frame = next_report(journal)
        asked[number] = run, key
        socket.send(json.dumps({**frame, "ref": number, "job": run, "epoch": epoch}))

    while True:
        for text in socket.read(1):
            frame = json.loads(text)
            if frame["t"] == "job":
                run = frame["job"]
                jobs[run] = frame["epoch"], frame["journal"], frame["seq"]
                socket.send(json.dumps({"t": "ack", "job": run, "epoch": frame["epoch"]}))
                report(run)
            elif frame["t"] in ("ok", "acks", "wake", "no"):
                for ref in frame.get("refs") or [frame.get("ref")]:
                    run, key = asked.pop(ref, (None, None))
                    if run not in jobs:
                        continue
                    epoch, journal, seq = jobs[run]
                    if frame["t"] == "wake":
                        jobs[run] = epoch, journal + frame["results"], frame["seq"]
                        report(run)
                    elif frame["t"] != "no" and key and key != "sleep#0":
                        # The number is a guess that is too low at most: then the park is answered with news.
                        jobs[run] = epoch, journal + [{"kind": "step", "key": key, "seq": seq}], seq
                        report(run)
                    else:
                        del jobs[run]
            elif frame["t"] in ("revoke", "cancel"):
                jobs.pop(frame["job"], None)
            elif frame["t"] == "probe":
                socket.send(json.dumps({"t": "hb", "n": frame["n"], "jobs": [[run, job[0]] for run, job in jobs.items()]}))
        if jobs and time.monotonic() > beat_at:
            beat_at = time.monotonic() + 2
            socket.send(json.dumps({"t": "hb", "jobs": [[run, job[0]] for run, job in jobs.items()]}))


def main():
    (name, port), token = sys.argv[1:], os.environ["VSKI_TOKEN"]
    while True:
        try:
            serve(name, int(port), token)
        except (OSError, ws.Closed, ws.Refused):
            time.sleep(0.5)


if __name__ == "__main__":
    main()
