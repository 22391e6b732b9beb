"""An index over plan and manifest, in SQLite: the jobs, the images, and how many count as accepted.

The manifest remains the source of truth about images; the index may be deleted and is then rebuilt, as is one that came
with the folder from elsewhere. Folder and drivers belong to one machine: neither SQLite nor appending to a manifest
works over the network.
"""

from __future__ import annotations

import json
import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import msgspec

from ..files.atomic import alone
from ..files.held import is_held
from ..files.reading import open_file
from ..files.records import Row, check_row
from ..plans.plan_file import HEADER, PlanFile
from ..plans.rules import Rules
from ..plans.shards import Shard
from ..plans.workflow import image_key
from ..store.manifest import decide, sizes
from ..store.repair import folders_stamp, put_right
from ..store.rows import Damage, Tail, read_row
from ..wording import counted
from .database import Database

VERSION = 5  # of the tables and of the distribution to shards
STATES = ("planned", "leased", "done", "failed", "surplus")
SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value);
CREATE TABLE IF NOT EXISTS classes (class INTEGER PRIMARY KEY, name TEXT, quota INTEGER, accepted INTEGER DEFAULT 0);
CREATE TABLE IF NOT EXISTS jobs (
    idx INTEGER PRIMARY KEY, key TEXT UNIQUE, class INTEGER, body TEXT, state TEXT DEFAULT 'planned',
    attempts INTEGER DEFAULT 0, losses INTEGER DEFAULT 0, reason TEXT DEFAULT '',
    driver TEXT, server TEXT, prompt_id TEXT, team TEXT);
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state, idx);
CREATE INDEX IF NOT EXISTS jobs_by_class ON jobs (class, state);
CREATE TABLE IF NOT EXISTS images (
    key TEXT, i INTEGER, idx INTEGER, class INTEGER, accepted INTEGER, batch INTEGER, file TEXT, bytes INTEGER,
    mask TEXT, at INTEGER, scores TEXT, PRIMARY KEY (key, i)) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS images_by_class ON images (class, idx);
