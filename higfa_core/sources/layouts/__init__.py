"""The layouts in which labelled image sets come; `read_dataset` recognises which one a folder has."""

from __future__ import annotations

import inspect
import os
from pathlib import Path
from types import ModuleType

from ...files.paths import is_held_out, refuse_inside_held_out, training_folders
from .. import held_out
from ..source import SourceDataset
from . import aircraft, cars, cub, dogs, dtd, flowers, hugging_face, image_folder, inaturalist, pets, tables
from .lists import check_files, check_folder, sub_folders

# In the order in which they are looked for.
NATIVE = {
    "cub": cub,
    "aircraft": aircraft,
    "cars": cars,
    "flowers": flowers,
    "dogs": dogs,
    "pets": pets,
    "dtd": dtd,
    "inaturalist": inaturalist,
}
GENERIC = {"hugging_face": hugging_face, "table": tables, "image_folder": image_folder}
LAYOUTS = (*NATIVE, *GENERIC)
EVALUATION = {"2021_valid", "cars_test"}  # folders of images for tests, by other names than paths.SPLITS
DEPTH = 2  # fgvc-aircraft-2013b/data, CUB/CUB_200_2011
MAX_FOLDERS = 20  # a folder with more of them holds classes


def read_dataset(root: str | Path, layout: str = "auto", **options) -> SourceDataset:
    """The training images of the labelled set in `root`. ValueError when there is none, or a damaged one.

    Images that a `held_out.txt` names (see `..held_out`) are none of them.

    `root` may be the set's usual folder, one or two above it, or for sets with a `data` folder that one.
    `layout`: one of `LAYOUTS`, or auto to recognise it by its files. `options` belong to the layout:
    `level` and `split` (aircraft), `partition` (dtd), `split` (inaturalist), `label_column`
    (hugging_face), `table` (table).
    """
    return held_out.without(*read_split(root, layout, **options))


def read_split(root: str | Path, layout: str = "auto", **options) -> tuple[SourceDataset, frozenset[str]]:
    """As `read_dataset`, with the images that a `held_out.txt` names, and their paths: for a training."""
    root = Path(os.path.abspath(root))
    check_folder(root)
    if layout not in ("auto", *LAYOUTS):
        raise ValueError(f"No layout {layout!r}: choose auto, {', '.join(LAYOUTS)}")
    _refuse_split(root)
    name, home = _find(root, {key: module for key, module in NATIVE.items() if layout in ("auto", key)})
    if home is None and layout in NATIVE:
        raise ValueError(f"No {NATIVE[layout].TITLE} set in {root}: expected {NATIVE[layout].EXPECTED}")
    if home is None:
        name = layout if layout != "auto" else _generic(root)
    if name == "image_folder":
        _refuse_native(root)
    module = (NATIVE | GENERIC)[name]
    _check_options(name, module, options)
    dataset = module.read(root, **options) if home is None else module.read(root, home, **options)
    check_files(dataset)
    return dataset, held_out.listed(dataset, home)


def describe(dataset: SourceDataset) -> str:
    """What was found, in a few lines for a terminal."""
    counts = dataset.counts()
    filled = {name: count for name, count in counts.items() if count}
    least, most = min(filled, key=filled.__getitem__), max(filled, key=filled.__getitem__)
    masks = sum(image.mask is not None for image in dataset.images)
    boxes = sum(image.box is not None for image in dataset.images)
    lines = [
        f"{dataset.layout} in {dataset.root}",
        f"recognised by: {dataset.evidence}",
        f"classes: {len(counts)}, smallest {least!r} ({filled[least]}), largest {most!r} ({filled[most]})",
        f"training images: {len(dataset.images)}, held out and never used: {dataset.held_out}",
        f"masks: {masks or 'none'}, boxes: {boxes or 'none'}",
        f"licence: {dataset.licence or 'not stated, look it up before publishing'}",
    ]
    if moved := [f"{number} -> {label}" for label, number in enumerate(dataset.numbers) if number != label]:
        lines.insert(3, f"labels were renumbered: {', '.join(moved[:3])}{' ...' if len(moved) > 3 else ''}")
    if empty := [name for name, count in counts.items() if not count]:
        lines.insert(3, f"classes without a training image: {len(empty)} ({', '.join(empty[:3])})")
    return "\n".join(lines)


def _find(root: Path, modules: dict[str, ModuleType]) -> tuple[str, Path | None]:
    """The one native set that `root` is, or that is below it."""
    found = _search(root, modules, DEPTH)
    if len(found) > 1:
        several = ", ".join(f"{modules[name].TITLE} in {folder}" for name, folder in found)
        raise ValueError(f"{root} holds several labelled sets: choose one of {several}")
    return found[0] if found else ("", None)


def _search(folder: Path, modules: dict[str, ModuleType], depth: int) -> list[tuple[str, Path]]:
    if name := _recognise(folder, modules):
        return [(name, folder)]
    children = _children(folder) if depth else []
    return [found for child in children for found in _search(child, modules, depth - 1)]


def _recognise(folder: Path, modules: dict[str, ModuleType]) -> str:
    try:
        return next((name for name, module in modules.items() if module.is_home(folder)), "")
    except PermissionError:  # lost+found, say
        return ""


def _children(folder: Path) -> list[Path]:
    names = [name for name in sub_folders(folder) if not is_held_out(name)]
    return [folder / name for name in names] if len(names) <= MAX_FOLDERS else []


def _generic(root: Path) -> str:
    return next((name for name in ("hugging_face", "table") if GENERIC[name].is_home(root)), "image_folder")


def _refuse_split(root: Path) -> None:
    if root.name.lower() in EVALUATION:
        raise ValueError(f"Folder {root.name!r} is a validation or test split and can never be a source")
    refuse_inside_held_out(root)


def _refuse_native(root: Path) -> None:
    """A set's folder of all images, taken as class folders without the lists beside it, has the test images too."""
    below = [] if training_folders(root) else [folder for _, folder in _search(root, NATIVE, DEPTH)]
    for folder in dict.fromkeys([*below, *root.parents[:3], *root.resolve().parents[:3]]):
        if name := _recognise(folder, NATIVE):
            raise ValueError(
                f"The images in {root} are those of the {NATIVE[name].TITLE} set in {folder}: give that folder and "
                f"layout {name!r}, for only there it shows which images are for training"
            )


def _check_options(name: str, module: ModuleType, options: dict) -> None:
    known = [p.name for p in inspect.signature(module.read).parameters.values() if p.kind is p.KEYWORD_ONLY]
    if unknown := sorted(options.keys() - set(known)):
        raise ValueError(f"Layout {name} has no option {unknown[0]!r}: it has {', '.join(known) or 'none'}")
