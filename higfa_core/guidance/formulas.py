"""Hierarchical guidance in denoised (x0) space, as pure functions of tensors.

HiGFA (arXiv 2511.12547) steers every step with text, a transformed contour and, in the final stage, a fine-grained
classifier, whose confidence sets the strength of all three. Its formulas were not available to us: every formula here
is our choice, explained in `docs/method.md` with its reason and its source.

Shapes: latents and denoised estimates [B, C, H, W]; per-sample weights, confidences [B].
"""

import math
from typing import NamedTuple

import torch

from .settings import Modulation

# A gradient below this RMS is not scaled up to unit size: where the classifier is certain, it is mere float noise.
GRADIENT_FLOOR = 1e-4
BOOST_CAP = 3.0


def agreement(log_p: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """exp(-KL(q || p)) [B] of log-probabilities and target weights q, both [B, K].

    For a single class it is the class's probability; for a mixture of classes it is 1 where p equals the mixture.
    """
    return torch.exp((target * log_p).sum(1) - torch.special.xlogy(target, target).sum(1))


def chance(target: torch.Tensor) -> torch.Tensor:
    """The `agreement` of a classifier that knows nothing (uniform p): 1 / K for one class. [B, K] -> [B]."""
    return torch.exp(-torch.special.xlogy(target, target).sum(1)) / target.shape[1]


def confidence(p: torch.Tensor, chance: torch.Tensor, p_stop: float) -> torch.Tensor:
    """Probability [B] -> confidence [B] in 0..1: 0 at chance [B], 1 at `p_stop`."""
    room = p_stop - chance
    return torch.where(room > 0, (p - chance) / room.clamp(min=1e-6), 1.0).clamp(0, 1)


class Multipliers(NamedTuple):
    """The multipliers of the three strengths that follow from the confidence, each [B]."""

    text: torch.Tensor
    contour: torch.Tensor
    classifier: torch.Tensor


def modulation(settings: Modulation, c: torch.Tensor, entropy: torch.Tensor, num_classes: int) -> Multipliers:
    """Confidence and entropy of each image [B] -> the multipliers of its three strengths."""
    curve = c**settings.b
    text, contour = (a0 + (a1 - a0) * curve for a0, a1 in (settings.text, settings.contour))
    if settings.boost:
        return Multipliers(text, contour, (math.log(num_classes) / entropy.clamp(min=1e-6)).clamp(max=BOOST_CAP))
    return Multipliers(text, contour, (1 - c) ** settings.gamma)


def text_weight(w_text, m):
    """1 + (w_text - 1) m: modulation never turns guidance by text into guidance away from it."""
    return 1 + (w_text - 1) * m


def class_score(logits: torch.Tensor, target: torch.Tensor, sharpness: float) -> torch.Tensor:
    """sum_k q_k f_k - logsumexp(t2 f) / t2 for each sample; logits and target weights q [B, K]. t2 = 1: E_q[log p]."""
    return (target * logits).sum(1) - torch.logsumexp(sharpness * logits, 1) / sharpness


def rms(x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Root mean square of each sample, [B, 1, 1, 1]; with a mask (0..1, broadcast to x) over the masked part only."""
    dims = tuple(range(1, x.ndim))
    if mask is None:
        return x.square().mean(dims, keepdim=True).sqrt()
    weight = mask.expand_as(x)
    return ((weight * x.square()).sum(dims, keepdim=True) / weight.sum(dims, keepdim=True).clamp(min=1e-6)).sqrt()


def direction(gradient: torch.Tensor, denoised: torch.Tensor, parallel: float = 0.0, mask: torch.Tensor | None = None):
    """Raw gradient -> (step direction of RMS at most 1, which samples were finite [B]).

    Samples with a non-finite gradient get no step. The part parallel to the estimate only changes its contrast and is
    removed, except for the share `parallel`. Each sample is scaled by its own RMS, so that the images of a batch do not
    influence each other; with a mask (inpainting) the step stays inside it and has that RMS there.
    """
    dims = tuple(range(1, gradient.ndim))
    finite = torch.isfinite(gradient).flatten(1).all(1) & torch.isfinite(denoised).flatten(1).all(1)
    keep = column(finite, gradient)
    # Out-of-range values are rescaled before squaring, which could overflow.
    g = torch.where(keep, gradient, 0)
    g = g / g.abs().amax(dims, keepdim=True).clamp(min=1.0)
    d = torch.where(keep, denoised, 0)
    if mask is not None:
        g, d = g * mask, d * mask
    share = (g * d).sum(dims, keepdim=True) / d.square().sum(dims, keepdim=True).clamp(min=1e-12)
    g = g - (1 - parallel) * share * d
    return g / rms(g, mask).clamp(min=GRADIENT_FLOOR), finite


def displacement(step, size: float, w_cls: torch.Tensor, denoised: torch.Tensor, cap: float, mask=None):
    """delta = size w_cls g_hat, its RMS at most `cap` of the estimate's; size = eta ramp(sigma) s_post(sigma)."""
    delta = step * (size * column(w_cls, step))
    limit = (cap * rms(denoised, mask) / rms(delta, mask).clamp(min=1e-12)).clamp(max=1.0)
    return delta * limit.nan_to_num(0.0)  # no step from an estimate that is not a number


def column(values: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """[B] -> [B, 1, ...], to be multiplied with `like`."""
    return values.view(-1, *[1] * (like.ndim - 1))
