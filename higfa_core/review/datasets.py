"""The datasets of a folder, each as the page of the review shows it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from threading import RLock
from typing import Any

from ..files.paths import inside
from ..plans.plan_file import HEADER, JOBS, planned_keys
from ..plans.rules import SCORES, Rules
from ..settings import settings_of
from ..store.manifest import Manifest
from ..store.rows import ACCEPTED, MASKS, REJECTED
from .filtering import Judged, decide_by_hand, judged, planned_rows, present_rules, refilter
from .pictures import Pictures, Roots

DEEPEST = 3  # folders below the one with the datasets
WAIT = 20.0  # seconds for a run that is judging images
ROW = ("key", "index", "class_name", "accepted", "reason", "scores", "source", "prompt", "seed", "width", "height")


def datasets(root: Path) -> list[str]:
    """The datasets in a folder, the one that changed last first."""
    found = {place: (root / place / "manifest.jsonl").stat().st_mtime for place in _datasets(root, "", DEEPEST)}
    return sorted(found, key=lambda place: (-found[place], place))


class Dataset:
    """A dataset under review; may be used from several threads.

    Args:
        root: The folder that it may not leave.
        name: Its place in it.
        roots: Where the real images are, see `.pictures.Pictures`.

    Raises:
        ValueError: There is no dataset of that name.
    """

    def __init__(self, root: Path, name: str, roots: Roots):
        self.folder, self.name = inside(root, name), name
        if not (self.folder / "manifest.jsonl").is_file():
            raise ValueError(f"No dataset {name!r} here. Load the page again.")
        self._lock, self._roots = RLock(), roots
        self._manifest = Manifest(self.folder)
        self._seen: tuple = ()  # files as they were when these rows and keys were read
        self._rows: list[dict] = []
        self._keys: set[str] | None = None
        self._pictures = Pictures(self.folder, roots)

    @property
    def version(self) -> str:
        """Changes with the manifest, and with the rules."""
        stamps = [_stamp(self.folder / name) for name in ("manifest.jsonl", HEADER, "dataset.json")]
        return "-".join(f"{size:x}.{changed:x}" for size, changed in stamps)

    def state(self) -> dict[str, Any]:
        """Everything that the page shows, except the pictures."""
        version = self.version
        rows = [one.row for one in self._judged(Rules())]
        about = self._manifest.info() or {}
        first = self._pictures.kinds(rows[0]) if rows else []
        names = about.get("classes") or sorted({row["class_name"] for row in rows})
        return {
            "name": self.name,
            "version": version,
            "classes": names,
            "pictures": first,
            "rules": self._rules(rows),
            "images": [_shown(row) for row in rows],
        }

    def preview(self, rules: Mapping) -> dict[str, Any]:
        """What other rules would change: number of the image -> the verdict, and the image that it duplicates."""
        found = self._judged(Rules.recorded(rules))
        place = {_id(one.row): number for number, one in enumerate(found)}
        moved = {
            str(number): [one.verdict.accepted, one.verdict.reason, place[_id(one.like)] if one.like else None]
            for number, one in enumerate(found)
            if one.changes or one.restates or one.like
        }
        return {"version": self.version, "stay": sum(one.verdict.accepted for one in found), "verdicts": moved}

    def apply(self, rules: Mapping) -> dict[str, Any]:
        """Move the images as other rules say; returns the rules as they were."""
        with self._lock:
            self._manifest.refresh()
            before = asdict(Rules.recorded(present_rules(self._manifest)))
        done = refilter(self.folder, rules, fresh=True, seconds=WAIT)
        return {"before": before, "accepted": done.accepted, "rejected": done.rejected}

    def decide(self, images: Sequence[tuple[str, int]], accepted: bool | None) -> dict[str, Any]:
        """Record a verdict by hand, or take it back; returns the rows now, and the verdicts by hand as they were."""
        with self._lock:
            before = decide_by_hand(self._manifest, images, accepted, WAIT)
            now = [self._manifest.get(*image) or {} for image in images]
        old = [{"key": row["key"], "index": row["index"], "accepted": _human(row)} for row in before]
        fields = ("key", "index", "accepted", "reason", "human")
        return {
            "version": self.version,
            "before": old,
            "now": [{name: row.get(name) for name in fields} for row in now],
        }

    def picture(self, key: str, index: int, kind: str, size: str) -> bytes:
        """A picture of an image as WebP. ValueError if there is none."""
        with self._lock:
            row = self._manifest.get(key, index)
            if row is None:
                self._manifest.refresh()
                row = self._manifest.get(key, index)
        if row is None:
            raise ValueError(f"No image {key[:16]}-{index} in {self.name}. Load the page again.")
        return self._pictures.get(row, kind, size)

    def _judged(self, rules: Rules) -> list[Judged]:
        """The images in the order of the page."""
        with self._lock:
            plan = _stamp(self.folder / HEADER), _stamp(self.folder / JOBS)
            seen = (*plan, _stamp(self.folder / "manifest.jsonl"))
            if plan != self._seen[:2]:
                self._keys = planned_keys(self.folder)
                self._pictures = Pictures(self.folder, self._roots)
            if seen != self._seen:
                self._manifest.refresh()
                self._seen, self._rows = seen, planned_rows(self._manifest, self._keys)
            return judged(self._rows, rules)

    def _rules(self, rows: Sequence[Mapping]) -> list[dict[str, Any]]:
        """The rules as the page's sliders: declared once, as everywhere."""
        now = Rules.recorded(present_rules(self._manifest)) if rows else Rules()
        found = []
        for item in settings_of(Rules):
            values = [row["scores"].get(SCORES[item.name]) for row in rows]
            numbers = [value for value in values if isinstance(value, (int, float))]
            high = max(numbers, default=1.0) if item.name == "min_sharpness" else item.high
            found.append(
                {
                    "name": item.name,
                    "text": item.text,
                    "kind": item.kind.__name__,
                    "default": item.default,
                    "low": item.low,
                    "high": high,
                    "step": item.step or (1 if item.kind is int else 0.01),
                    "value": getattr(now, item.name),
                    "measured": bool(values) and all(value is not None for value in values),
                }
            )
        return found


def _datasets(root: Path, place: str, deeper: int) -> Iterator[str]:
    with os.scandir(root / place) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=False))
    if place and (root / place / "manifest.jsonl").is_file():
        yield place
    skipped = {ACCEPTED, REJECTED, MASKS}
    for name in names if deeper else ():
        if name not in skipped and not name.startswith("."):
            yield from _datasets(root, f"{place}/{name}" if place else name, deeper - 1)


def _shown(row: Mapping) -> dict[str, Any]:
    about = {"human": row.get("human"), "v": (row["sha256"] or "")[:12]}
    return {name: row.get(name) for name in ROW} | about | {"seed": str(row["seed"])}  # JavaScript would round it


def _human(row: Mapping) -> bool | None:
    return row["human"]["accepted"] if row.get("human") else None


def _id(row: Mapping) -> tuple[str, int]:
    return row["key"], row["index"]


def _stamp(path: Path) -> tuple[int, int]:
    try:
        info = path.stat()
    except FileNotFoundError:
        return 0, 0
    return info.st_size, info.st_mtime_ns
