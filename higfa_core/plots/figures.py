"""Plots as image tensors. matplotlib is imported by the functions that draw: loading the pack must stay quick."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def new_figure(
    width: float = 8.0, height: float = 5.0, rows: int = 1, columns: int = 1, **options
) -> tuple[Figure, Any]:
    """(Figure, axes) of `width` x `height` inches, without a window or global state; `options` go to Figure.subplots.

    `axes` is one, or an array of `rows` x `columns`.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, **options)


def to_image(figure: Figure, dpi: int = 100) -> torch.Tensor:
    """Draws a Figure: [1, H, W, 3] float32 in 0..1, a ComfyUI IMAGE."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    return torch.from_numpy(pixels.astype(np.float32) / 255)[None]
