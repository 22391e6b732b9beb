"""When the classifier acts: windows in noise level, never in step index."""

import math
from dataclasses import dataclass

import numpy as np
import torch


@dataclass(frozen=True)
class Window:
    """The final stage: sigma_off < sigma <= sigma_on.

    Samplers such as heun call the model more than once per step, also between steps, so counting calls cannot tell the
    stage. `flow` marks models with x = (1 - sigma) x0 + sigma n (SD3, Flux) instead of x = x0 + sigma n.
    """

    sigma_on: float
    sigma_off: float
    flow: bool = False

    def active(self, sigma: float) -> bool:
        """Whether sigma is inside; compared in float32, the precision of a run's sigmas, so that its bounds match."""
        return bool(np.float32(self.sigma_off) < np.float32(sigma) <= np.float32(self.sigma_on))

    def ramp(self, sigma: float, next_sigma: float | None = None) -> float:
        """0 at `sigma_on`, 1 from 0.7 `sigma_on` down, smoothstep between.

        Multistep samplers extrapolate from the previous call and would amplify a sudden correction. With the
        schedule's next level the ramp is evaluated in the middle of the step (geometric mean): at its start, a coarse
        schedule would push less than a fine one (tests/guidance/test_schedule.py measures both).
        """
        middle = (sigma * max(next_sigma, self.sigma_off)) ** 0.5 if next_sigma is not None else sigma
        x = min(1.0, max(0.0, (self.sigma_on - middle) / (0.3 * self.sigma_on)))
        return x * x * (3 - 2 * x)

    def posterior_scale(self, sigma: float) -> float:
        """Standard deviation of x0 given x for unit-variance data: the trust region of a correction to x0."""
        signal = 1.0 - sigma if self.flow else 1.0
        return sigma / (sigma**2 + signal**2) ** 0.5

    def progress(self, sigma: float) -> float:
        """The share of the final stage above a noise level: 0 at `sigma_on`, 1 at `sigma_off`.

        Measured in the noise angle atan(sigma / signal), which is finite from pure noise to none.
        """
        on, here, off = (self._angle(level) for level in (self.sigma_on, sigma, self.sigma_off))
        return min(1.0, max(0.0, (on - here) / (on - off)))

    def _angle(self, sigma: float) -> float:
        return math.atan2(sigma, 1.0 - sigma if self.flow else 1.0)

    def guided_steps(self, sigmas: torch.Tensor) -> list[int]:
        """Which steps of a schedule (the N + 1 sigmas ComfyUI gives, last one included) start inside the window."""
        return [i for i, sigma in enumerate(sigmas[:-1].tolist()) if self.active(sigma)]


@dataclass
class Pacing:
    """Which guided calls evaluate the classifier: every `interval`-th, at most `max_evals` in all, spread over the
    noise levels of the final stage.

    It counts calls and noise levels, never steps: where a run is split across several samplers, each knows only its own
    steps.
    """

    interval: int
    max_evals: int
    evaluations: int = 0
    calls_to_wait: int = 0

    def evaluates(self, progress: float) -> bool:
        """Whether the next call evaluates, at that share of the final stage; counts the call."""
        share = min(self.max_evals, 1 + math.floor(self.max_evals * progress))
        due = self.calls_to_wait <= 0 and self.evaluations < share
        if due:
            self.evaluations, self.calls_to_wait = self.evaluations + 1, self.interval
        self.calls_to_wait -= 1
        return due


def next_level(sigmas: list[float], sigma: float) -> float:
    """The highest level of a schedule below `sigma`, also for calls between two steps; 0 if there is none."""
    return max((s for s in sigmas if s < sigma), default=0.0)


def window_from_percent(percent_to_sigma, start_percent: float, end_sigma: float, flow: bool = False) -> Window:
    """Window from ComfyUI's `percent` (share of the noise schedule, as ControlNet's start_percent) and a lowest sigma.

    `end_sigma` is given on the x = x0 + sigma n scale; flow models get the level of equal signal-to-noise ratio.
    """
    end = end_sigma / (1 + end_sigma) if flow else end_sigma
    return Window(float(percent_to_sigma(start_percent)), end, flow)
