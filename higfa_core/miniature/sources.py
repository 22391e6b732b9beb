"""The miniature's "real" images: the small labelled set that the demo and the miniature workflow start from."""

import io
from pathlib import Path

from PIL import Image

from ..files.atomic import write_atomic

NAME = "higfa_demo"  # folder in ComfyUI's input folder
IMAGES_PER_CLASS = 8
SIZE = 128


def draw_sources(folder: Path, images_per_class: int = IMAGES_PER_CLASS) -> int:
    """Draw the missing images in `folder`/train/<species>/*.png and their masks; returns how many were drawn.

    Seeds 0, 1, ... of each species: training and evaluation use seeds from 10,000 on.
    """
    from . import birds  # here: planning needs nothing of what drawing imports

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
