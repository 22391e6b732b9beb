"""How a ControlNet fits a hint of another shape to its image: it crops the hint's centre and resizes it undistorted.

What belongs to a contour (mask, box) has to follow, or it misses the generated object.
"""

from __future__ import annotations

import math

import cv2
import numpy as np

from .planes import thicken


def centre(height: int, width: int, to_height: int, to_width: int) -> tuple[int, int, int, int]:
    """(top, left, height, width) of the crop that `comfy.utils.common_upscale(..., crop="center")` makes."""
    old, new = width / height, to_width / to_height
    left = round((width - width * (new / old)) / 2) if old > new else 0
    top = round((height - height * (old / new)) / 2) if old < new else 0
    return top, left, height - 2 * top, width - 2 * left


def fit_plane(plane: np.ndarray, height: int, width: int, lines: bool = False) -> np.ndarray:
    """A plane [h, w] fitted to an image of that size; thin `lines` survive when it shrinks."""
    if plane.shape == (height, width):
        return plane
    rows, columns = plane.shape
    top, left, h, w = centre(rows, columns, height, width)
    shrink = h / height
    part = np.ascontiguousarray(plane[top : top + h, left : left + w])
    if lines and shrink > 1:
        part = thicken(part, 2 * math.ceil((shrink - 1) / 2) + 1)
    return cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA if shrink > 1 else cv2.INTER_LINEAR)


def fit_boxes(boxes: np.ndarray, size: tuple[int, int], to_size: tuple[int, int]) -> np.ndarray:
    """Boxes [N, 4] (x0, y0, x1, y1) in a plane of `size` (height, width), fitted to an image of `to_size` and clipped
    to it."""
    top, left, h, w = centre(*size, *to_size)
    scale = np.array([to_size[1] / w, to_size[0] / h])
    moved = (np.asarray(boxes, dtype=np.float64).reshape(-1, 2, 2) - [left, top]) * scale
    return moved.clip(0, [to_size[1], to_size[0]]).reshape(-1, 4)
