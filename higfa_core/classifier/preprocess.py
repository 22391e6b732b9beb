"""A classifier's preprocessing of images, differentiably."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

MAX_SIDE = 4096  # pixels; classifiers see 96 to 1024, and one image of 4096 x 4096 takes 200 MB


@dataclass(frozen=True)
class Preprocess:
    """How the classifier expects its images; the fields are those of timm's data config, and three more.

    `input_size` is (h, w) in pixels; `mean` and `std` are per channel for images in 0..1 (three values,
    or one for a grey-scale model). `crop_mode` "center" resizes the shorter side to
    `input_size / crop_pct`, "squash" both sides; then the centre is cropped. `resize` gives that size in
    pixels instead, as torchvision and transformers do: a number for the shorter side, (h, w) for both.
    `crop_rounding` is how half a pixel is rounded: "round" (timm, torchvision) or "floor" (transformers).
    `channel_order` is "RGB" or "BGR". ValueError if out of range.
    """

    input_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop_pct: float = 1.0
    crop_mode: str = "center"
    resize: int | tuple[int, int] | None = None
    crop_rounding: str = "round"
    channel_order: str = "RGB"

    def __post_init__(self):
        for name, kind in (("input_size", int), ("mean", float), ("std", float)):
            object.__setattr__(self, name, _numbers(name, getattr(self, name), kind))
        if len(self.input_size) != 2 or not all(1 <= side <= MAX_SIDE for side in self.input_size):
            raise ValueError(f"input_size must be (height, width), 1 to {MAX_SIDE} pixels, got {self.input_size}")
        if len(self.mean) not in (1, 3) or len(self.std) != len(self.mean):
            raise ValueError(f"mean and std need 3 values each (or 1 each), got {self.mean} and {self.std}")
        if not all(math.isfinite(v) for v in self.mean) or not all(0 < v < math.inf for v in self.std):
            raise ValueError(f"mean must be finite and std above 0, got {self.mean} and {self.std}")
        if not isinstance(self.crop_pct, (int, float)) or not 0 < self.crop_pct <= 1:
            raise ValueError(f"crop_pct must be above 0 and at most 1, got {self.crop_pct!r}")
        if max(self.input_size) > self.crop_pct * MAX_SIDE:
            raise ValueError(f"input_size {self.input_size} / crop_pct {self.crop_pct} is above {MAX_SIDE} pixels.")
        for name, allowed in CHOICES.items():
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name} must be {' or '.join(allowed)}, got {getattr(self, name)!r}")
        self._check_resize()

    def _check_resize(self):
        if self.resize is None:
            return
        sides: tuple = tuple(self.resize) if isinstance(self.resize, (tuple, list)) else (self.resize, self.resize)
        whole = all(isinstance(side, int) for side in sides)
        if len(sides) != 2 or not whole or not all(c <= s <= MAX_SIDE for s, c in zip(sides, self.input_size)):
            raise ValueError(
                f"resize must be one or two whole numbers, at least input_size {self.input_size} and at most "
                f"{MAX_SIDE}, got {self.resize!r}"
            )
        object.__setattr__(self, "resize", self.resize if isinstance(self.resize, int) else sides)

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Size of a `height` x `width` image before the crop, rounded as timm and torchvision round it."""
        if isinstance(self.resize, tuple):
            return self.resize
        if self.resize:
            h = w = self.resize
        else:
            h, w = (math.floor(side / self.crop_pct) for side in self.input_size)
            if self.crop_mode == "squash":
                return h, w
        if h == w:
            short = min(height, width)
            return int(h * height / short), int(w * width / short)
        ratio = min(height / h, width / w)
        return round(height / ratio), round(width / ratio)

    def __call__(self, images: Tensor) -> Tensor:
        """images [B, 3, H, W] in 0..1 -> [B, C, h, w] float32."""
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"Expected images of shape [B, 3, H, W], got {list(images.shape)}")
        x = images.float()
        if len(self.mean) == 1:  # ITU-R 601 luma, as PIL's convert("L")
            x = 0.299 * x[:, :1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:]
        elif self.channel_order == "BGR":
            x = x.flip(1)
        x = self._crop(_resize(x, self.resized(*x.shape[-2:]), self.interpolation))
        # Python floats, not a stored tensor: one created in inference mode could not take part in autograd.
        return torch.stack([(c - m) / s for c, m, s in zip(x.unbind(1), self.mean, self.std, strict=True)], dim=1)

    def _crop(self, x: Tensor) -> Tensor:
        rounded = round if self.crop_rounding == "round" else math.floor
        h, w = self.input_size
        top, left = rounded((x.shape[-2] - h) / 2), rounded((x.shape[-1] - w) / 2)
        return x[..., top : top + h, left : left + w]


CHOICES = {
    "interpolation": ("bilinear", "bicubic", "nearest"),
    "crop_mode": ("center", "squash"),
    "crop_rounding": ("round", "floor"),
    "channel_order": ("RGB", "BGR"),
}


def height_and_width(size: object) -> tuple:
    """The last two of a size that may begin with the channels. ValueError for what is no size."""
    if not isinstance(size, (list, tuple)):
        raise ValueError(f"input_size must be channels, height and width, got {str(size)[:60]!r}. Correct it.")
    return tuple(size[-2:])


def _numbers(name: str, values: object, kind: type) -> tuple:
    try:
        if isinstance(values, (list, tuple)):
            return tuple(map(kind, values))
    except (TypeError, ValueError, OverflowError):
        pass
    raise ValueError(f"{name} must be a list of numbers, got {str(values)[:60]!r}. Correct it.")


def _resize(x: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    """F.interpolate with antialias=True, as two matrix products.

    The gradient of PyTorch's own sums in random order on CUDA, so that no run would be reproducible, and older
    releases lack it on MPS.
    """
    if tuple(x.shape[-2:]) == size:
        return x
    if mode == "nearest":
        return F.interpolate(x, size=size, mode="nearest-exact")
    rows, columns = (_filter(n, m, mode, x.device, x.dtype) for n, m in zip(x.shape[-2:], size, strict=True))
    x = rows @ (x @ columns.T)
    return x.clamp(0, 1) if mode == "bicubic" else x  # PIL's 8-bit bicubic clips its overshoot


@lru_cache(maxsize=8)
def _filter(before: int, after: int, mode: str, device: torch.device, dtype: torch.dtype) -> Tensor:
    """Weights [after, before] of one side's pixels; the filter is as wide as the larger pixel."""
    # On the CPU, as MPS has no float64; outside inference mode, which may be on where they are first used.
    with torch.inference_mode(False):
        places = (torch.arange(after, dtype=torch.float64, device="cpu") + 0.5) * (before / after)
        pixels = torch.arange(before, dtype=torch.float64, device="cpu") + 0.5
        weights = KERNELS[mode]((pixels - places[:, None]).abs() / max(before / after, 1))
        return (weights / weights.sum(1, keepdim=True)).to(device, dtype)


def _triangle(d: Tensor) -> Tensor:
    return (1 - d).clamp(min=0)


def _cubic(d: Tensor) -> Tensor:
    """Keys' cubic with a = -0.5, as PIL has it; F.interpolate takes -0.75 without antialias."""
    far = torch.where(d < 2, ((2.5 - 0.5 * d) * d - 4) * d + 2, 0)
    return torch.where(d < 1, (1.5 * d - 2.5) * d * d + 1, far)


KERNELS = {"bilinear": _triangle, "bicubic": _cubic}
