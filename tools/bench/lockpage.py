"""Grows a replicated database beyond the page at 1 GiB, which SQLite locks and never uses, and shrinks it again.
tools/replication-1gib.sh brings the binary and calls this. Standard library only.

Each step changes the master's file through SQL from this process, beside the running server, waits
until the replicas have it, ends all servers, and compares the pages of the files; then all start
again, which begins another epoch on the master. What differs between a step and the next is so
replicated page by page, and after each start compared by hashes."""
import argparse
import collections
import os
import shutil
import signal
import sqlite3
import sys
import tempfile
import time

from cluster import LOCK_BYTE, Cluster, create, difference, integrity, page_hashes, posts
from common import Failed, Http, row

DATABASE = "big"
MIB = 1 << 20
# Seconds for a change of any size to arrive.
PATIENCE = 300
DISK_BASE, DISK_REPLICA = int(2.5 * 1024), int(2.5 * 1024)  # MiB; a VACUUM and its way take half of it


def options():
    p = argparse.ArgumentParser(prog="tools/replication-1gib.sh", add_help=False, allow_abbrev=False)
    p.add_argument("--vski", required=True)
    p.add_argument("--dir")
    p.add_argument("--keep", action="store_true")
    p.add_argument("--replicas", default="1")
    o = p.parse_args()
    if o.replicas not in ("1", "2", "3", "4"):
        raise Failed(f"--replicas takes 1 to 4: {o.replicas}")
    o.replicas = int(o.replicas)
    return o


