"""Radial power spectra: whether synthetic images have the fine detail of real ones."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

HIGH = 0.5  # of the highest frequency: the band whose gap is reported on its own
FLOOR = 1e-12  # of the power: black images have none


def radial_power(image: Tensor, side: int) -> Tensor:
    """Image [H, W, 3] in 0..1 -> mean power of its grey centre square, `side` pixels, at the frequencies 1 to side/2.

    A Hann window keeps the borders from leaking into high frequencies. Squares larger than `side` are reduced.
    """
    grey = image.double() @ torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)
    least = min(grey.shape)
    top, left = (grey.shape[0] - least) // 2, (grey.shape[1] - least) // 2
    square = grey[top : top + least, left : left + least]
    if least != side:
        square = F.interpolate(square[None, None], (side, side), mode="bicubic", antialias=True)[0, 0]
    window, rings, counts = _rings(side)
    centred = square - square.mean()
    power = torch.fft.fft2(centred * window).abs().square()
    return torch.zeros(side // 2 + 1, dtype=torch.float64).index_add_(0, rings, power.flatten())[1:] / counts[1:]


def gap(real: Iterable[Tensor], made: Iterable[Tensor]) -> Tensor:
    """Decibels [F] by which the mean power of `made` exceeds that of `real` at each frequency."""
    a, b = (torch.stack(list(spectra)).mean(0).clamp(min=FLOOR) for spectra in (made, real))
    return 10 * torch.log10(a / b)


def high(decibels: Tensor) -> float:
    """The mean of a gap over the upper half of the frequencies."""
    return float(decibels[int(len(decibels) * HIGH) :].mean())


@lru_cache(maxsize=4)
def _rings(side: int) -> tuple[Tensor, Tensor, Tensor]:
    frequency = torch.fft.fftfreq(side, 1 / side, dtype=torch.float64)
    ring = (frequency[:, None].square() + frequency.square()).sqrt().round().long().flatten()
    ring[ring > side // 2] = 0  # the corners, which not every direction has, go with the mean: neither is shown
    hann = torch.hann_window(side, periodic=True, dtype=torch.float64)
    return hann[:, None] * hann, ring, torch.bincount(ring, minlength=side // 2 + 1)
