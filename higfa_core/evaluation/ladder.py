"""A pilot on the canvas: several eta at the same seeds, as images in memory, and which to take."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..guidance.settings import Guidance
from ..plots.image_grid import Cell, Side, plot_grid
from ..settings import Setting, Settings
from .tuning import Choice, Rung, TuneSettings, choose, table

if TYPE_CHECKING:
    from torch import Tensor

SHOWN, WIDTH = 8, 128  # images in the picture, and pixels of each


@dataclass(frozen=True)
class Ladder(Settings):
    """Which values are tried."""

    etas: str = Setting("0.25, 0.5, 1, 2").help(
        "Values of eta to try, with commas between them. 0, which only measures, is added."
    )

    @property
    def values(self) -> list[float]:
        """The values, gentlest first. ValueError for one that eta cannot have."""
        words = [word for word in re.split(r"[,;\s]+", self.etas) if word]
        try:
            found = sorted({0.0, *map(float, words)})
        except ValueError:
            raise ValueError(f"etas are {self.etas!r}. Give numbers, with commas between them.") from None
        if len(found) < 2:
            raise ValueError(f"etas are {self.etas!r}. Give at least one value above 0.")
        for eta in found:
            Guidance(eta=eta)  # in range
        return found


@dataclass(frozen=True)
class Tuned:
    """The ladder so far, and the images [N, H, W, 3] of each rung. `by_guide`: nobody but the guide judges them."""

    by_guide: bool = False
    rungs: tuple[Rung, ...] = ()
    images: tuple[Tensor, ...] = ()

    def with_rung(self, eta: float, images: Tensor, probability: Sequence[float], right: Sequence[bool]) -> Tuned:
        """The same with one more rung, whose pixels are compared with those of the first."""
        first = self.images[0] if self.images else images
        moved = (255 * (images - first).abs()).mean((1, 2, 3)).tolist()
        rung = Rung({"eta": eta}, tuple(probability), tuple(right), tuple(moved))
        return replace(self, rungs=(*self.rungs, rung), images=(*self.images, images))

    def choice(self, settings: TuneSettings) -> Choice:
        """Which of the rungs so far to take, and why."""
        return choose(self.rungs, settings)

    def words(self, choice: Choice) -> str:
        """The table and the choice; that the guide flatters itself, where it judges."""
        lines = [table(self.rungs, choice.rung), "", f"Take {choice.rung.name}: {choice.reason}."]
        if self.by_guide:
            lines.append("Only the guide judged, and it flatters its own images. Connect a judge.")
        return "\n".join(lines)


def plot_tuned(tuned: Tuned, choice: Choice) -> Tensor:
    """[1, H, W, 3] image in 0..1: a row for each image (at most eight), a column for each eta; the chosen is framed."""
    count = min(SHOWN, len(tuned.images[0]))
    cells = [
        Cell(images[row], f"{rung.probability[row]:.0%}", rung is choice.rung)
        for row in range(count)
        for rung, images in zip(tuned.rungs, tuned.images)
    ]
    labels = [f"{rung.values['eta']:g}" for rung in tuned.rungs]
    return plot_grid(Side("image", [str(row + 1) for row in range(count)]), Side("eta", labels), cells, WIDTH)
