"""`images/<class>/<image>` with `annotations.json`: COCO, whose category ids are the labels.

Every image has one annotation with its class. Where the object's place is known it has `bbox`, `area` and,
with a mask, `segmentation` (uncompressed RLE); otherwise it has none of these, as in iNaturalist's files: a box
around the whole image would mislead a detector.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path

import numpy as np
from PIL import Image

from ...files.paths import folder_name
from ..base import Export, put
from ..pictures import Picture

FILES = {"train": "annotations.json", "validation": "annotations_val.json"}
IMAGE_FIELDS = ("synthetic", "seed", "prompt", "source", "sha256")


def write(stage: Path, pictures: Iterable[Picture], export: Export) -> Iterator[dict]:
    """Write the images; yields each row as it was exported."""
    for split, group in groupby(pictures, lambda picture: picture.split):
        yield from _write_split(stage, FILES[split], group, export)


def _write_split(stage: Path, name: str, pictures: Iterable[Picture], export: Export) -> Iterator[dict]:
    parts = {name: stage / f".{name}.part" for name in ("images", "annotations")}  # both lists grow together
    with open(parts["images"], "w", encoding="utf-8") as images, open(parts["annotations"], "w") as annotations:
        for number, picture in enumerate(pictures, 1):
            file = f"{folder_name(picture.row['class_name'])}/{picture.name}"
            put(stage / "images" / file, picture.data)
            about = {"id": number, "file_name": file, "width": picture.row["width"], "height": picture.row["height"]}
            about |= {name: picture.row.get(name) for name in IMAGE_FIELDS}
            images.write((",\n" if number > 1 else "") + json.dumps(about, ensure_ascii=False))
            annotations.write((",\n" if number > 1 else "") + json.dumps(_annotation(picture, number)))
            yield {**picture.row, "file": f"images/{file}", "mask": None}
    _join(stage / name, parts, export)


def annotated(row: Mapping, mask: np.ndarray | None) -> dict:
    """Box, area and segmentation of an object, from its row's box and its mask [H, W] bool; {} when unknown."""
    found = {}
    if box := _clipped(row["box"], row["width"], row["height"]):
        found = {"bbox": box, "area": round(box[2] * box[3], 2)}
    if mask is not None and mask.any():
        if not found:
            ys, xs = np.nonzero(mask)
            found["bbox"] = [int(v) for v in (xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1)]
        found |= {"area": int(mask.sum()), "segmentation": run_lengths(mask)}
    return found


def run_lengths(mask: np.ndarray) -> dict:
    """mask [H, W] bool -> uncompressed COCO RLE: lengths of runs down the columns, background first."""
    flat = mask.ravel(order="F")
    edges = np.flatnonzero(np.diff(flat, prepend=False)).tolist() if flat.size else []
    return {"size": list(mask.shape), "counts": np.diff(np.array([0, *edges, flat.size])).tolist()}


def front_matter(export: Export) -> dict:
    """Nothing: `datasets` does not read COCO."""
    return {}


def _annotation(picture: Picture, number: int) -> dict:
    mask = None
    if picture.mask:
        with Image.open(io.BytesIO(picture.mask)) as opened:
            mask = np.asarray(opened.convert("L")) > 127
        if mask.shape != (picture.row["height"], picture.row["width"]):
            raise ValueError(f"The mask of {picture.name} has another size than its image. Generate it again.")
    about = {"id": number, "image_id": number, "category_id": picture.row["label"], "iscrowd": 0}
    return about | annotated(picture.row, mask)


def _clipped(box: list | None, width: int, height: int) -> list[float] | None:
    if not box:
        return None
    x0, y0 = max(box[0], 0), max(box[1], 0)
    x1, y1 = min(box[0] + box[2], width), min(box[1] + box[3], height)
    return [round(float(v), 2) for v in (x0, y0, x1 - x0, y1 - y0)] if x1 > x0 and y1 > y0 else None


def _join(path: Path, parts: Mapping[str, Path], export: Export) -> None:
    source, checkpoint = export.licences()
    licences = [{"id": 1, "name": f"real images: {source}"}, {"id": 2, "name": f"checkpoint: {checkpoint}"}]
    head = {"info": {"description": f"{export.name}, made with HiGFA for ComfyUI"}, "licenses": licences}
    planned = {info["name"]: info.get("super_class") or "" for info in export.collection.plan.get("classes") or []}
    head["categories"] = [
        {"id": label, "name": name, "supercategory": planned.get(name, "")} for label, name in enumerate(export.classes)
    ]
    with open(path, "w", encoding="utf-8") as file:
        file.write(json.dumps(head, ensure_ascii=False)[:-1])
        for name, part in parts.items():
            file.write(f',\n"{name}": [\n')
            with open(part, encoding="utf-8") as lines:
                file.writelines(lines)
            file.write("\n]")
            part.unlink()
        file.write("}\n")


USE = """Category ids are labels; images without `bbox` carry their class only. `higfa export --with-val` adds
`annotations_val.json`.

**pycocotools**

```python
from pycocotools.coco import COCO

train = COCO("annotations.json")
```"""
