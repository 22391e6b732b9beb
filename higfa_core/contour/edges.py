"""Contour extraction: `extract` turns an image into white lines on black."""

from __future__ import annotations

import logging
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from ..settings import ADVANCED, Setting, Settings
from .planes import check_image, read_mask, strongest, thicken

log = logging.getLogger(__name__)

METHODS = ("canny", "soft", "silhouette")

_WEAKEST_EDGE = 40.0  # a step of 10 grey levels: below it, automatic thresholds would trace sensor noise
_MOST = 0.9  # share of the edges: most are on the object, unless the background is cluttered
_MASK_MARGIN = 2  # pixels kept around a mask, since edges lie on either side of its outline


@dataclass(frozen=True)
class Extraction(Settings):
    """How a contour is extracted; see `extract`, where None stands for a threshold of 0."""

    method: str = Setting("canny", choices=METHODS).help(
        "canny: thin binary lines, for Canny ControlNets. soft: grey edge strength, for soft-edge (HED) ControlNets. "
        "silhouette: only the outline of the mask (without one: of the largest object on a plain background)."
    )
    blur: float = Setting(1.0, 0, 10, step=0.1, unit="pixels").help(
        "Smoothing before detection, in pixels. More removes feather and fur texture."
    )
    low_threshold: float = Setting(0.0, 0, 1, step=0.01, tier=ADVANCED).help(
        "canny: weakest edge kept next to a strong one, as a fraction of 255 (100 = 0.39). soft: edges weaker than "
        "this share of the strong ones turn black. 0 = automatic."
    )
    high_threshold: float = Setting(0.0, 0, 1, step=0.01, tier=ADVANCED).help(
        "canny: weakest edge that starts a line, as a fraction of 255 (200 = 0.78). soft: edges stronger than this "
        "share turn white. 0 = automatic."
    )

    def __post_init__(self):
        super().__post_init__()
        if self.low_threshold > self.high_threshold > 0:
            raise ValueError(
                f"low_threshold {self.low_threshold} is above high_threshold {self.high_threshold}. Swap them."
            )


