"""Plots as image tensors. matplotlib is imported by the functions that draw: loading the pack must stay quick."""

import numpy as np
import torch


def new_figure(width: float = 8.0, height: float = 5.0, rows: int = 1, columns: int = 1, **options):
    """(Figure, axes) of `width` x `height` inches; `options` go to Figure.subplots. No window, no global state."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, **options)


def to_image(figure, dpi: int = 100) -> torch.Tensor:
    """Draws a Figure: [1, H, W, 3] float32 in 0..1, a ComfyUI IMAGE."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    pixels = np.asarray(canvas.buffer_rgba())[..., :3]
    return torch.from_numpy(pixels.astype(np.float32) / 255)[None]
