"""Checks and pixel operations on image planes that extraction and warping share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import cv2
import numpy as np
import torch

Planes = TypeVar("Planes", np.ndarray, torch.Tensor)


def check_image(image: torch.Tensor) -> None:
    shape = tuple(image.shape)
    if image.ndim != 4 or shape[3] not in (1, 3, 4):
        raise ValueError(f"Expected an image [batch, height, width, 1, 3 or 4 channels], but got shape {shape}.")
    if 0 in shape:
        raise ValueError(f"The image batch is empty (shape {shape}): connect at least one image.")
    if not image.is_floating_point():
        raise ValueError(f"Expected a floating point image in 0..1, but got {image.dtype}: divide by 255.")
    if not torch.isfinite(image).all():
        raise ValueError("The image holds NaN or infinite values: check the node that made it.")


def check_mask(mask, batch: int, height: int, width: int) -> torch.Tensor | None:
    """The mask as float32 planes [batch,height,width] on the CPU; None if there is none."""
    if mask is None:
        return None
    planes = mask.detach().to("cpu", torch.float32)
    planes = planes[None] if planes.ndim == 2 else planes
    if tuple(planes.shape[1:]) != (height, width) and not planes.any():
        return None  # Load Image: a 64x64 plane of zeros stands for "no mask"
    if planes.ndim != 3 or planes.shape[0] not in (1, batch) or tuple(planes.shape[1:]) != (height, width):
        raise ValueError(
            f"The mask has shape {tuple(mask.shape)}, but the images need ({batch}, {height}, {width}): "
            "resize the mask to the image."
        )
    return planes.expand(batch, -1, -1)


def strongest(planes: Planes) -> Planes:
    """Largest channel; a few times faster than max over so short an axis."""
    maximum: Callable[..., Any] = torch.maximum if isinstance(planes, torch.Tensor) else np.maximum
    largest: Any = planes[..., 0]
    for channel in range(1, planes.shape[-1]):
        largest = maximum(largest, planes[..., channel])
    return largest


def thicken(plane: np.ndarray, width: int) -> np.ndarray:
    """Dilate by a square of `width` pixels."""
    return cv2.dilate(plane, np.ones((width, width), np.uint8)) if width > 1 else plane
