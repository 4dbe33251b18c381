"""The clients: they start runs, deliver payloads, cancel, resume, repeat. Each remembers what was acknowledged.
A request without an answer is sent again unchanged."""
import heapq
import http.client
import itertools
import json
import random
import threading
import time

import plan


class Http:
    """A connection for each thread, made again when it breaks."""

    def __init__(self, port, token):
        self.port, self.token, self.local = port, token, threading.local()

    def call(self, method, path, body=None):
        """Status and JSON; None when there was no answer."""
        connection = getattr(self.local, "connection", None)
        if connection is None:
            connection = self.local.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request(method, path, None if body is None else json.dumps(body),
                               {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"})
            response = connection.getresponse()
            text = response.read()
            return response.status, json.loads(text) if text else None
        except (OSError, http.client.HTTPException, ValueError):
            connection.close()
            self.local.connection = None
            return None


class Run:
    """A run as its client knows it."""

    def __init__(self, number, body, hooks):
        self.number, self.body, self.hooks = number, body, hooks
        self.id, self.status, self.ids = None, None, set()
        self.cancel_sent = self.cancelled_at = None
        self.retries = 3
        self.may_fork = False


class Delivery:
    """Payloads for a hook, one after the other."""

    def __init__(self, run, token, key, count):
        self.run, self.token, self.key, self.count = run, token, key, count
        self.next, self.misses, self.acknowledged, self.unsure = 0, 0, [], set()
        self.is_first_miss = True


class Clients:
    # Workflows of workers that are not ours.
    others = ()
    # Seconds from one run to the next.
    pause = 0

    def __init__(self, http, seed, runs, in_flight):
        self.http, self.rng = http, random.Random(f"clients {seed}")
        self.wanted, self.in_flight = runs, in_flight
        self.lock, self.heap, self.order = threading.Condition(), [], itertools.count()
        self.runs, self.deliveries, self.counts, self.wrong = [], [], {}, []
        self.open, self.is_over, self.stops = 0, False, False
        self.threads = [threading.Thread(target=self.trigger_all, daemon=True)]
        self.threads += [threading.Thread(target=self.work, daemon=True) for _ in range(10)]

    def start(self):
        for thread in self.threads:
            thread.start()

    def count(self, what):
        with self.lock:
            self.counts[what] = self.counts.get(what, 0) + 1

    def bad(self, text):
        with self.lock:
            self.wrong.append(text)

    def at(self, seconds, action, *args):
        with self.lock:
            heapq.heappush(self.heap, (time.monotonic() + seconds, next(self.order), action, args))
            self.lock.notify()

    def work(self):
        while not self.is_over:
            with self.lock:
                while not self.is_over and (not self.heap or self.heap[0][0] > time.monotonic()):
                    self.lock.wait(min(0.2, max(0.001, self.heap[0][0] - time.monotonic())) if self.heap else 0.2)
                if self.is_over:
                    return
                _, _, action, args = heapq.heappop(self.heap)
            try:
                action(*args)
            except Exception as error:
                self.bad(f"of the script: {error!r} in {action.__name__}")

    # Runs.

    def trigger_all(self):
        """Keeps so many runs open until all have been started."""
        number, next = 0, time.monotonic()
        while number < self.wanted and not self.stops:
            if self.open >= self.in_flight or time.monotonic() < next:
                time.sleep(0.01)
                continue
            next = max(next, time.monotonic() - 5) + self.pause
            number += 1
            self.change_open(1)
            self.at(0, self.trigger, self.make(number), 0)

    def make(self, number):
        rng = self.rng
        input, hooks = plan.plan(rng, number)
        body = {"workflow": "chaos", "input": input, "idempotencyKey": f"key-{number}"}
        if self.others and rng.random() < 0.1:
            hooks = []
            body |= {"workflow": rng.choice(self.others), "input": {"n": number}}
        elif rng.random() < 0.15:
            body["workflow"], body["concurrencyKey"] = "keyed", f"group-{rng.randrange(50)}"
        if rng.random() < 0.05:
            body["runAt"] = int(time.time() * 1000) + rng.randint(0, 3000)
        if rng.random() < 0.1:
            body["priority"] = rng.randint(-100, 100)
        if rng.random() < 0.02:
            body["expiresAt"] = int(time.time() * 1000) + rng.randint(500, 10_000)
        run = Run(number, body, hooks)
        run.cancels = rng.random() < 0.06
        # Without an answer no client knows the new run, so it must not depend on one.
        run.may_fork = not hooks and body["input"].get("end") in ("done", "fail") and rng.random() < 0.03
        run.delay, run.twice = rng.uniform(0, 4), rng.random() < 0.05
        return run

    def trigger(self, run, tries):
        answer = self.http.call("POST", "/api/workflow/runs", run.body)
        if answer is None or answer[0] == 503:
            self.count("triggers without an answer")
            self.at(0.2, self.trigger, run, tries + 1)
            return
        if answer[0] != 200:
            self.change_open(-1)
            self.bad(f"trigger {run.number}: {answer}")
            return
        id = answer[1]["runId"]
        run.ids.add(id)
        if run.id is not None:
            return
        run.id = id
        with self.lock:
            self.runs.append(run)
        self.count("runs")
        if tries and not answer[1]["isNew"]:
            self.count("triggers that had happened without an answer")
        if run.twice:
            self.at(0.1, self.trigger, run, tries)
        for token, key, count in run.hooks:
            delivery = Delivery(run, token, key, count)
            with self.lock:
                self.deliveries.append(delivery)
            self.at(0.05, self.deliver, delivery)
        if run.cancels:
            self.at(run.delay, self.cancel, run)
        self.at(1.5, self.watch, run)

    def watch(self, run):
        """Looks now and then; resumes what has failed or is paused."""
        answer = self.http.call("GET", f"/api/workflow/runs/{run.id}")
        if answer is None or answer[0] != 200:
            if answer and answer[0] != 503:
                self.bad(f"a run is not there: {run.id} {answer}")
            self.at(0.5, self.watch, run)
            return
        run.status = answer[1]["status"]
        is_over = run.status in ("completed", "failed", "cancelled")
        if run.status == "failed" and run.retries and run.body["input"].get("end") == "fail" and not run.hooks:
            run.retries -= 1
            answer = self.http.call("POST", f"/api/workflow/runs/{run.id}/retry", {})
            self.count("failed runs resumed" if answer and answer[0] == 200 else "failed runs not resumed")
        elif answer[1].get("state") == "paused":
            self.http.call("POST", f"/api/workflow/runs/{run.id}/retry")
            self.count("paused runs resumed")
        elif is_over:
            self.change_open(-1)
            if run.may_fork:
                self.fork(run)
            return
        self.at(2, self.watch, run)

    def change_open(self, by):
        with self.lock:
            self.open += by

    def cancel(self, run):
        if run.cancel_sent is None:
            run.cancel_sent = time.monotonic()
        answer = self.http.call("POST", f"/api/workflow/runs/{run.id}/cancel", {"reason": "chaos"})
        if answer is None or answer[0] == 503:
            self.at(0.2, self.cancel, run)
        elif answer[0] == 200:
            run.cancelled_at = time.monotonic()
            self.count("runs cancelled")
        elif answer[0] not in (409, 410):
            self.bad(f"cancel of {run.id}: {answer}")

    def fork(self, run):
        body, steps = {}, self.http.call("GET", f"/api/workflow/runs/{run.id}/steps")
        if steps and steps[0] == 200 and steps[1]["items"]:
            body = {"fromStep": self.rng.choice(steps[1]["items"])["stepId"]}
        answer = self.http.call("POST", f"/api/workflow/runs/{run.id}/fork", body)
        if answer and answer[0] == 200:
            forked = Run(0, run.body, [])
            forked.id, forked.twice = answer[1]["runId"], False
            self.change_open(1)
            with self.lock:
                self.runs.append(forked)
            self.count("runs repeated")
            self.at(1.5, self.watch, forked)

    # Hooks.

    def deliver(self, delivery):
        id = delivery.next
        answer = self.http.call("POST", f"/api/workflow/hooks/{delivery.token}", {"id": id, "to": delivery.key, "pad": "\u00e9 " * id})
        if answer is None or answer[0] == 503:
            delivery.unsure.add(id)
            self.count("payloads without an answer")
            self.at(0.1, self.deliver, delivery)
        elif answer[0] in (200, 202):
            if answer[1]["runId"] != delivery.run.id:
                self.bad(f"payload for {delivery.run.id} went to {answer}")
            delivery.acknowledged.append(id)
            self.count("payloads")
            delivery.next += 1
            if delivery.next < delivery.count:
                self.at(random.choice([0, 0, 0.05, 0.5]), self.deliver, delivery)
        elif answer[0] == 404:
            # Not there yet, or not any more.
            delivery.misses += 1
            if delivery.run.status not in ("completed", "failed", "cancelled"):
                self.at(min(0.1 * delivery.misses, 1), self.deliver, delivery)
        else:
            self.bad(f"payload for {delivery.run.id}: {answer}")
