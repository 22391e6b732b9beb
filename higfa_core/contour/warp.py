"""One given warp (`TransformParams`), applied identically to contours, masks, boxes and points.

Pixel centres sit on whole numbers (OpenCV); boxes are edges (x0, y0, x1, y1) in 0..width, 0..height.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import cv2
import msgspec
import numpy as np
import torch

from .planes import thicken

MAX_SIDE = 16384  # pixels, as in ComfyUI
LARGEST_CONDITION = 1e12
INTERPOLATIONS = {"auto": cv2.INTER_LINEAR, "linear": cv2.INTER_LINEAR, "nearest": cv2.INTER_NEAREST}


@dataclass(frozen=True)
class TransformParams:
    """One warp to a `height` x `width` image: `matrix` (source to output pixels), then elastic displacement.

    `elastic` (largest displacement) and `smoothness` (distance between control points) are fractions of the
    shorter side. `flipped` says whether left and right are swapped. `source_height`, `source_width`: the input size,
    0 for the output's. Plain data: `to_dict` is JSON-ready.
    """

    matrix: tuple[tuple[float, ...], ...]
    height: int
    width: int
    flipped: bool = False
    elastic: float = 0.0
    smoothness: float = 0.25
    elastic_seed: int = 0
    source_height: int = 0
    source_width: int = 0

    @property
    def source_size(self) -> tuple[int, int]:
        """(height, width) of the input."""
        return self.source_height or self.height, self.source_width or self.width

    def to_dict(self) -> dict:
        """The parameters as JSON types; `from_dict` restores an equal object."""
        return asdict(self) | {"matrix": [list(row) for row in self.matrix]}

    @classmethod
    def from_dict(cls, values: dict) -> TransformParams:
        """The object that `to_dict` described, for example in a manifest row. ValueError for anything else."""
        try:
            params = msgspec.convert(values, cls)
        except (msgspec.ValidationError, UnicodeEncodeError) as error:  # the latter: half a character
            raise ValueError(f"No parameters of a transform ({error}): {str(values)[:80]!r}") from None
        if flaw := params.flaw():
            raise ValueError(f"No parameters of a transform: {flaw}")
        return params

    def flaw(self) -> str:
        """What makes the warp impossible; empty when nothing does."""
        sides = (self.height, self.width, *self.source_size)
        if not all(1 <= side <= MAX_SIDE for side in sides):
            return f"sides must be 1 to {MAX_SIDE} pixels, got {sides}"
        if not (0 <= self.elastic <= 1 and 0.01 <= self.smoothness <= 1 and 0 <= self.elastic_seed < 2**64):
            given = (self.elastic, self.smoothness, self.elastic_seed)
            return f"elastic must be in 0..1, smoothness in 0.01..1 and elastic_seed not negative, got {given}"
        if [len(row) for row in self.matrix] != [3, 3, 3]:
            return f"matrix must be 3 x 3, got {self.matrix}"
        matrix, (height, width) = np.array(self.matrix), self.source_size
        if not np.isfinite(matrix).all() or np.linalg.cond(matrix) > LARGEST_CONDITION:
            return f"matrix must be finite and invertible, got {self.matrix}"
        depth = matrix[2] @ [[0, width, 0, width], [0, 0, height, height], [1, 1, 1, 1]]
        if not (depth > 0).all():
            return f"matrix would put a corner of the image behind its horizon, got {self.matrix}"
        return ""


def transform_points(points, params: TransformParams) -> np.ndarray:
    """Where points [N,2] (x, y; pixel centres on whole numbers) of the source lie in the output."""
    target = project(np.array(params.matrix), np.asarray(points, dtype=np.float64).reshape(-1, 2))
    if params.elastic == 0 or not len(target):
        return target
    # The field maps output to source, so the way forward is the fixed point p = target - field(p); the field
    # is a contraction (see ContourTransform.elastic), hence the iteration converges.
    field, found = _elastic_field(params), target
    for _ in range(25):
        x, y = (np.ascontiguousarray(found[:, i], dtype=np.float32)[:, None] for i in (0, 1))
        found = target - cv2.remap(field, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)[:, 0]
    return found


def transform_boxes(boxes, params: TransformParams) -> torch.Tensor:
    """Bounding boxes [N,4] of the transformed boxes, clipped to the image (zero area when wholly outside)."""
    edges = torch.as_tensor(boxes, dtype=torch.float64).reshape(-1, 4).cpu().numpy() - 0.5
    t = np.linspace(0, 1, 33)[:, None]  # an elastic warp bends the sides: follow them, not just the corners
    out = np.zeros((len(edges), 4))
    for i, (x0, y0, x1, y1) in enumerate(edges):
        corners = np.array([[x0, y0], [x1, y0], [x1, y1], [x0, y1]])
        sides = np.concatenate([a + (b - a) * t for a, b in zip(corners, np.roll(corners, -1, 0))])
        points = transform_points(sides, params) + 0.5
        out[i] = np.concatenate([points.min(0), points.max(0)])
    return torch.from_numpy(out.clip(0, [params.width, params.height] * 2)).float()


def apply(
    contour: torch.Tensor,
    params: TransformParams,
    mask: torch.Tensor | None = None,
    boxes=None,
    interpolation: str = "auto",
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
    """Warp a contour [B,H,W,C] or [H,W,C], its mask [B,H,W] or [H,W] and boxes [N,4] together, resampling once.

    `auto`: bilinear, and binary again when the contour was binary, at a threshold that keeps one-pixel lines
    whole (ControlNets are trained on hard strokes); grey contours stay grey. `linear`, `nearest`: as named.
    Masks are resampled by nearest neighbour. Pixels from outside the source are 0.
    """
    if interpolation not in INTERPOLATIONS:
        raise ValueError(f"Unknown interpolation '{interpolation}'. Use one of {', '.join(INTERPOLATIONS)}.")
    lines = contour.detach().to("cpu", torch.float32)
    warp = _warper(params)
    if interpolation == "auto" and bool(((lines <= 0.02) | (lines >= 0.98)).all()):
        width, threshold = _stroke(params)
        warped = (_warp_all(lines, params, lambda p, flag: warp(thicken(p, width), flag)) >= threshold).float()
    else:
        warped = _warp_all(lines, params, warp, INTERPOLATIONS[interpolation])
    if mask is not None:
        planes = mask.detach().to("cpu", torch.float32)[..., None]
        mask = _warp_all(planes, params, warp, cv2.INTER_NEAREST)[..., 0].to(mask.device, mask.dtype)
    boxes = None if boxes is None else transform_boxes(boxes, params)
    return warped.to(contour.device, contour.dtype), mask, boxes


def uniform(seed: int, index: int, count: int) -> np.ndarray:
    """`count` numbers in 0..1 that depend only on seed and index."""
    if seed < 0 or index < 0:
        raise ValueError(f"seed and index must not be negative, but got seed {seed} and index {index}.")
    return np.random.Generator(np.random.PCG64(np.random.SeedSequence([seed, index]))).random(count)


def project(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points [N,2] under a 3x3 projective matrix."""
    xyw = np.concatenate([points, np.ones((len(points), 1))], axis=1) @ matrix.T
    return xyw[:, :2] / xyw[:, 2:]


