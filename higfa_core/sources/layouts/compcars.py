"""CompCars: web images in make/model/year folders, surveillance images in folders of models; lists of both splits."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from ..locate import normal
from ..source import Box, ClassInfo, SourceDataset, SourceImage
from ..tree import Tree
from .lists import above, corners, read_columns, read_mat, training_set, under

TITLE = "CompCars"
EXPECTED = "train_test_split/classification/train.txt with misc/make_model_name.mat, or train_surveillance.txt"
WEB, SURVEILLANCE = "train_test_split/classification/{}.txt", "{}_surveillance.txt"
LICENCE = "non-commercial research only"
VIEWS = ("", "front", "rear", "side", "front_side", "rear_side")


def homes(tree: Tree) -> list[str]:
    """The folders with the lists: `data` and `sv_data`."""
    web = tree.homes(WEB.format("train"), WEB.format("test"))
    return web + tree.homes(SURVEILLANCE.format("train"), SURVEILLANCE.format("test"))


def read(tree: Tree, home: str, *, view: str = "") -> SourceDataset:
    """The training images of the classification split, by model. `view`: of the web images, only those seen so."""
    if view not in VIEWS:
        raise ValueError(f"{TITLE}: view must be empty or one of {', '.join(VIEWS[1:])}, got {view!r}")
    if not tree.has(under(home, WEB.format("train"))):
        return _surveillance(tree, home)
    end = f"_{view}" if view else ""
    lists = [under(home, WEB.format(f"{part}{end}")) for part in ("train", "test")]
    makes, models = read_mat(tree.path(_beside(tree, home, "make_model_name.mat")), "make_names", "model_names")
    listed = [[entry for (entry,) in read_columns(tree.path(file), 1)] for file in lists]
    numbers = {entry: _web_numbers(entry, len(makes), len(models)) for entries in listed for entry in entries}
    names = {pair: _joined(_text(makes, pair[0]), _text(models, pair[1])) for pair in set(numbers.values())}
    boxes = tree.nearest(home, "label")
    return _dataset(tree, home, lists[0], listed, numbers, names, boxes)


def _surveillance(tree: Tree, home: str) -> SourceDataset:
    lists = [under(home, SURVEILLANCE.format(part)) for part in ("train", "test")]
    (table,) = read_mat(tree.path(_beside(tree, home, "sv_make_model_name.mat")), "sv_make_model_name")
    listed = [[entry for (entry,) in read_columns(tree.path(file), 1)] for file in lists]
    numbers = {entry: _number(entry, 0, len(table)) for entries in listed for entry in entries}
    names = {n: _joined(str(table[n - 1][0]).strip(), str(table[n - 1][1]).strip()) for n in set(numbers.values())}
    return _dataset(tree, home, lists[0], listed, numbers, names, "")


def _dataset(
    tree: Tree, home: str, evidence: str, listed: list[list[str]], numbers: dict, names: dict, boxes: str
) -> SourceDataset:
    order = _unique(names)
    labels = {number: label for label, number in enumerate(order)}
    images = []
    for entry in listed[0]:
        label = labels[numbers[entry]]
        box = _box(tree, f"{boxes}/{above(entry)}/{_stem(entry)}.txt") if boxes else None
        images.append(SourceImage(_image(home, entry), order[numbers[entry]], label, box=box))
    classes = [ClassInfo(name, names[number], names[number].partition(" ")[0]) for number, name in order.items()]
    held_out = [_image(home, entry) for entry in listed[1]]
    return training_set(tree, TITLE, str(tree.find(evidence)), classes, images, held_out, LICENCE)


def _joined(make: str, model: str) -> str:
    return model if model.startswith(f"{make} ") else f"{make} {model}"


def _unique(names: dict) -> dict:
    """Number -> class name, in order of the numbers; a name that two models share gets the model's number."""
    counts = list(names.values())
    order = sorted(names)
    return {n: names[n] if counts.count(names[n]) == 1 else f"{names[n]} ({_last(n)})" for n in order}


def _last(number: int | tuple[int, int]) -> int:
    return number if isinstance(number, int) else number[-1]


def _image(home: str, entry: str) -> str:
    return normal(under(home, "image", entry))


def _stem(entry: str) -> str:
    return PurePosixPath(entry).stem


def _beside(tree: Tree, home: str, name: str) -> str:
    return tree.nearest(home, name) or under(home, "misc", name)


def _web_numbers(entry: str, makes: int, models: int) -> tuple[int, int]:
    return _number(entry, 0, makes), _number(entry, 1, models)


def _number(entry: str, part: int, count: int) -> int:
    """A folder of the entry as a number that MATLAB would count with."""
    parts = entry.split("/")
    number = int(parts[part]) if len(parts) > part + 1 and parts[part].isdecimal() else 0
    if not 1 <= number <= count:
        raise ValueError(f"{TITLE}: {parts[part]!r} of {entry!r} is not a number in 1 to {count}. Copy the list.")
    return number


def _text(names: Sequence, number: int) -> str:
    """A MATLAB cell as text; some cells of the models are empty."""
    cell = names[number - 1]
    return str(cell).strip() if isinstance(cell, str) and cell.strip() else f"model {number}"


def _box(tree: Tree, file: str) -> Box | None:
    """The first box of a label file: the viewpoint, the number of boxes, and then the boxes."""
    path: Path = tree.path(file)
    if not path.is_file():
        return None
    rows = read_columns(path, 1)
    try:
        return corners(*map(float, rows[2][0].split()))
    except (IndexError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: its third line must be 4 numbers ({error}). Copy the original.") from error
