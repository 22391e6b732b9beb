"""The layouts of labelled image sets; `read_dataset` recognises which one a folder has."""

from __future__ import annotations

import inspect
import os
from dataclasses import replace
from pathlib import Path
from types import ModuleType

from ...files.names import printable, undecodable
from ...files.paths import SPLITS, refuse_inside_held_out
from .. import held_out
from ..hints import BESIDE_IMAGES, EVALUATION, is_beside_images
from ..ledger import merged
from ..source import SourceDataset
from ..tree import Tree
from . import (
    aircraft,
    cars,
    coco,
    compcars,
    cub,
    cub_2010,
    dogs,
    dtd,
    flowers,
    food,
    hugging_face,
    image_folder,
    inaturalist,
    nabirds,
    pets,
    products,
    tables,
    voc,
)
from .generic import recognise
from .lists import check_folder, refuse_outside

# In the order in which they are tried.
NATIVE = {
    "nabirds": nabirds,
    "cub": cub,
    "aircraft": aircraft,
    "cars": cars,
    "flowers": flowers,
    "dogs": dogs,
    "pets": pets,
    "dtd": dtd,
    "food": food,
    "compcars": compcars,
    "cub_2010": cub_2010,
    "products": products,
    "inaturalist": inaturalist,
    "voc": voc,
    "coco": coco,
}
FORMATS = {"voc", "coco"}  # used by many sets; the sets above are tried first
GENERIC = {"hugging_face": hugging_face, "table": tables, "image_folder": image_folder}
LAYOUTS = (*NATIVE, *GENERIC)
ABOVE = 3  # levels above a root where the lists of its set may be
# Folders that may hold them there: searching all of them would take long in a home folder.
LIST_FOLDERS = BESIDE_IMAGES | SPLITS.keys() | {"misc", "extra", "train_test_split", "classification", "main", "data"}
TABLE_OPTIONS = {"labels", "path_column", "split_column"}  # and label_column, which metadata may have too


def read_dataset(
    root: str | Path, layout: str = "auto", *, follow_links: bool = False, **options: str
) -> SourceDataset:
    """The training images of the labelled set in `root`. ValueError when there is none, or a damaged one.

    Images that a `held_out.txt` names (see `..held_out`) are excluded.

    `root` may be the set's usual folder, any folder above it, or that of its images. `layout`: one of `LAYOUTS`,
    or auto to recognise it by its files. `follow_links`: also those that lead out of the root. `options` belong to
    the layout: `level` and `split` (aircraft), `partition` (dtd), `split` (inaturalist, voc), `view` (compcars),
    `level` (products), `label_column` (hugging_face), `labels` and the names of its columns (table), `classes`
    (image_folder).
    """
    return held_out.without(*read_split(root, layout, follow_links=follow_links, **options))


def read_split(
    root: str | Path, layout: str = "auto", *, follow_links: bool = False, **options: str
) -> tuple[SourceDataset, frozenset[str]]:
    """As `read_dataset`, but including the images that a `held_out.txt` names, and their paths: for training."""
    root = Path(os.path.abspath(root))
    check_folder(root)
    if layout not in ("auto", *LAYOUTS):
        raise ValueError(f"No layout {layout!r}. Choose auto, {', '.join(LAYOUTS)}.")
    if layout == "auto" and any(options.get(name) for name in TABLE_OPTIONS):
        layout = "table"
    _refuse_split(root)
    dataset, home = _read(Tree(root, follow_links), layout, options)
    return dataset, held_out.listed(dataset, root / home if home else None)


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
    lines[4:4] = [f"left out: {entry}" for entry in dataset.left_out]
    if moved := [f"{number} -> {label}" for label, number in enumerate(dataset.numbers) if number != label]:
        lines.insert(3, f"labels were renumbered: {', '.join(moved[:3])}{' ...' if len(moved) > 3 else ''}")
    if empty := [name for name, count in counts.items() if not count]:
        lines.insert(3, f"classes without a training image: {len(empty)} ({', '.join(empty[:3])})")
    return "\n".join(lines)


def _read(tree: Tree, layout: str, options: dict) -> tuple[SourceDataset, str]:
    """The dataset, and the folder of its lists on disk, relative to the root."""
    name, home = _find(tree, {key: module for key, module in NATIVE.items() if layout in ("auto", key)})
    if home is None and layout in NATIVE:
        raise ValueError(f"No {NATIVE[layout].TITLE} set in {tree.root}: expected {NATIVE[layout].EXPECTED}.")
    if home is not None:
        _check_options(name, NATIVE[name], options)
        return _checked(tree, _read_native(tree, name, home, options)), tree.place(home)
    if layout == "auto" and (part := _part_of_a_set(tree, options)):
        return part, ""
    if layout == "image_folder":
        _refuse_part_of_a_set(tree)
    if layout != "auto":
        _check_options(layout, GENERIC[layout], options)
        return _checked(tree, _read_generic(tree, layout, options)), ""
    name, dataset = recognise(tree, options)
    _check_options(name, GENERIC[name], options)
    return _checked(tree, dataset), ""


def _read_native(tree: Tree, name: str, home: str, options: dict) -> SourceDataset:
    try:
        return NATIVE[name].read(tree, home, **options)
    except (TypeError, LookupError, AttributeError, ArithmeticError, OSError) as error:
        # Lists of other types than any copy of the set has: what its reader does not name itself.
        words = f"{type(error).__name__}: {error}"
        raise ValueError(
            f"The lists of {NATIVE[name].TITLE} in {tree.root} are damaged ({words}). Copy the originals."
        ) from error


