import math
import warnings
from types import SimpleNamespace

import pytest
import torch

from higfa_core.training import plots as train_plots
from higfa_core.training.loop import Evaluation


def run(classes=4, each=3, names=None, held_out=True):
    """A result in which class 0 is always read as class 1, and the others rightly."""
    labels = torch.arange(classes).repeat_interleave(each) if held_out else torch.zeros(0).long()
    predicted = labels.clone()
    predicted[labels == 0] = 1
    logits = 5 * torch.nn.functional.one_hot(predicted, classes).double()
    history = tuple(Evaluation(s, 0.1, 2 / s, 1 / s if held_out else math.nan, 0.5) for s in range(1, 6))
    return SimpleNamespace(
        classifier=SimpleNamespace(class_names=names or tuple(f"bird {i}" for i in range(classes)), temperature=2.0),
        logits=logits,
        labels=labels,
        confusion=torch.bincount(labels * classes + predicted, minlength=classes**2).view(classes, classes),
        history=history,
        best_step=5,
    )


@pytest.mark.parametrize("classes", [2, 16, 200])
def test_all_plots_have_one_size_and_say_nothing_on_the_way(classes):
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a letter without glyph, a layout that does not fit
        drawn = train_plots.plots(run(classes), "guide: resnet50")
    assert list(drawn) == ["curves", "confusion", "reliability"]
    for image in drawn.values():
        assert image.shape == (1, 800, 1000, 3) and image.std() > 0.05


def test_without_held_out_images_there_are_curves_only():
    assert list(train_plots.plots(run(held_out=False), "x")) == ["curves"]


def test_the_matrix_shows_where_the_images_went():
    right = run().confusion.clone().zero_().fill_diagonal_(3)
    names = run().classifier.class_names
    a, b = (train_plots.confusion(counts, names, "x")[0] for counts in (run().confusion, right))
    changed = (a - b).abs().sum(-1) > 0.1
    rows, columns = changed.nonzero(as_tuple=True)
    assert rows.max() - rows.min() < 200 and columns.max() - columns.min() < 400  # two neighbours in one row of four


def test_names_that_the_font_lacks_become_numbers():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train_plots.plots(run(3, names=("大白鹭", "Черноногий альбатрос", "$a$ b_c")), "x")
    assert train_plots._drawable("大白鹭", 6) == "class 7"
    assert train_plots._drawable("Laysan Albatross", 6) == "Laysan Albatross"
    assert len(train_plots._drawable("a" * 100, 6)) == train_plots.MAX_NAME


def test_the_worst_confusions_are_listed_for_many_classes():
    from higfa_core.plots import figures

    figure, axis = figures.new_figure()
    train_plots._list_worst(axis, run(50).confusion, [f"bird {i}" for i in range(50)])
    assert "3 x bird 0\n    read as bird 1" in axis.texts[0].get_text()
    assert axis.texts[0].get_text().count(" x ") == 1
