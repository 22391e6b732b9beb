"""How counts and articles are said."""

import pytest

from higfa_core.wording import counted, with_article


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


@pytest.mark.parametrize(
    "words",
    "an Alder Finch|a Laysan Albatross|a Eurasian Wren|a Ewe|an Upland Sandpiper|a Ural Owl|a Unicorn|an uncle"
    "|an Hourglass|a Honeyeater|an F-16A/B|an MD-80|a Mazda|a MINI Cooper|an A320|a UH-60|a DC-10|a Hawk T1|an 8|an 11"
    "|a 180|an \u00c9cole|a 1|a One|a \u9d09".split("|"),
)
def test_a_name_gets_the_article_with_which_it_is_spoken(words):
    assert with_article(words.split(" ", 1)[1]) == words
