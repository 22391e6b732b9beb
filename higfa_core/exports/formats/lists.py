"""Lists for training code that puts synthetic images in place of real ones, with copies of the images.

| file | for |
|---|---|
| `mix.json` | `higfa_core.exports.mixing.MixedDataset`; paths relative to the file, real ones to `root` |
| `saspa.json` | SaSPA's `--aug_json`: {file name of the real image: [absolute paths]} |
| `meta.csv` | Diff-Mix' `--syndata_dir`: both directories are the class, strength is 1 |

SaSPA identifies a real image by its bare file name. Where two share one, the key is their whole path, which SaSPA does
not find: no synthetic image is better than one of another class. Diff-Mix writes class names with a space in place of a
slash, and knows only those of its own copy of the dataset.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from ...files.paths import folder_name
from ..base import Export, put, put_json
from ..pictures import Picture

COLUMNS = ("First Directory", "Second Directory", "Number", "Strength", "Path")


def check(export: Export) -> None:
    """ValueError when an image does not say which real image it comes from, or nothing lists the real ones."""
    for item in export.items:
        if not item.row["source"]:
            raise ValueError(f"{item.path} has no source. Mixing lists need images that were made from jobs.")
    if export.root is None:
        raise ValueError("No plan.json lists the real images. Name their folder with --source.")


def write(stage: Path, pictures: Iterable[Picture], export: Export) -> Iterator[dict]:
    """Write the images and the lists; yields each row as it was exported."""
    pairs: dict[str, list[str]] = {}
    labels = _real_labels(export)
    copies: dict[str, str] = {}
    number = 0
    with open(stage / "meta.csv", "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        for picture in pictures:
            row, name = picture.row, picture.row["class_name"]
            path = f"{folder_name(name)}/{picture.name}"
            place = f"{'data' if row['synthetic'] else 'real'}/{path}"
            put(stage / place, picture.data)
            if row["synthetic"]:
                pairs.setdefault(row["source"], []).append(place)
                directory = name.replace("/", " ")
                table.writerow((directory, directory, number, 1.0, path))
                number += 1
            else:
                copies[row["source"]] = place
            yield {**row, "file": place, "mask": None}
    _write_lists(stage, export, pairs, labels, copies)


def saspa_keys(sources: Iterable[str]) -> dict[str, str]:
    """Path of a real image -> what SaSPA calls it; see above."""
    sources = list(sources)
    twins = Counter(PurePosixPath(path).name for path in sources)
    return {path: name if twins[name := PurePosixPath(path).name] == 1 else path for path in sources}


def front_matter(export: Export) -> dict:
    """Nothing: these lists are for training code."""
    return {}


def _real_labels(export: Export) -> dict[str, int]:
    """Path -> label of all real training images."""
    assert export.root is not None  # see `check`
    labels = {source.path: source.label for source in export.collection.real_sources(export.root)}
    if lost := [item.row for item in export.items if item.row["source"] not in labels]:
        raise ValueError(
            f"{lost[0]['file']} was made from {lost[0]['source']}, which is not a training image in {export.root}. "
            "Was it moved, or held out (held_out.txt) since?"
        )
    return labels


def _write_lists(stage: Path, export: Export, pairs: dict, labels: dict, copies: dict) -> None:
    here, keys = export.out, saspa_keys(labels)
    put_json(stage / "saspa.json", {keys[key]: [str(here / path) for path in found] for key, found in pairs.items()})
    mix = {
        "probability": export.options.probability,
        "classes": export.classes,
        "root": "." if copies else str(Path(export.root or "").absolute()),
        "labels": {copies.get(path, path): label for path, label in labels.items()},
        "pairs": {copies.get(path, path): found for path, found in pairs.items()},
    }
    put_json(stage / "mix.json", mix)


USE = """```python
from higfa_core.exports.mixing import MixedDataset

train = MixedDataset.from_lists("mix.json", transform=...)  # set_epoch(epoch) before each epoch
```

`saspa.json` is SaSPA's `--aug_json` (absolute paths: export again after moving this folder), this folder Diff-Mix'
`--syndata_dir` (for classes named as in its own copy of the dataset)."""
