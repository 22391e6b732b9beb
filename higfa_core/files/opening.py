"""Opening an image file of any size: only the header is read, and images that are too large are not decoded."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO

from PIL import Image

from .formats import register_plugins
from .reading import open_file

LIMIT = "HIGFA_MAX_PIXELS"
MOST_PIXELS = 64_000_000  # 8000 x 8000, which takes a gigabyte decoded to floats
LEAST_SIDE = 8  # pixels: one in latent space


@contextmanager
def opened(file: str | Path | IO[bytes]) -> Iterator[Image.Image]:
    """The image in a file, before it is decoded. ValueError if it has more pixels than `most_pixels`."""
    register_plugins()
    with open_file(file) if isinstance(file, (str, Path)) else nullcontext(file) as stream:
        try:
            image = Image.open(stream)
        except Image.DecompressionBombError as error:
            raise ValueError(str(error)) from error
        with image:
            refuse_large(image)
            yield image


def refuse_large(image: Image.Image) -> None:
    """ValueError if an image, of which only the header was read, has more pixels than `most_pixels`."""
    if (pixels := image.width * image.height) > most_pixels():
        raise ValueError(
            f"it has {image.width} x {image.height} = {pixels:,} pixels, more than {most_pixels():,}; make it "
            f"smaller, or set the environment variable {LIMIT} to a larger number"
        )


def most_pixels() -> int:
    """The maximum number of pixels of a decoded image: 64 million, or HIGFA_MAX_PIXELS."""
    given = os.environ.get(LIMIT, "").replace("_", "").replace(",", "").strip()
    if given and not (given.isascii() and given.isdecimal() and int(given[:20])):
        raise ValueError(f"{LIMIT} must be a number of pixels, got {given[:40]!r}")
    return int(given) if given else MOST_PIXELS