def _read_generic(tree: Tree, layout: str, options: dict) -> SourceDataset:
    if layout == "hugging_face":
        homes = hugging_face.homes(tree)
        return hugging_face.read(tree, homes[0] if len(homes) == 1 else "", **options)
    return GENERIC[layout].read(tree, **options)


def _find(tree: Tree, modules: dict[str, ModuleType]) -> tuple[str, str | None]:
    """The one native set of the tree, and its folder."""
    found: dict[str, str] = {}
    for name, module in modules.items():
        if name in FORMATS and found:
            continue
        for home in module.homes(tree):
            found.setdefault(home, name)
    outer = [home for home in found if not any(_is_inside(home, other, found) for other in found)]
    if len(outer) > 1:
        several = ", ".join(f"{modules[found[home]].TITLE} in {tree.root / tree.place(home)}" for home in outer)
        raise ValueError(f"{tree.root} holds several labelled sets. Choose one of {several}.")
    return (found[outer[0]], outer[0]) if outer else ("", None)


def _is_inside(home: str, other: str, found: dict[str, str]) -> bool:
    """Whether a set is in a folder of another set of the same kind, and so is a part of it."""
    return home != other and found[home] == found[other] and (not other or home.startswith(f"{other}/"))


def _refuse_split(root: Path) -> None:
    if root.name.lower() in EVALUATION:
        raise ValueError(
            f"Folder {root.name!r} is a validation or test split and can never be a source. Choose the training images."
        )
    refuse_inside_held_out(root)


def _set_above(tree: Tree) -> tuple[str, Path] | None:
    """Name and folder of the native set whose image folder is the root, by the lists in a folder above it."""
    real = Path(os.path.realpath(tree.root))
    for folder in dict.fromkeys([*tree.root.parents[:ABOVE], *real.parents[:ABOVE]]):
        above = Tree(folder, tree.follow_links, LIST_FOLDERS)
        for name, module in NATIVE.items():
            if "" in module.homes(above):
                return name, folder
    return None


def _part_of_a_set(tree: Tree, options: dict) -> SourceDataset | None:
    """The set whose image folder is the root. ValueError unless everything that belongs to it is in the root."""
    if (found := _set_above(tree)) is None:
        return None
    name, folder = found
    whole = _read_native(Tree(folder, tree.follow_links), name, "", options)
    start = f"{tree.root.relative_to(folder).as_posix()}/" if tree.root.is_relative_to(folder) else "\0"
    paths = [path for image in whole.images for path in (image.path, image.mask) if path]
    if not all(path.startswith(start) for path in paths):
        _refuse_part_of_a_set(tree)
    cut = lambda path: path and path.removeprefix(start)  # noqa: E731
    images = [replace(image, path=cut(image.path), mask=cut(image.mask)) for image in whole.images]
    others = tuple(cut(path) for path in whole.held_out_images if path.startswith(start))
    evidence = f"{whole.evidence} in {folder}"
    whole = replace(whole, root=tree.root, images=tuple(images), evidence=evidence, held_out_images=others)
    return _checked(tree, whole)


def _refuse_part_of_a_set(tree: Tree) -> None:
    """Read as class folders without its lists, a set's folder of all images would include the test images."""
    found = _set_above(tree)
    if found is None and not tree.training_folders():
        name, home = _find(tree, NATIVE)
        found = (name, tree.root / tree.place(home)) if home is not None else None
    if found:
        raise ValueError(
            f"The images in {tree.root} are those of the {NATIVE[found[0]].TITLE} set in {found[1]}. Give that folder "
            f"and layout {found[0]!r}: only its lists tell which images are for training."
        )


def _checked(tree: Tree, dataset: SourceDataset) -> SourceDataset:
    """The dataset with what was left out. ValueError for unwritable names, and for links to other splits."""
    for image in dataset.images:
        if undecodable(image.path):
            raise ValueError(f"{printable(str(tree.root / image.path))} has a name that is not UTF-8. Rename it.")
    _refuse_links(tree, dataset)
    if unlisted := _unlisted(tree, dataset):
        tree.ledger.add_all("in no list or class", unlisted)
    return replace(dataset, left_out=merged(tree.ledger.entries(), dataset.left_out))


def _refuse_links(tree: Tree, dataset: SourceDataset) -> None:
    for link, split in tree.to_held_out.items():
        if any(image.path == link or image.path.startswith(f"{link}/") for image in dataset.images):
            raise ValueError(f"{tree.root / link} leads into {split!r}, a validation or test split. Remove the link.")
    paths = {path for image in dataset.images for path in (image.path, image.mask) if path}
    if not tree.follow_links and (outside := paths.intersection(tree.outside)):
        refuse_outside(tree.root, min(outside))


def _unlisted(tree: Tree, dataset: SourceDataset) -> list[str]:
    used = {path for image in dataset.images for path in (image.path, image.mask) if path}
    used.update(dataset.held_out_images)
    known = {entry.example for entry in dataset.left_out}
    return [path for path in tree.images() if path not in used and path not in known and not _lies_beside(path)]


def _lies_beside(path: str) -> bool:
    return any(map(is_beside_images, path.split("/")[:-1]))


def _check_options(name: str, module: ModuleType, options: dict) -> None:
    known = [p.name for p in inspect.signature(module.read).parameters.values() if p.kind is p.KEYWORD_ONLY]
    if unknown := sorted(options.keys() - set(known)):
        raise ValueError(f"Layout {name} has no option {unknown[0]!r}. It has {', '.join(known) or 'none'}.")
