"""What a check of a classifier reads, and at which noise levels."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..guidance.settings import NoiseLevels
from ..settings import Setting, settings_of
from ..training.settings import TrainOptions
from .sample import PARTS

(SHARE,) = settings_of(TrainOptions, "validation_share")


@dataclass(frozen=True)
class CheckSettings(NoiseLevels):
    """Which images are read, besides the noise levels."""

    images_from: str = Setting("validation", choices=PARTS).help(
        "validation: only images held out from training, those of val/ or else the share of each class that Train "
        "Fine-Grained Classifier holds out. all: training images too."
    )
    per_class: int = Setting(10, 1, 10_000, unit="images").help("Maximum number of images per class, drawn by seed.")
    image_size: int = Setting(512, 16, 4096, step=8, unit="pixels").help(
        "Side in pixels of the images you generate; the images are cropped and resized to it. 64 for the miniature."
    )
    validation_share: float = replace(SHARE, low=0.01, step=0.01).help(
        "Share of each class that was held out, as in Train Fine-Grained Classifier."
    )
