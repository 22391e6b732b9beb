"""What happened at every model call of a guided run."""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

from ..wording import counted

RUNS_KEPT = 256
PerSample = torch.Tensor | list[float]
PER_SAMPLE = ("probability", "confidence", "top", "w_text", "w_contour", "w_cls", "step_rms")


@dataclass
class Call:
    """One guided model call; the per-sample fields are [B] tensors until the run ends, then lists.

    `w_text` and `w_contour` are None where the guider is not ours and keeps its own weights.
    """

    sigma: float
    evaluated: bool
    probability: PerSample  # of the target; of a mixture of classes: exp(-KL(q || p))
    confidence: PerSample  # what the weights follow: above chance, smoothed; 1 for an image without a step
    top: PerSample  # the most probable class
    w_cls: PerSample
    step_rms: PerSample
    w_text: PerSample | None = None
    w_contour: PerSample | None = None

    def of_image(self, i: int) -> Call:
        """What concerns one image of the batch, of a run that has ended."""
        values = {name: getattr(self, name) for name in PER_SAMPLE}
        return replace(self, **{name: None if value is None else [value[i]] for name, value in values.items()})


@dataclass
class Trace:
    """A run: its schedule, which steps were guided, why others were not, and one `Call` per guided model call."""

    sigmas: list[float]
    guided_steps: list[int]
    targets: list[str]
    window: tuple[float, float] = (0.0, 0.0)
    interval: int = 1
    settings: dict = field(default_factory=dict)
    classifier: str = ""
    class_names: list[str] = field(default_factory=list)
    w_text: float | None = None  # of the fixed stage; None where the guider is not ours
    w_contour: float | None = None
    decoder: str = "none"
    calls: list[Call] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    model_calls: int = 0
    seed: int | None = None  # of the noise; None where the sampler was told none
    images: list[int] = field(default_factory=list)  # each image's place in the batch that the seed draws
    together: int = 1  # images that were sampled in one batch
    unusable: dict[str, Any] = field(default_factory=dict)  # why -> evaluations without a step [B]; a list at the end
    given_up: list[float | None] = field(default_factory=list)  # probability of images that were given up, else None
    skipped: int = 0  # model calls that were not made, because every image had been given up
    classifier_seconds: float | None = 0.0  # None where the device cannot be timed
    seconds: float = 0.0
    # Not in the JSON:
    result: str | None = None  # fingerprint of the resulting latents
    carried: Any = None  # what a run that continues this one inherits

    @property
    def probability(self) -> list[float]:
        """Calibrated probability of the target at the last evaluation, one per image; empty without evaluations."""
        return [float(p) for p in self.calls[-1].probability] if self.calls else []

    @property
    def noise(self) -> list[tuple[int, int]] | None:
        """(seed, place in the batch) of each image's noise; None where the seed is not known."""
        return None if self.seed is None else [(self.seed, place) for place in self.images]

    @property
    def evaluations(self) -> int:
        """How often the classifier was evaluated."""
        return sum(call.evaluated for call in self.calls)

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def left_out(self, why: str, images: torch.Tensor) -> None:
        """Count the images [B] (bool, on any device) that get no step at this evaluation."""
        self.unusable[why] = self.unusable.get(why, 0) + images.int()

    def finish(self, seconds: float, classifier_seconds: float | None) -> None:
        """Move everything to the CPU, once."""
        for call in self.calls:
            for name in PER_SAMPLE:
                value = getattr(call, name)
                if torch.is_tensor(value):
                    digits = None if name == "top" else 6
                    setattr(call, name, [round(v, digits) for v in value.detach().float().cpu().flatten().tolist()])
        counts = {why: count.tolist() for why, count in self.unusable.items()}
        self.unusable = {why: count for why, count in counts.items() if any(count)}
        for text in self._of_images():
            self.note(text)
        self.seconds, self.classifier_seconds = seconds, classifier_seconds

    def of_image(self, i: int, seed: int) -> Trace:
        """The trace of one image, whose noise is the first of `seed`, of a run that has ended."""
        own = replace(self, targets=[self.targets[i]], calls=[call.of_image(i) for call in self.calls])
        own.seed, own.images = int(seed), [0]
        own.unusable = {why: [count[i]] for why, count in self.unusable.items() if count[i]}
        own.given_up = self.given_up[i : i + 1]
        own.notes = [note for note in self.notes if note not in self._of_images()]
        own.notes += [*own._of_images(), f"sampled in a batch of {len(self.targets)}"]
        return own

    def _of_images(self) -> list[str]:
        """The notes that count images of the batch."""
        notes, gone = [], sum(p is not None for p in self.given_up)
        if gone:
            images = f"{gone} of {counted(len(self.given_up), 'image')}"
            saved = f"{self.skipped} of {counted(self.model_calls, 'model call')}"
            notes.append(f"{images} given up below {self.settings['give_up_below']:g}: not finished, {saved} saved")
        for why, count in self.unusable.items():
            images = sum(times > 0 for times in count)
            most = f"{max(count)} of {counted(self.evaluations, 'evaluation')}"
            notes.append(f"{images} of {counted(len(count), 'image')} got no step at up to {most}: {why}")
        return notes

    def summary(self) -> str:
        """One line: the outcome and the notes."""
        return "; ".join([self.outcome(), *self.notes])

    def outcome(self) -> str:
        """Which steps were guided, how the probability changed, what it cost."""
        total = len(self.sigmas) - 1
        if not self.calls:
            return f"classifier never ran in {counted(total, 'step')}"
        first = sum(self.calls[0].probability) / len(self.calls[0].probability)
        last = sum(self.probability) / len(self.probability)
        # Without guided steps, only calls between two steps fell into the window.
        where = f"steps {self.guided_steps[0] + 1}-{self.guided_steps[-1] + 1} of {total}" if self.guided_steps else (
            f"{counted(len(self.calls), 'call')} between the {counted(total, 'step')}")  # fmt: skip
        line = f"guided {where}, probability {first:.2f} -> {last:.2f}, decoder {self.decoder}"
        if self.classifier_seconds is not None:
            share = 100 * self.classifier_seconds / max(self.seconds - self.classifier_seconds, 1e-9)
            line += f", +{share:.0f} % time"
        return line

    def to_dict(self) -> dict:
        """Plain data for JSON; per-sample values as lists."""
        plain = asdict(replace(self, carried=None))
        return {name: value for name, value in plain.items() if name not in ("result", "carried")}

    def to_json(self) -> str:
        return json.dumps(self.to_dict())


