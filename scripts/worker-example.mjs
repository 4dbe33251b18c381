// A complete worker for the workflows of vski: copy it, and put workflows of your own at the bottom.
//
//   npm install ws      (Node 18 to 21; Node 22 and newer have a WebSocket of their own)
//   VSKI_URL=http://localhost:3000 VSKI_TOKEN=... WORKER=orders-1 node worker-example.mjs
//
// docs/workflows.md describes the protocol. The code of a workflow runs from its beginning each time it continues, and
// steps that are in the journal are skipped. So outside of steps the code must be deterministic: no clock, no random
// numbers, no I/O. It does one thing at a time and awaits only `ctx`. SIGTERM lets runs finish for 10 s.
import { randomUUID } from "node:crypto";
import { setTimeout as pause } from "node:timers/promises";

const exit = (text) => (console.error(text), process.exit(1));
const Socket = globalThis.WebSocket ?? (await import("ws").catch(() =>
  exit("worker-example.mjs needs Node 22, or the package ws: npm install ws"))).default;
const URL_ = (process.env.VSKI_URL ?? "http://localhost:3000").replace(/\/$/, "");
const CREDIT = 20, HOLD_MS = 2000; // runs at a time; a step to be tried again sooner than that keeps its run here
const KINDS = { step: "step", retry: "step", begun: "step", sleep: "sleep", hook: "hook", child: "child" };
const token = () => process.env.VSKI_TOKEN ?? ""; // if yours expire, read the latest here
const plain = (value) => JSON.parse(JSON.stringify(value ?? null)); // as a replay will see it
const failure = (kind, message) => ({ t: "fail", err: { kind, message } });
const errorOf = (error) => ({ kind: error?.kind ?? error?.name ?? "Error", message: String(error?.message ?? error),
  stack: error?.stack, retry_after_ms: error?.afterMs }); // a step may throw { kind: "fatal" }, or { afterMs }

async function http(path, body) {
  const headers = { Authorization: "Bearer " + token() };
  const answer = await fetch(URL_ + path, { method: body ? "POST" : "GET", body, headers, signal: AbortSignal.timeout(30_000) });
  if (!answer.ok) throw new Error(`${path}: ${answer.status}`);
  return answer.json();
}

export class Failed extends Error { // thrown into a workflow: a step, hook or child has; `err` is what is recorded
  constructor(key, err) { super(`${key}: ${JSON.stringify(err)}`); this.err = err; this.name = "Failed"; }
}

