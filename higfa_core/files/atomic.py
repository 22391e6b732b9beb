"""Files that are complete or absent, even after a crash; and exclusive access to a folder."""

from __future__ import annotations

import os
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from .faults import naming
from .held import create_held
from .paths import refuse_link

LOCK, LOCK_SECONDS = "lock.sqlite", 86400.0


def write_atomic(path: str | Path, data: bytes | memoryview) -> None:
    """Write a file that readers see whole or not at all, even after a crash; creates its folder. OSError names it."""
    with naming(path):
        _write(Path(path), data)


def _write(path: Path, data: bytes | memoryview) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not an image suffix: a reader of the folder must not take it for a sample.
    part = path.with_name(f".{path.name[:64]}.{os.getpid()}.{secrets.token_hex(4)}.part")
    try:
        with os.fdopen(create_held(part), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    _sync_folder(path.parent)


@contextmanager
def alone(folder: Path, seconds: float = LOCK_SECONDS) -> Iterator[None]:
    """Exclusive access for one thread of one process on this machine; waits for others, `seconds` at most
    (TimeoutError). Ends with its process."""
    refuse_link(folder / LOCK)
    with naming(folder / LOCK):
        lock = sqlite3.connect(folder / LOCK, timeout=seconds, isolation_level=None)
    with closing(lock):
        with naming(folder / LOCK):
            lock.execute("BEGIN EXCLUSIVE")
        yield


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
