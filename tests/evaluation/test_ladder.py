"""A ladder on the canvas: which values it has, and what is said about its images."""

import pytest
import torch

from higfa_core.evaluation.ladder import Ladder, Tuned, plot_tuned
from higfa_core.evaluation.tuning import TuneSettings


def test_values_are_sorted_and_zero_is_added():
    assert Ladder().values == [0, 0.25, 0.5, 1, 2]
    assert Ladder("2; 0.5 2,0").values == [0, 0.5, 2]


@pytest.mark.parametrize(
    ("etas", "words"), [("lots", "Give numbers"), ("", "above 0"), ("0", "above 0"), ("11", "Invalid eta: 11")]
)
def test_what_cannot_be_tried_is_named(etas, words):
    with pytest.raises(ValueError, match=words):
        _ = Ladder(etas).values


def grey(level):
    return torch.full((2, 16, 24, 3), level / 255)


def test_the_choice_is_of_the_rungs_so_far_and_pixels_are_compared_with_the_first():
    tuned = Tuned().with_rung(0, grey(100), (0.3, 0.9), (False, True))
    assert tuned.choice(TuneSettings()).rung.values == {"eta": 0}
    tuned = tuned.with_rung(0.5, grey(103), (0.95, 0.95), (True, True)).with_rung(
        1, grey(110), (1.0, 1.0), (True, True)
    )
    choice = tuned.choice(TuneSettings(target=0.9))
    assert choice.rung.values == {"eta": 0.5} and choice.rung.repaired(tuned.rungs[0]) == 1
    assert [rung.shift for rung in tuned.rungs] == pytest.approx([0, 3, 10], abs=1e-3)
    words = tuned.words(choice)
    assert "->  eta 0.5" in words and words.endswith("Take eta 0.5: it moves the least pixels of those that reach 90%.")
    assert "flatters" in Tuned(True, tuned.rungs, tuned.images).words(choice)
    picture = plot_tuned(tuned, choice)
    assert picture.shape[1] > 2 * 128 * 16 / 24 and picture.shape[2] > 3 * 128
    frame = (torch.tensor([0x46, 0xC4, 0x8B]) / 255 - picture).abs().amax(-1) < 0.02
    columns = frame.any(1)[0].nonzero().flatten()
    assert picture.shape[2] / 3 < columns.min() and columns.max() < 2.2 * picture.shape[2] / 3  # the second of three
