"""Checks and pixel operations on image planes that extraction and warping share."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

import cv2
import numpy as np
import torch

log = logging.getLogger(__name__)

Planes = TypeVar("Planes", np.ndarray, torch.Tensor)


def check_image(image: torch.Tensor) -> None:
    shape = tuple(image.shape)
    if image.ndim != 4 or shape[3] not in (1, 3, 4):
        raise ValueError(f"Expected an image [batch, height, width, 1, 3 or 4 channels], but got shape {shape}.")
    if 0 in shape:
        raise ValueError(f"The image batch is empty (shape {shape}). Connect at least one image.")
    if not image.is_floating_point():
        raise ValueError(f"Expected a floating point image in 0..1, but got {image.dtype}. Divide by 255.")
    if not torch.isfinite(image).all():
        raise ValueError("The image has NaN or infinite values. Check the node that made it.")


def read_mask(mask: torch.Tensor | None, batch: int, height: int, width: int) -> torch.Tensor | None:
    """The mask as float32 planes [batch,height,width] on the CPU; None where it carries no information.

    A constant plane whose size differs from the image's carries none: Load Image gives 64 x 64 zeros for an image
    without alpha, and Invert Mask turns them into ones. Other masks of a different size are scaled.

    Args:
        mask: [H,W], [H,W,1], [B,H,W], [B,1,H,W], [B,H,W,1], or a grey picture [B,H,W,3], or one with alpha
            [B,H,W,4]; B is 1 or `batch`.

    Raises:
        ValueError: for another shape, and for values that are not finite.
    """
    if mask is None:
        return None
    planes = _planes(mask, (height, width))
    if planes is None or planes.shape[0] not in (1, batch):
        raise ValueError(
            f"The mask has shape {tuple(mask.shape)}, but the images need ({batch}, {height}, {width}). "
            f"Connect one mask, or one per image."
        )
    if not torch.isfinite(planes).all():
        raise ValueError("The mask has NaN or infinite values. Check the node that made it.")
    if tuple(planes.shape[1:]) != (height, width):
        if bool((planes == planes.flatten()[0]).all()):
            return None
        log.warning("HiGFA: a mask of %dx%d is scaled to the image's %dx%d", *planes.shape[:0:-1], width, height)
        planes = torch.nn.functional.interpolate(planes[:, None], (height, width), mode="nearest-exact")[:, 0]
    return planes.expand(batch, -1, -1)


def _planes(mask: torch.Tensor, size: tuple[int, int]) -> torch.Tensor | None:
    planes = mask.detach().to("cpu", torch.float32)
    if planes.ndim > 3 and planes.shape[-1] in (3, 4):
        planes = _grey_or_alpha(planes)
    if planes.shape == (*size, 1):
        planes = planes.movedim(-1, 0)
    while planes.ndim > 3 and 1 in planes.shape[1:]:
        planes = planes.squeeze(planes.shape.index(1, 1))
    planes = planes[None] if planes.ndim == 2 else planes
    return planes if planes.ndim == 3 and planes.numel() else None


def _grey_or_alpha(picture: torch.Tensor) -> torch.Tensor:
    """The plane of a mask that is a picture: its alpha, or the grey; unchanged where it has colours."""
    alpha = picture[..., 3:].flatten()
    if len(alpha) and bool((alpha != alpha[0]).any()):
        return picture[..., 3]
    return picture[..., 0] if bool((picture[..., :3] == picture[..., :1]).all()) else picture


def strongest(planes: Planes) -> Planes:
    """Largest channel; several times faster than `max` over such a short axis."""
    maximum: Callable[..., Any] = torch.maximum if isinstance(planes, torch.Tensor) else np.maximum
    largest: Any = planes[..., 0]
    for channel in range(1, planes.shape[-1]):
        largest = maximum(largest, planes[..., channel])
    return largest


def thicken(plane: np.ndarray, width: int) -> np.ndarray:
    """Dilate by a square of `width` pixels."""
    return cv2.dilate(plane, np.ones((width, width), np.uint8)) if width > 1 else plane
