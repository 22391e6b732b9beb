"""An SQLite file shared by the threads of a process and by the processes on this machine."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..files.atomic import alone
from ..files.faults import naming
from ..files.paths import refuse_link


class Database:
    """The file at `path`, on a local disk: processes see each other's changes through shared memory."""

    def __init__(self, path: Path):
        self.path = path
        self._lock = threading.RLock()
        refuse_link(path)
        with naming(path):
            self._db = sqlite3.connect(path, timeout=60, isolation_level=None, check_same_thread=False)
            with alone(path.parent):  # changing the mode ignores the timeout: two at once would fail
                self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = NORMAL")  # a lost last transaction is recovered from the manifest

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def _all(self, query: str, values: tuple = ()) -> list[tuple]:
        with self._lock, naming(self.path):
            return self._db.execute(query, values).fetchall()

    @contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        with self._lock, naming(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # SQLite may have done so itself, where the disk is full
                    self._db.execute("ROLLBACK")
                raise
