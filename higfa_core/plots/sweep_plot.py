"""Draws a sweep: the images of the grid, each with its probability and its time."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional as F

from ..guidance.sweep import Swept
from .figures import new_figure, to_image

DPI = 100
LABEL, MARGIN = 0.34, 0.62  # inches below an image and left of the rows
GROUND, TEXT, BEST = "#1d1d1f", "#e8e8ea", "#46c48b"


def plot_sweep(swept: Swept) -> torch.Tensor:
    """[1, H, W, 3] image in 0..1 of the cells so far; the best has a frame. Cells to come are dark."""
    rows, columns = (swept.grid.of(side) for side in ("row", "column"))
    side = swept.grid.cell_size / DPI
    high = side * _aspect(swept)
    figure, axes = new_figure(MARGIN + len(columns) * (side + 0.08), 0.75 + len(rows) * (high + LABEL))
    figure.set_facecolor(GROUND)
    figure.set_layout_engine("none")
    axes.set_position((0, 0, 1, 1))
    width, height = figure.get_size_inches()
    axes.set(xlim=(0, width), ylim=(height, 0))
    axes.axis("off")
    words = {"color": TEXT, "ha": "center", "va": "center", "parse_math": False}
    axes.text(MARGIN + (width - MARGIN) / 2, 0.18, swept.grid.columns, fontsize=11, weight="bold", **words)
    axes.text(0.14, 0.6 + (height - 0.6) / 2, swept.grid.rows, fontsize=11, weight="bold", rotation=90, **words)
    for column, value in enumerate(columns):
        axes.text(MARGIN + column * (side + 0.08) + side / 2, 0.45, str(value), fontsize=11, **words)
    for row, value in enumerate(rows):
        axes.text(0.4, 0.6 + row * (high + LABEL) + high / 2, str(value), fontsize=11, rotation=90, **words)
    for number, cell in enumerate(swept.cells):
        row, column = divmod(number, len(columns))
        left, top = MARGIN + column * (side + 0.08), 0.6 + row * (high + LABEL)
        pixels = _fitted(cell.image, round(side * DPI))
        axes.imshow(pixels, extent=(left, left + side, top + high, top), interpolation="nearest", aspect="auto")
        best = number == swept.best
        if best:
            outline = [left, left + side, left + side, left, left], [top, top, top + high, top + high, top]
            axes.plot(*outline, color=BEST, linewidth=4)
        about = f"{cell.probability:.1%}    {cell.seconds:.1f} s"
        weight = "bold" if best else "normal"
        axes.text(left + side / 2, top + high + 0.16, about, fontsize=10, weight=weight, **words)
    axes.set(xlim=(0, width), ylim=(height, 0))
    return to_image(figure, DPI)


def _aspect(swept: Swept) -> float:
    height, width = swept.cells[0].image.shape[:2]
    return height / width


def _fitted(image: torch.Tensor, width: int) -> np.ndarray:
    """An image [H, W, 3], smaller if it is wider than `width` pixels."""
    planes = image.detach().float().cpu().movedim(-1, 0)[None, :3]
    if image.shape[1] > width:
        size = [max(1, round(image.shape[0] * width / image.shape[1])), width]
        planes = F.interpolate(planes, size=size, mode="bilinear", antialias=True)
    return planes[0].movedim(0, -1).clamp(0, 1).numpy()
