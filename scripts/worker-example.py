#!/usr/bin/env python3
"""A complete worker for the workflows of vski: copy it, and put workflows of your own at the bottom.

  pip install websockets
  VSKI_URL=http://localhost:3000 VSKI_TOKEN=... WORKER=orders-1 python3 worker-example.py

docs/workflows.md describes the protocol. The code of a workflow runs from its beginning each time it continues, and
steps that are in the journal are skipped. So outside of steps the code must be deterministic: no clock, no random
numbers, no I/O. It does one thing at a time and awaits only `ctx`. SIGTERM lets runs finish for 10 s. Python 3.9 or newer.
"""
import asyncio, concurrent.futures, inspect, itertools, json, os, random, signal, sys, time, urllib.request, uuid
try:
    from websockets.asyncio.client import connect
    from websockets.exceptions import ConnectionClosed, InvalidHandshake
except ImportError:
    sys.exit("worker-example.py needs the package websockets, 13 or newer: pip install websockets")

URL, NAME = os.environ.get("VSKI_URL", "http://localhost:3000").rstrip("/"), os.environ.get("WORKER", "example")
CREDIT, HOLD_S = 20, 2  # runs at a time; a step to be tried again sooner than that keeps its run here
KINDS = {"step": "step", "retry": "step", "begun": "step", "sleep": "sleep", "hook": "hook", "child": "child"}

class Fatal(Exception): kind = "fatal"  # for steps: do not try again. Any error may have a `kind`, and `after_ms`
class Failed(Exception): __str__ = lambda self: self.args[0]  # a step, hook or child has; args[1] is what is recorded
class Stop(BaseException): """Ends the code of a run; args[0] is the frame to report, or None."""

def stop(kind, message): return Stop({"t": "fail", "err": {"kind": kind, "message": message}})
def token(): return os.environ.get("VSKI_TOKEN", "")  # if yours expire, read the latest here
def text_of(value): return json.dumps(value, allow_nan=False, ensure_ascii=False)
def plain(value): return json.loads(text_of(value).encode())  # as a replay will see it
def error_of(error): return {"kind": getattr(error, "kind", type(error).__name__), "message": str(error),
                             "retry_after_ms": getattr(error, "after_ms", None)}
def http(path, body=None):  # in a thread, so that the socket goes on meanwhile
    request = urllib.request.Request(URL + path, body, {"Authorization": "Bearer " + token()})
    return asyncio.to_thread(lambda: json.load(urllib.request.urlopen(request, timeout=30)))

