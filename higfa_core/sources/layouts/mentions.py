"""Files in a tree that name its images: lists, tables, annotations. They are better evidence than folders."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...files.formats import readable_suffixes
from ...files.names import matching_key
from ...files.paths import HELD_OUT_LIST
from ...files.reading import open_file
from ..tree import Tree
from .columns import path_column
from .dialect import SUFFIXES, read_table
from .matlab import load_mat

# HiGFA's own files, and those that describe a set without labelling it.
KNOWN = {HELD_OUT_LIST, *"manifest.jsonl plan.json plan.jsonl dataset.json class_to_idx.json croissant.json".split(),
         *"class_map.txt checksums.txt md5sums.txt sha256sums.txt requirements.txt license.txt".split()}  # fmt: skip
PROSE = (".md", ".rst", ".html", ".htm", ".pdf", ".py", ".ipynb", ".sh", ".m", ".yaml", ".yml", ".log", ".doc", ".docx")
HEAD, MOST = 4_000_000, 200  # bytes of a file, files
NAME = re.compile(r"[^\s/\\\"'<>|,;:=(){}\[\]\x00-\x1f\ufffd]+")  # U+FFFD: an undecodable byte


@dataclass(frozen=True)
class Mention:
    """A file that names `count` of the images; `column`: where, in a table."""

    file: str
    count: int
    column: str = ""

    def __str__(self) -> str:
        where = f" by column {self.column}" if self.column else ""
        return f"{self.file} names {self.count:,} of the images{where}"


def find_mention(tree: Tree, classes: Collection[str] = ()) -> Mention | None:
    """The file that names most images; None if no file names any.

    `classes`: the paths of the assumed class folders. A file in one of them that names only its own images is no
    evidence against it.
    """
    if not (files := _files(tree)):
        return None
    images = {matching_key(path.rpartition("/")[2]) for places in tree.by_name.values() for _, path in places}
    found = [mention for file in files if (mention := _mention(tree, file, images, classes))]
    return max(found, key=lambda mention: mention.count, default=None)


def mention_above(tree: Tree) -> str:
    """A list in one of the two folders above the root that names images by their path from there; empty without one."""
    for above in tree.root.parents[:2]:
        start = f"{tree.root.relative_to(above).as_posix()}/"
        wanted = [start + path for path in tree.images()[:MOST]]
        for file in sorted(path for path in above.iterdir() if path.suffix.lower() in SUFFIXES)[:MOST]:
            text = _text(file).replace("\\", "/") if file.is_file() and file.name.lower() not in KNOWN else ""
            if start in text and any(path in text for path in wanted):
                return str(file)
    return ""


def _files(tree: Tree) -> list[str]:
    others = [path for path in tree.others if not path.lower().endswith(PROSE)]
    others = [path for path in others if path.rpartition("/")[2].lower() not in KNOWN]
    return sorted(others, key=lambda path: (path.count("/"), path))[:MOST]


def _mention(tree: Tree, file: str, images: set[str], classes: Collection[str]) -> Mention | None:
    if any(file.startswith(f"{folder}/") for folder in classes):
        return None
    path = tree.root / file
    if column := _table_column(tree, path):
        table = read_table(path, 2000)
        return Mention(file, len(table.rows), column)
    found = {name for name in map(matching_key, _names(path)) if name in images}
    return Mention(file, len(found)) if found else None


def _table_column(tree: Tree, path: Path) -> str:
    if not path.name.lower().endswith(SUFFIXES):
        return ""
    try:
        return path_column(tree, read_table(path, 500))
    except ValueError:
        return ""


def _names(path: Path) -> Iterator[str]:
    """Everything in a file, of any kind, that looks like an image's name."""
    text = _text(path)
    for line in text.split("\n"):
        for cell in re.split(r"[,;\t|\"'<>\x00]", line):
            name = cell.strip().replace("\\", "/").rpartition("/")[2]
            if name.lower().endswith(tuple(readable_suffixes())):
                yield name
    for name in NAME.findall(text):
        if name.lower().endswith(tuple(readable_suffixes())):
            yield name


def _text(path: Path) -> str:
    try:
        if path.suffix.lower() == ".mat":
            return "\n".join(_strings_in_mat(path))
        if path.suffix.lower() in (".xlsx", ".ods"):
            return _text_in_zip(path)
        with path.open("rb") as opened:
            content = opened.read(HEAD)
    except OSError:
        return ""
    # Two-byte text, as MATLAB and Windows write it, has a zero after each character of a name.
    return content.replace(b"\0", b"").decode("utf-8", "replace")


def _text_in_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as opened:
            parts = [name for name in opened.namelist() if name.endswith(".xml")]
            return "\n".join(_beginning(opened, name) for name in parts[:MOST])
    except (zipfile.BadZipFile, OSError):
        return ""


def _beginning(archive: zipfile.ZipFile, name: str) -> str:
    with archive.open(name) as part:
        return part.read(HEAD).decode("utf-8", "replace")


def _strings_in_mat(path: Path) -> Iterator[str]:
    try:
        yield from _strings(list(load_mat(path).values()))
    except ValueError:
        with open_file(path) as file:
            yield file.read(HEAD).replace(b"\0", b"").decode("utf-8", "replace")


def _strings(value: Any) -> Iterator[str]:
    """All text in a MATLAB file as SciPy reads it: arrays of arrays, records and strings."""
    if isinstance(value, str):
        yield value
    elif hasattr(value, "tolist"):
        inner = value.tolist()
        yield from () if inner is value else _strings(inner)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _strings(item)
