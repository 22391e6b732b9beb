"""The rows of `manifest.jsonl`: their fields, and reading and appending them line by line."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

ACCEPTED, REJECTED, MASKS = "train", "rejected", "masks"
ROW_FIELDS = (
    "key",
    "index",
    "batch",
    "file",
    "sha256",
    "bytes",
    "class_name",
    "label",
    "accepted",
    "reason",
    "scores",
    "seed",
    "prompt",
    "source",
    "transform",
    "created",
)


class Tail:
    """Reads the rows appended to a manifest since the last call; `offset` is the position reached."""

    def __init__(self, path: str | Path, offset: int = 0, inode: str | None = None):
        self.path, self.offset, self.inode = Path(path), offset, inode

    def restarted(self) -> bool:
        """Whether the file was replaced or has shrunk since the last call; it is then read from the start."""
        try:
            info = self.path.stat()
        except FileNotFoundError:
            changed, self.offset, self.inode = self.offset > 0, 0, None
            return changed
        inode = str(info.st_ino)  # text: some file systems use more than the 63 bits that SQLite stores
        changed = info.st_size < self.offset or self.inode not in (None, inode)
        self.offset, self.inode = (0 if changed else self.offset), inode
        return changed

    def lines(self) -> tuple[list[bytes], bytes]:
        """New complete lines, and what follows the last newline (it will be read again). [] without a file."""
        try:
            with open(self.path, "rb") as file:
                file.seek(self.offset)
                *lines, rest = file.read().split(b"\n")
        except FileNotFoundError:
            return [], b""
        self.offset += sum(len(line) + 1 for line in lines)
        return lines, rest


def parse_row(line: bytes) -> dict | None:
    """The row on a line of a manifest; None for an empty or damaged line."""
    try:
        row = json.loads(line)
        _check_row(row)
    except ValueError:
        return None
    return row


def append_line(path: Path, line: bytes) -> None:
    """Durably append a line to a manifest that other processes of this machine may be appending to."""
    path.parent.mkdir(parents=True, exist_ok=True)
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags, 0o666)
    try:
        data = (b"\n" if _ends_torn(descriptor) else b"") + line
        if os.write(descriptor, data) != len(data):
            raise OSError(f"Disk full while writing {path}. Free some space and run again.")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _ends_torn(descriptor: int) -> bool:
    if os.fstat(descriptor).st_size == 0:
        return False
    os.lseek(descriptor, -1, os.SEEK_END)
    return os.read(descriptor, 1) != b"\n"


def encode_row(row: Mapping) -> bytes:
    """A row as a line. ValueError when a field is missing or holds no plain value."""
    _check_row(row)
    return (json.dumps(row, ensure_ascii=False, allow_nan=False, default=_plain_value) + "\n").encode()


def _check_row(row: object) -> None:
    if not isinstance(row, Mapping):
        raise ValueError(f"a manifest row must be an object, got {row!r}")
    if lacking := [name for name in ROW_FIELDS if name not in row]:
        raise ValueError(f"a manifest row lacks {', '.join(lacking)}")
    if not isinstance(row["key"], str) or not isinstance(row["index"], int):
        raise ValueError(f"a manifest row needs a text key and an integer index: {row['key']!r}, {row['index']!r}")
    path = PurePosixPath(str(row["file"]))
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(f"a manifest row points outside its dataset: {row['file']!r}")


def _plain_value(value: Any) -> Any:
    """Tensors and NumPy values, as transforms may hold them, become numbers and lists."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise ValueError(f"A manifest row cannot hold {value!r} ({type(value).__name__}). Give plain values.")
