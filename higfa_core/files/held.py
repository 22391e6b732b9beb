"""Files that a running process holds: whoever finds one later can tell whether that process has gone.

A lock of the operating system, which ends with its process however that ends. A process id would not do: in a
container the next process may have the same one, on the same host.
"""

from __future__ import annotations

import os
import re
import time
from contextlib import suppress
from pathlib import Path

if os.name == "posix":
    import fcntl

STALE_SECONDS = 3600  # where a file system knows no locks, a file of that age belongs to a process that died
PART = re.compile(r"\..+\.\d+(\.[0-9a-f]{8,16})?\.part")  # how temporary files are called, here and in earlier versions


def create_held(path: Path) -> int:
    """A descriptor of a new file, held until it is closed. FileExistsError when there is one."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        if os.name != "posix":
            return descriptor  # an open file cannot be removed there
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)  # somebody found it before it was held, and removed it


def remove_left(path: Path) -> bool:
    """Remove a file whose process has gone; returns whether it did."""
    if os.name != "posix":
        with suppress(OSError):
            path.unlink()
            return True
        return False
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        if not _is_left(descriptor):
            return False
        os.unlink(path)
        return True
    except OSError:  # a read-only folder
        return False
    finally:
        os.close(descriptor)


def remove_left_parts(folder: Path) -> None:
    """Remove what processes that have gone were writing into `folder`."""
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if PART.fullmatch(entry.name):
                remove_left(Path(entry.path))


def _is_left(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return time.time() - os.fstat(descriptor).st_mtime > STALE_SECONDS
    return True
