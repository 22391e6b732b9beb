"""Which rung of a ladder is taken."""

import numpy as np
import pytest
from PIL import Image

from higfa_core.evaluation.tuning import Rung, TuneSettings, apart, choose, table

SETTINGS = TuneSettings(target=0.8)


def rung(eta, p, right, moved):
    return Rung({"eta": eta}, (p,) * 4, tuple(right), (moved,) * 4)


BASE = rung(0.0, 0.5, (1, 1, 0, 0), 0.0)


def test_the_gentlest_that_reaches_the_target_is_taken():
    ladder = [BASE, rung(0.5, 0.7, (1, 1, 1, 0), 2), rung(1.0, 0.85, (1, 1, 1, 1), 4), rung(2.0, 0.99, (1, 1, 1, 1), 9)]
    choice = choose(ladder, SETTINGS)
    assert choice.rung.values == {"eta": 1.0} and "reach 80%" in choice.reason
    # Least moved, not lowest eta: a late start with a large eta may be the gentler one.
    ladder.append(Rung({"eta": 2.0, "start_percent": 0.9}, (0.9,) * 4, (True,) * 4, (3.0,) * 4))
    assert choose(ladder, SETTINGS).rung.values == {"eta": 2.0, "start_percent": 0.9}


def test_one_that_breaks_a_right_image_is_not_taken():
    ladder = [BASE, rung(1.0, 0.9, (1, 0, 1, 1), 4), rung(2.0, 0.81, (1, 1, 1, 0), 9)]
    assert choose(ladder, SETTINGS).rung.values == {"eta": 2.0}
    assert choose(ladder, TuneSettings(target=0.8, max_broken=1)).rung.values == {"eta": 1.0}


def test_below_the_target_the_closest_is_taken_and_said():
    ladder = [BASE, rung(0.5, 0.69, (1, 1, 1, 0), 2), rung(1.0, 0.70, (1, 1, 1, 1), 4), rung(2.0, 0.9, (0, 0, 1, 1), 9)]
    choice = choose(ladder, SETTINGS)
    assert (
        choice.rung.values == {"eta": 1.0} and "none reaches" in choice.reason and "1 broke too many" in choice.reason
    )


def test_where_nothing_is_needed_nothing_is_done():
    assert choose([rung(0.0, 0.95, (1,) * 4, 0), rung(1.0, 0.99, (1,) * 4, 5)], SETTINGS).rung.values == {"eta": 0.0}


def test_the_table_counts_against_the_first():
    text = table([BASE, rung(1.0, 0.9, (1, 0, 1, 1), 4)], BASE).splitlines()
    assert text[1].split() == ["->", "eta", "0", "50.0%", "2", "of", "4", "15%", "to", "85%", "0", "0", "0.0"]
    assert text[2].split()[-3:] == ["2", "1", "4.0"]


def test_images_are_apart_by_grey_levels(tmp_path):
    for name, value, size in (("a", 10, 8), ("b", 14, 8), ("c", 10, 9)):
        Image.fromarray(np.full((size, size, 3), value, np.uint8)).save(tmp_path / f"{name}.png")
    assert apart(tmp_path / "a.png", tmp_path / "b.png") == 4
    with pytest.raises(ValueError, match="different sizes"):
        apart(tmp_path / "a.png", tmp_path / "c.png")
