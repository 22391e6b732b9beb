"""Reading what is a file, and nothing else: a pipe would never end a read, a device would fill the memory."""

from __future__ import annotations

import errno
import io
import os
import stat
from pathlib import Path
from typing import IO


def open_file(path: str | Path) -> IO[bytes]:
    """The file at `path`, open for reading. OSError where it is a pipe, a device or a folder."""
    # Without O_NONBLOCK, opening a pipe waits for somebody who writes into it.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    file = os.fdopen(os.open(path, flags), "rb")
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.ENXIO, os.strerror(errno.ENXIO), str(path))
    return file


def read_bytes(path: str | Path) -> bytes:
    """The content of the file at `path`. OSError as by `open_file`."""
    with open_file(path) as file:
        return file.read()


def read_text(path: str | Path, encoding: str = "utf-8", errors: str = "strict") -> str:
    """The text of the file at `path`. OSError as by `open_file`."""
    with io.TextIOWrapper(open_file(path), encoding, errors) as file:
        return file.read()
