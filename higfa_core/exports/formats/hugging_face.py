"""`data/train/<class>/<image>` with `data/train/metadata.jsonl`: the imagefolder of Hugging Face `datasets`.

With a metadata file, labels do not come from the folders, so there is a column for them; the README's front matter
makes it a ClassLabel in label order. No column may end in `_file_name`: it would be taken for another image. A column
must have one type in all splits, and one that is null throughout has none: real images of a validation split have
`ABSENT` where synthetic ones have a value.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path

from ...files.paths import folder_name
from ..base import Export, put
from ..pictures import Picture

SCORES = {
    "confidence": "float64",
    "rank": "int64",
    "margin": "float64",
    "judge_confidence": "float64",
    "judge_rank": "int64",
    "judge_margin": "float64",
    "contour_agreement": "float64",
    "sharpness": "float64",
    "phash": "string",
}
COLUMNS = {
    "label": "int64",
    "class_name": "string",
    "synthetic": "bool",
    "prompt": "string",
    "seed": "int64",
    "replica": "int64",
    "source_path": "string",
    "contour_path": "string",
    **SCORES,
    "width": "int64",
    "height": "int64",
    "box": "list",
    "key": "string",
    "sha256": "string",
    "workflow": "string",
}
ABSENT = {"string": "", "int64": -1, "float64": -1.0, "list": [-1.0] * 4}
RENAMED = {"source_path": "source", "contour_path": "contour_source"}


def write(stage: Path, pictures: Iterable[Picture], export: Export) -> Iterator[dict]:
    """Write the images; yields each row as it was exported."""
    filled: set[str] = set()
    for split, group in groupby(pictures, lambda picture: picture.split):
        base = stage / "data" / split
        base.mkdir(parents=True)
        with open(base / "metadata.jsonl", "w", encoding="utf-8", newline="\n") as metadata:
            for picture in group:
                file = f"{folder_name(picture.row['class_name'])}/{picture.name}"
                put(base / file, picture.data)
                row = flat_row(picture.row)
                if split != "train":
                    row |= {name: ABSENT[COLUMNS[name]] for name in filled if row[name] is None}
                filled |= {name for name in COLUMNS if row[name] is not None}
                metadata.write(json.dumps({"file_name": file, **row}, ensure_ascii=False) + "\n")
                yield {**picture.row, "file": f"data/{split}/{file}", "mask": None}


def flat_row(row: Mapping) -> dict:
    """The columns of a row: always all of them, each of the same type."""
    found = {name: (row["scores"] if name in SCORES else row).get(RENAMED.get(name, name)) for name in COLUMNS}
    for name, kind in COLUMNS.items():
        value = found[name]
        if value is not None and kind in ("float64", "list"):  # another tool's JSON may have 1 for 1.0
            found[name] = float(value) if kind == "float64" else [float(part) for part in value]
    return found


def features(export: Export) -> list[dict]:
    """The columns, as `dataset_info` in a README describes them."""
    plain = [{"name": name, "dtype": kind} for name, kind in COLUMNS.items() if name not in ("label", "box")]
    return [{"name": "label", "dtype": class_label(export)}, *plain, {"name": "box", "list": "float64"}]


def class_label(export: Export) -> dict:
    """The type of a label."""
    return {"class_label": {"names": dict(enumerate(export.classes))}}


def front_matter(export: Export) -> dict:
    """What `datasets` needs to know."""
    columns = [{"name": "image", "dtype": "image"}, *features(export)]
    files = [{"split": split, "path": f"data/{split}/**"} for split in export.splits]
    config = {"config_name": "default", "data_files": files}
    # The Hub reads dataset_info; load_dataset takes the types from the config's features, else from metadata.jsonl.
    return {"configs": [config | {"features": columns}], "dataset_info": {"features": columns}}


USE = """`higfa export --with-val` adds the split `validation`.

**datasets**

```python
from datasets import load_dataset

train = load_dataset("path/to/this/folder", split="train")  # image, label (a ClassLabel), provenance
```

**timm**; for its `train.py`: `--dataset hfds/path/to/this/folder`

```python
from timm.data import create_dataset

train = create_dataset("hfds/path/to/this/folder", split="train")
```"""