def extract(
    image: torch.Tensor,
    method: str = "canny",
    low: float | None = None,
    high: float | None = None,
    blur: float = 1.0,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Edge map [B,H,W,3] (white on black, same size) of an image [B,H,W,1|3|4] in 0..1; alpha is dropped.

    `canny`: binary lines; `low`/`high` are cv2.Canny thresholds as fractions of 255. By default `high` is
    Otsu's split of the gradient magnitude and `low` half of `high`.
    `soft`: gradient magnitude in 0..1, where the strong edges (above Otsu's split) reach about 1; magnitudes
    below `low` (default 0.1) turn black, above `high` (default 1) white.
    `silhouette`: one-pixel outline of the mask. Without a mask, the object is assumed to be the largest region
    whose colour differs (Otsu) from the median colour of the image border: suitable for plain backgrounds only.

    `blur`: standard deviation in pixels of the smoothing before detection, 0 for none.
    `mask`: see `planes.read_mask`, 1 = foreground; edges more than 2 pixels outside are dropped. An empty mask
    (from Load Image, for an image without alpha) counts as no mask.
    """
    Extraction(method, blur, low or 0.0, high or 0.0)
    check_image(image)
    pixels = image.detach().to("cpu", torch.float32)[..., :3].clamp(0, 1).expand(-1, -1, -1, 3).contiguous()
    regions = read_mask(mask, *pixels.shape[:3])
    out = torch.empty((*pixels.shape[:3], 3), dtype=torch.float32)
    for i, picture in enumerate(pixels.numpy()):
        region = None if regions is None else regions[i].numpy() >= 0.5
        if region is not None and not region.any():
            region = None
        out[i] = torch.from_numpy(_edges(picture, method, low, high, blur, region))[..., None]
    return out.to(device=image.device, dtype=image.dtype)


def _edges(picture, method, low, high, blur, region) -> np.ndarray:
    picture = np.round(picture * 255)
    if method == "silhouette":
        return _silhouette(_estimate_object(picture) if region is None else region, blur)
    if blur > 0:
        picture = cv2.GaussianBlur(picture, (0, 0), blur, borderType=cv2.BORDER_REPLICATE)
    dx, dy = (cv2.Sobel(picture, cv2.CV_32F, *axis, borderType=cv2.BORDER_REPLICATE) for axis in ((1, 0), (0, 1)))
    near = np.ones(picture.shape[:2], bool)
    if region is not None:
        near = thicken(region.astype(np.uint8), 2 * _MASK_MARGIN + 1).astype(bool)
    lines = _canny(dx, dy, low, high, near) if method == "canny" else _soft(dx, dy, low, high, near)
    outside = float(lines[~near].sum())
    if outside > _MOST * float(lines.sum()):
        log.warning(
            "HiGFA: %.0f %% of the edges lie where the mask says background. Load Image gives 1 for transparent "
            "pixels: insert Invert Mask in between",
            100 * outside / float(lines.sum()),
        )
    return np.where(near, lines, np.float32(0))


def _canny(dx, dy, low, high, near) -> np.ndarray:
    if low is None:
        high = _split(strongest(np.abs(dx) + np.abs(dy))[near]) if high is None else high * 255
        low = high / 2
    else:
        low, high = low * 255, (min(1, 2 * low) if high is None else high) * 255
    dx, dy = (np.round(d).astype(np.int16) for d in (dx, dy))
    return cv2.Canny(dx, dy, low, high).astype(np.float32) / 255


def _soft(dx, dy, low, high, near) -> np.ndarray:
    magnitude = strongest(np.sqrt(dx * dx + dy * dy))
    strong = magnitude[near & (magnitude >= _split(magnitude[near]))]
    white = max(float(np.median(strong)) if strong.size else 0.0, _WEAKEST_EDGE)
    black, white = white * (0.1 if low is None else low), white * (1.0 if high is None else high)
    return np.clip((magnitude - black) / max(white - black, 1e-6), 0, 1)


def _split(magnitude: np.ndarray) -> float:
    """Otsu's threshold of gradient magnitudes, at least `_WEAKEST_EDGE`."""
    top = float(magnitude.max())
    levels = np.round(magnitude * (255 / max(top, 1e-6))).astype(np.uint8).reshape(-1, 1)
    level, _ = cv2.threshold(levels, 0, 255, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    return max(level * top / 255, _WEAKEST_EDGE)


def _silhouette(region: np.ndarray, blur: float) -> np.ndarray:
    plane = region.astype(np.float32)
    if blur > 0:
        plane = cv2.GaussianBlur(plane, (0, 0), blur, borderType=cv2.BORDER_REPLICATE)
    solid = (plane >= 0.5).astype(np.uint8)
    # OpenCV erodes as if the object continued beyond the frame, so a cut-off object gets no line at the cut.
    return (solid - cv2.erode(solid, cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3)))).astype(np.float32)


def _estimate_object(picture: np.ndarray) -> np.ndarray:
    border = np.concatenate([picture[0], picture[-1], picture[:, 0], picture[:, -1]])
    distance = np.linalg.norm(picture - np.median(border, axis=0), axis=-1)
    top = float(distance.max())
    if top < 10:  # grey levels: nothing stands out
        return np.zeros(distance.shape, bool)
    levels = np.round(cv2.GaussianBlur(distance, (0, 0), 1.5) * (255 / top)).clip(0, 255).astype(np.uint8)
    _, solid = cv2.threshold(levels, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    shapes, _ = cv2.findContours(solid, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    filled = np.zeros_like(solid)
    if shapes:
        cv2.drawContours(filled, [max(shapes, key=cv2.contourArea)], -1, 1, cv2.FILLED)
    return filled.astype(bool)
