"""Finished datasets, or the shards of one plan, as one collection to export: classes, accepted images, the plan."""

from __future__ import annotations

import functools
import stat
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from ..files.names import class_name
from ..files.opening import opened
from ..files.paths import check_class_names, inside
from ..files.records import plain
from ..plans.plan_file import PlanFile, planned_keys
from ..sources.source import SourceImage
from ..store.manifest import Manifest
from ..store.rows import place_in_plan


@dataclass(frozen=True)
class Item:
    """One image to export: its manifest row, its file and, if there is one, the file of its mask.

    `real`: the source image below `root`, if it was not generated.
    """

    row: Mapping
    path: Path
    mask: Path | None = None
    real: SourceImage | None = None
    root: Path | None = None


@dataclass(frozen=True)
class Collection:
    """Accepted images in plan order, of all `classes` (in label order).

    `rejected`: class name -> reason -> number. `plans`: each folder's `plan.json`, if it has one.
    `others`: how many accepted images were left out because they belong to other plans than their folder's.
    """

    folders: tuple[Path, ...]
    classes: tuple[str, ...]
    items: tuple[Item, ...]
    rejected: Mapping[str, Counter]
    plans: tuple[dict, ...] = ()
    others: int = 0

    @property
    def plan(self) -> dict:
        """The first `plan.json`, or an empty one: shards do not differ in anything read here."""
        return self.plans[0] if self.plans else {}

    @cached_property
    def workflow(self) -> dict:
        """The API graph that made the images: the plan's, or the one that ComfyUI wrote into the first PNG."""
        if self.plan.get("workflow") or not self.items:
            return self.plan.get("workflow") or {}
        try:
            with opened(self.items[0].path) as image:
                graph = plain(str(image.info.get("prompt", "{}")).encode())
        except (OSError, ValueError):
            return {}
        return graph if isinstance(graph, dict) else {}

    @property
    def root(self) -> Path | None:
        """The folder of the real images, if a plan names it; it may be unreachable."""
        root = (self.plan.get("dataset") or {}).get("root")
        return Path(root) if root else None

    @cached_property
    def sources(self) -> tuple[SourceImage, ...]:
        """The real training images of the plans."""
        found = {path: about for plan in self.plans for path, about in (plan.get("sources") or {}).items()}
        return tuple(_source(path, about, self.classes) for path, about in sorted(found.items()))

    def first(self, per_class: int | None = None) -> list[Item]:
        """The first `per_class` accepted images of each class; all without a number."""
        taken, counts = [], Counter()
        for item in self.items:
            if per_class is None or counts[item.row["class_name"]] < per_class:
                counts[item.row["class_name"]] += 1
                taken.append(item)
        return taken

    def real_sources(self, root: Path) -> tuple[SourceImage, ...]:
        """All real training images: those of the plans, else those in `root`. ValueError if the classes differ."""
        if self.sources:
            return self.sources
        from ..sources.layouts import read_dataset  # reads a whole image set: a last resort

        found = read_dataset(root)
        if found.class_names != self.classes:
            raise ValueError(f"{root} has other classes than the dataset. Name the folder that it was made from.")
        return found.images


def read_collection(folders: Sequence[str | Path], all_images: bool = False) -> Collection:
    """Read finished datasets of the same classes. ValueError if they differ, or an accepted image is not intact.

    A folder with a plan contributes only images of that plan, not of replaced plans, unless `all_images`.
    """
    if not folders:
        raise ValueError("No dataset given. Name a folder that Export Dataset or `higfa run` has filled.")
    folders = [Path(folder) for folder in folders]
    _real_folder.cache_clear()
    manifests = [_open(folder) for folder in folders]
    classes = _classes(manifests)
    rows: dict[tuple[str, int], tuple[Path, dict]] = {}
    labels = {name: label for label, name in enumerate(classes)}
    others = 0
    for manifest in manifests:
        keys = None if all_images else planned_keys(manifest.folder)
        for row in manifest:
            if keys is None or row["key"] in keys:
                _add(rows, manifest.folder, row, labels)
            else:
                others += row["accepted"]
    rejected = defaultdict(Counter)
    accepted = []
    for folder, row in rows.values():
        if row["accepted"]:
            accepted.append(_item(folder, row, labels[row["class_name"]]))
        else:
            rejected[row["class_name"]][row["reason"]] += 1
    if not accepted:
        left_out = f", but {others} of other plans (--all-images includes them)" if others else ""
        raise ValueError(f"No accepted image in {', '.join(map(str, folders))}{left_out}. There is nothing to export.")
    plans = [plan for folder in folders if (plan := _read_plan(folder / "plan.json", classes))]
    return Collection(
        tuple(folders),
        classes,
        tuple(sorted(accepted, key=lambda item: place_in_plan(item.row))),
        rejected,
        tuple(plans),
        others,
    )