class Run:
    """A run under one epoch, and the `ctx` of its code."""
    def __init__(self, worker, job):
        self.worker, self.job, self.lease = worker, job, {"job": job["job"], "epoch": job["epoch"]}
        self.path, self.task = f"/api/workflow/runs/{job['job']}/", None
        # The journal: keys in order with their kinds, how far the code has come, and what is known of them.
        self.kinds, self.order, self.place, self.counts = {}, [], 0, {}
        self.done, self.retries, self.payloads, self.children = {}, {}, {}, set()
    async def step(self, name, fn, retries=3):  # fn is async, or plain and runs in a thread
        key = self.claim("step", name)
        while key not in self.done:
            failures, due = self.retries.get(key, (0, 0))
            while (pause := due - time.time()) > 0:
                await (asyncio.sleep(pause) if pause < HOLD_S else self.park({"retry": key}))
            report = {"t": "step", "key": key, "attempt": failures + 1, "retries": retries}
            try:
                value = await asyncio.to_thread(fn)
                report["ok"] = plain(await value if inspect.isawaitable(value) else value)
            except Exception as error: report["err"] = error_of(error)
            answer = await self.worker.ask(self, report)
            if "retry_ms" not in answer: self.done[key] = report
            else: self.retries[key] = failures + 1, time.time() + answer["retry_ms"] / 1000
        return self.result(key)
    async def sleep(self, ms):
        key = self.claim("sleep", "sleep")
        while key not in self.done: await self.park({"sleep": key, "ms": int(ms)})
    async def hook(self, name="hook"):  # `token` is for POST /api/workflow/hooks/{token}; `payload()` waits for the next
        key, numbers = self.claim("hook", name), itertools.count()
        if key not in self.done: self.done[key] = await self.call("hook_create", key)
        hook = lambda: None
        async def payload():
            number, payloads = next(numbers), self.payloads.setdefault(key, [])
            while len(payloads) <= number: await self.park({"hook": key})
            return payloads[number]["ok"]
        hook.token, hook.payload = self.result(key, "token"), payload
        return hook
    async def child(self, workflow, input=None):  # the output of a run within this one
        key = self.claim("child", workflow)
        if key not in self.children: await self.call("trigger", key, workflow=workflow, input=input)
        while key not in self.done: await self.park({"child": key})
        return self.result(key)
    def call(self, op, key, **fields): return self.worker.ask(self, {"t": "call", "op": op, "key": key, **fields})
    def result(self, key, field="ok"):
        if "err" in self.done[key]: raise Failed(f"{key}: {json.dumps(self.done[key]['err'])}", self.done[key]["err"])
        return self.done[key][field]
    def claim(self, kind, name):
        """The key of the next thing; the journal, if it goes so far, has the same at this place."""
        if asyncio.current_task() is not self.task: raise stop("fatal", "a workflow does one thing at a time")
        self.counts[name] = number = self.counts.get(name, -1) + 1
        key = f"{name}#{number}"
        if self.place == len(self.order): self.note(kind, key)
        if (was := self.order[self.place]) != key or self.kinds[key] != kind:
            raise stop("nondeterminism", f"the {kind} {key} was the {self.kinds[was]} {was}")
        self.place += 1
        return key
    def note(self, kind, key):
        if key not in self.kinds: self.order.append(key)
        self.kinds.setdefault(key, kind)
    async def read(self, entries, seq, more):  # in a wake what was done under this lease comes again
        for entry in entries:
            kind, key = entry["kind"], entry["key"]
            if kind in KINDS: self.note(KINDS[kind], key)
            if kind in ("step", "wake", "hook"): self.done.setdefault(key, entry)
            if kind == "retry": self.retries[key] = entry["attempt"], entry["at"] / 1000 - self.worker.ahead
            if kind == "payload": self.payloads.setdefault(key, []).append(entry)
            if kind == "child": self.children.add(key)
        self.seen = seq
        while more:
            page = await http(f"{self.path}journal?after={self.seen}")
            more = await self.read(page["journal"], page["seq"], False) or page["more"]
    async def park(self, condition):  # returns when there is news already
        answer = await self.worker.ask(self, {"t": "park", "seen": self.seen, "on": [condition]})
        if answer["t"] != "wake": raise Stop(None)  # the run waits, and comes again as another job
        await self.read(answer["results"], answer["seq"], answer.get("more"))
    async def drive(self, code):
        """The frame that ends the run here, or None."""
        try:
            await self.read(self.job["journal"], self.job["seq"], self.job.get("more"))
            input = await http(self.path + "input") if self.job.get("input_more") else self.job["input"]
        except OSError: return {"t": "nack", "delay_ms": 1000}
        try: end = {"t": "done", "output": plain(await code(self, input))}
        except Stop as error: return error.args[0]
        except Exception as error: end = {"t": "fail", "err": error_of(error)}
        if self.place == len(self.order): return end
        return stop("nondeterminism", f"the code ends before {self.order[self.place]}").args[0]

