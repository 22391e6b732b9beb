"""`<name>-000000.tar` and so on: a sample is `<key>.png` (or .jpg, .webp), `<key>.cls` and `<key>.json`.

Shards have the same bytes however often they are written: fixed time, owner and order. `shards.json` lists them
with hash and number of samples.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path

from ...files.hashes import canonical_json, file_sha256
from ..base import Export, put_json
from ..pictures import SUFFIXES, Picture, kept_suffix
from .hugging_face import class_label, features, flat_row


def check(export: Export) -> None:
    """ValueError when samples would have different suffixes, which readers do not accept."""
    if export.options.image_format == "keep":
        _refuse_several({kept_suffix(item.path) for item in export.items})


def write(stage: Path, pictures: Iterable[Picture], export: Export) -> Iterator[dict]:
    """Write the shards; yields each row as it was exported, `file` being the shard and the file in it."""
    shards, size, suffixes = [], export.options.shard_size, set()
    for number, group in groupby(enumerate(pictures), lambda numbered: numbered[0] // size):
        path, count = stage / f"{prefix(export)}-{number:06d}.tar", 0
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for _, picture in group:
                suffixes.add(picture.suffix)
                _refuse_several(suffixes)  # a real image that had to be turned or cropped is a PNG now
                _add(tar, picture)
                count += 1
                yield {**picture.row, "file": f"{path.name}/{picture.name}", "mask": None}
        shards.append({"file": path.name, "sha256": file_sha256(path), "bytes": path.stat().st_size, "count": count})
    total = sum(shard["count"] for shard in shards)
    put_json(stage / "shards.json", {"shards": shards, "count": total, "classes": export.classes})


def prefix(export: Export) -> str:
    """What the names of the shards begin with: the export's name without what breaks a sample's key or a glob."""
    return re.sub(r"[^\w-]+", "-", export.name, flags=re.ASCII).strip("-") or "dataset"


def front_matter(export: Export) -> dict:
    """What `datasets` needs to know."""
    encoding = export.options.image_format
    suffix = kept_suffix(export.items[0].path) if encoding == "keep" else SUFFIXES[encoding]
    columns = [
        {"name": suffix[1:], "dtype": "image"},
        {"name": "cls", "dtype": class_label(export)},
        {"name": "json", "struct": features(export)},
        {"name": "__key__", "dtype": "string"},
        {"name": "__url__", "dtype": "string"},
    ]
    return {
        "configs": [{"config_name": "default", "data_files": [{"split": "train", "path": "*.tar"}]}],
        "dataset_info": {"features": columns},
    }


def _refuse_several(suffixes: set[str]) -> None:
    if len(suffixes) > 1:
        found = " and ".join(sorted(suffixes))
        raise ValueError(f"A WebDataset needs images of one format, these are {found}. Add --image-format jpeg.")


def _add(tar: tarfile.TarFile, picture: Picture) -> None:
    parts = {picture.suffix: picture.data, ".cls": str(picture.row["label"]).encode()}
    for suffix, data in {**parts, ".json": canonical_json(flat_row(picture.row)).encode()}.items():
        info = tarfile.TarInfo(picture.stem + suffix)  # its time, owner and mode are constants
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))


USE = """```python
import glob
import webdataset

shards = sorted(glob.glob("*.tar"))
train = webdataset.WebDataset(shards, shardshuffle=False).decode("pil").to_tuple("png;jpg;webp", "cls", "json")
```"""
