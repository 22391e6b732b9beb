"""The classifier's part of a guided run: when it evaluates, on what, and with which memory. One object per run.

The mathematics is in `guidance.classifier_step`. No value is read back from the device before the run ends.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import comfy.model_management
import torch
from torch import Tensor

from ..guidance import classifier_step, formulas
from ..guidance.classifier_step import Correction, Reading, Signal
from ..guidance.schedule import Pacing, Window, next_level
from ..guidance.stopwatch import Stopwatch
from ..guidance.trace import Call, Trace
from .decoder import Decoder, image_size
from .engine import Engine, Plan
from .memory_ladder import MemoryLadder

FLOAT16_LOSS_SCALE = 1024.0  # pixel gradients of float16 decoders would underflow


@dataclass(frozen=True)
class Carried:
    """What a run leaves to one that continues it; on the CPU."""

    signal: Signal | None
    pacing: Pacing


class Corrector:
    """Turns denoised estimates into weights and a step towards the target classes.

    Args:
        window: the final stage.
        trace: where each guided call is recorded.
        device: where the diffusion model runs.
        known: what a masked run keeps, in model space [B, C, H, W]; the classifier sees it around the new part.
        carried: from the run that this one continues.
    """

    def __init__(
        self,
        engine: Engine,
        plan: Plan,
        window: Window,
        trace: Trace,
        device: torch.device,
        known: Tensor | None = None,
        carried: Carried | None = None,
    ):
        self.classifier, self.settings = engine.classifier, engine.settings
        self.window, self.trace, self.device, self.known = window, trace, device, known
        with torch.inference_mode(False):
            self.targets = plan.targets.to(device, torch.float32, copy=True)
        self.chance = formulas.chance(self.targets)
        self.watch, self.ladder = Stopwatch(device), MemoryLadder(plan.decoder, device, trace.note)
        self.params: dict[str, Tensor] | None = None
        self.signal: Signal | None = None  # of the last evaluation
        self.pacing = Pacing(self.settings.interval, self.settings.max_evals)
        if carried is not None:
            self.signal, self.pacing = carried.signal and carried.signal.to(device), replace(carried.pacing)
        with self.watch.measure():
            self.ladder.run(self._load)

    def __call__(self, estimates: Tensor, sigma: float, mask: Tensor | None = None) -> Correction | None:
        """The correction of estimates [B, C, H, W]; None where there is no memory for the classifier."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        evaluated = self.pacing.evaluates(self.window.progress(sigma))
        if evaluated:
            with self.watch.measure():
                self._evaluate(estimates, mask)
        return self._correction(self.signal, estimates, sigma, mask, evaluated) if self.signal else None

    def carried(self) -> Carried:
        return Carried(self.signal and self.signal.to("cpu"), replace(self.pacing))

    def _correction(
        self, signal: Signal, estimates: Tensor, sigma: float, mask: Tensor | None, evaluated: bool
    ) -> Correction:
        ramp = self.window.ramp(sigma, next_level(self.trace.sigmas, sigma))
        size = self.settings.eta * ramp * self.window.posterior_scale(sigma)
        made = classifier_step.correction(signal, size, estimates, self.targets.shape[1], self.settings, mask)
        step_rms = formulas.rms(made.delta, mask).flatten()
        self.trace.calls.append(
            Call(sigma, evaluated, signal.probability, signal.confidence, signal.top, made.classifier, step_rms)
        )
        return made

    def _evaluate(self, estimates: Tensor, mask: Tensor | None) -> None:
        shown = self._shown(estimates, mask)
        reading = self._read(shown)
        if reading is None:
            self.signal = None
            return
        self.signal = classifier_step.signal(reading, shown, self.chance, self.settings, self.signal, mask)
        self.trace.left_out("the estimate, or what the classifier said of it, was not finite", ~self.signal.answered)
        self.trace.left_out(self._overflow, self.signal.answered & ~self.signal.usable)

    def _shown(self, estimates: Tensor, mask: Tensor | None) -> Tensor:
        if mask is None or self.known is None:
            return estimates
        return estimates * mask + self.known * (1 - mask)

    def _read(self, shown: Tensor) -> Reading | None:
        """The classifier's reading of the batch; None when there is no memory even for one image."""
        height, width = image_size(self.ladder.latent_format, shown.shape)

        def read_rows(decoder: Decoder, rows: slice) -> Reading:
            self._load(decoder)
            return self._read_rows(decoder, shown[rows], self.targets[rows])

        parts = self.ladder.run_in_parts(len(shown), self.settings.images_at_once(height * width), read_rows)
        return Reading.joined(parts) if parts else None

    def _read_rows(self, decoder: Decoder, shown: Tensor, targets: Tensor) -> Reading:
        scale = FLOAT16_LOSS_SCALE if decoder.dtype == torch.float16 else 1.0
        return classifier_step.read(
            shown, targets, decoder, self._logits, self.classifier.temperature, self.settings, scale
        )

    def _logits(self, images: Tensor) -> Tensor:
        logits = self.classifier.logits(images, self.params)
        if logits.shape[1] != self.targets.shape[1]:
            raise ValueError(
                f"The classifier has {logits.shape[1]} outputs for {self.targets.shape[1]} class names: "
                "give it one name per output, in order."
            )
        return logits

    @property
    def _overflow(self) -> str:
        half = self.ladder.decoder is not None and self.ladder.decoder.dtype == torch.float16
        remedy = " (the VAE is in float16: start ComfyUI with --bf16-vae or --fp32-vae)"
        return "the gradient was not finite" + (remedy if half else "")

    def _load(self, decoder: Decoder) -> None:
        """The classifier's weights for this run; the ladder has built the decoder's."""
        if self.params is None:
            self.params = self.classifier.clone_params(self.device)
