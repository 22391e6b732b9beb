"""The classifier's step as pure functions: estimates -> `Reading` -> `Signal` -> `Correction`.

Independent of the diffusion model and of ComfyUI. Everything stays on the device: no value is read back.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from . import formulas
from .lean_backward import LeanBackward
from .settings import Guidance


@dataclass(frozen=True)
class Reading:
    """A classifier's output for estimates: the gradient of the class score [B, C, H, W], and per image [B] the
    probability of the target, the entropy over all classes and the most probable class."""

    gradient: Tensor
    probability: Tensor
    entropy: Tensor
    top: Tensor

    @classmethod
    def joined(cls, parts: Sequence[Reading]) -> Reading:
        return cls(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)))


@dataclass(frozen=True)
class Signal:
    """What steers the guided calls from one evaluation to the next.

    Args:
        direction: of the step, RMS at most 1, [B, C, H, W].
        probability: of the target, [B]; 0 where the classifier's was not finite.
        confidence: what the weights follow, [B]: above chance, smoothed; 1 for an image without a usable gradient,
            which leaves its text and contour weights unchanged.
        entropy, top: as in `Reading`.
        answered: images for which the classifier gave a finite probability, [B] bool.
        usable: those that also have a finite gradient.
    """

    direction: Tensor
    probability: Tensor
    confidence: Tensor
    entropy: Tensor
    top: Tensor
    answered: Tensor
    usable: Tensor

    def to(self, device: torch.device | str) -> Signal:
        return Signal(*(getattr(self, field.name).to(device) for field in fields(self)))

    def of(self, rows: list[int]) -> Signal:
        return Signal(*(getattr(self, field.name)[rows] for field in fields(self)))

    def updated(self, rows: list[int], part: Signal) -> Signal:
        """The signal with the values of images `rows` taken from `part`."""
        new = []
        for field in fields(self):
            values = getattr(self, field.name).clone()
            values[rows] = getattr(part, field.name)
            new.append(values)
        return Signal(*new)


@dataclass(frozen=True)
class Correction:
    """Multipliers [B] of the weights of text and contour, the classifier's own weight [B], and its step `delta`."""

    text: Tensor
    contour: Tensor
    classifier: Tensor
    delta: Tensor


def read(
    estimates: Tensor,
    targets: Tensor,
    decode: Callable[[Tensor], Tensor],
    classify: Callable[[Tensor], Tensor],
    temperature: float,
    settings: Guidance,
    loss_scale: float = 1.0,
) -> Reading:
    """Decode, classify, differentiate; with `eta` 0 only measure, at a third of the cost.

    Args:
        estimates: denoised latents [B, C, H, W].
        targets: weights over the classes, [B, K].
        decode: latents -> images [B, 3, H', W'] in 0..1, differentiable.
        classify: images -> logits [B, K], differentiable.
        temperature: calibrates the probabilities.
        loss_scale: keeps gradients of half-precision decoders from underflowing.
    """
    steps, views = settings.eta > 0, settings.views
    with torch.inference_mode(False), torch.set_grad_enabled(steps), LeanBackward():
        z = estimates.detach().clone().float().requires_grad_(steps)
        image = decode(z)
        logits = [classify(view) for view in (image, image.flip(-1))[:views]]
        # A sum, not a mean: an image's gradient must not depend on the size of its batch.
        scores = [formulas.class_score(f, targets, settings.label_sharpness).sum() / views for f in logits]
        p = torch.stack([(f.detach() / temperature).softmax(1) / views for f in logits]).sum(0)
        gradient = torch.zeros_like(z)
        if steps:
            (gradient,) = torch.autograd.grad(torch.stack(scores).sum() * loss_scale, z)
    log_p = p.clamp(min=torch.finfo(p.dtype).tiny).log()
    entropy = -torch.special.xlogy(p, p).sum(1)
    return Reading(gradient / loss_scale, formulas.agreement(log_p, targets), entropy, p.argmax(1))


def signal(
    reading: Reading,
    estimates: Tensor,
    chance: Tensor,
    settings: Guidance,
    before: Signal | None = None,
    mask: Tensor | None = None,
) -> Signal:
    """The signal that follows from the reading of `estimates`; `before` is that of the last evaluation.

    Args:
        chance: the probability that an ignorant classifier would give, [B].
        mask: 1 where the image is generated, 0 where it is kept (inpainting).
    """
    direction, finite = formulas.direction(reading.gradient, estimates.float(), settings.parallel, mask)
    answered = torch.isfinite(reading.probability)
    usable = finite & answered
    p, entropy = (torch.where(answered, x, 0.0) for x in (reading.probability, reading.entropy))
    c = torch.where(usable, formulas.confidence(p, chance, settings.p_stop), 1.0)
    if before is not None:
        c = settings.smoothing * before.confidence + (1 - settings.smoothing) * c
    direction = torch.where(formulas.column(usable, direction), direction, 0)
    return Signal(direction, p, c, entropy, reading.top, answered, usable)


def settled(before: Signal, now: Signal, settings: Guidance) -> Tensor:
    """Images [B] (bool) whose weights and step will no longer change, so that they need no further evaluation.

    These were satisfied, at full confidence, at the last two evaluations, and would stay so if their probability fell
    again by as much as it did between the two.
    """
    falling = now.probability + (now.probability - before.probability).clamp(max=0)
    return (before.confidence == 1) & (now.confidence == 1) & now.usable & (falling >= settings.p_stop)


def correction(
    signal: Signal, size: float, estimates: Tensor, classes: int, settings: Guidance, mask: Tensor | None = None
) -> Correction:
    """The step of `size` (eta ramp(sigma) s_post(sigma)) at these estimates, and the multipliers of the text and
    contour weights that follow from the confidence."""
    weights = formulas.modulation(settings.modulation, signal.confidence, signal.entropy, classes)
    delta = formulas.displacement(signal.direction, size, weights.classifier, estimates, settings.rms_cap, mask)
    return Correction(weights.text, weights.contour, weights.classifier, delta)
