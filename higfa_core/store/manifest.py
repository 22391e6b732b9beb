"""The state of a synthetic dataset on disk: images, `manifest.jsonl` (the source of truth) and `dataset.json`.

The image is written first, its manifest row second, each made durable before the next: a row without its file is
generated again, a file without a row is overwritten. Several processes on one machine may append to one manifest on a
local disk (on Windows and on network shares, where appending is not atomic: only one process per dataset).
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import nullcontext, suppress
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from ..files.atomic import alone, write_atomic
from ..files.paths import inside
from ..files.reading import open_file, read_bytes
from ..files.records import DatasetInfo, checked
from .repair import put_right
from .rows import ACCEPTED, REJECTED, Damage, Tail, append_line, encode_row, parse_row, read_row

GENERATOR = "HiGFA for ComfyUI"
FORMAT_VERSION = 1
SETTLED_SECONDS = 1.0  # a folder that changed more recently may change again within one tick of the clock
Image = tuple[str, int]  # the key of its job, and its index


class Entry(NamedTuple):
    """What is held of a row: where it begins in the manifest, and what is asked of many images at once."""

    at: int
    class_name: str
    accepted: bool
    folder: str
    name: str
    size: int | None
    mask: str | None


class Manifest:
    """`folder/manifest.jsonl`: one JSON row per image; the last row of a (key, index) counts.

    Rows are read from the file as they are asked for: in memory they would take eight times what is held of them.
    A line cut short by a crash is reported once and ignored; the next append starts a new line.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self.path = self.folder / "manifest.jsonl"
        self._tail, self._damage = Tail(self.path), Damage(self.path)
        self._forget()
        if rest := self.refresh():
            self._damage.found(self._tail.number + 1, rest, "cut short")
        if len(self):
            named = {place: {name for _, name, _ in files} for place, files in self._files().items()}
            put_right(self.folder, named, all_known=not self._damage)

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[dict]:
        """The rows one by one, in the order in which their images first appeared."""
        return self.read(list(self._entries))

    def refresh(self) -> bytes:
        """Read what this or another process has appended since the last call; returns a torn last line."""
        if self._tail.restarted():
            self._forget()
        lines, rest = [b""], b""
        while lines:
            at, first = self._tail.offset, self._tail.number + 1
            lines, rest = self._tail.lines()
            for number, line in enumerate(lines, first):
                if why := self._take(line, at):
                    self._damage.found(number, line, why)
                at += len(line) + 1
        # Without a newline it may still be whole. If not: torn by a crash, or another process is writing it.
        return rest if self._take(rest, self._tail.offset) else b""

    def rows(self) -> list[dict]:
        """All rows at once, about 4 kB each."""
        return list(self)

    def images(self) -> list[Image]:
        """All images in the order in which they first appeared."""
        return list(self._entries)

    def by_class(self) -> dict[str, list[Image]]:
        """Class name -> its images, both in the order in which they first appeared."""
        found: dict[str, list[Image]] = defaultdict(list)
        for image, entry in self._entries.items():
            found[entry.class_name].append(image)
        return found

    def get(self, key: str, index: int) -> dict | None:
        """The row of image `index` of job `key`, or None."""
        return next(self.read([(key, index)])) if (key, index) in self._entries else None

    def read(self, images: Iterable[Image]) -> Iterator[dict]:
        """The rows of images, one by one. ValueError if another file has replaced the manifest since `refresh`."""
        if not self._entries:
            return
        with open_file(self.path) as file:
            for image in images:
                file.seek(self._entries[image].at)
                row = parse_row(file.readline())
                if row is None or (row["key"], row["index"]) != image:
                    raise ValueError(f"{self.path} was replaced while it was read. Try again.")
                yield row

    def is_intact(self, row: Mapping) -> bool:
        """Whether the row's file exists with the recorded hash."""
        with suppress(OSError):
            data = read_bytes(self.folder / row["file"])
            return len(data) == row["bytes"] and hashlib.sha256(data).hexdigest() == row["sha256"]
        return False

    def missing(self) -> list[dict]:
        """Rows whose file is missing (by name and size, without reading the images; masks by name)."""
        found: list[Image] = []
        for folder, members in self._files().items():
            path = self.folder / folder
            changed = path.stat().st_mtime_ns if path.is_dir() else 0
            if self._complete.get(folder) == (changed, len(members)):
                continue
            there = sizes(path)
            gone = [image for image, name, size in members if there.get(name, -1) != (size or there.get(name))]
            if not gone and time.time() - changed / 1e9 > SETTLED_SECONDS:
                self._complete[folder] = (changed, len(members))
            found += gone
        return list(self.read(found))

    def write(
        self,
        row: Mapping[str, Any],
        data: bytes,
        replace: bool = False,
        stale: tuple[str, ...] = (),
        extra: Mapping[str, bytes] | None = None,
    ) -> str:
        """Store one image and its row; `file` says where, `sha256` and `bytes` are filled in here.

        Returns "written", "same" (the identical image existed), "kept" (an intact image with other bytes existed and
        `replace` is off) or "replaced". `stale`: other paths where a crash may have left this image. `extra`: path ->
        content of files that belong to it, such as its mask.
        """
        row = dict(row, sha256=hashlib.sha256(data).hexdigest(), bytes=len(data))
        line = encode_row(row)  # first, so that a bad row leaves no image behind
        self.refresh()
        old = self.get(row["key"], row["index"])
        extra = extra or {}
        whole = all((self.folder / path).is_file() for path in extra)
        if old is not None and whole and self.is_intact(old):
            same = old["sha256"] == row["sha256"]
            if same and old.get("human"):
                return "same"  # what a person has decided about this very image
            if same and all(old[name] == row[name] for name in ("file", "accepted", "reason")):
                return "same"
            if not replace:
                return "same" if same else "kept"
        moves = old is not None and old["file"] != row["file"]
        with alone(self.folder) if moves else nullcontext():  # else its new file could be taken for a leftover
            for path, content in extra.items():
                write_atomic(inside(self.folder, path), content)
            write_atomic(inside(self.folder, row["file"]), data)
            self._append(line)
            for path in {*stale, *([old["file"]] if old else [])} - {row["file"]}:
                inside(self.folder, path).unlink(missing_ok=True)
        return "replaced" if old else "written"

    def append(self, row: Mapping) -> None:
        """Add one row durably: a single write at the end of the file. ValueError when a field is missing."""
        self._append(encode_row(row))

    def _append(self, line: bytes) -> None:
        append_line(self.path, line)
        self.refresh()

    def status(self, planned: Mapping[str, int] | None = None) -> dict[str, dict[str, int]]:
        """Class name -> {"planned", "written", "accepted"}; `planned` is `.plan.Plan.counts`."""
        info = self.info() or {}
        planned = planned or {}
        names = [*(info.get("classes") or []), *planned]
        table = {name: {"planned": planned.get(name, 0), "written": 0, "accepted": 0} for name in names}
        for entry in self._entries.values():
            counts = table.setdefault(entry.class_name, {"planned": 0, "written": 0, "accepted": 0})
            counts["written"] += 1
            counts["accepted"] += entry.accepted
        return table

    def info(self) -> dict[str, Any] | None:
        """The content of `dataset.json`, or None before it is written."""
        path = self.folder / "dataset.json"
        try:
            return checked(DatasetInfo, read_bytes(path))
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise ValueError(f"{path} is damaged ({error}). Restore it from a copy.") from error

    def start(self, classes: tuple[str, ...] | None) -> dict:
        """Write `dataset.json` once; later calls check that the classes are the same (None: not given)."""
        info = self.info()
        if info is None:
            names = None if classes is None else list(classes)
            info = {"classes": names, "version": FORMAT_VERSION, "generator": GENERATOR}
            write_atomic(self.folder / "dataset.json", json.dumps(info, ensure_ascii=False, indent=1).encode())
        elif classes is not None and info["classes"] != list(classes):
            raise ValueError(
                f"Dataset {self.folder.name!r} was started with other classes "
                f"({_difference(info['classes'], classes)}). Choose another dataset_name."
            )
        return info

    def _forget(self) -> None:
        self._entries: dict[Image, Entry] = {}
        self._complete: dict[str, tuple[int, int]] = {}

    def _take(self, line: bytes, at: int) -> str:
        """Process the line at an offset; returns what is wrong with it, if anything."""
        if not line.strip():
            return ""
        try:
            row = read_row(line)
        except ValueError as error:
            return str(error)
        folder, _, name = row["file"].rpartition("/")
        place = sys.intern(folder), name, row["bytes"], row.get("mask")
        self._entries[row["key"], row["index"]] = Entry(at, sys.intern(row["class_name"]), row["accepted"], *place)
        return ""

    def _files(self) -> dict[str, list[tuple[Image, str, int | None]]]:
        """Folder -> the files of images in it."""
        found: dict[str, list[tuple[Image, str, int | None]]] = defaultdict(list)
        for image, entry in self._entries.items():
            found[entry.folder].append((image, entry.name, entry.size))
            if entry.mask:
                folder, _, name = entry.mask.rpartition("/")
                found[folder].append((image, name, None))
        return found


