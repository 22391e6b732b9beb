"""Where every job of a plan stands, in SQLite: planned -> leased -> done | failed, or spare (not needed).

The manifest stays the truth about images; this is an index over it that can be deleted and is built again. A
lease belongs to a driver (a running ``higfa run``) and ends when the driver no longer renews it, so any number
of drivers may work on one file. On a local disk only.
"""

from __future__ import annotations

import json
import os
import platform
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..workflow import image_key
from .plan_file import PlanFile
from .rules import Rules
from .store import Tail, decide, parse_row

LEASE_SECONDS = 60.0
STATES = ("planned", "leased", "done", "failed", "spare")
SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value);
CREATE TABLE IF NOT EXISTS classes (class INTEGER PRIMARY KEY, name TEXT, quota INTEGER, accepted INTEGER DEFAULT 0);
CREATE TABLE IF NOT EXISTS jobs (
    idx INTEGER PRIMARY KEY, key TEXT UNIQUE, class INTEGER, body TEXT, state TEXT DEFAULT 'planned',
    attempts INTEGER DEFAULT 0, losses INTEGER DEFAULT 0, reason TEXT DEFAULT '',
    driver TEXT, server TEXT, prompt_id TEXT, lease_until REAL);
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state, idx);
CREATE INDEX IF NOT EXISTS jobs_by_class ON jobs (class, state);
CREATE TABLE IF NOT EXISTS images (
    key TEXT, i INTEGER, idx INTEGER, class INTEGER, accepted INTEGER, batch INTEGER, file TEXT, bytes INTEGER,
    at INTEGER, scores TEXT, PRIMARY KEY (key, i)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS images_by_class ON images (class, idx);
CREATE TABLE IF NOT EXISTS drivers (driver TEXT PRIMARY KEY, host TEXT, pid INTEGER, born REAL);
"""


@dataclass(frozen=True)
class Lease:
    """A job in the hands of a driver: its line of the plan, the key of its images, and its id at the server."""

    idx: int
    key: str
    body: str
    attempts: int
    prompt_id: str


class States:
    """The states of the plan in ``folder``; ``shard`` (i, n): the i-th of n disjoint parts, from 1.

    May be used from several threads. A new file is filled from the plan and from the manifest.
    """

    def __init__(self, folder: str | Path, shard: tuple[int, int] = (1, 1)):
        if not 1 <= shard[0] <= shard[1]:
            raise ValueError(f"A shard is i/n with 1 <= i <= n, got {shard[0]}/{shard[1]}")
        self.folder, self.shard, self.driver = Path(folder), shard, uuid.uuid4().hex
        self.plan = PlanFile(folder)
        self.rules = self.plan.rules
        self.path = self.folder / ("jobs.sqlite" if shard == (1, 1) else "jobs.{}of{}.sqlite".format(*shard))
        self._lock = threading.RLock()
        self._db = sqlite3.connect(self.path, timeout=60, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")  # a lost last transaction is found again in the manifest
        self._db.executescript(SCHEMA)
        self._fill()
        (batch,) = self._db.execute("SELECT MAX(batch) FROM images WHERE idx IS NOT NULL").fetchone()
        self._batch = batch or 0  # images of one job, once known
        with self._change() as db:
            import psutil

            born = psutil.Process().create_time()
            db.execute("INSERT INTO drivers VALUES (?,?,?,?)", (self.driver, platform.node(), os.getpid(), born))
        self.ingest()
        self.forget_missing()
        self._judge_by_other_rules()

    def close(self) -> None:
        """Give back what this driver holds, and the file."""
        with self._change() as db:
            db.execute("UPDATE jobs SET state = 'planned' WHERE state = 'leased' AND driver = ?", (self.driver,))
            db.execute("DELETE FROM drivers WHERE driver = ?", (self.driver,))
        self._db.close()

    # --- what is there

    def counts(self) -> dict[str, int]:
        """State -> number of jobs."""
        found = dict(self._all("SELECT state, COUNT(*) FROM jobs GROUP BY state"))
        return {state: found.get(state, 0) for state in STATES}

    def table(self) -> list[dict]:
        """For each class with jobs: name, quota, jobs by state, images written and accepted."""
        names = ", ".join(f"SUM(state = '{state}') AS {state}" for state in STATES)
        jobs = {row[0]: row[1:] for row in self._all(f"SELECT class, {names} FROM jobs GROUP BY class")}
        written = dict(self._all("SELECT class, COUNT(*) FROM images WHERE idx IS NOT NULL GROUP BY class"))
        found = []
        for label, name, quota, accepted in self._all(
            "SELECT class, name, quota, accepted FROM classes ORDER BY class"
        ):
            if label in jobs:
                row = {"name": name, "quota": quota, **dict(zip(STATES, jobs[label]))}
                found.append(row | {"written": written.get(label, 0), "accepted": accepted})
        return found

    def failures(self) -> list[tuple[int, str]]:
        """(index, reason) of the jobs that failed for good."""
        return self._all("SELECT idx, reason FROM jobs WHERE state = 'failed' ORDER BY idx")

    def disk_estimate(self) -> str:
        """What the wanted images will need on disk, from those that are there."""
        size, count = self._all("SELECT COALESCE(SUM(bytes), 0), COUNT(*) FROM images WHERE idx IS NOT NULL")[0]
        if not count:
            return "no image yet: nothing to estimate the disk from"
        jobs = sum(n for state, n in self.counts().items() if state != "spare")
        total = size / count * jobs * max(self._batch, 1)
        return f"{size / count / 1024:.0f} KiB an image, {total / 1024**3:.2f} GiB for {jobs} jobs"

    def is_whole(self, key: str) -> bool:
        """Whether all images of a job are in the manifest."""
        rows = self._all("SELECT i, batch FROM images WHERE key = ?", (key,))
        return bool(rows) and {i for i, _ in rows} >= set(range(rows[0][1]))

    # --- leases

    def lease(self, server: str) -> Lease | None:
        """The next job, for ``server``; None when there is none now. With quotas, none that may be superfluous."""
        with self._change() as db:
            full = self._full_classes(db)
            marks = ",".join("?" * len(full))
            query = f"SELECT idx, key, body, attempts FROM jobs WHERE state = 'planned' AND class NOT IN ({marks})"
            row = db.execute(f"{query} ORDER BY idx LIMIT 1", full).fetchone()
            if row is None:
                return None
            lease = Lease(*row, str(uuid.uuid4()))
            values = (self.driver, server, lease.prompt_id, time.time() + LEASE_SECONDS, lease.idx)
            sets = "state = 'leased', driver = ?, server = ?, prompt_id = ?, lease_until = ?"
            db.execute(f"UPDATE jobs SET {sets} WHERE idx = ?", values)
            return lease

    def adopt(self, server: str) -> list[Lease]:
        """Take over jobs that a driver which is gone had sent to ``server``."""
        with self._change() as db:
            query = "SELECT idx, key, body, attempts, prompt_id FROM jobs WHERE state = 'leased' AND server = ?"
            rows = db.execute(f"{query} AND lease_until < ?", (server, time.time())).fetchall()
            until = time.time() + LEASE_SECONDS
            for row in rows:
                db.execute("UPDATE jobs SET driver = ?, lease_until = ? WHERE idx = ?", (self.driver, until, row[0]))
        return [Lease(*row) for row in rows]

    def renew(self) -> None:
        """Say that this driver is alive, and free what drivers that are gone held at servers nobody looks after."""
        with self._change() as db:
            now = time.time()
            db.execute(
                "UPDATE jobs SET lease_until = ? WHERE state = 'leased' AND driver = ?",
                (now + LEASE_SECONDS, self.driver),
            )
            db.execute(
                "UPDATE jobs SET state = 'planned' WHERE state = 'leased' AND lease_until < ?", (now - LEASE_SECONDS,)
            )

    def expire_dead(self, servers: list[str]) -> None:
        """End the leases of drivers of this machine whose process is gone; free those at other ``servers``."""
        import psutil

        gone = []
        with self._change() as db:
            mine = "SELECT driver, pid, born FROM drivers WHERE host = ? AND driver != ?"
            for driver, pid, born in db.execute(mine, (platform.node(), self.driver)).fetchall():
                if psutil.pid_exists(pid) and abs(_born(pid) - born) < 1:
                    continue
                held = "state = 'leased' AND driver = ?"
                db.execute(f"UPDATE jobs SET lease_until = 0 WHERE {held}", (driver,))
                marks = ",".join("?" * len(servers))
                db.execute(
                    f"UPDATE jobs SET state = 'planned' WHERE {held} AND server NOT IN ({marks})", (driver, *servers)
                )
                db.execute("DELETE FROM drivers WHERE driver = ?", (driver,))
                gone.append(pid)
        for pid in gone:
            for part in self.folder.rglob(f".*.{pid}.*.part"):  # what it was writing, see write_atomic
                part.unlink(missing_ok=True)

    def release(self, idx: int) -> None:
        """Put a job back that no server has tried."""
        self._set(idx, "planned", "")

    def done(self, idx: int) -> None:
        """All images of the job are in the manifest."""
        self._set(idx, "done", "")

    def lost(self, idx: int, cap: int) -> None:
        """The server no longer knows the job; after ``cap`` times it counts as failed."""
        with self._change() as db:
            db.execute("UPDATE jobs SET losses = losses + 1 WHERE idx = ? AND state = 'leased'", (idx,))
            (losses,) = db.execute("SELECT losses FROM jobs WHERE idx = ?", (idx,)).fetchone()
        reason = f"servers lost it {losses} times (did they run out of memory?)"
        self._set(idx, "failed" if losses >= cap else "planned", reason)

    def error(self, idx: int, reason: str, cap: int) -> bool:
        """The job ended without its images; after ``cap`` times it has failed. Returns whether it has."""
        with self._change() as db:
            db.execute("UPDATE jobs SET attempts = attempts + 1 WHERE idx = ? AND state = 'leased'", (idx,))
            (attempts,) = db.execute("SELECT attempts FROM jobs WHERE idx = ?", (idx,)).fetchone()
        self._set(idx, "failed" if attempts >= cap else "planned", reason)
        return attempts >= cap

    def retry_failed(self) -> int:
        """Plan the failed jobs again; returns how many."""
        with self._change() as db:
            sets = "state = 'planned', attempts = 0, losses = 0"
            return db.execute(f"UPDATE jobs SET {sets} WHERE state = 'failed'").rowcount

    # --- the manifest

    def ingest(self) -> None:
        """Take in the rows that were appended to the manifest, by whomever."""
        with self._change() as db:
            meta = dict(db.execute("SELECT name, value FROM meta WHERE name IN ('offset', 'inode')").fetchall())
            tail = Tail(self.folder / "manifest.jsonl", meta.get("offset", 0), meta.get("inode"))
            if tail.restarted():
                db.execute("DELETE FROM images")
                db.execute("UPDATE classes SET accepted = 0")
                db.execute("UPDATE jobs SET state = 'planned' WHERE state = 'done'")
            at = tail.offset
            lines, _ = tail.lines()
            changed = set()
            for line in lines:
                if row := parse_row(line):
                    changed.add(self._take(db, row, at))
                at += len(line) + 1
            self._recount(db, changed - {None})
            for name in ("offset", "inode"):
                db.execute("INSERT OR REPLACE INTO meta VALUES (?,?)", (name, getattr(tail, name)))

    def apply_rules(self, idx: int) -> None:
        """Bring the verdicts on the class of job ``idx`` in line with the plan's rules."""
        if self.rules != Rules():
            self._judge(self._all("SELECT class FROM jobs WHERE idx = ?", (idx,))[0][0])

    def _judge(self, label: int) -> None:
        with self._lock:
            query = "SELECT key, i, accepted, at, scores FROM images WHERE idx IS NOT NULL AND class = ?"
            rows = self._all(f"{query} ORDER BY idx, i", (label,))
            verdicts = self.rules.judge_class([json.loads(row[4]) for row in rows])
            changed = [(row, verdict) for row, verdict in zip(rows, verdicts) if bool(row[2]) != verdict.accepted]
            for (_, _, _, at, _), verdict in changed:
                row = self._row(at) | {"rules": self.rules.given()}
                decide(self.folder, row, verdict.accepted, verdict.reason)
            if changed:
                self.ingest()

    def forget_missing(self) -> int:
        """Plan those done jobs again whose files are gone or cut short; returns how many."""
        sizes: dict[str, dict[str, int]] = {}
        gone = set()
        for key, file, size in self._db.execute("SELECT key, file, bytes FROM images WHERE idx IS NOT NULL"):
            folder, _, name = file.rpartition("/")
            if folder not in sizes:
                sizes[folder] = _sizes(self.folder / folder)
            if sizes[folder].get(name) != size:
                gone.add(key)
        with self._change() as db:
            for key in gone:
                (label,) = db.execute("SELECT class FROM jobs WHERE key = ?", (key,)).fetchone()
                db.execute("DELETE FROM images WHERE key = ?", (key,))
                db.execute("UPDATE jobs SET state = 'planned' WHERE key = ? AND state = 'done'", (key,))
                self._recount(db, {label})
            whole = "SELECT idx FROM images WHERE idx IS NOT NULL GROUP BY idx HAVING COUNT(*) >= MAX(batch)"
            db.execute(
                f"UPDATE jobs SET state = 'done' WHERE state IN ('planned', 'failed', 'spare') AND idx IN ({whole})"
            )
        return len(gone)

    # --- inside

    def _row(self, at: int) -> dict:
        with open(self.folder / "manifest.jsonl", "rb") as file:
            file.seek(at)
            return json.loads(file.readline())

    def _fill(self) -> None:
        with self._change() as db:
            wanted = "".join(str(self.plan.header[name]) for name in ("jobs_sha256", "workflow_digest", "quota"))
            known = db.execute("SELECT value FROM meta WHERE name = 'plan'").fetchone()
            if known == (wanted,):
                return
            for table in ("jobs", "images", "classes"):
                db.execute(f"DELETE FROM {table}")
            db.execute("DELETE FROM meta WHERE name != 'rules'")
            quota = self.plan.header["quota"] or {}
            part, parts = self.shard
            for label, name in enumerate(self.plan.classes):
                share = None if name not in quota else (quota[name] + parts - part) // parts
                db.execute("INSERT INTO classes VALUES (?,?,?,0)", (label, name, share))
            insert = "INSERT INTO jobs (idx, key, class, body) VALUES (?,?,?,?)"
            db.executemany(insert, self._jobs())
            db.execute("INSERT INTO meta VALUES ('plan', ?)", (wanted,))

    def _judge_by_other_rules(self) -> None:
        """Where the plan's rules are not those that judged what is there (a new plan, a filter cut short)."""
        now, known = json.dumps(self.rules.given()), self._all("SELECT value FROM meta WHERE name = 'rules'")
        if known and known != [(now,)]:
            for (label,) in self._all("SELECT DISTINCT class FROM images WHERE idx IS NOT NULL"):
                self._judge(label)
        with self._change() as db:
            db.execute("INSERT OR REPLACE INTO meta VALUES ('rules', ?)", (now,))

    def _jobs(self) -> Iterator[tuple]:
        labels = {name: label for label, name in enumerate(self.plan.classes)}
        digest = self.plan.header["workflow_digest"]
        part, parts = self.shard
        for line in self.plan.lines():
            values = json.loads(line)
            if parts == 1 or int(values["key"][:16], 16) % parts == part - 1:
                key = image_key(values["key"], digest)
                yield values["index"], key, labels[values["class_name"]], line.decode().rstrip("\n")

    def _take(self, db: sqlite3.Connection, row: dict, at: int) -> int | None:
        found = db.execute("SELECT idx, class FROM jobs WHERE key = ?", (row["key"],)).fetchone()
        if found is None:  # of another plan, or made on the canvas with other settings
            return None
        values = (row["key"], row["index"], *found, int(row["accepted"]), row["batch"], row["file"], row["bytes"], at)
        scores = json.dumps(row["scores"])
        db.execute("INSERT OR REPLACE INTO images VALUES (?,?,?,?,?,?,?,?,?,?)", (*values, scores))
        self._batch = max(self._batch, row["batch"])
        return found[1]

    def _recount(self, db: sqlite3.Connection, labels: set[int]) -> None:
        count = "SELECT COUNT(*) FROM images WHERE class = ? AND accepted AND idx IS NOT NULL"
        for label in labels:
            (accepted,) = db.execute(count, (label,)).fetchone()
            db.execute("UPDATE classes SET accepted = ? WHERE class = ?", (accepted, label))
            (quota,) = db.execute("SELECT quota FROM classes WHERE class = ?", (label,)).fetchone()
            if quota is not None:
                states = ("spare", "planned") if accepted >= quota else ("planned", "spare")
                db.execute("UPDATE jobs SET state = ? WHERE class = ? AND state = ?", (states[0], label, states[1]))

    def _full_classes(self, db: sqlite3.Connection) -> list[int]:
        """Classes whose quota the jobs in flight may fill: one more could be one too many."""
        if not self.plan.header["quota"]:
            return []
        flying = dict(db.execute("SELECT class, COUNT(*) FROM jobs WHERE state = 'leased' GROUP BY class").fetchall())
        full = []
        for label, count in flying.items():
            quota, accepted = db.execute("SELECT quota, accepted FROM classes WHERE class = ?", (label,)).fetchone()
            if quota is not None and (not self._batch or accepted + count * self._batch >= quota):
                full.append(label)
        return full

    def _set(self, idx: int, state: str, reason: str) -> None:
        with self._change() as db:
            # Only while this driver holds it: a lease that ran out may be another one's by now.
            held = "state = 'leased' AND driver = ?"
            db.execute(
                f"UPDATE jobs SET state = ?, reason = ? WHERE idx = ? AND {held}", (state, reason, idx, self.driver)
            )
            (label,) = db.execute("SELECT class FROM jobs WHERE idx = ?", (idx,)).fetchone()
            self._recount(db, {label})

    def _all(self, query: str, values: tuple = ()) -> list[tuple]:
        with self._lock:
            return self._db.execute(query, values).fetchall()

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")


def _sizes(folder: Path) -> dict[str, int]:
    try:
        with os.scandir(folder) as entries:
            return {entry.name: entry.stat().st_size for entry in entries}
    except FileNotFoundError:
        return {}


def _born(pid: int) -> float:
    import psutil

    try:
        return psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:
        return 0.0
