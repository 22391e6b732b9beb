"""`<name>-000000.tar` and so on: a sample is `<key>.png` (or .jpg, .webp), `<key>.cls` and `<key>.json`.

Shards have the same bytes however often they are written: fixed time, owner and order. `shards.json` lists them
with hash and number of samples, and `_info.json` says the same in timm's words.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path

from ...files.hashes import canonical_json, file_sha256
from ..base import Export, put_json
from ..pictures import SUFFIXES, Picture, kept_suffix
from .hugging_face import class_label, features, flat_row


def check(export: Export) -> None:
    """ValueError when samples would have different suffixes, which readers do not accept."""
    if export.options.image_format == "keep":
        _refuse_several({kept_suffix(item.path) for split in export.splits.values() for item in split})


def write(stage: Path, pictures: Iterable[Picture], export: Export) -> Iterator[dict]:
    """Write the shards; yields each row as it was exported, `file` being the shard and the file in it."""
    shards, size, suffixes = [], export.options.shard_size, set()
    lengths: dict[str, dict[str, int]] = defaultdict(dict)
    for (split, number), group in groupby(_numbered(pictures), lambda numbered: (numbered[0], numbered[1] // size)):
        path, count = stage / _shard(export, split, f"{number:06d}"), 0
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for *_, picture in group:
                suffixes.add(picture.suffix)
                _refuse_several(suffixes)  # a real image that had to be turned or cropped is a PNG now
                _add(tar, picture)
                count += 1
                yield {**picture.row, "file": f"{path.name}/{picture.name}", "mask": None}
        shards.append({"file": path.name, "sha256": file_sha256(path), "bytes": path.stat().st_size, "count": count})
        lengths[split][path.name] = count
    total = sum(shard["count"] for shard in shards)
    put_json(stage / "shards.json", {"shards": shards, "count": total, "classes": export.classes})
    put_json(stage / "_info.json", {"splits": {split: _timm_split(split, found) for split, found in lengths.items()}})


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
    files = [{"split": split, "path": _shard(export, split, "[0-9]*")} for split in export.splits]
    return {
        "configs": [{"config_name": "default", "data_files": files}],
        "dataset_info": {"features": columns},
    }


def _shard(export: Export, split: str, number: str) -> str:
    return f"{prefix(export)}{'' if split == 'train' else f'-{split}'}-{number}.tar"


def _numbered(pictures: Iterable[Picture]) -> Iterator[tuple[str, int, Picture]]:
    """The pictures with their splits, numbered in each."""
    for split, group in groupby(pictures, lambda picture: picture.split):
        yield from ((split, number, picture) for number, picture in enumerate(group))


def _timm_split(name: str, shards: Mapping[str, int]) -> dict:
    about = {"name": name, "num_samples": sum(shards.values())}
    return about | {"filenames": list(shards), "shard_lengths": list(shards.values())}


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


USE = """`higfa export --with-val` adds the split `validation`, in shards of its own.

**webdataset**

```python
import json
import webdataset

shards = json.load(open("_info.json"))["splits"]["train"]["filenames"]
train = webdataset.WebDataset(shards, shardshuffle=False).decode("pil").to_tuple("png;jpg;webp", "cls", "json")
```

**datasets**

```python
from datasets import load_dataset

train = load_dataset("path/to/this/folder", split="train")  # cls (a ClassLabel), json, and the image under its suffix
```

**timm**; for its `train.py`: `--dataset wds/ --data-dir path/to/this/folder`

```python
from timm.data import create_dataset

train = create_dataset("wds/", root=".", split="train")
```"""
