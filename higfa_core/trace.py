"""What happened at every model call of a guided run."""

import json
from dataclasses import asdict, dataclass, field

import torch

PER_SAMPLE = ("probability", "confidence", "top", "w_text", "w_contour", "w_cls", "step_rms")


@dataclass
class Call:
    """One guided model call; the per-sample fields are [B] tensors until the run ends, then lists.

    `w_text` and `w_contour` are None where the guider is not ours and keeps its own weights.
    """

    sigma: float
    evaluated: bool
    probability: object  # of the target; of a mixture of classes: exp(-KL(q || p))
    confidence: object
    top: object  # the likeliest class
    w_cls: object
    step_rms: object
    w_text: object = None
    w_contour: object = None


@dataclass
class Trace:
    """A run: its schedule, which steps were guided and why not, and one `Call` a guided model call."""

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
    non_finite: int = 0
    classifier_seconds: float = 0.0
    seconds: float = 0.0

    @property
    def confidence(self) -> list[float]:
        """Calibrated probability of the target at the last evaluation, one a sample; empty if none was made."""
        return list(self.calls[-1].probability) if self.calls else []

    @property
    def evaluations(self) -> int:
        """How often the classifier looked."""
        return sum(call.evaluated for call in self.calls)

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def finish(self, seconds: float, classifier_seconds: float) -> None:
        """Move everything to the CPU, once."""
        for call in self.calls:
            for name in PER_SAMPLE:
                value = getattr(call, name)
                if torch.is_tensor(value):
                    digits = None if name == "top" else 6
                    setattr(call, name, [round(v, digits) for v in value.detach().float().cpu().flatten().tolist()])
        self.non_finite = int(self.non_finite)
        if self.non_finite:
            self.note(f"{self.non_finite} classifier gradients were not finite and were left out")
        self.seconds, self.classifier_seconds = seconds, classifier_seconds

    def summary(self) -> str:
        """One line for the node: which steps, how the confidence went, what it cost."""
        total = len(self.sigmas) - 1
        if not self.calls:
            return "; ".join([f"classifier never ran in {total} steps", *self.notes])
        first = sum(self.calls[0].probability) / len(self.calls[0].probability)
        last = sum(self.confidence) / len(self.confidence)
        # Without recorded steps a sampler reached the window between two steps only.
        where = f"steps {self.guided_steps[0] + 1}-{self.guided_steps[-1] + 1} of {total}" if self.guided_steps else (
            f"{len(self.calls)} calls between the {total} steps")  # fmt: skip
        share = 100 * self.classifier_seconds / max(self.seconds - self.classifier_seconds, 1e-9)
        line = f"guided {where}, confidence {first:.2f} -> {last:.2f}, decoder {self.decoder}, +{share:.0f} % time"
        return "; ".join([line, *self.notes])

    def to_dict(self) -> dict:
        """Plain data for JSON; per-sample values as lists."""
        return asdict(self)

    def to_json(self) -> str:
        return json.dumps(self.to_dict())


@dataclass
class TraceSlot:
    """The trace of the latest run of a guider or model, which a sampler fills long after the node that made it ran."""

    trace: Trace | None = None
