"""The scores of a generated image, measured once, when it is generated; rules use them then and later.

| score | meaning |
|---|---|
| confidence, rank, margin | of the class, by the guide: probability, 1 = most probable, lead over the runner-up |
| judge_confidence, judge_rank, judge_margin | the same by an independent classifier |
| contour_agreement | boundary F1 of the requested contour and the image's edges, 0..1 |
| sharpness | variance of the Laplacian of the grey image in 0..255 |
| phash | perceptual hash, 16 hex digits |
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import cv2
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..contour import extract, fit_plane

TOLERANCE = 0.0075  # of the diagonal, as in the Berkeley boundary benchmark (Martin et al. 2004)


class Classifier(Protocol):
    """What scoring needs of `higfa_core.classifier.FineGrainedClassifier`."""

    class_names: tuple[str, ...]

    def index(self, name: str) -> int: ...

    def predict_proba(self, images: Tensor) -> Tensor: ...


def classifier_scores(images: Tensor, class_name: str, classifier: Classifier, prefix: str = "") -> list[dict]:
    """For each of images [B, H, W, 3]: confidence, rank and margin of the class; the most probable class, `seen`."""
    target = classifier.index(class_name)
    probabilities = classifier.predict_proba(images).float().cpu().numpy()
    return [
        {prefix + name: value for name, value in _position(row, target, classifier.class_names).items()}
        for row in probabilities
    ]


def _position(row: np.ndarray, target: int, names: Sequence[str]) -> dict:
    if not np.isfinite(row).all():
        return {"confidence": 0.0, "rank": len(row), "margin": -1.0, "seen": "", "broken": True}
    others = np.delete(row, target)
    rank = 1 + int((others > row[target]).sum() + (row[:target] == row[target]).sum())
    margin = float(row[target] - others.max()) if len(others) else 1.0
    return {"confidence": float(row[target]), "rank": rank, "margin": margin, "seen": names[int(row.argmax())]}


def image_scores(
    image: Tensor, contour: Tensor | None = None, mask: Tensor | None = None, pixels: np.ndarray | None = None
) -> dict:
    """Scores of one image [H, W, 3] in 0..1; a contour [h, w, 3] and mask [h, w] of another size are fitted to it by
    `..contour.fit`.

    `pixels`: the result of `to_bytes` for the image, if already computed.
    """
    pixels = to_bytes(image) if pixels is None else pixels
    grey = _grey(pixels)
    found = {"sharpness": sharpness(grey), "phash": perceptual_hash(grey)}
    if contour is not None:
        found["contour_agreement"] = contour_agreement(image, contour, mask)
    return found


def to_bytes(image: Tensor) -> np.ndarray:
    """Image in 0..1, any shape -> uint8 in 0..255, rounded."""
    scaled = image.detach().to("cpu", torch.float32, copy=True).mul_(255).add_(0.5).clamp_(0, 255)
    return scaled.to(torch.uint8).numpy()


def sharpness(pixels: np.ndarray | Image.Image) -> float:
    """Variance of the Laplacian of pixels [H, W, 3] uint8 (Pech-Pacheco et al. 2000); small values mean blur."""
    laplacian = cv2.Laplacian(np.asarray(_grey(pixels)), cv2.CV_32F)
    return float(cv2.meanStdDev(laplacian)[1].item() ** 2)


def perceptual_hash(pixels: np.ndarray | Image.Image) -> str:
    """64-bit DCT hash of pixels [H, W, 3] uint8 as 16 hex digits; equal to `str(imagehash.phash(...))`."""
    from scipy.fftpack import dct

    small = np.asarray(_grey(pixels).resize((32, 32), Image.Resampling.LANCZOS))
    low = dct(dct(small, axis=0), axis=1)[:8, :8]
    bits = (low > np.median(low)).ravel()
    return f"{int(''.join('1' if bit else '0' for bit in bits), 2):016x}"


def _grey(pixels: np.ndarray | Image.Image) -> Image.Image:
    return pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels).convert("L")


def contour_agreement(image: Tensor, contour: Tensor, mask: Tensor | None = None) -> float:
    """Boundary F1 of contour [h, w, 3] and the Canny edges of image [H, W, 3], inside mask [h, w] when given.

    A contour pixel counts as matched if an edge lies within 0.75 % of the diagonal, and vice versa. 1.0 if there is
    neither contour nor edge.
    """
    height, width = image.shape[:2]
    wanted = fit_plane(_array(contour.amax(-1)), height, width, lines=True) > 0.5
    region = None if mask is None else torch.from_numpy(fit_plane(_array(mask), height, width))[None]
    found = _array(extract(image[None], mask=region)[0].amax(-1)) > 0.5
    reach = max(1.0, TOLERANCE * math.hypot(height, width))
    recall, precision = _covered(wanted, found, reach), _covered(found, wanted, reach)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _covered(lines: np.ndarray, by: np.ndarray, reach: float) -> float:
    if not lines.any():
        return 1.0
    if not by.any():
        return 0.0
    distance = cv2.distanceTransform((~by).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return float((distance[lines] <= reach).mean())


def _array(plane: Tensor) -> np.ndarray:
    return plane.detach().float().cpu().numpy()
