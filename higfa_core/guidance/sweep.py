"""A sweep: every combination of the values of two settings, and what came of each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any

from ..settings import ADVANCED, Setting, Settings, settings_of
from .settings import Guidance, Sampling

if TYPE_CHECKING:
    from torch import Tensor

MOST_CELLS = 100
SWEPT = {item.name: (cls, item) for cls in (Guidance, Sampling) for item in settings_of(cls)}


@dataclass(frozen=True)
class SweepGrid(Settings):
    """Which two settings vary, and their values."""

    rows: str = Setting("eta", choices=tuple(SWEPT)).help("The setting that differs from row to row.")
    row_values: str = Setting("0, 0.25, 1, 3").help("Its values, with commas between them.")
    columns: str = Setting("start_percent", choices=tuple(SWEPT)).help(
        "The setting that differs from column to column."
    )
    column_values: str = Setting("0.5, 0.7, 0.9").help("Its values, with commas between them.")
    cell_size: int = Setting(256, 64, 1024, step=8, tier=ADVANCED, unit="pixels").help(
        "Width of each image in the picture of the grid; the images themselves keep their size."
    )

    def __post_init__(self):
        super().__post_init__()
        if self.rows == self.columns:
            raise ValueError(f"rows and columns are both {self.rows}. Choose two settings.")
        if (count := len(self.of("row")) * len(self.of("column"))) > MOST_CELLS:
            raise ValueError(f"The grid has {count} cells, more than {MOST_CELLS}. Give fewer values.")

    def of(self, side: str) -> list[Any]:
        """The values of the rows ("row") or columns ("column"). ValueError for one that the setting cannot have."""
        name, text = getattr(self, f"{side}s"), getattr(self, f"{side}_values")
        _, item = SWEPT[name]
        words = [word for word in re.split(r"[,;\s]+", text) if word]
        if not words:
            raise ValueError(f"{side}_values is empty. Give values of {name}, with commas between them.")
        return [_value(item, word) for word in words]

    def cells(self, guidance: Guidance, sampling: Sampling) -> list[tuple[Guidance, Sampling]]:
        """The settings of each cell, row by row."""
        found = []
        for values in product(self.of("row"), self.of("column")):
            given = dict(zip((self.rows, self.columns), values))
            found.append((_with(guidance, given), _with(sampling, given)))
        return found


@dataclass(frozen=True)
class SweptCell:
    """What came of one combination: an image [H, W, 3] in 0..1, its class's probability, and the seconds it took."""

    image: Tensor
    probability: float
    seconds: float


@dataclass(frozen=True)
class Swept:
    """The cells of a grid so far, row by row; `judge`: who gave the probabilities."""

    grid: SweepGrid
    judge: str
    cells: tuple[SweptCell, ...] = ()

    def with_cell(self, cell: SweptCell) -> Swept:
        """The same with one more cell."""
        return replace(self, cells=(*self.cells, cell))

    @property
    def best(self) -> int:
        """The number of the cell with the highest probability, the first of equals."""
        return max(range(len(self.cells)), key=lambda number: self.cells[number].probability)

    def table(self) -> str:
        """The cells so far as a Markdown table."""
        places = list(product(self.grid.of("row"), self.grid.of("column")))
        lines = [f"| {self.grid.rows} | {self.grid.columns} | {self.judge} | seconds |", "|---|---|---|---|"]
        for number, ((row, column), cell) in enumerate(zip(places, self.cells)):
            mark = " (best)" if number == self.best else ""
            lines.append(f"| {row} | {column} | {cell.probability:.3f}{mark} | {cell.seconds:.1f} |")
        return "\n".join(lines)


def _value(item: Setting, word: str) -> Any:
    try:
        value = item.kind(word)
    except ValueError:
        raise ValueError(f"{item.name} cannot be {word!r}. Choose {item.values}.") from None
    item.check(value)
    return value


def _with(settings: Any, given: Mapping[str, Any]) -> Any:
    own = {name: value for name, value in given.items() if SWEPT[name][0] is type(settings)}
    return replace(settings, **own)
