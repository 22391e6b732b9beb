"""Which cells a sweep has, and what is said about values that do not fit."""

import pytest
import torch

from higfa_core.guidance.settings import Guidance, Sampling
from higfa_core.guidance.sweep import SweepGrid, Swept, SweptCell
from higfa_core.plots.sweep_plot import plot_sweep

GRID = SweepGrid("preset", "relax, constant", "steps", "10;20 30")


def test_cells_are_every_combination_row_by_row():
    cells = GRID.cells(Guidance(eta=2.0), Sampling(seed=5))
    expected = [(preset, steps) for preset in ("relax", "constant") for steps in (10, 20, 30)]
    assert [(guidance.preset, run.steps) for guidance, run in cells] == expected
    assert all(guidance.eta == 2.0 and run.seed == 5 for guidance, run in cells)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"row_values": "0, lots"}, "eta cannot be 'lots'. Choose 0 to 10"),
        ({"row_values": "-1"}, "Invalid eta: -1.0"),
        ({"rows": "steps", "row_values": "2.5"}, "steps cannot be '2.5'"),
        ({"rows": "preset", "row_values": "relaxed"}, "Invalid preset: 'relaxed'"),
        ({"column_values": " , "}, "column_values is empty"),
        ({"rows": "start_percent", "row_values": "0.5"}, "rows and columns are both start_percent"),
        ({"rows": "anything"}, "Invalid rows"),
        ({"row_values": ", ".join(f"{i / 10}" for i in range(34)), "column_values": "0 .1 .2"}, "102 cells"),
    ],
)
def test_what_does_not_fit_is_named(values, words):
    with pytest.raises(ValueError, match=words.replace(".", r"\.")):
        SweepGrid(**values)


def test_the_table_and_the_picture_show_the_cells_so_far():
    swept = Swept(GRID, "probability of x")
    sizes = set()
    for number, probability in enumerate((0.2, 0.9, 0.4)):
        swept = swept.with_cell(SweptCell(torch.full((32, 48, 3), 0.5), probability, 1.5))
        sizes.add(tuple(plot_sweep(swept).shape))
        assert len(swept.table().splitlines()) == 3 + number
    assert "| relax | 20 | 0.900 (best) | 1.5 |" in swept.table()
    ((_, height, width, _),) = sizes  # it does not jump while it fills
    assert width > 3 * GRID.cell_size and height > 2 * GRID.cell_size * 32 / 48
