"""Which column of a table holds the paths, which the labels and which the splits: by content, then by name."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from ...files.formats import readable_suffixes, suffix_of
from ...files.names import matching_key
from ...files.paths import split_of
from ...wording import counted
from ..locate import normal
from ..tree import Tree, stem_of
from .dialect import Table

PATHS = (
    "path filename file filepath relativepath relpath imagepath imgpath imagefile imgfile imagefilename image img "
    "imagename imgname imageid imgid idcode fname uri url picture photo id name"
).split()
LABELS = (
    "label class classname category categoryname target species breed variety cultivar textlabel labelname speciesname"
).split()
SPLITS = "split subset partition set dataset phase usage mode stage traintest traintestsplit".split()
TRAIN_FLAGS, TEST_FLAGS = ("istrain", "istraining", "train", "training"), ("istest", "test", "isval", "isvalid", "val")
FOLDS = ("fold", "kfold", "cvfold")
IRREGULAR = {"classes": "class", "categories": "category", "species": "species"}
TRUE, FALSE = {"1", "true", "yes", "1.0"}, {"0", "false", "no", "0.0"}
NONE = "none"  # given as the split column if there is none
SAMPLE = 2000  # values of a column that are looked up
SHARE = 0.5  # share of its values that must name images, for a column of paths


@dataclass(frozen=True)
class Columns:
    """The columns of a table by their use. `labels`: one, or one per class (one-hot)."""

    path: str
    labels: tuple[str, ...]
    split: str = ""
    mask: str = ""
    box: str = ""


@dataclass(frozen=True)
class Given:
    """The columns that the user named; empty: to be found."""

    path: str = ""
    label: str = ""
    split: str = ""


def plain(name: str) -> str:
    """A column's name in the form in which aliases are compared: `Image_ID` -> `imageid`, `labels` -> `label`."""
    name = re.sub(r"[\W_]+", "", matching_key(name))
    return IRREGULAR.get(name) or (name if name.endswith("ss") else name.removesuffix("s"))


def names_images(tree: Tree, values: Sequence[object]) -> float:
    """The share of these distinct values that are names or paths of images; 0 if they repeat."""
    texts = [str(value).strip() for value in values if value not in (None, "")]
    distinct = set(texts)
    if not distinct or len(distinct) < 0.9 * len(texts):
        return 0.0
    return sum(is_named(tree, text) for text in distinct) / len(distinct)


def is_named(tree: Tree, text: str) -> bool:
    """Whether `text` is the name or the path of an image, with or without its suffix."""
    try:
        name = normal(text).rpartition("/")[2]
    except ValueError:
        return False
    listed = suffix_of(name) if suffix_of(name) in readable_suffixes() else ""
    return bool(name) and matching_key(stem_of(name) if listed else name) in tree.by_name


def find_columns(tree: Tree, table: Table, given: Given = Given()) -> Columns:
    """Which column is which. ValueError, with the question, where that is ambiguous."""
    _refuse_unknown(table, given)
    path = given.path or _path(tree, table)
    split = "" if given.split == NONE else given.split or _split(table, path, given)
    mask = next((name for name in table.columns if plain(name) in ("mask", "maskfilename", "maskpath")), "")
    box = next((name for name in table.columns if plain(name) in ("box", "bbox")), "")
    taken = {path, split, mask, box}
    labels = (given.label,) if given.label else _labels(table, path, [n for n in table.columns if n not in taken])
    return Columns(path, labels, split, mask, box)


