"""The miniature's "real" images: the small labelled set that the demo and the miniature workflow start from."""

import io
from pathlib import Path

from PIL import Image

from ..files.atomic import write_atomic

NAME = "higfa_demo"  # folder in ComfyUI's input folder
IMAGES_PER_CLASS = 8
SIZE = 128


def refuse_earlier(folder: Path) -> None:
    """ValueError where an earlier version, whose sixteen species looked otherwise, drew `folder`."""
    if (folder / "train" / "Marsh Finch").is_dir() and not (folder / "train" / "Amber Jay").is_dir():
        words = f"{folder} holds the birds of an earlier version, which this one does not know"
        raise ValueError(f"{words}. Move the folder away and start again: the new birds are drawn by themselves.")


def draw_sources(folder: Path, images_per_class: int = IMAGES_PER_CLASS) -> int:
    """Draw the missing images in `folder`/train/<species>/*.png and their masks; returns how many were drawn.

    Seeds 0, 1, ... of each species: training and evaluation use seeds from 10,000 on, except that the guides have seen
    the first five, as a user's would have.

    Raises:
        ValueError: an earlier version drew the folder.
    """
    from . import birds  # here: planning needs nothing of what drawing imports

    refuse_earlier(folder)
    drawn = 0
    for species, name in enumerate(birds.CLASS_NAMES):
        for seed in range(images_per_class):
            image, mask = (folder / part / name / f"{seed:03}.png" for part in ("train", "masks"))
            if image.is_file() and mask.is_file():
                continue
            view = birds.render(species, seed, SIZE)
            write_atomic(mask, _png(view.mask))
            write_atomic(image, _png(view.image))
            drawn += 1
    return drawn


def _png(pixels) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
