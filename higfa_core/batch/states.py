"""Where every job of a plan stands: planned -> leased -> done | failed, or surplus (not needed).

A lease belongs to a driver (a running `higfa run`) and ends with it, so any number of drivers on one machine may work
on one file. A driver holds a file as long as it runs: whether it does depends on no clock.
"""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..files.faults import naming
from ..files.held import create_held, is_held
from .index import Index


@dataclass(frozen=True)
class Lease:
    """A job held by a driver: its line in the plan, its image key, and its id on the server."""

    idx: int
    key: str
    body: str
    attempts: int
    prompt_id: str


class States(Index):
    """A driver's view of the index of a plan: it leases jobs and records how they ended."""

    def __init__(self, folder: str | Path, shard: tuple[int, int] = (1, 1)):
        super().__init__(folder, shard)
        self.driver = f"{os.getpid()}.{secrets.token_hex(8)}"
        with naming(self.folder):
            self._held = create_held(self._driver_file(self.driver))

    def close(self) -> None:
        """Release this driver's leases, and close the file."""
        try:
            with self._change() as db:
                db.execute("UPDATE jobs SET state = 'planned' WHERE state = 'leased' AND driver = ?", (self.driver,))
            self._leave()
        finally:
            super().close()
            os.close(self._held)
            self._driver_file(self.driver).unlink(missing_ok=True)

    def lease(self, server: str, but: Sequence[int] = (), size: int = 1) -> list[Lease]:
        """The jobs of the next prompt for `server`, at most `size`, except those in `but`; [] if there is none now.

        With quotas, none that may be surplus. Jobs that shared a prompt also share the next one, so that an interrupted
        run gives the same images: a batch of another size rounds differently.
        """
        with self._change() as db:
            prompt_id = str(uuid.uuid4())
            found = self._lease(db, server, but, prompt_id, "1")
            if found is None:
                return []
            first, team = found
            known = json.loads(team) if team else []
            only = f"idx IN ({','.join(map(str, known))})" if known else "team IS NULL"
            leases = [first]
            while len(leases) < (len(known) or size) and (more := self._lease(db, server, but, prompt_id, only)):
                leases.append(more[0])
            if len(leases) > 1 and not known:
                self._team_up(db, [lease.idx for lease in leases])
            return leases

    def lines(self, leases: Sequence[Lease]) -> list[str]:
        """The lines of the plan for a prompt with these jobs, in its order: theirs, and those of the jobs that were
        made the last time in the same prompt."""
        with self._change() as db:
            (team,) = db.execute("SELECT team FROM jobs WHERE idx = ?", (leases[0].idx,)).fetchone()
            lines = {lease.idx: lease.body for lease in leases}
            done = f"SELECT idx, body FROM jobs WHERE state = 'done' AND idx IN ({team[1:-1] if team else ''})"
            lines |= dict(db.execute(done).fetchall())
        return [lines[idx] for idx in sorted(lines)]

    def divide(self, leases: Sequence[Lease]) -> None:
        """Plan the jobs of a prompt that failed again, in two halves."""
        idxs = sorted(lease.idx for lease in leases)
        with self._change() as db:
            for half in (idxs[: len(idxs) // 2], idxs[len(idxs) // 2 :]):
                self._team_up(db, half)
        for idx in idxs:
            self.release(idx)

    def _lease(
        self, db: sqlite3.Connection, server: str, but: Sequence[int], prompt_id: str, only: str
    ) -> tuple[Lease, str | None] | None:
        """The next job of those that SQL's `only` allows, and the jobs that it shares a prompt with."""
        full = [*self._full_classes(db), *self._classes_to_leave(db, but)]
        query = "SELECT idx, key, body, attempts, team FROM jobs WHERE state = 'planned' AND class NOT IN "
        query += f"({_marks(full)}) AND idx NOT IN ({_marks(but)}) AND {only} ORDER BY idx LIMIT 1"
        row = db.execute(query, (*full, *but)).fetchone()
        if row is None:
            return None
        lease = Lease(idx=row[0], key=row[1], body=row[2], attempts=row[3], prompt_id=prompt_id)
        sets = "state = 'leased', driver = ?, server = ?, prompt_id = ?"
        db.execute(f"UPDATE jobs SET {sets} WHERE idx = ?", (self.driver, server, prompt_id, lease.idx))
        return lease, row[4]

    def _team_up(self, db: sqlite3.Connection, idxs: Sequence[int]) -> None:
        db.execute(f"UPDATE jobs SET team = ? WHERE idx IN ({_marks(idxs)})", (json.dumps(idxs), *idxs))

    def adopt(self, server: str) -> list[Lease]:
        """Take over jobs that a dead driver had sent to `server`."""
        with self._change() as db:
            query = "SELECT idx, key, body, attempts, prompt_id FROM jobs WHERE state = 'leased' AND server = ?"
            rows = db.execute(f"{query} AND driver IS NULL", (server,)).fetchall()
            db.executemany("UPDATE jobs SET driver = ? WHERE idx = ?", [(self.driver, row[0]) for row in rows])
        return [Lease(*row) for row in rows]

    def free_dead(self, servers: list[str]) -> None:
        """Leave the jobs of dead drivers on `servers` for adoption; plan those on other servers again."""
        with self._change() as db:
            others = "SELECT DISTINCT driver FROM jobs WHERE state = 'leased' AND driver != ?"
            for (driver,) in db.execute(others, (self.driver,)).fetchall():
                if not is_held(self._driver_file(driver)):
                    db.execute("UPDATE jobs SET driver = NULL WHERE state = 'leased' AND driver = ?", (driver,))
            elsewhere = f"state = 'leased' AND driver IS NULL AND server NOT IN ({_marks(servers)})"
            db.execute(f"UPDATE jobs SET state = 'planned' WHERE {elsewhere}", tuple(servers))

    def release(self, idx: int) -> None:
        """Return a job that no server has tried."""
        self._set(idx, "planned", "")

    def done(self, idx: int) -> None:
        """All images of the job are in the manifest."""
        self._set(idx, "done", "")

    def lost(self, idx: int, cap: int) -> None:
        """The server no longer knows the job; after `cap` times it has failed, after half of them it is sent alone."""
        with self._change() as db:
            db.execute("UPDATE jobs SET losses = losses + 1 WHERE idx = ? AND state = 'leased'", (idx,))
            (losses,) = db.execute("SELECT losses FROM jobs WHERE idx = ?", (idx,)).fetchone()
            if 2 * losses >= cap:
                self._team_up(db, [idx])
        reason = f"servers lost it {losses} times (did they run out of memory?)"
        self._set(idx, "failed" if losses >= cap else "planned", reason)

    def error(self, idx: int, reason: str, cap: int) -> bool:
        """The job ended without its images; after `cap` times it has failed. Returns whether it has."""
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

    def _classes_to_leave(self, db: sqlite3.Connection, but: Sequence[int]) -> list[int]:
        """With quotas, classes with an earlier job that waits for another server: a later one could replace it."""
        if not self.plan.header["quota"]:
            return []
        query = f"SELECT DISTINCT class FROM jobs WHERE state = 'planned' AND idx IN ({_marks(but)})"
        return [label for (label,) in db.execute(query, tuple(but))]

    def _set(self, idx: int, state: str, reason: str) -> None:
        with self._change() as db:
            # Only while this driver holds it.
            held = "state = 'leased' AND driver = ?"
            db.execute(
                f"UPDATE jobs SET state = ?, reason = ? WHERE idx = ? AND {held}", (state, reason, idx, self.driver)
            )
            (label,) = db.execute("SELECT class FROM jobs WHERE idx = ?", (idx,)).fetchone()
            self._recount(db, {label})


def _marks(values: Sequence) -> str:
    return ",".join("?" * len(values))
