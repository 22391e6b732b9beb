"""What happened at every model call of a guided run."""

import json
from dataclasses import dataclass, field

import torch

PER_SAMPLE = ("probability", "confidence", "w_text", "w_contour", "w_cls", "step_rms")


@dataclass
class Call:
    """One guided model call; the per-sample fields are [B] tensors until the run ends, then lists."""

    sigma: float
    evaluated: bool
    probability: object
    confidence: object
    w_text: object
    w_contour: object
    w_cls: object
    step_rms: object


@dataclass
class Trace:
    """A run: its schedule, which steps were guided and why not, and one `Call` a guided model call."""

    sigmas: list[float]
    guided_steps: list[int]
    targets: list[str]
    decoder: str
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

    def note(self, text: str) -> None:
        if text not in self.notes:
            self.notes.append(text)

    def finish(self, seconds: float) -> None:
        """Move everything to the CPU, once."""
        for call in self.calls:
            for name in PER_SAMPLE:
                value = getattr(call, name)
                if torch.is_tensor(value):
                    setattr(call, name, [round(v, 6) for v in value.detach().float().cpu().flatten().tolist()])
        if torch.is_tensor(self.non_finite):
            self.non_finite = int(self.non_finite)
        if self.non_finite:
            self.note(f"{self.non_finite} classifier gradients were not finite and were left out")
        self.seconds = seconds

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
        return {**self.__dict__, "calls": [dict(c.__dict__) for c in self.calls]}

    def to_json(self) -> str:
        return json.dumps(self.to_dict())
