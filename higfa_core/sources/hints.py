"""What a folder's name suggests: that it is a split, holds masks or lists, or merely contains the images."""

from __future__ import annotations

import re

from ..files.names import matching_key
from ..files.paths import SPLITS, split_of

# Names of folders that merely contain the images.
CONTAINERS = frozenset(
    "image images img imgs im ims pic pics picture pictures photo photos jpg jpgs jpeg jpegs png pngs jpegimages "
    "pngimages image_data imagedata".split()
)
# Names of folders beside a dataset's images that hold something else.
BESIDE_IMAGES = frozenset(
    "annotation annotations annots trimap trimaps mask masks segmentation segmentations segmentationclass "
    "segmentationobject segmentation_masks seg_masks label labels bbox bboxes xml xmls meta metadata lists imagesets "
    "devkit gt ground_truth groundtruth depth thumbnails thumbs heatmaps landmarks keypoints edges saliency".split()
)
WORDS = SPLITS | dict.fromkeys(("holdout", "heldout", "unlabeled", "unlabelled", "submission"), "test")
FILLERS = CONTAINERS | frozenset(
    ("", *"set split data dataset folder files dir list part subset sample label labels annotations x".split())
)
GLUED = {
    glued: split
    for word, split in WORDS.items()
    for filler in FILLERS - {""}
    for glued in (word + filler, filler + word)
}
EVALUATION = frozenset({"2021_valid", "cars_test"})  # folders of test images whose names are not a split's


def split_hint(name: str) -> str:
    """The split that a name denotes unambiguously: `train_images`, `val2017`, `testdata`.

    `test tube` and `cars_test` denote none: see `split_pairs`.
    """
    if exact := split_of(name):
        return exact
    word, rest = split_word(name)
    return word if word and rest in FILLERS else ""


def held_out_hint(name: str) -> bool:
    """Whether a folder of that name holds validation or test images."""
    return matching_key(name) in EVALUATION or split_hint(name) in ("validation", "test")


def split_pairs(names: list[str]) -> list[str]:
    """The names that differ only in the split they mention: `cars_train` and `cars_test`."""
    found: dict[str, dict[str, str]] = {}
    for name in names:
        word, rest = split_word(name)
        if word:
            found.setdefault(rest, {}).setdefault(word, name)
    return sorted(name for words in found.values() if len(words) > 1 for name in words.values())


def is_beside_images(name: str) -> bool:
    """Whether a folder of that name holds masks, lists or the like."""
    return matching_key(name).replace(" ", "_").replace("-", "_") in BESIDE_IMAGES


def is_container(name: str) -> bool:
    """Whether a folder of that name merely contains the images."""
    return matching_key(name) in CONTAINERS


def speaks_of_images(name: str) -> bool:
    """Whether a name contains a word for images: `car_ims`, `bird-photos`."""
    return any(part in CONTAINERS for part in re.split(r"[\W_\d]+", matching_key(name)))


def split_word(name: str) -> tuple[str, str]:
    """The split that a name mentions, and the rest of the name without numbers. Glued words count with a filler."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name)
    parts = [part for part in re.split(r"[\W_\d]+", matching_key(spaced)) if part]
    for part in parts:
        if part in WORDS:
            rest = [other for other in parts if other is not part]
            return WORDS[part], " ".join(other for other in rest if other not in FILLERS)
    for part in parts:
        if part in GLUED:
            return GLUED[part], " ".join(other for other in parts if other is not part and other not in FILLERS)
    return "", ""