class Trial:
    def __init__(self, cluster):
        self.cluster, self.number, self.failed, self.waits = cluster, 0, 0, []
        self.path = cluster.master.file(DATABASE)

    def step(self, name, change):
        """Runs one step, tells how it went, and leaves all servers running."""
        self.number += 1
        begun, self.waits = time.monotonic(), []
        try:
            change()
            self.wait()
            self.read_one()
            self.cluster.stop()
            faults = self.compare()
            size = os.path.getsize(self.path)
            text = f"{size / MIB:,.0f} MiB, replicated within {max(self.waits):.1f} s"
        except (Failed, OSError, sqlite3.Error) as e:
            faults, text = [str(e)], ""
            self.cluster.stop()
        self.failed += bool(faults)
        print(f"{'FAIL' if faults else 'PASS'}  {self.number}. {name}: "
              f"{'; '.join(faults) if faults else text} ({time.monotonic() - begun:.0f} s)", flush=True)
        self.cluster.start_all()
        self.cluster.await_current(PATIENCE)

    def wait(self):
        self.waits.append(self.cluster.await_current(PATIENCE))

    def read_one(self):
        """A record that the server itself writes is there too, and a replica has it at once."""
        version, record = create(self.cluster.master.http(), posts(DATABASE), row(self.number))
        headers = {"X-Vski-Version": version} if version else {}
        for replica in self.cluster.replicas:
            status, _ = Http(replica.base).request("GET", f"{posts(DATABASE)}/{record['id']}", headers=headers)
            if not version or status != 200:
                raise Failed(f"{replica.name} answers {status} for a record of the state {version}")
        self.wait()

    def compare(self):
        """Differences in the files of the replicas."""
        faults, ours = [], {name: page_hashes(self.cluster.master.file(name)) for name in (DATABASE, "default")}
        for node in self.cluster.nodes():
            if node is not self.cluster.master:
                for name, wanted in ours.items():
                    what = difference(wanted, page_hashes(node.file(name)))
                    faults += [f"{name} of {node.name}: {what}"] if what else []
                for extra in os.listdir(node.data):
                    faults += [f"{node.name} has left {extra}"] if extra.endswith(".new") else []
            said = integrity(node.file(DATABASE))
            faults += [f"integrity of {node.name}: {said}"] if said != "ok" else []
        return faults

    # Changes, from outside of the server.

    def connection(self):
        connection = sqlite3.connect(self.path, timeout=60, isolation_level=None)
        # The server folds the log; two who do so at the same time are a fault of older SQLites.
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        return connection

    def size(self, connection):
        return connection.execute("SELECT page_count * page_size FROM pragma_page_count, pragma_page_size").fetchone()[0]

    def grow_to(self, mib, step_mib=None):
        """Rows of a MiB until the file has that size; a commit and a wait after each `step_mib`."""
        connection = self.connection()
        try:
            while self.size(connection) < mib * MIB:
                left = -(-(mib * MIB - self.size(connection)) // MIB)
                insert(connection, min(left, step_mib or left))
                if step_mib:
                    self.wait()
        finally:
            connection.close()

    def sql(self, *statements):
        connection = self.connection()
        try:
            for statement in statements:
                connection.execute(statement)
        finally:
            connection.close()


def insert(connection, rows):
    """Of 16 rows one is noise, the others mostly zeros: long chains of pages, short ways."""
    connection.execute("BEGIN")
    connection.executemany("INSERT INTO blobs (data) VALUES (CASE ?1 % 16 WHEN 0 THEN randomblob(?2) ELSE zeroblob(?2) END)",
                           ((n, MIB - 4096) for n in range(rows)))
    connection.execute("COMMIT")


def try_all(trial):
    cluster, below, above = trial.cluster, LOCK_BYTE // MIB - 24, LOCK_BYTE // MIB + 60
    trial.sql("CREATE TABLE blobs (id INTEGER PRIMARY KEY, data BLOB)", "CREATE INDEX blobs_size ON blobs (length(data))")
    trial.step(f"grows to {below} MiB", lambda: trial.grow_to(below, 250))
    trial.step("over 1 GiB in commits of 4 MiB", lambda: trial.grow_to(above, 4))
    trial.step("rows on both sides change", lambda: trial.sql(
        "UPDATE blobs SET data = randomblob(5000) WHERE id % 97 = 0", "UPDATE blobs SET data = zeroblob(900000) WHERE id > 1000 AND id % 7 = 0"))

    def fresh():
        for replica in cluster.replicas:
            replica.stop()
            shutil.rmtree(replica.data)
            cluster.run(replica)

    trial.step("replicas begin again, empty", fresh)
    trial.step("half of it is deleted and VACUUM takes it below", lambda: trial.sql("DELETE FROM blobs WHERE id % 2 = 0", "VACUUM"))
    trial.step("over 1 GiB again, in one commit", lambda: trial.grow_to(above))

    def behind():
        for replica in cluster.replicas:
            replica.stop()
        trial.sql("DELETE FROM blobs WHERE id % 3 > 0", "VACUUM")
        for replica in cluster.replicas:
            cluster.run(replica)

    trial.step("below while the replicas are away", behind)
    trial.step("all of it is deleted and VACUUM leaves little", lambda: trial.sql("DELETE FROM blobs", "VACUUM"))


def main():
    o = options()
    need = DISK_BASE + o.replicas * DISK_REPLICA
    if o.dir:
        os.makedirs(o.dir, exist_ok=True)
    folder = tempfile.mkdtemp(prefix="vski-1gib.", dir=o.dir)
    if shutil.disk_usage(folder).free // MIB < need:
        os.rmdir(folder)
        raise Failed(f"{os.path.dirname(folder)} has not the {need} MiB that this takes; name another folder with --dir")
    print(f"SQLite {sqlite3.sqlite_version} of Python beside the servers; {o.replicas} replica(s); up to {need} MiB in {folder}",
          flush=True)
    cluster = Cluster(os.path.abspath(o.vski), folder, settings={"LOG": "info"})
    trial = Trial(cluster)
    # So that the servers are ended then, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    begun = time.monotonic()
    try:
        cluster.start()
        cluster.master.http().json("POST", "/api/databases", {"name": DATABASE})
        cluster.make_posts(database=DATABASE)
        for _ in range(o.replicas):
            cluster.run(cluster.add())
        cluster.await_current()
        try_all(trial)
        cluster.stop()
        for node in cluster.nodes():
            # That a replica with nothing refuses to be asked is as it should be.
            lines = [line.split(" ", 1)[1] for line in node.lines() if " warn " in line or " error " in line]
            for line, count in collections.Counter(x for x in lines if " request refused " not in x).items():
                print(f"  {node.name}, {count} times: {line[:300]}")
    finally:
        for node in [*cluster.replicas, cluster.master]:
            node.stop()
        if o.keep:
            print(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    print(f"{trial.number - trial.failed} of {trial.number} steps passed in {time.monotonic() - begun:.0f} s")
    return 1 if trial.failed else 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failed as e:
        sys.exit(f"replication-1gib: {e}")
    except KeyboardInterrupt:
        sys.exit(130)
