"""The numbers of a guided run, for a chart drawn during sampling."""

from __future__ import annotations

from bisect import bisect_right
from typing import Any

import torch

from ..guidance.trace import Call, Trace

MOST_IMAGES = 8
DRAWN = ("probability", "w_text", "w_contour", "w_cls", "step_rms")


def state(trace: Trace, sigma: float | None = None) -> dict[str, Any]:
    """What a chart of the run shows at noise level `sigma`, as plain data for JSON; None once the run is over.

    Returns:
        `text`: one line for people; `warnings`: sentences; `steps`: how many there are; `stage`: where the window of
        the classifier begins and ends, in steps; `at`: the step of each guided call; `values`: under each of `DRAWN`
        one list per image, with one number per guided call; `fixed`: the weights before the final stage.
    """
    calls = trace.calls
    return {
        "text": trace.outcome() if sigma is None else progress(trace, sigma),
        "warnings": trace.notes,
        "steps": len(trace.sigmas) - 1,
        "stage": [round(step_of(trace.sigmas, level), 2) for level in trace.window],
        "targets": trace.targets[:MOST_IMAGES],
        "fixed": {"w_text": trace.w_text, "w_contour": trace.w_contour},
        "at": [round(step_of(trace.sigmas, call.sigma), 2) for call in calls],
        "values": {name: _per_image(calls, name) for name in DRAWN},
    }


def progress(trace: Trace, sigma: float) -> str:
    """One line on a run that has come to `sigma`: the step, what guides it, how the probability went."""
    steps = len(trace.sigmas) - 1
    line = f"step {min(int(step_of(trace.sigmas, sigma)) + 1, steps)} of {steps}: "
    seen = [torch.as_tensor(call.probability).mean() for call in trace.calls if call.evaluated]
    if seen:
        return line + f"guided, p {seen[0]:.2f} -> {seen[-1]:.2f}"
    joins = f"; the classifier joins at step {trace.guided_steps[0] + 1}" if trace.guided_steps else ""
    return line + "text and contour" + joins


def step_of(sigmas: list[float], sigma: float) -> float:
    """Where a noise level lies among falling ones, in steps from 0."""
    rising = sigmas[::-1]
    above = len(sigmas) - bisect_right(rising, sigma)  # how many are higher
    if above in (0, len(sigmas)):
        return float(min(above, len(sigmas) - 1))
    high, low = sigmas[above - 1], sigmas[above]
    return above - 1 + (high - sigma) / (high - low)


def _per_image(calls: list[Call], name: str) -> list[list[float]]:
    values = [getattr(call, name) for call in calls]
    if not values or any(value is None for value in values):
        return []
    lists = [torch.as_tensor(value, dtype=torch.float32).flatten()[:MOST_IMAGES].tolist() for value in values]
    return [[round(number, 4) for number in image] for image in zip(*lists, strict=True)]