def _open(folder: Path) -> Manifest:
    if not (folder / "manifest.jsonl").is_file():
        raise ValueError(f"No dataset in {folder}. Give the folder that has manifest.jsonl.")
    return Manifest(folder)


def _classes(manifests: Sequence[Manifest]) -> tuple[str, ...]:
    lists = [_class_list(manifest) for manifest in manifests]
    for manifest, classes in zip(manifests, lists):
        if classes != lists[0]:
            raise ValueError(f"{manifest.folder} has other classes than {manifests[0].folder}. Export them one by one.")
    names = lists[0]
    if names is None:  # images without a job: torchvision's order
        names = sorted({class_name(name) for manifest in manifests for name in manifest.by_class()})
    check_class_names(names)
    return tuple(names)


def _class_list(manifest: Manifest) -> list[str] | None:
    # Servers that write elsewhere keep dataset.json there.
    info = manifest.info()
    names = info["classes"] if info else list(PlanFile(manifest.folder).classes)
    return names and list(map(class_name, names))


def _add(rows: dict, folder: Path, row: dict, labels: Mapping[str, int]) -> None:
    name = class_name(row["class_name"])
    row = row if name == row["class_name"] else {**row, "class_name": name}
    if name not in labels or row["label"] not in (None, labels[name]):
        raise ValueError(
            f"{folder}: {row['file']} is {name!r}, label {row['label']}. Its dataset.json has no such class."
        )
    known, old = rows.setdefault((row["key"], row["index"]), (folder, row))
    if any(old[field] != row[field] for field in ("sha256", "accepted")):
        raise ValueError(f"{row['file']} of {folder} is not the image that {known} has of that job. Leave one out.")


def _item(folder: Path, row: dict, label: int) -> Item:
    path = _real_folder(folder, row["file"].rpartition("/")[0]) / row["file"].rpartition("/")[2]
    try:
        info = path.lstat()
        if stat.S_ISLNK(info.st_mode):
            info = inside(folder, row["file"]).stat()
    except OSError:
        raise ValueError(f"{path} is missing. Generate it again, or copy it there.") from None
    size = info.st_size
    if size != row["bytes"]:
        raise ValueError(f"{path} has {size} bytes, its manifest says {row['bytes']}. Generate it again.")
    mask = inside(folder, row["mask"]) if row.get("mask") else None
    if mask and not mask.is_file():
        raise ValueError(f"Mask {mask} is missing. Generate its image again, or copy it there.")
    return Item({**row, "label": label, "synthetic": True}, path, mask)


@functools.lru_cache(maxsize=4096)
def _real_folder(folder: Path, place: str) -> Path:
    """A folder of images in the dataset, looked at once. ValueError when a link there leads out of the dataset."""
    return inside(folder, place)


def _source(path: str, about: Mapping, classes: tuple[str, ...]) -> SourceImage:
    label = about["label"]
    box = tuple(about["box"]) if about.get("box") else None
    values = tuple(about.get("mask_values") or ())
    return SourceImage(path, classes[label], label, about.get("mask"), values, box, about.get("crop_bottom") or 0)


def _read_plan(path: Path, classes: tuple[str, ...]) -> dict:
    if not path.is_file():
        return {}
    try:
        plan = PlanFile(path.parent)
    except ValueError as error:
        raise ValueError(f"{error} Or remove it, to export without a plan.") from error
    if tuple(map(class_name, plan.classes)) != classes:
        raise ValueError(f"{path} has other classes than the dataset beside it. Remove it to export without a plan.")
    return plan.header
