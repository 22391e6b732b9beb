"""Image files -> tensors, identically for every reader in the pack."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from .opening import LEAST_SIDE, opened


def load_image(path: str | Path, crop_bottom: int = 0) -> Tensor:
    """Image file -> [1, H, W, 3] float32 in 0..1, rotated by its EXIF tag, without its lowest `crop_bottom`
    rows. ValueError if unreadable, too large or too small (see `.opening`), or nothing is left."""
    pixels = torch.from_numpy(_pixels(path, "RGB"))[None]
    if min(pixels.shape[1:3]) < LEAST_SIDE:
        size = f"{pixels.shape[2]} x {pixels.shape[1]}"
        raise ValueError(f"Image {path} has {size} pixels. Give one of at least {LEAST_SIDE} x {LEAST_SIDE}.")
    keep = pixels.shape[1] - crop_bottom
    if keep < 1:
        raise ValueError(f"Image {path} is {pixels.shape[1]} pixels high: its {crop_bottom} lowest are a banner")
    return pixels[:, :keep]


def load_mask(path: str | Path, height: int, width: int) -> Tensor:
    """Mask file -> [1, H, W] float32 in 0..1, 1 = foreground. ValueError if its size is not the image's."""
    mask = torch.from_numpy(_pixels(path, "L"))[None]
    if mask.shape != (1, height, width):
        size = f"{mask.shape[2]}x{mask.shape[1]}"
        raise ValueError(f"Mask {path} is {size} pixels, its image {width}x{height}. Resize the mask, or remove it.")
    return mask


def _pixels(path: str | Path, mode: str) -> np.ndarray:
    try:
        with opened(path) as found:
            image = ImageOps.exif_transpose(found)
            if image.mode[0] in "IF":  # 16 bits per pixel, or floats: convert() would clip instead of scale
                image = Image.fromarray(_as_bytes(np.asarray(image)))
            pixels = np.array(image.convert(mode), dtype=np.float32)
            return np.divide(pixels, 255, out=pixels)  # in place: large images are large
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        # PIL: SyntaxError for a broken PNG
        raise ValueError(f"Cannot read image {path} ({error}). Replace or remove the file.") from error


def _as_bytes(pixels: np.ndarray) -> np.ndarray:
    """16-bit pixels as 8-bit ones, and floats by their range: 0..1, 0..255 or 0..65535."""
    if pixels.dtype.kind != "f":
        return (pixels / 65535 * 255).clip(0, 255).astype(np.uint8)
    least, most = float(pixels.min()), float(pixels.max())
    if not (least >= 0 and most <= 65535):  # NaN is neither
        raise ValueError(f"its floats are in {least:g}..{most:g}, none of 0..1, 0..255 and 0..65535")
    return (pixels / next(top for top in (1, 255, 65535) if most <= top) * 255).round().astype(np.uint8)
