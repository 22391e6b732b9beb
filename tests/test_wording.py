"""How counts are said."""

import pytest

from higfa_core.wording import counted


@pytest.mark.parametrize(
    ("number", "noun", "text"),
    [
        (1, "class", "1 class"),
        (0, "class", "0 classes"),
        (2, "class folder", "2 class folders"),
        (3, "box", "3 boxes"),
        (2, "try", "2 tries"),
        (2, "day", "2 days"),
    ],
)
def test_a_count_agrees_with_its_noun(number, noun, text):
    assert counted(number, noun) == text


def test_large_counts_are_formatted():
    assert counted(12_000, "image", ",") == "12,000 images"