def _elastic_field(params: TransformParams) -> np.ndarray:
    """Displacement in pixels [H,W,2], output to source: smooth noise whose greatest length is the amplitude."""
    short = min(params.height, params.width)
    rows, columns = (max(2, round(n / (params.smoothness * short))) for n in (params.height, params.width))
    noise = 2 * uniform(params.elastic_seed, 0, rows * columns * 2).reshape(rows, columns, 2) - 1
    field = cv2.resize(noise.astype(np.float32), (params.width, params.height), interpolation=cv2.INTER_CUBIC)
    return field * (params.elastic * short / max(float(np.linalg.norm(field, axis=-1).max()), 1e-6))


def _warper(params: TransformParams):
    """A function (plane, interpolation) -> warped plane; the elastic map is built once for image and mask."""
    matrix, size = np.array(params.matrix), (params.width, params.height)
    if params.elastic == 0:
        return lambda plane, flag: cv2.warpPerspective(plane, matrix, size, flags=flag)
    x, y = np.meshgrid(np.arange(params.width, dtype=np.float32), np.arange(params.height, dtype=np.float32))
    targets = (np.stack([x, y], -1) + _elastic_field(params)).reshape(-1, 2)
    sources = cv2.perspectiveTransform(targets[None], np.linalg.inv(matrix)).reshape(*x.shape, 2)
    source_x, source_y = cv2.split(sources)
    return lambda plane, flag: cv2.remap(plane, source_x, source_y, flag)


def _warp_all(planes: torch.Tensor, params: TransformParams, warp, flag=cv2.INTER_LINEAR):
    height, width = params.source_size
    if planes.ndim not in (3, 4) or tuple(planes.shape[-3:-1]) != (height, width):
        raise ValueError(
            f"The transform was drawn for {width}x{height} pixels, but got shape "
            f"{tuple(planes.shape)}. Sample it with this image's height and width."
        )
    stack = planes.reshape(-1, *planes.shape[-3:]).numpy()
    warped = np.stack([warp(np.ascontiguousarray(plane), flag) for plane in stack])
    return torch.from_numpy(warped).reshape(*planes.shape[:-3], params.height, params.width, planes.shape[-1])


def _stroke(params: TransformParams) -> tuple[int, float]:
    """Width to thicken a binary contour to before a bilinear warp, and where to cut it after.

    Across a one-pixel line the bilinear profile is a triangle, above `t` over 2 (1 - t) source pixels, or
    2 (1 - t) s output pixels at scale s: at least one for t <= 1 - 1 / (2 s); the margin covers the dips of
    diagonal lines. Below s = 0.7 such lines would fall between the samples. The constants come from warping
    circles: lines stay closed, 1.4 to 1.9 pixels wide; enlarged ones widen accordingly.
    """
    h, w = (length - 1 for length in params.source_size)
    spots = np.array([[0, 0], [w, 0], [0, h], [w, h], [w / 2, h / 2]], dtype=np.float64)
    at, right, down = (project(np.array(params.matrix), spots + step) for step in ([0, 0], [1, 0], [0, 1]))
    jacobians = np.stack([right - at, down - at], axis=-1)
    scale = max(float(np.linalg.svd(jacobians, compute_uv=False)[:, -1].min()), 0.02)
    if scale >= 0.7:
        return 1, min(max(0.72 - 1 / (2 * scale), 0.04), 0.36)
    width = 2 * math.ceil((1.2 / scale - 1) / 2) + 1
    return width, min(max((width + 1 - 1.4 / scale) / 2, 0.3), 0.9)
