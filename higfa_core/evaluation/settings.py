"""How a synthetic dataset is evaluated."""

from __future__ import annotations

from dataclasses import dataclass

from ..settings import Setting, Settings


@dataclass(frozen=True)
class EvaluationSettings(Settings):
    """What determines the numbers, besides the images and the networks."""

    neighbours: int = Setting(5, 1, 1000, unit="images").help(
        "Neighbours that bound an image's surroundings for precision, recall, density and coverage."
    )
    side: int = Setting(256, 16, 4096, step=2, unit="pixels").help(
        "Side of the squares whose spectra are compared; smaller if an image is smaller."
    )
    seed: int = Setting(0, 0, 2**31 - 1).help("Draws the halves and the samples of real images that are compared.")