class Run { // a run under one epoch, and the `ctx` of its code
  // The journal: keys in order with their kinds, how far the code has come, and what is known of them.
  kinds = new Map(); order = []; place = 0; counts = {};
  done = new Map(); retries = {}; payloads = {}; children = new Set();
  abort = new AbortController(); // steps get its signal: they should stop when the run is taken away
  constructor(worker, job) {
    const lease = { job: job.job, epoch: job.epoch };
    Object.assign(this, { worker, job, lease, path: `/api/workflow/runs/${job.job}/` });
    this.stopped = new Promise((stop) => { this.stop = (frame) => (stop(frame), new Promise(() => {})); });
  }
  async step(name, fn, { retries = 3 } = {}) {
    const key = await this.claim("step", name);
    while (!this.done.has(key)) {
      const { failures = 0, due = 0 } = this.retries[key] ?? {};
      for (let left; (left = due - Date.now()) > 0;) await (left < HOLD_MS ? pause(left) : this.park({ retry: key }));
      const report = { t: "step", key, attempt: failures + 1, retries };
      try { report.ok = plain(await fn({ signal: this.abort.signal })); } catch (error) { report.err = errorOf(error); }
      const answer = await this.ask(report);
      if (answer.retry_ms === undefined) this.done.set(key, report);
      else this.retries[key] = { failures: failures + 1, due: Date.now() + answer.retry_ms };
    }
    return this.result(key);
  }
  async sleep(ms) {
    const key = await this.claim("sleep", "sleep");
    while (!this.done.has(key)) await this.park({ sleep: key, ms: Math.ceil(ms) });
    this.result(key);
  }
  async hook(name = "hook") { // its `token` is for POST /api/workflow/hooks/{token}; `payload()` waits for the next
    const key = await this.claim("hook", name), payloads = (this.payloads[key] ??= []);
    if (!this.done.has(key)) this.done.set(key, await this.ask({ t: "call", op: "hook_create", key }));
    let read = 0;
    const payload = async () => {
      for (const place = read++; ; await this.park({ hook: key })) if (payloads.length > place) return payloads[place];
    };
    return { token: this.result(key).token, payload };
  }
  async child(workflow, input = null) { // the output of a run within this one
    const key = await this.claim("child", workflow);
    if (!this.children.has(key)) await this.ask({ t: "call", op: "trigger", key, workflow, input });
    while (!this.done.has(key)) await this.park({ child: key });
    return this.result(key);
  }
  result(key) {
    this.isInside = false;
    const entry = this.done.get(key);
    if ("err" in entry) throw new Failed(key, entry.err);
    return "token" in entry ? entry : entry.ok;
  }
  async claim(kind, name) { // the key of the next thing; the journal, if it goes so far, has the same at this place
    if (this.isInside) return this.stop(failure("fatal", "a workflow does one thing at a time"));
    this.isInside = true;
    const key = `${name}#${(this.counts[name] = (this.counts[name] ?? -1) + 1)}`;
    if (this.place === this.order.length) this.note(kind, key);
    const was = this.order[this.place++];
    if (was === key && this.kinds.get(key) === kind) return key;
    return this.stop(failure("nondeterminism", `the ${kind} ${key} was the ${this.kinds.get(was)} ${was}`));
  }
  note(kind, key) { if (!this.kinds.has(key)) this.kinds.set(key, kind) && this.order.push(key); }
  async read(entries, seq, more) { // in a wake what was done under this lease comes again
    for (const { kind, key, ...entry } of entries) {
      if (KINDS[kind]) this.note(KINDS[kind], key);
      if (["step", "wake", "hook"].includes(kind) && !this.done.has(key)) this.done.set(key, entry);
      if (kind === "retry") this.retries[key] = { failures: entry.attempt, due: entry.at - this.worker.ahead };
      if (kind === "payload") (this.payloads[key] ??= []).push(entry.ok);
      if (kind === "child") this.children.add(key);
    }
    this.seen = seq;
    if (!more) return;
    const page = await http(`${this.path}journal?after=${seq}`);
    await this.read(page.journal, page.seq, page.more);
  }
  async park(condition) { // returns when there is news already
    const answer = await this.ask({ t: "park", seen: this.seen, on: [condition] });
    if (answer.t !== "wake") return this.stop(null); // the run waits, and comes again as another job
    await this.read(answer.results, answer.seq, answer.more);
  }
  async ask(frame) {
    const answer = await this.worker.ask(this, frame);
    if (answer.t !== "no" && answer.t !== "error") return answer;
    if (["lost_lease", "cancelled"].includes(answer.code)) return this.stop(null);
    if (answer.code === "conflict") return this.stop({ t: "nack", delay_ms: 1000 }); // to be replayed
    return this.stop(failure(answer.code, answer.message));
  }
  async drive(code) { // the frame that ends the run here, or null
    let input;
    try {
      await this.read(this.job.journal, this.job.seq, this.job.more);
      input = this.job.input_more ? await http(this.path + "input") : this.job.input;
    } catch { return { t: "nack", delay_ms: 1000 }; }
    const run = async () => {
      const end = await code(this, input).then((output) => ({ t: "done", output: plain(output) }))
        .catch((error) => ({ t: "fail", err: errorOf(error) }));
      if (this.place === this.order.length) return end;
      return failure("nondeterminism", `the code ends before ${this.order[this.place]}`);
    };
    return Promise.race([this.stopped, run()]);
  }
}

