"""Draws a sweep: the images of the grid, each with its probability and its time."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..guidance.sweep import Swept
from .image_grid import Cell, Side, plot_grid

if TYPE_CHECKING:
    from torch import Tensor


def plot_sweep(swept: Swept) -> Tensor:
    """[1, H, W, 3] image in 0..1 of the cells so far; the best has a frame. Cells to come are dark."""
    grid = swept.grid
    rows = Side(grid.rows, [str(value) for value in grid.of("row")])
    columns = Side(grid.columns, [str(value) for value in grid.of("column")])
    cells = [
        Cell(cell.image, f"{cell.probability:.1%}    {cell.seconds:.1f} s", number == swept.best)
        for number, cell in enumerate(swept.cells)
    ]
    return plot_grid(rows, columns, cells, grid.cell_size)
