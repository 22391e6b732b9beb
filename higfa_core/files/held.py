"""Files that a running process holds: others can tell later whether that process is gone.

A lock of the operating system, which ends with its process in any case. A process id would not suffice: in a
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

STALE_SECONDS = 3600  # on file systems without locks, a file of that age belongs to a dead process
PART = re.compile(r"\..+\.\d+(\.[0-9a-f]{8,16})?\.part")  # names of temporary files, here and in earlier versions


def create_held(path: Path) -> int:
    """A descriptor of a new file, held until it is closed. FileExistsError if it exists."""
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        if os.name != "posix":
            return descriptor  # an open file cannot be removed there
        with suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)  # another process found it before it was held, and removed it


def remove_left(path: Path) -> bool:
    """Remove a file whose process is gone; returns whether it did."""
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


def is_held(path: Path) -> bool:
    """Whether the process that made the file is still running; removes the file of one that is gone."""
    return not remove_left(path) and path.exists()


def remove_left_parts(folder: Path) -> None:
    """Remove what dead processes were writing into `folder`."""
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
