"""Files that are complete or absent, even after a crash; and exclusive access to a folder."""

from __future__ import annotations

import os
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import BinaryIO

from .faults import naming
from .held import create_held
from .paths import refuse_link

LOCK, LOCK_SECONDS = "lock.sqlite", 86400.0


def write_atomic(path: str | Path, data: bytes | memoryview) -> None:
    """Write a file that readers see whole or not at all, even after a crash; creates its folder. OSError names it."""
    path = Path(path)
    with naming(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(data)
        _sync_folder(path.parent)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file beside `path`, in whose place it is put at the end of the block; after an error there is no trace."""
    # Not an image suffix: a reader of the folder must not take it for a sample.
    part = path.with_name(f".{path.name[:64]}.{os.getpid()}.{secrets.token_hex(4)}.part")
    try:
        with os.fdopen(create_held(part), "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            if os.name == "posix":
                os.replace(part, path)  # while it is held: later, another process would take it for one that is left
        if os.name != "posix":
            os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


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
