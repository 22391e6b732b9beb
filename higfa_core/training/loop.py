"""The training loop: steps, evaluations, early stopping, and a checkpoint that continues exactly."""

from __future__ import annotations

import io
import logging
import math
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..classifier.calibrate import calibrate
from ..classifier.formats import timm_models
from ..files.atomic import write_atomic
from ..wording import counted
from .loaders import HeldOut, mixed_seed, seeded
from .settings import TrainSettings

log = logging.getLogger(__name__)
EVALUATIONS = 40
SECONDS_BETWEEN_CHECKPOINTS = 60
LAYER_DECAY = 0.75  # pretrained: each layer learns at this share of the rate of the next one (as BEiT, MAE, timm do)


@dataclass(frozen=True)
class Evaluation:
    """Held-out images after `step` steps (NaN if there are none); `train_loss` is the mean since the last one.

    `loss` is the NLL at the temperature that fits these logits best: what is left after calibration.
    """

    step: int
    learning_rate: float
    train_loss: float
    loss: float
    accuracy: float


@dataclass(frozen=True)
class Best:
    """The weights that did best on the held-out images, and their logits there."""

    step: int
    weights: dict[str, Tensor]
    logits: Tensor


class Loop:
    """Trains `module` and keeps the average of its weights (EMA), which is what is evaluated and used.

    Rare classes count as much as frequent ones by balanced softmax (Ren et al., arXiv 2007.10740): the log of the
    class's share is added to the logits in the loss. Sampling rare images more often would correct the prior as well,
    but repeat the few images that are most easily memorised.
    """

    def __init__(self, module: nn.Module, settings: TrainSettings, counts: list[int], device: torch.device):
        timm = timm_models.import_timm()
        from timm.optim import create_optimizer_v2
        from timm.utils import ModelEmaV3

        s = self.settings = settings
        self.device, self.half = device, _half(s.precision, device)
        self.module = module.to(device).to(memory_format=torch.channels_last)
        # The warm-up keeps the average no older than the run: it spans 100 steps at step 1,000.
        self.average = ModelEmaV3(self.module, use_warmup=True)
        decay = LAYER_DECAY if s.pretrained else None
        self.optimizer = create_optimizer_v2(
            self.module, "adamw", lr=s.learning_rate, weight_decay=s.weight_decay, layer_decay=decay
        )
        self.rates = [group["lr"] * group.get("lr_scale", 1.0) for group in self.optimizer.param_groups]
        share = torch.tensor(counts, dtype=torch.float32, device=device) / sum(counts)
        self.log_share = share.log() - share.log().mean()
        self.mixup = None
        if s.mixup or s.cutmix:
            self.mixup = timm.data.Mixup(s.mixup, s.cutmix, label_smoothing=s.label_smoothing, num_classes=len(counts))
        self.step, self.losses, self.resting = 0, [], True
        self.history: list[Evaluation] = []
        self.best: Best | None = None

    def advance(self, batches: Iterable, held_out: HeldOut, progress, check: Callable, save: Callable) -> str:
        """Train until the last step; returns why it stopped early, else ""."""
        steps, saved = self.settings.steps, time.monotonic()
        batches = iter(batches)
        while True:
            if self._evaluation_is_due():
                self._evaluate(held_out, progress, check)
            if self.step == steps:
                return ""
            if self._lost_patience():
                return f"no improvement in {counted(self.settings.patience, 'evaluation')}"
            check()
            self.resting = False
            self._step(*next(batches))
            self.resting = True
            if time.monotonic() - saved > SECONDS_BETWEEN_CHECKPOINTS:
                save()
                saved = time.monotonic()
            progress(self.step, steps)
        return ""

    def save(self, path: Path, key: str) -> None:
        """Write atomically what `load` needs to continue as if never interrupted."""
        state = {
            "key": key,
            "step": self.step,
            "module": self.module.state_dict(),
            "average": self.average.module.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "losses": torch.stack(self.losses).cpu() if self.losses else torch.zeros(0),
            "history": [asdict(row) for row in self.history],
            "best": vars(self.best) if self.best else None,
        }
        buffer = io.BytesIO()
        torch.save(state, buffer)
        write_atomic(path, buffer.getbuffer())

    def load(self, path: Path, key: str) -> None:
        """Continue from a checkpoint. ValueError when it belongs to another run, or is damaged."""
        remedy = "Delete it, or do not resume, to start over."
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # a damaged file raises almost anything
            raise ValueError(f"The checkpoint {path} is damaged ({type(error).__name__}). {remedy}") from error
        if not isinstance(state, dict) or state.get("key") != key:
            raise ValueError(f"The checkpoint {path} belongs to other images, settings or software. {remedy}")
        self.module.load_state_dict(state["module"])
        self.average.module.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.losses = state["step"], list(state["losses"].to(self.device))
        self.history = [Evaluation(**row) for row in state["history"]]
        self.best = Best(**state["best"]) if state["best"] else None

    def rate(self) -> float:
        """Share of the learning rate at this step: up over a tenth of the run (500 steps at most), then a cosine."""
        s = self.settings.steps
        warm = min(500, max(1, s // 10))
        return min((self.step + 1) / warm, 0.5 * (1 + math.cos(math.pi * self.step / s)))

    def _step(self, images: Tensor, labels: Tensor) -> None:
        s = self.settings
        images = images.to(self.device, memory_format=torch.channels_last, non_blocking=True)
        labels = labels.to(self.device)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * self.rate()
        self.module.train()
        # One seed per step (dropout, mixup), so that a resumed run draws the same numbers.
        with seeded(mixed_seed(s.seed, 1, self.step), self.device):
            if self.mixup:
                images, labels = self.mixup(images, labels)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
                logits = self.module(images)
            smoothing = 0.0 if self.mixup else s.label_smoothing
            loss = F.cross_entropy(logits.float() + self.log_share, labels, label_smoothing=smoothing)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.module.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        self.average.update(self.module, self.step)
        self.losses.append(loss.detach())

    def _evaluation_is_due(self) -> bool:
        steps, last = self.settings.steps, self.history[-1].step if self.history else 0
        return self.step > last and (self.step % max(1, steps // EVALUATIONS) == 0 or self.step == steps)

    @torch.no_grad()
    def _evaluate(self, held_out: HeldOut, progress, check: Callable) -> None:
        self.resting = False
        train_loss = float(torch.stack(self.losses).mean())
        if not math.isfinite(train_loss):
            raise ValueError(
                f"The loss is not finite after step {self.step}. Lower the learning rate "
                f"({self.settings.learning_rate:g}), or use precision float32."
            )
        row = Evaluation(self.step, self.settings.learning_rate * self.rate(), train_loss, math.nan, math.nan)
        if len(held_out.labels):
            row = self._rated(row, self._held_out_logits(held_out, progress, check), held_out.labels)
        self.losses = []
        self.history.append(row)
        self.resting = True
        text = f"step {row.step} of {self.settings.steps}: training loss {row.train_loss:.3f}"
        if len(held_out.labels):
            text += f", validation loss {row.loss:.3f}, accuracy {row.accuracy:.1%}"
        log.info(text)

    def _held_out_logits(self, held_out: HeldOut, progress, check: Callable) -> Tensor:
        logits = []
        self.resting = True  # nothing has changed yet: an evaluation interrupted here is repeated
        for images in held_out:
            if logits:
                progress(self.step, self.settings.steps)
                check()
            images = images.to(self.device, memory_format=torch.channels_last)
            with torch.autocast(self.device.type, torch.bfloat16, enabled=self.half):
                logits.append(self.average.module(images).float().cpu())
        self.resting = False
        return torch.cat(logits)

    def _rated(self, row: Evaluation, logits: Tensor, labels: Tensor) -> Evaluation:
        accuracy = float((logits.argmax(1) == labels).double().mean())
        row = replace(row, loss=calibrate(logits, labels).nll_after, accuracy=accuracy)
        if not self.best or row.loss < min(past.loss for past in self.history):
            weights = {k: v.detach().cpu().clone() for k, v in self.average.module.state_dict().items()}
            self.best = Best(row.step, weights, logits)
        return row

    def _lost_patience(self) -> bool:
        since = [row for row in self.history if self.best and row.step > self.best.step]
        return len(since) >= self.settings.patience


def _half(precision: str, device: torch.device) -> bool:
    if precision == "auto":
        if device.type != "cuda":
            return False
        with torch.cuda.device(device):
            return torch.cuda.is_bf16_supported(including_emulation=False)
    return precision == "bfloat16"