Watch = Callable[[Trace, float | None], None]


class TraceSlot:
    """Where other nodes find the trace of a run: of the one given, or of those that a guider or model makes later.

    ComfyUI keeps guiders and models from one prompt to the next, and several samplers may share one, so only the
    resulting latents identify the run. `trace` is the latest, None if that run sampled nothing. `watch`, if set, is
    called with the trace and the noise level before every model call of a run, and with None at its end.
    """

    watch: Watch | None = None

    def __init__(self, trace: Trace | None = None):
        self.given, self.runs = trace, deque(maxlen=RUNS_KEPT)
        self.trace = trace

    @property
    def trace(self) -> Trace | None:
        return self._trace

    @trace.setter
    def trace(self, trace: Trace | None):
        self._trace = trace
        if trace is not None:
            self.runs.append(trace)

    def find(self, latents: torch.Tensor) -> Trace | None:
        """The trace of the latest run that produced these latents."""
        mark = fingerprint(latents) if self.runs else None
        return next((trace for trace in reversed(self.runs) if trace.result == mark), None)

    def run_of(self, latents: torch.Tensor | None) -> Trace:
        """The trace of the run that produced these latents; the run given at construction needs none.

        Raises:
            ValueError: no latents, or none of these runs produced them; the message says what to connect.
        """
        if self.given is not None:
            return self.given
        if latents is None or not self.runs:
            raise ValueError(
                "Only the sampler's latent tells which run to plot, and that it is finished. Connect the sampler's "
                "latent to Plot Guidance, and set denoise above 0."
            )
        trace = self.find(latents)
        if trace is not None:
            return trace
        raise ValueError(
            f"This guider or model has made {counted(len(self.runs), 'run')}, none of which produced this latent. "
            "Connect the sampler's latent to Plot Guidance as it leaves the sampler (of SamplerCustomAdvanced: output) "
            "and set denoise above 0."
        )


def fingerprint(latents: torch.Tensor) -> str:
    """SHA-256 of latents, the same on every device, in float32 and in float16."""
    values = latents.detach().to("cpu", torch.float16).contiguous().numpy()
    return hashlib.sha256(f"{values.shape}".encode() + values.tobytes()).hexdigest()
