"""Disk and permission faults in plain words: what failed, at which of the user's paths, and what to do."""

from __future__ import annotations

import errno
import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .names import printable

LONGEST = 160  # characters of a path to show
FULL = ("The disk is full, so that {path} could not be written.", "Free some space and run this again.")
RIGHTS = ("This user may not read or write {path}.", "Change its permissions, or choose another folder.")
BROKEN = ("The disk failed at {path}.", "Check it, or the connection to the network share, and run this again.")
OPEN = ("Too many files are open at once.", "Raise the limit (ulimit -n 4096) and run this again.")
WORDS: dict[int, tuple[str, str]] = {
    errno.ENOSPC: FULL,
    getattr(errno, "EDQUOT", errno.ENOSPC): FULL,
    errno.EACCES: RIGHTS,
    errno.EPERM: RIGHTS,
    errno.EROFS: ("{path} is on a read-only disk.", "Choose another folder."),
    errno.EFBIG: (
        "{path} would become larger than a file may be here.",
        "Raise the limit (ulimit -f), or choose another disk.",
    ),
    errno.ENAMETOOLONG: ("The path is too long: {path}.", "Choose a shorter name, or a folder nearer to the root."),
    errno.ENOENT: ("{path} does not exist.", "Correct the path."),
    errno.ENOTDIR: ("A part of {path} is a file, where a folder is needed.", "Correct the path."),
    errno.EISDIR: ("{path} is a folder, where a file is needed.", "Correct the path."),
    errno.ELOOP: ("{path} is a link that leads to itself.", "Correct the link."),
    errno.ENXIO: ("{path} is a pipe or a device, where a file is needed.", "Replace it."),
    errno.EIO: BROKEN,
    getattr(errno, "ESTALE", errno.EIO): BROKEN,
    errno.EMFILE: OPEN,
    errno.ENFILE: OPEN,
}
STOPPED = {code for code, words in WORDS.items() if words in (FULL, RIGHTS, BROKEN)} | {errno.EROFS, errno.EFBIG}
SQLITE = {"full": errno.ENOSPC, "readonly": errno.EACCES, "unable to open": errno.EACCES, "disk I/O": errno.EIO}
# The names of temporary files and folders: see `.atomic`, and the stages of exports.
TEMPORARY = re.compile(r"\.([^/\\]+)\.\d+\.[0-9a-f]{8}\.part$|(?<=[^/\\])\.part-[0-9a-f]{16}(\.old)?")


@contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Faults in the block name the user's file or folder, if they name none or one of SQLite's own files."""
    try:
        yield
    except sqlite3.Error as error:
        if "is locked" in str(error):
            raise TimeoutError(f"{path} is kept locked by another process. End it, and run this again.") from error
        code = next((code for words, code in SQLITE.items() if words in str(error)), None)
        if code is None:
            raise ValueError(f"{path} is damaged ({error}). Delete it: it is made again.") from error
        raise OSError(code, str(error), str(path)) from error
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = str(path)
        raise


def in_words(error: OSError | UnicodeEncodeError, safe: str = "") -> str:
    """What failed, what is safe (`safe`), and what to do."""
    if isinstance(error, UnicodeEncodeError):
        return f"A name has bytes that are not UTF-8: {_shortened(printable(_name_in(error)))}. Rename it."
    if error.errno not in WORDS or error.filename is None:
        return str(error)
    what, remedy = WORDS[error.errno]
    safe = safe if error.errno in STOPPED else ""
    return " ".join(filter(None, (what.format(path=users_path(error.filename)), safe, remedy)))


def users_path(path: str | bytes | int) -> str:
    """The path that the user knows: that of the file or folder which a temporary one stood in for."""
    text = TEMPORARY.sub(lambda found: found[1] or "", os.fsdecode(path)) if not isinstance(path, int) else "a file"
    return _shortened(printable(text))


def _name_in(error: UnicodeEncodeError) -> str:
    """The name that cannot be encoded, extracted from its text or JSON."""
    before, after = error.object[: error.start], error.object[error.start :]
    return re.split(r"[\"\n]", before)[-1] + re.split(r"[\"\n]", after)[0]


def _shortened(text: str) -> str:
    half = LONGEST // 2
    return text if len(text) <= LONGEST else f"{text[:half]} ... {text[-half:]} ({len(text)} characters)"
