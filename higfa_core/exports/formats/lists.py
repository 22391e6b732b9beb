"""Lists for training code that puts synthetic images in place of real ones, with copies of the images.

| file | for |
|---|---|
| `mix.json` | `higfa_core.exports.mixing.MixedDataset`; paths relative to the file, real ones to `root` |
| `saspa.json` | SaSPA's `--aug_json`: {file name of the real image: [absolute paths]} |
| `meta.csv` | Diff-Mix' `--syndata_dir`: both directories are the class, strength is 1 |
| `data/<class>/<stem>_augment_<n>.png` | DiffDA-Eval's folder of generated images; `<stem>` is that of the real image |

SaSPA identifies a real image by its bare file name. Where two share one, the key is their whole path, which SaSPA does
not find: no synthetic image is better than one of another class. What Diff-Mix and DiffDA-Eval call a class is in
`..trainers`.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from ...files.names import composed
from ...files.paths import folder_name, walk
from ...wording import counted
from ..base import Export, put, put_json
from ..pictures import Picture
from ..trainers import diff_mix_names, diffda_eval_folders

COLUMNS = ("First Directory", "Second Directory", "Number", "Strength", "Path")


def check(export: Export) -> None:
    """ValueError when an image does not say which real image it comes from, or nothing lists the real ones."""
    if export.validation:
        raise ValueError("Lists have no validation split: their trainers have the dataset's own. Leave out --with-val.")
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
    names, folders = diff_mix_names(export.classes), diffda_eval_folders(export.classes)
    counts = Counter()
    with open(stage / "meta.csv", "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        for picture in pictures:
            row, name = picture.row, picture.row["class_name"]
            if row["synthetic"]:
                start = f"{folders[name]}/{PurePosixPath(row['source']).stem}_augment_"
                path = f"{start}{counts[start]}{picture.suffix}"
                place = f"data/{path}"
                pairs.setdefault(row["source"], []).append(place)
                table.writerow((names[name], names[name], counts.total(), 1.0, path))
                counts[start] += 1
            else:
                place = copies[row["source"]] = f"real/{folder_name(name)}/{picture.name}"
            put(stage / place, picture.data)
            yield {**row, "file": place, "mask": None}
    _write_lists(stage, export, pairs, labels, copies)


def saspa_keys(sources: Iterable[str]) -> dict[str, str]:
    """Path of a real image -> what SaSPA calls it; see above."""
    sources = list(sources)
    twins = Counter(PurePosixPath(path).name for path in sources)
    return {path: name if twins[name := PurePosixPath(path).name] == 1 else path for path in sources}


def known_images(export: Export, folder: Path) -> tuple[int, int]:
    """How many real images of `saspa.json` are in a trainer's own `folder`, by name, and how many there are.

    ValueError when none is there.
    """
    if export.format != "lists":
        raise ValueError(f"Nothing in a {export.format} export names real images to a trainer. Use --format lists.")
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder. Name the trainer's own copy of the real images.")
    keys = saspa_keys(_real_labels(export))
    wanted = {composed(keys[item.row["source"]]) for item in export.items if item.row["synthetic"]}
    found = len(wanted & {composed(path.name) for path in walk(folder)})
    if not found:
        raise ValueError(
            f"{folder} has none of {counted(len(wanted), 'real image')} that the lists name, such as {min(wanted)}: "
            "SaSPA and DiffDA-Eval would train without any synthetic image. Name the trainer's own copy of the real "
            "images."
        )
    return found, len(wanted)


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


USE = """**Any PyTorch loop**

```python
from higfa_core.exports.mixing import MixedDataset

train = MixedDataset.from_lists("mix.json", transform=None)  # set_epoch(epoch) before each epoch
```

`saspa.json` is SaSPA's `--aug_json` (absolute paths: export again after moving this folder), this folder Diff-Mix'
`--syndata_dir`, and `data/` the folder of one experiment in DiffDA-Eval's `generated_images/<dataset>/`."""
