"""Images packed in another file: Parquet of a Hub clone, archives, shards. They have to be unpacked first."""

from __future__ import annotations

import tarfile
import zipfile
from pathlib import Path

from ...files.formats import is_image
from ...wording import counted
from ..tree import Tree

ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".7z", ".rar")
OTHERS = {".arrow": "datasets.load_from_disk", ".tfrecord": "tensorflow_datasets", ".rec": "mxnet", ".lmdb": "lmdb"}
POINTER = b"version https://git-lfs"


def refuse_packed(tree: Tree) -> None:
    """ValueError, explaining how to unpack them, if the images of the tree are in Parquet files or archives."""
    parquet = [path for path in tree.others if path.lower().endswith(".parquet")]
    if parquet and (count := rows_with_images(tree.root / parquet[0])):
        raise ValueError(
            f"{tree.root / parquet[0]} holds {counted(count, 'image')} itself, as in a clone of a Hub dataset. "
            f"Extract them with higfa unpack {tree.root} FOLDER, then use FOLDER."
        )
    if tree.images():
        return
    for path in tree.others:
        if path.lower().endswith(ARCHIVES):
            raise ValueError(f"{tree.root} holds no images, but {path}{_content(tree.root / path)}. Unpack it first.")
        if writer := next((w for end, w in OTHERS.items() if end in Path(path).name.lower()), ""):
            raise ValueError(f"{tree.root} holds no images, but {path}. Extract its images with {writer} first.")


def rows_with_images(file: Path) -> int:
    """How many rows of a Parquet file hold the bytes of an image; 0 when it has no such column."""
    with file.open("rb") as opened:
        if opened.read(len(POINTER)) == POINTER:
            raise ValueError(f"{file} is a pointer of Git LFS, not the file itself. Run git lfs pull")
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise ValueError(f"Reading {file} needs pyarrow: pip install pyarrow") from error
    try:
        about = parquet.ParquetFile(file)
    except (ArrowException, OSError) as error:
        raise ValueError(f"Cannot read {file} ({error}). Download it again.") from error
    return about.metadata.num_rows if image_column(about.schema_arrow) else 0


def image_column(schema) -> str:
    """The column of a Parquet schema that holds images as bytes; empty when there is none."""
    from pyarrow import types

    for field in schema:
        inner = [part.name for part in field.type] if types.is_struct(field.type) else []
        if "bytes" in inner or types.is_binary(field.type) or types.is_large_binary(field.type):
            return field.name
    return ""


def _content(file: Path) -> str:
    try:
        if zipfile.is_zipfile(file):
            with zipfile.ZipFile(file) as opened:
                names = opened.namelist()
        elif tarfile.is_tarfile(file):
            with tarfile.open(file) as opened:
                names = [member.name for member, _ in zip(opened, range(10_000))]
        else:
            return ""
    except (OSError, zipfile.BadZipFile, tarfile.TarError):
        return " (which is unreadable)"
    return f" with {counted(sum(map(is_image, names)), 'image')}"
