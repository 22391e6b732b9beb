"""The classifier's part of a guided run: when it evaluates, on what, and with which memory. One object per run.

The mathematics is in `guidance.classifier_step`. An evaluation reads back only which images need more work.
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
from ..wording import counted
from .controls import KeptControls
from .decoder import Decoder, image_size
from .engine import Engine, Plan
from .memory_ladder import MemoryLadder
from .shares import Shares

FLOAT16_LOSS_SCALE = 1024.0  # pixel gradients of float16 decoders would underflow


@dataclass(frozen=True)
class Carried:
    """What a run leaves to one that continues it; on the CPU."""

    signal: Signal | None
    pacing: Pacing
    moved: list[int]
    unsettled: list[int]
    shares: Shares | None = None
    controls: KeptControls | None = None


class Corrector:
    """Turns denoised estimates into weights and a step towards the target classes.

    Args:
        window: the final stage.
        trace: where each guided call is recorded.
        device: where the diffusion model runs.
        known: what a masked run keeps, in model space [B, C, H, W]; the classifier sees it around the generated part.
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
        everyone = list(range(len(self.targets)))
        self.moved, self.unsettled = everyone, everyone  # images with weights of their own; images to evaluate
        if carried is not None:
            self.signal, self.pacing = carried.signal and carried.signal.to(device), replace(carried.pacing)
            self.moved, self.unsettled = carried.moved, carried.unsettled
        with self.watch.measure():
            self.ladder.run(self._load)

    def __call__(self, estimates: Tensor, sigma: float, mask: Tensor | None = None) -> Correction | None:
        """The correction of estimates [B, C, H, W]; None without memory for the classifier."""
        comfy.model_management.throw_exception_if_processing_interrupted()
        rows = self.unsettled if self.pacing.evaluates(self.window.progress(sigma)) else []
        evaluated = len(rows) > 0
        if evaluated:
            with self.watch.measure():
                self._evaluate(rows, estimates, mask)
        return self._correction(self.signal, estimates, sigma, mask, evaluated) if self.signal else None

    def carried(self) -> Carried:
        return Carried(self.signal and self.signal.to("cpu"), replace(self.pacing), self.moved, self.unsettled)

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

    def _evaluate(self, rows: list[int], estimates: Tensor, mask: Tensor | None) -> None:
        """Evaluate those images of the batch; the signal of the others stays unchanged."""
        every, before = len(rows) == len(estimates), self.signal
        shown, targets, chance = self._shown(estimates, mask), self.targets, self.chance
        if not every:
            shown, chance, before = shown[rows], chance[rows], before and before.of(rows)
            with torch.inference_mode(False):
                targets = targets[rows]
            mask = mask[rows] if mask is not None and len(mask) > 1 else mask
        reading = self._read(shown, targets)
        if reading is None:
            self.signal = None
            return
        signal = classifier_step.signal(reading, shown, chance, self.settings, before, mask)
        self.signal = signal if every or self.signal is None else self.signal.updated(rows, signal)
        self._count_unusable(rows, signal, len(estimates))
        self._read_back(rows, before, signal)
        if before is None and self.settings.give_up_below > 0:
            self._give_up(signal)

    def _count_unusable(self, rows: list[int], signal: Signal, batch: int) -> None:
        for why, missing in (
            ("the estimate, or what the classifier said of it, was not finite", ~signal.answered),
            (self._overflow, signal.answered & ~signal.usable),
        ):
            images = missing.new_zeros(batch)
            images[rows] = missing
            self.trace.left_out(why, images)

    def _read_back(self, rows: list[int], before: Signal | None, now: Signal) -> None:
        """What the host needs in order to skip work: the only values read from the device, once per evaluation."""
        modulation = self.settings.modulation
        if not (modulation.moves or modulation.rests):
            return
        weights = formulas.modulation(modulation, now.confidence, now.entropy, self.targets.shape[1])
        moved = (weights.text != 1) | (weights.contour != 1)
        settled = torch.zeros_like(moved)
        if before is not None and modulation.rests and self.settings.eta > 0:
            settled = classifier_step.settled(before, now, self.settings)
        flags = torch.stack([moved, settled], 1).tolist()
        evaluated = dict(zip(rows, flags, strict=True))
        self.moved = [row for row in range(len(self.targets)) if evaluated.get(row, [row in self.moved])[0]]
        self.unsettled = [row for row in rows if not evaluated[row][1]]

    def _give_up(self, signal: Signal) -> None:
        """At the first evaluation of a run, which is of all images: nothing more is done for the hopeless ones."""
        hopeless = signal.answered & (signal.probability < self.settings.give_up_below)
        found = torch.where(hopeless, signal.probability, -1.0).tolist()
        self.trace.given_up = [None if p < 0 else round(p, 6) for p in found]
        self.moved, self.unsettled = (
            [row for row in rows if self.trace.given_up[row] is None] for rows in (self.moved, self.unsettled)
        )

    def _shown(self, estimates: Tensor, mask: Tensor | None) -> Tensor:
        if mask is None or self.known is None:
            return estimates
        return estimates * mask + self.known * (1 - mask)

    def _read(self, shown: Tensor, targets: Tensor) -> Reading | None:
        """The classifier's reading of these images; None if there is not even memory for one."""
        height, width = image_size(self.ladder.latent_format, shown.shape)

        def read_rows(decoder: Decoder, rows: slice) -> Reading:
            self._load(decoder)
            return self._read_rows(decoder, shown[rows], targets[rows])

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
                f"The classifier has {counted(logits.shape[1], 'output')} for {self.targets.shape[1]} class names. "
                "Give it one name per output, in order."
            )
        return logits

    @property
    def _overflow(self) -> str:
        half = self.ladder.decoder is not None and self.ladder.decoder.dtype == torch.float16
        remedy = " (the VAE is in float16: start ComfyUI with --bf16-vae or --fp32-vae)"
        return "the gradient was not finite" + (remedy if half else "")

    def _load(self, decoder: Decoder) -> None:
        """Load the classifier's weights for this run; the ladder has already built the decoder's."""
        if self.params is None:
            self.params = self.classifier.clone_params(self.device)
