import pytest

from higfa_core.classifier import names

IMAGENET = ("tench, Tinca tinca", "goldfish, Carassius auratus", "crane (134)", "crane (517)", "cock", "hen, cock")


def test_one_of_several_synonyms_is_enough_unless_it_is_ambiguous():
    assert names.index("Tench", IMAGENET, "x") == 0
    assert names.index("carassius auratus", IMAGENET, "x") == 1
    assert names.index("cock", IMAGENET, "x") == 4  # the exact name first
    with pytest.raises(ValueError, match="No class 'tenhc' in x: closest 'tench, Tinca tinca'"):
        names.index("tenhc", IMAGENET, "x")
    with pytest.raises(ValueError, match="No class ''"):
        names.index("", (*IMAGENET, "a,,b"), "x")
    with pytest.raises(ValueError, match="No class 'jay'"):
        names.index("jay", ("blue, jay", "grey, jay"), "x")


def test_any_script_and_slashes_are_legal():
    legal = ("黒足信天翁", "Черноногий альбатрос", "gown/dress", "كوكاتو", "A\\B", "O\"Neil's")
    assert names.checked(list(legal)) == legal


@pytest.mark.parametrize("name", ["a\nb", "a\rb", "a\u2028b", "a\x0bb", "", "  "])
def test_names_are_one_line(name):
    with pytest.raises(ValueError, match="class name 2 of 2 is empty or has a line break"):
        names.checked(["fine", name])


def test_labels_of_other_libraries():
    assert names.listed({"1": "b", "0": "a"}) == ["a", "b"]
    assert names.listed({i: f"n{i}" for i in range(12)}) == [f"n{i}" for i in range(12)]  # by number, not by text
    assert names.listed(["crane", "jay", "crane"]) == ["crane (0)", "jay", "crane (2)"]
    assert names.listed({"0": "LABEL_0", "1": "LABEL_1"}) is None
    assert names.listed(None) is None
    with pytest.raises(ValueError, match="not numbered 0 to 1: 1, 2"):
        names.listed({"1": "a", "2": "b"})


def test_lines_that_begin_with_their_own_number():
    assert names.unnumbered(["1 001.Black_footed Albatross", "2 002.Ani"]) == ["001.Black_footed Albatross", "002.Ani"]
    assert names.unnumbered(["0\ta", "1\tb"]) == ["a", "b"]
    for lines in (["1 euro", "2 euro"], ["1 a", "3 b"], ["1 a", "2"], ["1", "2"], ["01 a", "02 b"]):
        assert names.unnumbered(lines) == lines
