"""The rows of `manifest.jsonl`: their fields, and reading and appending them line by line."""

from __future__ import annotations

import errno
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files.faults import naming
from ..files.paths import refuse_link
from ..files.reading import open_file
from ..files.records import check_row, plain

log = logging.getLogger(__name__)

ACCEPTED, REJECTED, MASKS = "train", "rejected", "masks"
BLOCK = 1 << 22  # bytes of a manifest that are held at a time
SHOWN = 5  # damaged lines that are named


class Tail:
    """Reads the rows appended to a manifest since the last call; `offset` is the position reached, after `number`
    lines."""

    def __init__(self, path: str | Path, offset: int = 0, inode: str | None = None, number: int = 0):
        self.path, self.offset, self.inode, self.number = Path(path), offset, inode, number

    def restarted(self) -> bool:
        """Whether the file was replaced or has shrunk since the last call; it is then read from the start."""
        try:
            info = self.path.stat()
        except FileNotFoundError:
            changed, self.offset, self.inode, self.number = self.offset > 0, 0, None, 0
            return changed
        inode = str(info.st_ino)  # text: some file systems use more than the 63 bits that SQLite stores
        changed = info.st_size < self.offset or self.inode not in (None, inode)
        self.inode = inode
        if changed:
            self.offset = self.number = 0
        return changed

    def lines(self) -> tuple[list[bytes], bytes]:
        """The next new complete lines, `BLOCK` bytes of them, and what follows the last newline where that is the end
        of the file (to be read again). [] when there are no more, or no file."""
        try:
            with open_file(self.path) as file:
                file.seek(self.offset)
                data = file.read(BLOCK)
                *lines, rest = (data + file.readline() if len(data) == BLOCK else data).split(b"\n")
        except FileNotFoundError:
            return [], b""
        self.offset += sum(len(line) + 1 for line in lines)
        self.number += len(lines)
        return lines, rest


class Damage:
    """Names the damaged lines of a manifest in the log: the first few, each once."""

    def __init__(self, path: Path):
        self.path, self._seen = path, set()

    def __bool__(self) -> bool:
        return bool(self._seen)

    def found(self, number: int, line: bytes, why: str) -> None:
        """Line `number`, from 1, cannot be read."""
        if line in self._seen or len(self._seen) > SHOWN:  # no more are kept: a damaged file may be large
            return
        self._seen.add(line)
        if len(self._seen) <= SHOWN:
            log.warning("%s, line %d is damaged (%s): ignored, and its image made again", self.path, number, why)
        elif len(self._seen) == SHOWN + 1:
            log.warning("%s has more damaged lines: restore it from a copy, or let a run make the images", self.path)


def read_row(line: bytes) -> dict:
    """The row in a line of a manifest, with all its fields. ValueError says what is wrong with it."""
    check_row(line)
    return plain(line)


def parse_row(line: bytes) -> dict | None:
    """The row in a line of a manifest; None for an empty or damaged line."""
    try:
        return read_row(line)
    except ValueError:
        return None


def append_line(path: Path, line: bytes) -> None:
    """Durably append a line to a manifest that other processes of this machine may be appending to."""
    with naming(path):
        _append(path, line)


def _append(path: Path, line: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    refuse_link(path)
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags, 0o666)
    try:
        data = (b"\n" if _ends_torn(descriptor) else b"") + line
        if os.write(descriptor, data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))  # the next line starts afresh
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _ends_torn(descriptor: int) -> bool:
    if os.fstat(descriptor).st_size == 0:
        return False
    os.lseek(descriptor, -1, os.SEEK_END)
    return os.read(descriptor, 1) != b"\n"


def evidence(row: Mapping) -> dict:
    """What `..plans.rules.Rules` judge an image by: its scores, and as `human` what a person has decided."""
    human = row.get("human")
    return {**row["scores"], "human": human["accepted"]} if human else row["scores"]


def place_in_plan(row: Mapping) -> tuple:
    """What rows are sorted by; those without a plan come last."""
    index = row.get("plan_index")
    return index is None, index or 0, row["key"], row["index"]


def encode_row(row: Mapping) -> bytes:
    """A row as a line. ValueError if a field is missing or invalid."""
    line = (json.dumps(row, ensure_ascii=False, allow_nan=False, default=_plain_value) + "\n").encode()
    try:
        check_row(line)
    except ValueError as error:
        raise ValueError(f"A manifest row is wrong: {error}") from error
    return line


def _plain_value(value: Any) -> Any:
    """Tensors and NumPy values, which transforms may contain, become numbers and lists."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise ValueError(f"A manifest row cannot hold {value!r} ({type(value).__name__}). Give plain values.")
