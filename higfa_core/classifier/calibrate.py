"""Temperature scaling (Guo et al., arXiv 1706.04599) and the expected calibration error, in float64."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

BINS = 15
BOUNDS = (0.05, 20.0)
# Standard deviation of log T before any image is seen: two thirds of temperatures are between 0.6 and 1.65.
PRIOR = 0.5
FEW = 100  # below this many images the ECE of a perfectly calibrated classifier is often above 0.1


@dataclass(frozen=True)
class Calibration:
    """The temperature fitted to `images` held-out images, and the fit at temperature 1 and at this one."""

    temperature: float
    ece_before: float
    ece_after: float
    nll_before: float
    nll_after: float
    images: int

    def summary(self) -> str:
        text = (
            f"temperature {self.temperature:.3f} from {self.images} validation images; "
            f"ECE {self.ece_before:.3f} -> {self.ece_after:.3f}"
        )
        few = f" (rough: fewer than {FEW} images, so the temperature is held near 1)" if self.images < FEW else ""
        return text + few


def calibrate(logits: Tensor, labels: Tensor) -> Calibration:
    """Fit the temperature to held-out `logits` [N, K] with classes `labels` [N]. ValueError without images."""
    temperature = fit_temperature(logits, labels)
    before, after = logits.double(), logits.double() / temperature
    return Calibration(
        temperature=temperature,
        ece_before=expected_calibration_error(before.softmax(1), labels),
        ece_after=expected_calibration_error(after.softmax(1), labels),
        nll_before=float(F.cross_entropy(before, labels)),
        nll_after=float(F.cross_entropy(after, labels)),
        images=len(labels),
    )


def fit_temperature(logits: Tensor, labels: Tensor, prior: float = PRIOR) -> float:
    """The most probable T for `softmax(logits / T)`, within `BOUNDS`.

    Minimises the summed NLL + (log T)^2 / (2 prior^2), a normal prior on log T centred at T = 1. A few images move T
    little, and images that are all classified correctly do not drive it to 0 (as the NLL alone would); from a few
    hundred images on the prior hardly matters. `prior` = inf is plain maximum likelihood.
    """
    if not len(labels):
        raise ValueError("A temperature needs held-out images, got none. Hold some out.")
    f = logits.double()
    low, high = (math.log(bound) for bound in BOUNDS)

    def loss(log_t: float) -> float:
        return float(F.cross_entropy(f / math.exp(log_t), labels, reduction="sum")) + log_t**2 / (2 * prior**2)

    step = (high - low) / 24
    start = min((low + i * step for i in range(25)), key=loss)
    return math.exp(_minimum(loss, max(low, start - step), min(high, start + step)))


def bins(proba: Tensor, labels: Tensor, count: int = BINS) -> tuple[Tensor, Tensor, Tensor]:
    """Equal-width bins (i/n, (i+1)/n] of the top probability: images, mean confidence and accuracy in each [n].

    Confidence and accuracy of an empty bin are 0.
    """
    confidence, predicted = proba.double().max(dim=1)
    index = (confidence * count).ceil().long().sub(1).clamp(0, count - 1)
    right = (predicted == labels).double()
    total, confident, correct = (
        torch.zeros(count, dtype=torch.float64, device=proba.device).index_add(0, index, value)
        for value in (torch.ones_like(right), confidence, right)
    )
    return total, confident / total.clamp(min=1), correct / total.clamp(min=1)


def expected_calibration_error(proba: Tensor, labels: Tensor, count: int = BINS) -> float:
    """Mean over images of |accuracy - confidence| of their bin, for probabilities [N, K] and classes [N].

    Biased upwards for few images: even a perfectly calibrated classifier scores about 0.1 on 50.
    """
    total, confidence, accuracy = bins(proba, labels, count)
    return float((total * (accuracy - confidence).abs()).sum() / total.sum())


def _minimum(loss, low: float, high: float) -> float:
    """Golden-section search of a function with one minimum between low and high."""
    ratio = (math.sqrt(5) - 1) / 2
    a, b = high - ratio * (high - low), low + ratio * (high - low)
    at_a, at_b = loss(a), loss(b)
    while high - low > 1e-6:
        if at_a <= at_b:
            high, b, at_b = b, a, at_a
            a = high - ratio * (high - low)
            at_a = loss(a)
        else:
            low, a, at_a = a, b, at_b
            b = low + ratio * (high - low)
            at_b = loss(b)
    return (low + high) / 2
