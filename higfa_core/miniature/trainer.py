"""One training run of the miniature: it writes a checkpoint every 200 steps and resumes from it."""

import json
import logging
import math
import time
from pathlib import Path

import torch

log = logging.getLogger(__name__)


class Trainer:
    """AdamW, warm-up, cosine decay, optional EMA, a log line every 50 steps, a checkpoint every 200."""

    def __init__(self, work: Path, name: str, modules: dict, steps: int, lr: float, ema: float = 0.0, decay=0.01):
        self.path, self.log = work / f"{name}.ckpt", work / f"{name}.jsonl"
        self.name, self.steps, self.lr, self.decay = name, steps, lr, ema
        self.modules = torch.nn.ModuleDict(modules)
        self.params = [p for p in self.modules.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.params, lr, betas=(0.9, 0.99), weight_decay=decay)
        self.average = {k: v.detach().clone() for k, v in self.modules.state_dict().items()} if ema else None
        self.step = 0
        if self.path.exists():
            state = torch.load(self.path, weights_only=True)
            self.modules.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.average, self.step = state["average"], state["step"]

    def run(self, loss_of):
        """`loss_of(step, generator) -> scalar`; the generator depends only on the step, so resumed runs agree."""
        started, losses, first = time.time(), [], self.step
        while self.step < self.steps:
            scale = min(1.0, (self.step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * self.step / self.steps))
            for group in self.optimizer.param_groups:
                group["lr"] = self.lr * max(scale, 0.01)
            loss = loss_of(self.step, torch.Generator().manual_seed(self.step))
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.params, 1.0)
            self.optimizer.step()
            self.step += 1
            losses.append(float(loss.detach()))
            self._update_average()
            if self.step % 50 == 0 or self.step == self.steps:
                seconds = (time.time() - started) / (self.step - first)
                row = {"step": self.step, "loss": round(sum(losses) / len(losses), 5), "s_per_step": round(seconds, 3)}
                with self.log.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                log.info("%s %s", self.name, row)
                losses = []
            if self.step % 200 == 0 or self.step == self.steps:
                self._checkpoint()
        return self

    def weights(self, module: str) -> dict[str, torch.Tensor]:
        state = self.average or self.modules.state_dict()
        return {k.removeprefix(f"{module}."): v for k, v in state.items() if k.startswith(f"{module}.")}

    @torch.no_grad()
    def _update_average(self):
        if self.average is None:
            return
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        for k, v in self.modules.state_dict().items():
            self.average[k].lerp_(v, 1 - decay) if v.is_floating_point() else self.average[k].copy_(v)

    def _checkpoint(self):
        state = {"model": self.modules.state_dict(), "optimizer": self.optimizer.state_dict(),
                 "average": self.average, "step": self.step}  # fmt: skip
        temporary = self.path.with_suffix(".part")
        torch.save(state, temporary)
        temporary.replace(self.path)
