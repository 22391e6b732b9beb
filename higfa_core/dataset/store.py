"""The state of a synthetic dataset on disk: images, ``manifest.jsonl`` (the only truth) and ``dataset.json``.

Image first, manifest row second, each made durable before the next: a row without its file is made again, a
file without a row is overwritten. Several processes may append to one manifest on a local POSIX file system
(on Windows and on network shares: one process a dataset).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path, PurePosixPath

log = logging.getLogger(__name__)

GENERATOR = "HiGFA for ComfyUI"
FORMAT_VERSION = 1
ROW_FIELDS = (
    "key",
    "index",
    "file",
    "sha256",
    "bytes",
    "class_name",
    "label",
    "accepted",
    "reason",
    "confidence",
    "seed",
    "prompt",
    "source",
    "transform",
    "created",
)
STALE_SECONDS = 3600  # a temporary file of that age belongs to a process that died


class Manifest:
    """``folder/manifest.jsonl``: one JSON row for every image; the last row of a (key, index) counts.

    A line that a crash cut short is reported once and ignored; the next append starts on a line of its own.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.path = self.folder / "manifest.jsonl"
        self._forget()
        self.refresh()
        if self._tail:
            self._warn(self._tail)
        self._sweep()

    def refresh(self) -> None:
        """Read what was appended since the last look, by this or another process."""
        try:
            info = self.path.stat()
        except FileNotFoundError:
            self._forget()
            return
        if info.st_ino != self._inode or info.st_size < self._offset:
            self._forget()
        self._inode = info.st_ino
        with open(self.path, "rb") as file:
            file.seek(self._offset)
            *lines, tail = file.read().split(b"\n")
        for line in lines:
            if not self._take(line):
                self._warn(line)
            self._offset += len(line) + 1
        # Without a newline it may still be whole. If not: torn by a crash, or another process is writing it.
        self._tail = b"" if self._take(tail) else tail

    def rows(self) -> list[dict]:
        """All rows in the order in which their (key, index) first appeared."""
        return list(self._rows.values())

    def get(self, key: str, index: int) -> dict | None:
        """The row of image ``index`` of job ``key``, or None."""
        return self._rows.get((key, index))

    def is_intact(self, row: Mapping) -> bool:
        """Whether the row's file is there with the recorded hash."""
        with suppress(OSError):
            data = (self.folder / row["file"]).read_bytes()
            return len(data) == row["bytes"] and hashlib.sha256(data).hexdigest() == row["sha256"]
        return False

    def missing(self) -> list[dict]:
        """Rows whose file is not there (by name and size, without reading the images)."""
        sizes = {}
        for folder in {Path(row["file"]).parent for row in self._rows.values()}:
            with suppress(FileNotFoundError), os.scandir(self.folder / folder) as entries:
                sizes.update({(folder / e.name).as_posix(): e.stat().st_size for e in entries})
        return [row for row in self._rows.values() if sizes.get(row["file"]) != row["bytes"]]

    def write(self, row: Mapping, data: bytes, replace: bool = False, stale: tuple[str, ...] = ()) -> str:
        """Store one image and its row; ``file`` says where, ``sha256`` and ``bytes`` are filled in here.

        Returns "written", "same" (that very image was there), "kept" (an intact image with other bytes was
        there and ``replace`` is off) or "replaced". ``stale``: other paths where a crash may have
        left this image.
        """
        row = {**row, "sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
        line = _encode(row)  # first, so that a bad row leaves no image behind
        self.refresh()
        old = self.get(row["key"], row["index"])
        if old is not None and self.is_intact(old):
            same = old["sha256"] == row["sha256"]
            if same and all(old[name] == row[name] for name in ("file", "accepted", "reason")):
                return "same"
            if not replace:
                return "same" if same else "kept"
        write_atomic(self.folder / row["file"], data)
        self._append(line)
        for path in {*stale, *([old["file"]] if old else [])} - {row["file"]}:
            (self.folder / path).unlink(missing_ok=True)
        return "replaced" if old else "written"

    def append(self, row: Mapping) -> None:
        """Add one row durably: a single write at the end of the file. ValueError when a field is missing."""
        self._append(_encode(row))

    def _append(self, line: bytes) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | getattr(os, "O_BINARY", 0)
        descriptor = os.open(self.path, flags, 0o666)
        try:
            data = (b"\n" if _ends_torn(descriptor) else b"") + line
            if os.write(descriptor, data) != len(data):
                raise OSError(f"Disk full while writing {self.path}: free some space and run again")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        self.refresh()

    def status(self, planned: Mapping[str, int] | None = None) -> dict[str, dict[str, int]]:
        """Class name -> {"planned", "written", "accepted"}; ``planned`` is :meth:`.plan.Plan.counts`."""
        info = self.info() or {}
        planned = planned or {}
        names = dict.fromkeys([*(info.get("classes") or []), *planned])
        table = {name: {"planned": planned.get(name, 0), "written": 0, "accepted": 0} for name in names}
        for row in self._rows.values():
            counts = table.setdefault(row["class_name"], {"planned": 0, "written": 0, "accepted": 0})
            counts["written"] += 1
            counts["accepted"] += bool(row["accepted"])
        return table

    def info(self) -> dict | None:
        """The content of ``dataset.json``, or None before it is written."""
        try:
            return json.loads((self.folder / "dataset.json").read_text("utf-8"))
        except FileNotFoundError:
            return None
        except json.JSONDecodeError as error:
            raise ValueError(f"{self.folder / 'dataset.json'} is damaged ({error}): restore it") from error

    def start(self, classes: tuple[str, ...] | None) -> dict:
        """Write ``dataset.json`` once; later calls check that the classes are the same (None: not given)."""
        info = self.info()
        if info is None:
            classes = None if classes is None else list(classes)
            info = {"classes": classes, "version": FORMAT_VERSION, "generator": GENERATOR}
            write_atomic(self.folder / "dataset.json", json.dumps(info, ensure_ascii=False, indent=1).encode())
        elif classes is not None and info["classes"] != list(classes):
            raise ValueError(
                f"Dataset {self.folder.name!r} was started with other classes "
                f"({_difference(info['classes'], classes)}): choose another dataset_name"
            )
        return info

    def _forget(self) -> None:
        self._rows: dict[tuple[str, int], dict] = {}
        self._offset, self._inode, self._tail = 0, None, b""
        self._warned: set[bytes] = set()

    def _take(self, line: bytes) -> bool:
        if not line.strip():
            return True
        try:
            row = json.loads(line)
            _check_row(row)
        except ValueError:
            return False
        self._rows[row["key"], row["index"]] = row
        return True

    def _warn(self, line: bytes) -> None:
        if line not in self._warned:
            log.warning("%s: ignoring a damaged line: %r; its image is made again", self.path, line[:120])
        self._warned.add(line)

    def _sweep(self) -> None:
        for file in self.folder.glob("**/.*.part"):
            with suppress(OSError):
                if time.time() - file.stat().st_mtime > STALE_SECONDS:
                    file.unlink()


def write_atomic(path: str | Path, data: bytes) -> None:
    """Write a file so that readers see all of it or nothing, also after a crash; makes its folder."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Not an image suffix: a reader of the folder must not take it for a sample.
    part = path.with_name(f".{path.name[:64]}.{os.getpid()}.{secrets.token_hex(4)}.part")
    try:
        with open(part, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
    _sync_folder(path.parent)


def _sync_folder(folder: Path) -> None:
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _ends_torn(descriptor: int) -> bool:
    if os.fstat(descriptor).st_size == 0:
        return False
    os.lseek(descriptor, -1, os.SEEK_END)
    return os.read(descriptor, 1) != b"\n"


def _encode(row: Mapping) -> bytes:
    _check_row(row)
    return (json.dumps(row, ensure_ascii=False, allow_nan=False, default=_plain_value) + "\n").encode()


def _check_row(row: object) -> None:
    if not isinstance(row, Mapping):
        raise ValueError(f"a manifest row must be an object, got {row!r}")
    if lacking := [name for name in ROW_FIELDS if name not in row]:
        raise ValueError(f"a manifest row lacks {', '.join(lacking)}")
    if not isinstance(row["key"], str) or not isinstance(row["index"], int):
        raise ValueError(f"a manifest row needs a text key and a whole index: {row['key']!r}, {row['index']!r}")
    path = PurePosixPath(str(row["file"]))
    if path.is_absolute() or ".." in path.parts or not path.parts:
        raise ValueError(f"a manifest row points outside its dataset: {row['file']!r}")


def _plain_value(value: object) -> object:
    """Tensors and NumPy values, as transforms may hold them, become numbers and lists."""
    if hasattr(value, "tolist"):
        return value.tolist()
    raise ValueError(f"A manifest row cannot hold {value!r} ({type(value).__name__}): give plain values")


def _difference(old: list[str] | None, new: tuple[str, ...]) -> str:
    if old is None:
        return "no class list"
    gone, added = sorted(set(old) - set(new)), sorted(set(new) - set(old))
    parts = [f"without {name!r}" for name in added[:3]] + [f"with {name!r}" for name in gone[:3]]
    return ", ".join(parts) or "in another order"
