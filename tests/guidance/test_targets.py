"""Class names and mixtures as people type them."""

from types import SimpleNamespace

import pytest
import torch

from higfa_core.guidance.targets import class_lines, read_targets

NAMES = ("Crow", "Raven", "Jay | blue", "Ratio 3:4")


def index(name):
    if name not in NAMES:
        raise ValueError(f"No class '{name}'")
    return NAMES.index(name)


CLASSIFIER = SimpleNamespace(class_names=NAMES, index=index)


def weights(line):
    return read_targets([line], CLASSIFIER).weights[0]


def test_one_class():
    assert weights("Raven") == (0, 1, 0, 0)


def test_mixture_is_scaled_to_one():
    assert weights("Crow:0.7 | Raven:0.3") == pytest.approx((0.7, 0.3, 0, 0))
    assert weights("Crow: 3|Raven: 1") == pytest.approx((0.75, 0.25, 0, 0))


def test_mixture_without_weights_is_shared_equally():
    assert weights("Crow | Raven") == pytest.approx((0.5, 0.5, 0, 0))


def test_names_that_hold_the_signs_of_a_mixture():
    assert weights("Jay | blue") == (0, 0, 1, 0)
    assert weights("Ratio 3:4") == (0, 0, 0, 1)


@pytest.mark.parametrize("line", ["Crow:x | Raven:1", "Crow:-1 | Raven:2", "Crow:nan | Raven:1", "Crow: | Raven"])
def test_weights_that_are_none(line):
    with pytest.raises(ValueError, match="is not a weight.*Laysan"):
        weights(line)


def test_all_weights_zero():
    with pytest.raises(ValueError, match="sum to 0"):
        weights("Crow:0 | Raven:0")


def test_unknown_class_in_a_mixture():
    with pytest.raises(ValueError, match="No class 'Rook'"):
        weights("Crow:0.5 | Rook:0.5")


def test_no_line():
    with pytest.raises(ValueError, match="class_name is empty"):
        read_targets(class_lines(" \n "), CLASSIFIER)


def test_cycled_over_the_batch():
    names, rows = read_targets(["Crow", "Raven"], CLASSIFIER).for_batch(4)
    assert names == ["Crow", "Raven", "Crow", "Raven"]
    assert torch.equal(rows.argmax(1), torch.tensor([0, 1, 0, 1]))


def test_images_taken_out_of_a_batch_keep_their_targets():
    targets = read_targets(["Crow", "Raven", "Jay | blue"], CLASSIFIER)
    names, rows = targets.for_batch(2, [4, 2])
    assert names == ["Raven", "Jay | blue"] and rows.argmax(1).tolist() == [1, 2]
    assert targets.for_batch(3, [0, 1, 2])[0] == targets.for_batch(3)[0]
    with pytest.raises(ValueError, match="lists 2 images, but 3 are sampled. Connect the latent"):
        targets.for_batch(3, [4, 2])


def test_more_lines_than_one_for_one_image():
    with pytest.raises(ValueError) as error:
        read_targets(["Crow", "Raven"], CLASSIFIER).for_batch(1)
    assert "2 class names for a batch of 1" in str(error.value) and "give 1 line (" in str(error.value)
    assert str(error.value).endswith("or set batch_size to 2.")


@pytest.mark.parametrize("count, batch, sizes", [(2, 3, "2 or 4"), (3, 2, "to 3"), (3, 7, "6 or 9")])
def test_batch_that_does_not_fit(count, batch, sizes):
    targets = read_targets(list(NAMES[:count]), CLASSIFIER)
    with pytest.raises(ValueError, match=f"{count} class names for a batch of {batch}.*{sizes}"):
        targets.for_batch(batch)