CREATE TABLE IF NOT EXISTS others (key TEXT, i INTEGER, accepted INTEGER, PRIMARY KEY (key, i)) WITHOUT ROWID;
"""


class Index(Database):
    """The jobs of the plan in `folder` and their images; `shard` (i, n): the i-th of n disjoint parts, from 1.

    May be used from several threads. A new file is filled from the plan and from the manifest. Without `thorough`, the
    images' files are looked at only if one was added or removed since a run, and none is in progress.
    """

    def __init__(self, folder: str | Path, shard: tuple[int, int] = (1, 1), thorough: bool = True):
        self.folder, self.shard = Path(folder), Shard(*shard)
        self._seen = self._stamp()
        self.plan = PlanFile(folder)
        self.rules = self.plan.rules
        self._judges = self.rules != Rules()
        super().__init__(self.folder / ("jobs.sqlite" if shard == (1, 1) else "jobs.{}of{}.sqlite".format(*shard)))
        self._damage = Damage(self.folder / "manifest.jsonl")
        self._fill()
        self._batch = self._all("SELECT MAX(batch) FROM images")[0][0] or 0  # images of one job, once known
        self.ingest()
        if thorough or not (self._as_left() or self.runs()):
            self._put_right()
            self._forget_missing()
            self._leave()
        self._catch_up(self._find_done())

    def counts(self) -> dict[str, int]:
        """State -> number of jobs."""
        found = dict(self._all("SELECT state, COUNT(*) FROM jobs GROUP BY state"))
        return {state: found.get(state, 0) for state in STATES}

    def table(self) -> list[dict]:
        """For each class with jobs: name, quota, jobs by state, images written and accepted."""
        names = ", ".join(f"SUM(state = '{state}') AS {state}" for state in STATES)
        jobs = {row[0]: row[1:] for row in self._all(f"SELECT class, {names} FROM jobs GROUP BY class")}
        written = dict(self._all("SELECT class, COUNT(*) FROM images GROUP BY class"))
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

    def others(self) -> int:
        """The number of accepted images in the folder that belong to other plans."""
        return self._all("SELECT COUNT(*) FROM others WHERE accepted")[0][0]

    def runs(self) -> int:
        """How many drivers (a running `higfa run`) are working on the plan."""
        return sum(map(is_held, self.folder.glob(self._driver_file("*").name)))

    def _driver_file(self, driver: str) -> Path:
        """A file that a driver holds while it runs; the name is that of a temporary file, so it is swept."""
        return self.folder / f".{self.path.stem}.{driver}.part"

    def disk_estimate(self) -> str:
        """The disk space for all wanted images, extrapolated from the existing ones."""
        size, count = self._all("SELECT COALESCE(SUM(bytes), 0), COUNT(*) FROM images")[0]
        if not count:
            return "no image yet to estimate disk space from"
        jobs = sum(n for state, n in self.counts().items() if state != "surplus")
        total = size / count * jobs * max(self._batch, 1)
        return f"{size / count / 1024:.0f} KiB per image, {total / 1024**3:.2f} GiB for {counted(jobs, 'job')}"

    def is_whole(self, key: str) -> bool:
        """Whether all images of a job are in the manifest."""
        rows = self._all("SELECT i, batch FROM images WHERE key = ?", (key,))
        return bool(rows) and {i for i, _ in rows} >= set(range(rows[0][1]))

    def unfinished(self, keys: Iterable[str]) -> set[str]:
        """Those of `keys` that belong to unfinished jobs of this plan."""
        keys, found = list(keys), set()
        for start in range(0, len(keys), 500):  # SQLite may take no more than 999 at once
            some = tuple(keys[start : start + 500])
            marks = ",".join("?" * len(some))
            found |= set(self._all(f"SELECT key FROM jobs WHERE state != 'done' AND key IN ({marks})", some))
        return {key for (key,) in found}

    def ingest(self) -> None:
        """Read the rows that any process has appended to the manifest."""
        with self._change() as db:
            meta = dict(db.execute("SELECT name, value FROM meta WHERE name IN ('offset', 'inode', 'number')"))
            tail = Tail(self.folder / "manifest.jsonl", **meta)
            if tail.restarted():
                db.execute("DELETE FROM images")
                db.execute("DELETE FROM others")
                db.execute("UPDATE classes SET accepted = 0")
                db.execute("UPDATE jobs SET state = 'planned' WHERE state = 'done'")
            changed, lines = set(), [b""]
            while lines:
                at, first = tail.offset, tail.number + 1
                lines, _ = tail.lines()
                for number, line in enumerate(lines, first):
                    if line.strip():
                        changed.add(self._read(db, line, number, at))
                    at += len(line) + 1
            self._recount(db, changed - {None})
            for name in ("offset", "inode", "number"):
                db.execute("INSERT OR REPLACE INTO meta VALUES (?,?)", (name, getattr(tail, name)))

    def check_claim(self, row: Row) -> None:
        """ValueError unless the row matches the plan's job with its key."""
        (body,) = self._all("SELECT body FROM jobs WHERE key = ?", (row.key,))[0]
        job = self.plan.parse(body)
        for name in ("class_name", "label", "seed", "prompt", "source"):
            if getattr(row, name) != getattr(job, name):
                raise ValueError(f"{name} of job {job.index} is {getattr(row, name)!r}, not {getattr(job, name)!r}")

    def apply_rules(self, idx: int) -> None:
        """Bring the verdicts on the class of job `idx` in line with the plan's current rules."""
        if self._judges or self._stamp() != self._seen:
            self._judge(self._all("SELECT class FROM jobs WHERE idx = ?", (idx,))[0][0])

    def _judge(self, label: int) -> None:
        with alone(self.folder):
            self._reload_rules()
            self.ingest()
            query = "SELECT key, i, accepted, at, scores FROM images WHERE class = ?"
            rows = self._all(f"{query} ORDER BY idx, i", (label,))
            verdicts = self.rules.judge_class([json.loads(row[4]) for row in rows])
            changed = [(row, verdict) for row, verdict in zip(rows, verdicts) if bool(row[2]) != verdict.accepted]
            for (_, _, _, at, _), verdict in changed:
                row = self._row(at) | {"rules": self.rules.given()}
                with suppress(FileNotFoundError):  # deleted in the meantime: the next start plans it again
                    decide(self.folder, row, verdict.accepted, verdict.reason)
            if changed:
                self.ingest()

    def _reload_rules(self) -> None:
        """Reload the rules, which `higfa filter` may have changed."""
        if (stamp := self._stamp()) == self._seen:
            return
        plan = PlanFile(self.folder)
        if _identity(plan) != _identity(self.plan):
            raise ValueError(f"{self.folder} now holds another plan. Start higfa run again.")
        self._seen, self.plan.header["rules"], self.rules = stamp, plan.header["rules"], plan.rules
        self._judges = True  # also without rules: images in progress may still be rejected by the old ones

    def _stamp(self) -> tuple | None:
        with suppress(FileNotFoundError):
            info = (self.folder / HEADER).stat()
            return info.st_mtime_ns, info.st_size, info.st_ino
        return None

    def _catch_up(self, labels: set[int]) -> None:
        """Judge the classes of `labels`; all, if other rules judged them (a new plan, an interrupted filter)."""
        now, known = json.dumps(self.rules.given()), self._all("SELECT value FROM meta WHERE name = 'rules'")
        if known and known != [(now,)]:
            self._judges, labels = True, {label for (label,) in self._all("SELECT DISTINCT class FROM images")}
        if self._judges:
            for label in sorted(labels):
                self._judge(label)
        with self._change() as db:
            db.execute("INSERT OR REPLACE INTO meta VALUES ('rules', ?)", (now,))

    def _leave(self) -> None:
        """Remember how the folders of images are, when all that is known to be in them is there."""
        with self._change() as db:
            db.execute("INSERT OR REPLACE INTO meta VALUES ('folders', ?)", (folders_stamp(self.folder),))

    def _as_left(self) -> bool:
        """Whether no file was added to the folders of images, or removed, since."""
        return self._all("SELECT value FROM meta WHERE name = 'folders'") == [(folders_stamp(self.folder),)]

    def _put_right(self) -> None:
        named = defaultdict(set)
        for paths in self._db.execute("SELECT file, mask FROM images"):
            for path in filter(None, paths):
                place, _, name = path.rpartition("/")
                named[place].add(name)
        put_right(self.folder, named, all_known=False)

    def _forget_missing(self) -> None:
        """Plan finished jobs again if their files are missing or truncated."""
        there: dict[str, dict[str, int]] = {}
        gone = set()
        for key, file, size, mask in self._db.execute("SELECT key, file, bytes, mask FROM images"):
            for path in (file, mask) if mask else (file,):
                folder, _, name = path.rpartition("/")
                if folder not in there:
                    there[folder] = sizes(self.folder / folder)
                if there[folder].get(name) != size if path == file else name not in there[folder]:
                    gone.add(key)
        with self._change() as db:
            for key in gone:
                (label,) = db.execute("SELECT class FROM jobs WHERE key = ?", (key,)).fetchone()
                db.execute("DELETE FROM images WHERE key = ?", (key,))
                db.execute("UPDATE jobs SET state = 'planned' WHERE key = ? AND state = 'done'", (key,))
                self._recount(db, {label})

    def _find_done(self) -> set[int]:
        """Mark unleased jobs as done if all of their images exist; returns their classes."""
        whole = "SELECT COUNT(*) >= MAX(batch) FROM images WHERE images.key = jobs.key"
        query = f"SELECT class, idx FROM jobs WHERE state IN ('planned', 'failed', 'surplus') AND ({whole})"
        with self._change() as db:
            found = db.execute(query).fetchall()
            db.executemany("UPDATE jobs SET state = 'done' WHERE class = ? AND idx = ?", found)
        return {label for label, _ in found}

    def _row(self, at: int) -> dict:
        with open_file(self.folder / "manifest.jsonl") as file:
            file.seek(at)
            return read_row(file.readline())

    def _fill(self) -> None:
        with self._change() as db:
            if db.execute("SELECT name FROM sqlite_master WHERE type IN ('view', 'trigger')").fetchone():
                raise sqlite3.DatabaseError("it has views or triggers")
            db.execute("CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value)")
            # A copy has another inode: what somebody else has written into it is not believed.
            wanted = f"{VERSION} {self.path.stat().st_ino} {_identity(self.plan)}"
            if db.execute("SELECT value FROM meta WHERE name = 'plan'").fetchone() == (wanted,):
                return
            for table in ("jobs", "images", "others", "classes"):
                db.execute(f"DROP TABLE IF EXISTS {table}")
            for statement in SCHEMA.split(";"):
                db.execute(statement)
            db.execute("DELETE FROM meta WHERE name != 'rules'")
            quota = self.plan.header["quota"] or {}
            for label, name in enumerate(self.plan.classes):
                share = None if name not in quota else self.shard.share(label, quota[name])
                db.execute("INSERT INTO classes VALUES (?,?,?,0)", (label, name, share))
            insert = "INSERT INTO jobs (idx, key, class, body) VALUES (?,?,?,?)"
            db.executemany(insert, self._jobs())
            db.execute("INSERT INTO meta VALUES ('plan', ?)", (wanted,))

    def _jobs(self) -> Iterator[tuple]:
        labels = {name: label for label, name in enumerate(self.plan.classes)}
        digest = self.plan.header["workflow_digest"]
        numbers = Counter()
        for line in self.plan.lines():
            job = self.plan.read(line)
            label = labels[job.class_name]
            if self.shard.has(label, numbers[label]):
                yield job.index, image_key(job.key, digest), label, line.decode().rstrip("\n")
            numbers[label] += 1

    def _read(self, db: sqlite3.Connection, line: bytes, number: int, at: int) -> int | None:
        try:
            return self._take(db, check_row(line), at)
        except ValueError as error:
            self._damage.found(number, line, str(error))
            return None

    def _take(self, db: sqlite3.Connection, row: Row, at: int) -> int | None:
        """Process the row at byte `at`; returns its class if it belongs to this plan."""
        image = row.key, row.index
        found = db.execute("SELECT idx, class FROM jobs WHERE key = ?", (row.key,)).fetchone()
        if found is None:  # from another plan, or made on the canvas with other settings
            if self.shard.parts == 1:
                db.execute("INSERT OR REPLACE INTO others VALUES (?,?,?)", (*image, int(row.accepted)))
            return None
        values = (*image, *found, int(row.accepted), row.batch, row.file, row.bytes, row.mask, at)
        scores = msgspec.json.encode(row.scores).decode()
        if row.human is not None:
            scores = json.dumps({**json.loads(scores), "human": row.human.accepted})
        db.execute("INSERT OR REPLACE INTO images VALUES (?,?,?,?,?,?,?,?,?,?,?)", (*values, scores))
        self._batch = max(self._batch, row.batch)
        return found[1]

    def _recount(self, db: sqlite3.Connection, labels: set[int]) -> None:
        count = "SELECT COUNT(*) FROM images WHERE class = ? AND accepted"
        for label in labels:
            (accepted,) = db.execute(count, (label,)).fetchone()
            db.execute("UPDATE classes SET accepted = ? WHERE class = ?", (accepted, label))
            (quota,) = db.execute("SELECT quota FROM classes WHERE class = ?", (label,)).fetchone()
            if quota is not None:
                states = ("surplus", "planned") if accepted >= quota else ("planned", "surplus")
                db.execute("UPDATE jobs SET state = ? WHERE class = ? AND state = ?", (states[0], label, states[1]))


def _identity(plan: PlanFile) -> str:
    return "".join(str(plan.header[name]) for name in ("jobs_sha256", "workflow_digest", "quota"))