class Worker {
  instance = randomUUID(); runs = new Map(); unanswered = new Map(); lastRef = 0; failures = 0;
  constructor(workflows) { this.workflows = workflows; }
  ask(run, frame) { // reports something; the answer, over as many connections as that takes
    const ref = ++this.lastRef, text = JSON.stringify({ ...frame, ref, ...run.lease });
    return new Promise((answer) => { this.unanswered.set(ref, { run, text, answer }); this.send(ref); });
  }
  async send(ref) {
    const text = this.unanswered.get(ref)?.text;
    if (!text || !this.socket) return; // said when there is a connection
    const size = Buffer.byteLength(text);
    if (size <= this.maxFrame) return this.socket.send(text);
    let answer = { code: "too_large", message: `${size} bytes are too many` };
    if (size <= 4 << 20) {
      answer = await http("/api/workflow/report", `{"frames":[${text}]}`).then(({ answers }) => answers[0])
        .catch((error) => ({ code: "unavailable", message: error.message }));
    }
    this.take({ t: "no", ...answer, ref });
  }
  say(frame) { this.socket?.send(JSON.stringify(frame)); } // may be lost
  take(frame) {
    const { t, job, epoch } = frame, id = `${job} ${epoch}`;
    this.heard = Date.now();
    if (t === "job") {
      for (const run of this.runs.values()) if (run.lease.job === job) this.drop(run);
      this.runs.set(id, new Run(this, frame));
      this.say({ t: "ack", job, epoch });
      this.work(this.runs.get(id));
    } else if (frame.code === "unavailable") setTimeout(() => this.send(frame.ref), frame.retry_ms ?? 1000);
    else if (["ok", "no", "wake", "error", "acks"].includes(t)) {
      for (const ref of frame.refs ?? [frame.ref]) {
        this.unanswered.get(ref)?.answer(t === "acks" ? { t: "ok" } : frame);
        this.unanswered.delete(ref);
      }
    } else if (t === "revoke" || t === "cancel") {
      if (this.runs.has(id)) this.drop(this.runs.get(id));
      if (t === "cancel") this.say({ t: "fail", job, epoch, err: { kind: "cancelled" } });
    } else if (t === "probe") this.say({ t: "hb", n: frame.n, jobs: this.held() }); // from the loop that runs the code
    else if (t === "going_away") this.away = frame.after_ms + Math.random() * frame.jitter_ms;
    else if (t === "auth_expiring" && token() !== this.token) {
      this.say({ t: "auth", ref: ++this.lastRef, token: (this.token = token()) });
    }
  }
  held() { return [...this.runs.values()].map((run) => [run.lease.job, run.lease.epoch]); }
  drop(run) {
    this.runs.delete(`${run.lease.job} ${run.lease.epoch}`);
    for (const [ref, it] of this.unanswered) if (it.run === run) this.unanswered.delete(ref);
    run.abort.abort();
    run.stop(null);
  }
  async work(run) {
    const end = await run.drive(this.workflows[run.job.workflow].code);
    const answer = end && (await this.ask(run, end)), { code, message, msg } = answer ?? {};
    if (end?.t === "done" && ["too_large", "invalid"].includes(code)) await this.ask(run, failure(code, message ?? msg));
    this.drop(run);
  }
  connection() { // until it ends; the code that it was closed with
    this.token = token();
    this.away = undefined;
    const socket = new Socket(URL_.replace(/^http/, "ws") + "/api/workflow/ws", ["vski.workflow.v1"]);
    const workflows = Object.entries(this.workflows).map(([name, { version }]) => ({ name, version }));
    let closed, timer = setTimeout(() => (closed({ code: 1006 }), socket.close()), 30_000); // there was no welcome
    socket.onopen = () => socket.send(JSON.stringify({ t: "hello", proto: [1], worker: process.env.WORKER ?? "example",
      instance: this.instance, workflows, credit: CREDIT, token: this.token, lang: "javascript",
      resume: this.session && { session: this.session, jobs: [...this.runs.values()].map((run) => run.lease) } }));
    socket.onmessage = ({ data }) => {
      const frame = JSON.parse(data);
      if (frame.t !== "welcome") return this.socket === socket && this.take(frame);
      const lost = frame.lost.map(({ job, epoch }) => this.runs.get(`${job} ${epoch}`));
      for (const run of lost) if (run) this.drop(run);
      Object.assign(this, { socket, session: frame.session, maxFrame: frame.max_frame, failures: 0, heard: Date.now() });
      this.ahead = frame.now - Date.now(); // of the server's clock
      for (const ref of this.unanswered.keys()) this.send(ref);
      clearTimeout(timer);
      timer = setInterval(() => { // an unknown frame is answered by `error`, which shows that the connection lives
        if (Date.now() - this.heard > frame.lease_ms) return closed({ code: 1006 }), socket.close();
        if (this.runs.size) this.say({ t: "hb", jobs: this.held() });
        this.say({ t: "alive" });
      }, frame.hb_ms);
    };
    socket.onerror = () => closed({ code: 1006 }); // not every WebSocket says onclose after it: that of Node 22 does not
    return new Promise((resolve) => { closed = socket.onclose = ({ code, reason }) => {
      clearInterval(timer);
      if (this.socket === socket) this.socket = undefined;
      resolve({ code, reason });
    }; });
  }
  async run() {
    process.once("SIGTERM", async () => {
      this.say({ t: "drain" });
      for (let tenths = 0; this.runs.size && tenths < 100; tenths++) await pause(100);
      this.say({ t: "bye" });
      setTimeout(() => process.exit(0), 200);
    });
    for (;;) {
      const { code, reason } = await this.connection();
      if ([4401, 4403, 4406, 4409].includes(code)) exit(`the server refuses this worker: ${code} ${reason}`);
      await pause(this.away ?? Math.random() * Math.min(30_000, 500 * 2 ** this.failures++));
    }
  }
}

// Workflows: name, version of the code, code.
const workflows = {
  order: { version: "1", code: async (ctx, order) => {
    const charge = await ctx.step("charge", async () => ({ charged: order }), { retries: 5 });
    await ctx.sleep(1000);
    const hook = await ctx.hook("approval");
    const url = `${URL_}/api/workflow/hooks/${hook.token}`;
    await ctx.step("ask", () => console.log(`approve: curl -d '{"ok": true}' ${url}`));
    if (!(await hook.payload())?.ok) throw new Error("not approved");
    return ctx.step("ship", () => ({ shipped: true, ...charge }));
  } },
};
if (process.env.WORKFLOWS) Object.assign(workflows, (await import(process.env.WORKFLOWS)).default); // more in a module
new Worker(workflows).run();
