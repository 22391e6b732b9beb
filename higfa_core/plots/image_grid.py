"""Draws a grid of images: a label on each row and column, and a line under each image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from .figures import new_figure, to_image

DPI = 100
LABEL, MARGIN = 0.34, 0.62  # inches below an image and left of the rows
GROUND, TEXT, BEST = "#1d1d1f", "#e8e8ea", "#46c48b"


@dataclass(frozen=True)
class Cell:
    """An image [H, W, 3] in 0..1, what stands under it, and whether it has a frame."""

    image: torch.Tensor
    words: str
    framed: bool = False


@dataclass(frozen=True)
class Side:
    """What differs from row to row or from column to column, and how."""

    title: str
    labels: Sequence[str]


def plot_grid(rows: Side, columns: Side, cells: Sequence[Cell], width: int) -> torch.Tensor:
    """[1, H, W, 3] image in 0..1 of the cells, row by row, each `width` pixels wide. Cells to come are dark."""
    side = width / DPI
    high = side * cells[0].image.shape[0] / cells[0].image.shape[1]
    figure, axes = new_figure(MARGIN + len(columns.labels) * (side + 0.08), 0.75 + len(rows.labels) * (high + LABEL))
    figure.set_facecolor(GROUND)
    figure.set_layout_engine("none")
    axes.set_position((0, 0, 1, 1))
    across, down = figure.get_size_inches()
    axes.set(xlim=(0, across), ylim=(down, 0))
    axes.axis("off")
    words = {"color": TEXT, "ha": "center", "va": "center", "parse_math": False}
    axes.text(MARGIN + (across - MARGIN) / 2, 0.18, columns.title, fontsize=11, weight="bold", **words)
    axes.text(0.14, 0.6 + (down - 0.6) / 2, rows.title, fontsize=11, weight="bold", rotation=90, **words)
    for column, label in enumerate(columns.labels):
        axes.text(MARGIN + column * (side + 0.08) + side / 2, 0.45, label, fontsize=11, **words)
    for row, label in enumerate(rows.labels):
        axes.text(0.4, 0.6 + row * (high + LABEL) + high / 2, label, fontsize=11, rotation=90, **words)
    for number, cell in enumerate(cells):
        row, column = divmod(number, len(columns.labels))
        left, top = MARGIN + column * (side + 0.08), 0.6 + row * (high + LABEL)
        pixels = _fitted(cell.image, width)
        axes.imshow(pixels, extent=(left, left + side, top + high, top), interpolation="nearest", aspect="auto")
        if cell.framed:
            outline = [left, left + side, left + side, left, left], [top, top, top + high, top + high, top]
            axes.plot(*outline, color=BEST, linewidth=4)
        weight = "bold" if cell.framed else "normal"
        axes.text(left + side / 2, top + high + 0.16, cell.words, fontsize=10, weight=weight, **words)
    axes.set(xlim=(0, across), ylim=(down, 0))
    return to_image(figure, DPI)


def _fitted(image: torch.Tensor, width: int) -> np.ndarray:
    """An image [H, W, 3], smaller if it is wider than `width` pixels."""
    planes = image.detach().float().cpu().movedim(-1, 0)[None, :3]
    if image.shape[1] > width:
        size = [max(1, round(image.shape[0] * width / image.shape[1])), width]
        planes = F.interpolate(planes, size=size, mode="bilinear", antialias=True)
    return planes[0].movedim(0, -1).clamp(0, 1).numpy()
