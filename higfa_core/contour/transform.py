"""Random label-safe warps: `ContourTransform` draws them, `transform_batch` applies them to a batch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import torch

from ..settings import ADVANCED, HIDDEN, Setting, Settings
from .planes import check_image, read_mask, strongest
from .warp import TransformParams, apply, project, uniform

MAX_VARIANTS = 64


@dataclass(frozen=True)
class ContourTransform(Settings):
    """Ranges of a random warp. The defaults are label-safe similarity transforms; the rest is off."""

    flip: float = Setting(0.5, 0, 1, step=0.005).help("Probability of mirroring. 0 where left and right matter.")
    rotation: float = Setting(15.0, 0, 180, step=0.5, unit="degrees", usual="5 to 20").help(
        "Largest rotation to either side, in degrees."
    )
    scale_min: float = Setting(0.8, 0.1, 4, step=0.01).help("Smallest size factor; factors are drawn log-uniformly.")
    scale_max: float = Setting(1.2, 0.1, 4, step=0.01).help(
        "Largest size factor. An object that would leave the frame is enlarged less."
    )
    translation: float = Setting(0.1, 0, 1, step=0.005, tier=ADVANCED).help(
        "Largest shift, as a fraction of width and height."
    )
    perspective: float = Setting(0.0, 0, 0.25, step=0.005, tier=ADVANCED, usual="0 to 0.1").help(
        "Largest shift of each corner, as a fraction of width and height. Changes proportions: keep it small where "
        "they tell classes apart."
    )
    elastic: float = Setting(0.0, 0, 0.05, step=0.005, tier=ADVANCED, usual="0 to 0.03").help(
        "Largest local bend, as a fraction of the shorter side. Changes proportions."
    )
    smoothness: float = Setting(0.25, 0.02, 1, tier=HIDDEN).help(
        "Distance between the control points of the local bend, as a fraction of the shorter side."
    )
    # 0 by default: the marks that tell fine-grained classes apart (beak, tail, nose) sit at the extremities.
    outside: float = Setting(0.0, 0, 0.9, step=0.005, tier=ADVANCED).help(
        "Share of the object's width and height that may leave the frame. 0: the whole object stays inside."
    )

    def __post_init__(self):
        super().__post_init__()
        if self.scale_min > self.scale_max:
            raise ValueError(f"scale_min {self.scale_min} is larger than scale_max {self.scale_max}. Swap them.")
        if self.elastic > self.smoothness / 5:
            raise ValueError(
                f"Lines could fold over: elastic {self.elastic} is more than a fifth of smoothness {self.smoothness}. "
                "Lower elastic or raise smoothness."
            )

    def sample(
        self,
        seed: int,
        index: int,
        height: int,
        width: int,
        outline: np.ndarray | None = None,
        size: tuple[int, int] | None = None,
    ) -> TransformParams:
        """Draw warp number `index` of `seed` (whole numbers >= 0 of any size): the same result at every call.

        Every range has its own random number, so that changing one range leaves the other draws unchanged.
        `outline`: points [N,2] around the object (see `object_outline`). When given, the object stays in the
        frame: the translation is clamped, and an object too large for the frame is shrunk even below
        `scale_min`, until at most the fraction `outside` of its width and of its height is cut off.
        `size`: (height, width) of the output, by default unchanged. Before it is warped, the image is fitted to it as
        a ControlNet would (its centre, filling the frame), except that nothing is cut off for good.
        """
        if min(height, width, *(size or ())) < 1:
            raise ValueError(f"Cannot transform {width}x{height} pixels{f' to {size[1]}x{size[0]}' if size else ''}.")
        source, (height, width) = (height, width), size or (height, width)
        fitted = _fill(source, (height, width))
        if outline is not None and len(outline):
            outline = project(fitted, np.asarray(outline, dtype=np.float64))
        u = uniform(seed, index, 15)
        extent = np.array([width, height], dtype=np.float64)
        flipped = bool(u[0] < self.flip)
        angle = (2 * u[1] - 1) * self.rotation
        scale = self.scale_min * (self.scale_max / self.scale_min) ** u[2]
        shift = (2 * u[3:5] - 1) * self.translation * extent
        corner_shifts = (2 * u[5:13].reshape(4, 2) - 1) * self.perspective * extent
        elastic = u[13] * self.elastic
        matrix = _rotate_and_scale(extent, angle, scale) @ _perspective(extent, corner_shifts)
        if flipped:
            matrix = matrix @ np.array([[-1.0, 0, width - 1], [0, 1, 0], [0, 0, 1]])
        if outline is not None and len(outline):
            shrink, shift = self._keep_inside(matrix, shift, outline, extent, elastic * extent.min())
            matrix = _rotate_and_scale(extent, 0.0, shrink) @ matrix
        matrix = np.array([[1.0, 0, shift[0]], [0, 1, shift[1]], [0, 0, 1]]) @ matrix @ fitted
        return TransformParams(
            matrix=tuple(tuple(row) for row in matrix.tolist()),
            height=height,
            width=width,
            flipped=flipped,
            elastic=float(elastic),
            smoothness=self.smoothness,
            elastic_seed=int(u[14] * 2**32),
            source_height=source[0],
            source_width=source[1],
        )

    def _keep_inside(self, matrix, shift, outline, size, slack):
        points = project(matrix, np.asarray(outline, dtype=np.float64))
        first, last = points.min(0) - 0.5 - slack, points.max(0) + 0.5 + slack
        shrink = min(1.0, float((size / ((last - first) * (1 - self.outside))).min()))
        centre = (size - 1) / 2
        first, last = centre + (first - centre) * shrink, centre + (last - centre) * shrink
        allowance = self.outside * (last - first)
        return shrink, np.clip(shift, -0.5 - first - allowance, size - 0.5 - last + allowance)


def object_outline(contour: torch.Tensor, mask: torch.Tensor | None = None) -> np.ndarray | None:
    """Points [N,2] (x, y) around the lit pixels of a mask [H,W], else of a contour [H,W,C]; None if all are dark."""
    if mask is None or not (mask >= 0.5).any():
        mask = strongest(contour)
    lit = (mask.detach().cpu() >= 0.5).numpy()
    rows = np.flatnonzero(lit.any(axis=1))
    if not rows.size:
        return None
    first, last = lit[rows].argmax(axis=1), lit.shape[1] - 1 - lit[rows, ::-1].argmax(axis=1)
    return np.stack([np.concatenate([first, last]), np.tile(rows, 2)], axis=1).astype(np.float64)


def transform_batch(
    contour: torch.Tensor,
    settings: ContourTransform,
    seed: int,
    variants: int = 1,
    mask: torch.Tensor | None = None,
    on_image=lambda: None,
    size: tuple[int, int] | None = None,
) -> tuple[torch.Tensor, torch.Tensor, list[TransformParams]]:
    """`variants` (1..64) warps of each contour of [B,h,w,C]: images [B*V,H,W,C], masks [B*V,H,W], B*V params.

    `size` is (H, W), by default (h, w); see `ContourTransform.sample`.
    Source-major: all variants of the first contour come first. A variant depends on (seed, source, number) only, not
    on how many there are. Without an input mask, the masks mark the pixels that come from inside the source.
    `on_image()` is called before each image.
    """
    if not 1 <= variants <= MAX_VARIANTS:
        raise ValueError(f"variants must be between 1 and {MAX_VARIANTS}, but got {variants}.")
    check_image(contour)
    batch, height, width = contour.shape[:3]
    planes = read_mask(mask, batch, height, width)
    frame = size or (height, width)
    images = contour.new_empty((batch * variants, *frame, contour.shape[3]))
    masks = torch.empty((batch * variants, *frame), device=contour.device)
    everywhere, drawn = torch.ones((height, width)), []
    for source in range(batch):
        plane = None if planes is None else planes[source]
        outline = object_outline(contour[source], plane)
        for variant in range(variants):
            on_image()
            params = settings.sample(seed, source * MAX_VARIANTS + variant, height, width, outline, size)
            image, moved, _ = apply(contour[source], params, everywhere if plane is None else plane)
            assert moved is not None  # because a mask was given
            images[len(drawn)], masks[len(drawn)] = image, moved
            drawn.append(params)
    return images, masks, drawn


def _fill(size: tuple[int, int], to_size: tuple[int, int]) -> np.ndarray:
    """Centres an image of `size` (height, width) on `to_size`, scaled so that it fills it."""
    if size == to_size:
        return np.eye(3)
    scale = max(new / old for new, old in zip(to_size, size))
    (y, x), (to_y, to_x) = (((length - 1) / 2 for length in pair) for pair in (size, to_size))
    return np.array([[scale, 0, to_x - scale * x], [0, scale, to_y - scale * y], [0, 0, 1]])


def _rotate_and_scale(size: np.ndarray, angle: float, scale: float) -> np.ndarray:
    x, y = (size - 1) / 2
    c, s = scale * math.cos(math.radians(angle)), scale * math.sin(math.radians(angle))
    return np.array([[c, s, x - c * x - s * y], [-s, c, y + s * x - c * y], [0, 0, 1]])


def _perspective(size: np.ndarray, corner_shifts: np.ndarray) -> np.ndarray:
    if not corner_shifts.any():
        return np.eye(3)
    corners = np.array([[0, 0], [1, 0], [1, 1], [0, 1]]) * np.maximum(size - 1, 1)
    return cv2.getPerspectiveTransform(corners.astype(np.float32), (corners + corner_shifts).astype(np.float32))
