"""Random plans of the runs: lists of operations, drawn from the seed. `worker.py` executes them."""


def plan(rng, number, depth=0):
    """The input of a run, and of its hooks: [(token, key, payloads)...]."""
    ops, hooks, counts = [], [], {}

    def key(name):
        counts[name] = counts.get(name, -1) + 1
        return f"{name}#{counts[name]}"

    kinds = {"step": 30, "many": 8, "flaky": 8, "fatal": 2, "begin": 4, "sleep": 12, "attr": 3, "stream": 3}
    if depth == 0:
        kinds |= {"child": 8, "detached": 2, "hook": 14}
    elif depth == 1:
        kinds |= {"child": 3}
    for _ in range(rng.randint(1, 5)):
        kind = rng.choices(list(kinds), kinds.values())[0]
        if kind == "step":
            size = rng.choice([0] * 30 + [2_000, 2_000, 30_000])
            ops.append(["step", key("step"), rng.choice([0, 0, 5, 50, 300]), size])
        elif kind == "many":
            ops.append(["many", [key("many") for _ in range(rng.randint(2, 8))], rng.choice([0, 10])])
        elif kind == "flaky":
            ops.append(["flaky", key("flaky"), rng.randint(1, 4), rng.random() < 0.5])
        elif kind == "fatal":
            ops.append(["fatal", key("fatal")])
        elif kind == "begin":
            ops.append(["begin", key("begin"), rng.choice([0, 20, 200])])
        elif kind == "sleep":
            ops.append(["sleep", key("sleep"), rng.choice([0, 20, 300, 1000, 3000, 6000]), rng.random() < 0.5])
        elif kind == "attr":
            ops.append(["attr", key("attr"), rng.randrange(1000)])
        elif kind == "stream":
            ops.append(["stream", f"stream{len(ops)}", rng.randint(1, 4)])
        elif kind in ("child", "detached"):
            input, _ = plan(rng, number, depth + 1)
            ops.append(["child", key("child"), input, kind == "detached"])
        elif kind == "hook" and not hooks:
            hook, count = key("hook"), rng.randint(1, 5)
            token = f"t{number}-{rng.getrandbits(32):08x}"
            hooks.append((token, hook, count))
            ops.append(["hook", hook, token])
            if rng.random() < 0.3:
                ops.append(["emit", key("emit"), token])
            # Payloads come before anybody waits for them.
            ops.append(["step", key("step"), rng.choice([0, 100, 800])])
            ops.append(["await", hook, count, rng.choice([0, 0, 200, 2000]), rng.random() < 0.5])
    end = "done"
    if depth == 0:
        end = rng.choices(["done", "fail", "retryable", "nondeterminism"], [88, 5, 4, 3])[0]
    elif rng.random() < 0.05:
        end = "fail"
    input = {"plan": ops, "end": end}
    if depth == 0 and rng.random() < 0.01:
        input["pad"] = "p" * 100_000
    return input, hooks