def decide(folder: str | Path, row: Mapping, accepted: bool, reason: str) -> dict:
    """Record a new verdict on a stored image and move the image accordingly; returns the new row."""
    folder = Path(folder)
    place = ACCEPTED if accepted else REJECTED
    moved = {**row, "accepted": accepted, "reason": reason}
    moved["file"] = "/".join((place, *PurePosixPath(row["file"]).parts[1:]))
    if moved["file"] != row["file"]:
        # Both paths hold it until the row is written, so that a crash loses nothing.
        write_atomic(inside(folder, moved["file"]), read_bytes(inside(folder, row["file"])))
    append_line(folder / "manifest.jsonl", encode_row(moved))
    if moved["file"] != row["file"]:
        (folder / row["file"]).unlink(missing_ok=True)
    return moved


def sizes(folder: Path) -> dict[str, int]:
    """Name -> bytes of the files in a folder; {} when there is none."""
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        return {entry.name: entry.stat().st_size for entry in entries}
    return {}


def _difference(old: list[str] | None, new: tuple[str, ...]) -> str:
    if old is None:
        return "no class list"
    gone, added = sorted(set(old) - set(new)), sorted(set(new) - set(old))
    parts = [f"without {name!r}" for name in added[:3]] + [f"with {name!r}" for name in gone[:3]]
    return ", ".join(parts) or "in another order"