def path_column(tree: Tree, table: Table) -> str:
    """The column that names images of the tree; empty when there is none."""
    rows = table.rows[:: len(table.rows) // SAMPLE + 1]
    shares = {name: names_images(tree, [row.get(name) for row in rows]) for name in table.columns}
    fitting = [name for name, share in shares.items() if share >= SHARE]
    return min(fitting, key=lambda name: (_rank(name, PATHS), -shares[name]), default="")


def split_in(row: dict, column: str) -> str:
    """The split of a row, in words: flags such as `is_test` become train or test."""
    value, name = str(row.get(column) or "").strip(), plain(column)
    if name in TRAIN_FLAGS and value.lower() in TRUE | FALSE:
        return "train" if value.lower() in TRUE else "test"
    if name in TEST_FLAGS and value.lower() in TRUE | FALSE:
        return "test" if value.lower() in TRUE else "train"
    return value


def question(table: Table, path: str, why: str) -> ValueError:
    """An error that says what is known about a table and how to specify the rest."""
    return ValueError(
        f"{table.path} lists {counted(len(table.rows), 'image', ',')} by column {path!r}, {why}. Use "
        f"--labels {table.path.name} --path-column {path} --label-column NAME, where NAME is one of "
        f"{', '.join(table.columns)}."
    )


def _refuse_unknown(table: Table, given: Given) -> None:
    for name in filter(None, (given.path, given.label, given.split)):
        if name not in table.columns and name != NONE:
            raise ValueError(f"{table.path} has no column {name!r}. Its columns: {', '.join(table.columns) or 'none'}.")


def _path(tree: Tree, table: Table) -> str:
    known = [name for name in table.columns if plain(name) in PATHS]
    if found := path_column(tree, table) or min(known, key=lambda name: _rank(name, PATHS), default=""):
        return found
    raise ValueError(
        f"No column of {table.path} names images below {tree.root} (it has {', '.join(table.columns) or 'none'}). "
        "Choose one with --path-column, or correct the table."
    )


def _labels(table: Table, path: str, others: list[str]) -> tuple[str, ...]:
    known = sorted((name for name in others if plain(name) in LABELS), key=lambda name: _rank(name, LABELS))
    if len(known) == 1 or (known and _is_exact(known[0]) and _is_exact(path)):
        return (known[0],)
    if known:
        return (_the_same(table, path, known),)
    if len(others) > 1 and _is_one_hot(table, others):
        return tuple(others)
    if len(others) == 1 and not _all_differ(table, others[0]):
        return (others[0],)
    raise question(table, path, "but it is unclear which column holds the labels")


def _the_same(table: Table, path: str, known: list[str]) -> str:
    """Of columns with the same content, as numbers and as names, the one with names."""
    first = known[0]
    for other in known[1:]:
        pairs = {(str(row.get(first)), str(row.get(other))) for row in table.rows}
        if not len(pairs) == len({a for a, _ in pairs}) == len({b for _, b in pairs}):
            raise question(table, path, f"but {first!r} and {other!r} could both hold the labels")
    return next((name for name in known if not all(str(row.get(name)).isdecimal() for row in table.rows)), first)


def _is_exact(name: str) -> bool:
    return name in ("path", "label", "file_name")


def _is_one_hot(table: Table, columns: list[str]) -> bool:
    cells = [[str(row.get(name) or "0").strip() for name in columns] for row in table.rows]
    return bool(cells) and all(set(row) <= TRUE | FALSE and sum(cell in TRUE for cell in row) == 1 for row in cells)


def _all_differ(table: Table, column: str) -> bool:
    values = [str(row.get(column)) for row in table.rows]
    return len(values) > 5 and len(set(values)) == len(values)


def _split(table: Table, path: str, given: Given) -> str:
    others = [name for name in table.columns if name not in (path, given.label)]
    if "split" in others:
        return "split"
    found = [name for name in others if _tells_split(table, name)]
    if len(found) > 1:
        raise ValueError(
            f"{table.path}: {' and '.join(map(repr, found))} could both be the split. Choose one with --split-column."
        )
    if not found and (folds := [name for name in others if plain(name) in FOLDS]):
        raise ValueError(
            f"{table.path} has a column {folds[0]!r}, which may say what is held out. List the training images alone, "
            f"or add --split-column {NONE} if none is."
        )
    return found[0] if found else ""


def _tells_split(table: Table, column: str) -> bool:
    values = {str(row.get(column) or "").strip() for row in table.rows}
    if plain(column) in (*TRAIN_FLAGS, *TEST_FLAGS) and {value.lower() for value in values} <= TRUE | FALSE:
        return True
    words = {split_of(value) for value in values}
    return bool(values) and "" not in words and (len(words) > 1 or plain(column) in SPLITS)


def _rank(name: str, aliases: Sequence[str]) -> int:
    return aliases.index(plain(name)) if plain(name) in aliases else len(aliases)