class Worker:
    def __init__(self, workflows):
        self.workflows, self.instance, self.refs = workflows, uuid.uuid4().hex, itertools.count(1)
        self.runs, self.unanswered = {}, {}  # (job, epoch): Run; ref: (Run, frame as text, future of the answer)
        self.socket = self.session = self.pause = None
    async def ask(self, run, frame):
        """Reports something; the answer, over as many connections as that takes."""
        ref, future = next(self.refs), asyncio.get_running_loop().create_future()
        self.unanswered[ref] = run, text_of({**frame, "ref": ref, **run.lease}), future
        await self.send(ref)
        answer = await future
        if answer["t"] in ("ok", "wake"): return answer
        if answer["code"] in ("lost_lease", "cancelled"): raise Stop(None)
        if answer["code"] == "conflict": raise Stop({"t": "nack", "delay_ms": 1000})  # to be replayed
        raise stop(answer["code"], answer.get("message"))
    async def send(self, ref):
        if self.socket is None or ref not in self.unanswered: return  # said when there is a connection
        text = self.unanswered[ref][1]
        if (size := len(text.encode())) <= self.max_frame: return await self.say(text)
        try: answer = size > 4 << 20 and {"code": "too_large", "message": f"{size} bytes are too many"} or (
            await http("/api/workflow/report", b'{"frames": [%s]}' % text.encode()))["answers"][0]
        except OSError as error: answer = {"code": "unavailable", "message": str(error)}
        await self.take({"t": "no", **answer, "ref": ref})
    async def say(self, frame):  # what has a ref is said again after a reconnect, the rest may be lost
        try: await self.socket.send(frame if isinstance(frame, str) else text_of(frame))
        except (ConnectionClosed, AttributeError): pass
    async def take(self, frame):
        kind, key = frame["t"], (frame.get("job"), frame.get("epoch"))
        if kind == "job":
            for old in [run for run in self.runs.values() if run.job["job"] == key[0]]: self.drop(old)
            run = self.runs[key] = Run(self, frame)
            await self.say({"t": "ack", **run.lease})
            run.task = asyncio.create_task(self.work(run))
        elif frame.get("code") == "unavailable":
            again = lambda: asyncio.ensure_future(self.send(frame["ref"]))
            asyncio.get_running_loop().call_later(frame.get("retry_ms", 1000) / 1000, again)
        elif kind in ("ok", "no", "wake", "error", "acks"):
            for ref in frame.get("refs", [frame.get("ref")]):
                future = self.unanswered.pop(ref)[2] if ref in self.unanswered else None
                if future and not future.done(): future.set_result({"t": "ok"} if kind == "acks" else frame)
        elif kind in ("revoke", "cancel"):
            if key in self.runs: self.drop(self.runs[key])
            end = {"t": "fail", "job": key[0], "epoch": key[1], "err": {"kind": "cancelled"}}
            if kind == "cancel": await self.say(end)
        elif kind == "probe": await self.say({"t": "hb", "n": frame["n"], "jobs": list(self.runs)})  # from the runs' loop
        elif kind == "going_away": self.pause = (frame["after_ms"] + random.random() * frame["jitter_ms"]) / 1000
        elif kind == "auth_expiring" and token() != self.token:
            self.token = token()
            await self.say({"t": "auth", "ref": next(self.refs), "token": self.token})
    def drop(self, run):
        self.runs.pop((run.job["job"], run.job["epoch"]), None)
        for ref in [ref for ref, (of, *_) in self.unanswered.items() if of is run]: del self.unanswered[ref]
        if run.task is not asyncio.current_task(): run.task.cancel()
    async def work(self, run):
        end = await run.drive(self.workflows[run.job["workflow"]][1])
        while end:
            try: end = await self.ask(run, end) and None
            except Stop as error: end = error.args[0] if end["t"] == "done" else None  # a refused output: fail
        self.drop(run)
    async def connection(self):
        url = URL.replace("http", "ws", 1) + "/api/workflow/ws"
        async with connect(url, subprotocols=["vski.workflow.v1"], max_size=None) as socket:
            self.token, self.pause = token(), None
            resume = {"session": self.session, "jobs": [run.lease for run in self.runs.values()]}
            workflows = [{"name": name, "version": version} for name, (version, _) in self.workflows.items()]
            await socket.send(json.dumps({
                "t": "hello", "proto": [1], "worker": NAME, "instance": self.instance, "workflows": workflows,
                "credit": CREDIT, "token": self.token, "lang": "python", "resume": self.session and resume}))
            welcome = json.loads(await socket.recv())
            self.session, self.max_frame = welcome["session"], welcome["max_frame"]
            self.ahead = welcome["now"] / 1000 - time.time()  # of the server's clock
            for run in [self.runs.get((job["job"], job["epoch"])) for job in welcome["lost"]]: run and self.drop(run)
            self.socket, self.failures = socket, 0
            for ref in list(self.unanswered): asyncio.ensure_future(self.send(ref))
            beat = asyncio.create_task(self.beat(welcome["hb_ms"] / 1000))
            try:
                async for text in socket: await self.take(json.loads(text))
            finally:
                self.socket = None
                beat.cancel()
    async def beat(self, pause):
        while True:
            await asyncio.sleep(pause)
            if self.runs: await self.say({"t": "hb", "jobs": list(self.runs)})
    async def run(self):
        asyncio.get_running_loop().set_default_executor(concurrent.futures.ThreadPoolExecutor(2 * CREDIT))
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, lambda: asyncio.ensure_future(self.leave()))
        self.failures = 0
        while True:
            try: await self.connection()
            except ConnectionClosed as error:
                code = error.rcvd and error.rcvd.code
                if code in (4401, 4403, 4406, 4409): sys.exit(f"the server refuses this worker: {error}")
            except (OSError, InvalidHandshake, asyncio.TimeoutError) as error: print("no connection:", error, file=sys.stderr)
            pause = random.uniform(0, min(30, 0.5 * 2 ** self.failures)) if self.pause is None else self.pause
            self.failures += 1
            await asyncio.sleep(pause)
    async def leave(self):
        await self.say({"t": "drain"})
        until = time.time() + 10
        while self.runs and time.time() < until: await asyncio.sleep(0.1)
        await self.say({"t": "bye"})
        os._exit(0)

# A workflow: its name, the version of its code, the code.

async def order(ctx, order):
    charge = await ctx.step("charge", lambda: {"charged": order})
    await ctx.sleep(1000)
    hook = await ctx.hook("approval")
    await ctx.step("ask", lambda: print(f"approve with POST {URL}/api/workflow/hooks/{hook.token}", flush=True))
    approval = await hook.payload()
    if not approval.get("ok"): raise Fatal("not approved")
    return await ctx.step("ship", lambda: {"shipped": True, **charge})

if __name__ == "__main__":
    asyncio.run(Worker({"order": ("1", order)}).run())
