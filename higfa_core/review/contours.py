"""The contour that an image was asked to follow, made again from the real image and the recorded warp."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path

import torch
from PIL import Image

from ..contour import Extraction, TransformParams, apply, extract, fit_plane
from ..files.opening import most_pixels
from ..sources.layouts import read_dataset
from ..sources.source import SourceImage, load_source


def contour(
    root: Path,
    source: str,
    about: SourceImage | None,
    extraction: Extraction,
    transform: Mapping | None,
    size: tuple[int | None, int | None],
) -> Image.Image:
    """White lines on black.

    Args:
        root: The folder of the real images.
        about: The real image as its plan describes it; without a plan it is looked up in `root`.
        transform: The warp that the row records; None for none.
        size: (height, width) of the generated image.

    Raises:
        ValueError: The real image or the warp cannot be read.
    """
    about = about or _source(root, source)
    image, mask = load_source(root, about)
    low, high = extraction.low_threshold or None, extraction.high_threshold or None
    lines = extract(image, extraction.method, low, high, extraction.blur, mask)
    if transform:
        lines, _, _ = apply(lines, _params(transform))
    plane = lines[0].amax(-1).numpy()
    if size[0] and size[1] and size[0] * size[1] <= most_pixels():
        plane = fit_plane(plane, size[0], size[1], lines=True)
    return Image.fromarray((torch.from_numpy(plane).clamp(0, 1) * 255).round().byte().numpy(), "L").convert("RGB")


def _params(transform: Mapping) -> TransformParams:
    params = TransformParams.from_dict(dict(transform))
    if params.height * params.width > most_pixels():
        raise ValueError(f"The recorded warp makes {params.width} x {params.height} pixels: more than are read.")
    return params


def _source(root: Path, path: str) -> SourceImage:
    try:
        found = _sources(root, root.stat().st_mtime_ns).get(path)
    except ValueError:  # no labelled images: the file alone
        found = None
    return found or SourceImage(path, "", 0)


@functools.lru_cache(maxsize=4)
def _sources(root: Path, _changed: int) -> Mapping[str, SourceImage]:
    return read_dataset(root).by_path
