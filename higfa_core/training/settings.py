"""How a classifier is trained."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from .loaders import AUGMENT

ARCH = "convnext_tiny.in12k_ft_in1k"
PRECISIONS = ("auto", "float32", "bfloat16")


@dataclass(frozen=True)
class TrainSettings:
    """How to train. ValueError if out of range.

    A value of 0 for `image_size` (pixels) is the architecture's own, for `steps` and `learning_rate` what
    `resolved` derives. `mixup` and `cutmix` are timm's alphas, 0 is off: they blend images, and with them
    the marks. `patience` is the number of evaluations (of about 40) without improvement after which the run stops.
    `precision` "auto" is bfloat16 on a GPU that has it (NVIDIA's from 2020 on), else float32.
    """

    arch: str = ARCH
    pretrained: bool = True
    image_size: int = 0
    steps: int = 0
    batch_size: int = 32
    learning_rate: float = 0.0
    weight_decay: float = 0.05
    label_smoothing: float = 0.1
    mixup: float = 0.0
    cutmix: float = 0.0
    augment: str = "standard"
    flip: bool = True
    patience: int = 15
    precision: str = "auto"
    seed: int = 0

    def __post_init__(self):
        for name in ("image_size", "steps", "learning_rate", "weight_decay", "mixup", "cutmix", "seed"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be 0 or more, got {getattr(self, name)}")
        if self.patience < 1:
            raise ValueError(f"patience must be at least 1, got {self.patience}")
        if self.batch_size < 2 or (self.batch_size % 2 and (self.mixup or self.cutmix)):
            raise ValueError(f"batch_size must be at least 2, and even with mixup or cutmix, got {self.batch_size}")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(f"label_smoothing must be at least 0 and below 1, got {self.label_smoothing}")
        for name, options in (("augment", tuple(AUGMENT)), ("precision", PRECISIONS)):
            if getattr(self, name) not in options:
                raise ValueError(f"{name} must be {' or '.join(options)}, got {getattr(self, name)!r}")

    def resolved(self, images: int) -> TrainSettings:
        """With steps and learning rate filled in for so many training images.

        Images shown grow as (number of images)^(2/3): 125 images are shown 200 times, 1,000 100 times, 8,000 50 times,
        from scratch three times as often; at least 200 steps. Our choice.
        """
        times = (1000 if self.pretrained else 3000) * images ** (-1 / 3)
        return replace(
            self,
            steps=self.steps or max(200, round(times * images / self.batch_size)),
            learning_rate=self.learning_rate or (2e-4 if self.pretrained else 2e-3),
        )
