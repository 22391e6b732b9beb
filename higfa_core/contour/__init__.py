"""Contours: find them (`extract`), draw a random label-safe warp (`ContourTransform`), warp them (`apply`).

HiGFA steers pose and layout with the *transformed* contour of a real image; the paper (arXiv 2511.12547)
leaves the extractor and the transform open, so both are our choice. Contours are white lines on black.
Pixel centres sit on whole numbers (OpenCV); boxes are edges (x0, y0, x1, y1) in 0..width, 0..height.
"""

from .edges import METHODS, Extraction, extract
from .fit import fit_boxes, fit_plane
from .transform import MAX_VARIANTS, ContourTransform, object_outline, transform_batch
from .warp import INTERPOLATIONS, TransformParams, apply, transform_boxes, transform_points

__all__ = [
    "INTERPOLATIONS",
    "MAX_VARIANTS",
    "METHODS",
    "ContourTransform",
    "Extraction",
    "TransformParams",
    "apply",
    "extract",
    "fit_boxes",
    "fit_plane",
    "object_outline",
    "transform_batch",
    "transform_boxes",
    "transform_points",
]
