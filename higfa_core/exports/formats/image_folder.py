"""`train/<class>/<image>`, which torchvision's ImageFolder and timm read; `masks/` beside it where masks are known.

ImageFolder numbers classes by sorted folder name. `class_to_idx.json` maps folder names to the dataset's own
labels; a class without images has no folder.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from ...files.paths import folder_name
from ..base import Export, put, put_json
from ..pictures import Picture


def write(stage: Path, pictures: Iterable[Picture], export: Export) -> Iterator[dict]:
    """Write the images; yields each row as it was exported."""
    for picture in pictures:
        place = f"{folder_name(picture.row['class_name'])}/"
        row = {**picture.row, "file": f"train/{place}{picture.name}", "mask": None}
        put(stage / row["file"], picture.data)
        if picture.mask:
            row["mask"] = f"masks/{place}{picture.stem}.png"
            put(stage / row["mask"], picture.mask)
        yield row
    put_json(stage / "class_to_idx.json", {folder_name(name): i for i, name in enumerate(export.classes)})


def front_matter(export: Export) -> dict:
    """Nothing: this format is read by its folders."""
    return {}


USE = """```python
import json
from torchvision.datasets import ImageFolder

folder = ImageFolder("train")  # numbers its classes by sorted folder name
labels = json.load(open("class_to_idx.json", encoding="utf-8"))  # the dataset's own numbers
folder.target_transform = lambda index: labels[folder.classes[index]]
```"""
