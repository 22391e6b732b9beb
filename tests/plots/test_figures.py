import torch

from higfa_core.plots.figures import new_figure, to_image


def test_size_range_and_content():
    figure, axes = new_figure(4, 3)
    axes.plot([0, 1], [0, 1])
    image = to_image(figure, dpi=50)
    assert image.shape == (1, 150, 200, 3) and image.dtype == torch.float32
    assert image.max() == 1 and 0 <= image.min() < 0.2


def test_grid_of_axes():
    _, axes = new_figure(rows=2, columns=3, sharex=True)
    assert axes.shape == (2, 3)
