import pytest
import torch

from higfa_core.plots import confidences as table

NAMES = ("Kite", "a $wren$ with 100 %_", "Swallow", "Snipe")
PROBA = torch.tensor([[0.7, 0.1, 0.15, 0.05], [0.2, 0.5, 0.05, 0.25]])
GREEN, GREY, RED = ([int(c[i : i + 2], 16) / 255 for i in (1, 3, 5)] for c in (table.GREEN, table.GREY, table.RED))


def share(plot, colour):
    """Share of a plot's pixels in one colour."""
    return ((plot[0] - torch.tensor(colour)).abs().amax(-1) < 0.01).float().mean().item()


def test_confidence_is_that_of_the_target_or_of_the_most_probable_class():
    assert table.confidences(PROBA, None).tolist() == pytest.approx([0.7, 0.5])
    assert table.confidences(PROBA, [2, 0]).tolist() == pytest.approx([0.15, 0.2])


def test_table_without_a_target():
    expected = """\
1: Kite 70.0%, Swallow 15.0%
2: a $wren$ with 100 %_ 50.0%, Snipe 25.0%
mean of 2, most probable class: 60.0%"""
    assert table.confidence_table(PROBA, NAMES, None, k=2) == expected


def test_table_with_targets_and_a_threshold():
    expected = """\
1: Kite 70.0% | Kite: 70.0% | pass
2: a $wren$ with 100 %_ 50.0% | Swallow: 5.0% | reject
1 of 2 pass (at least 70.0%)
mean of 2, target class: 37.5%"""
    assert table.confidence_table(PROBA, NAMES, [0, 2], k=1, min_confidence=0.7) == expected
    assert table.confidence_table(PROBA, NAMES, [3, 3]).endswith("mean of 2, Snipe: 15.0%")


def test_more_classes_than_there_are():
    assert table.top_k(PROBA[0], 20) == [(0, pytest.approx(0.7)), (2, pytest.approx(0.15)),
                                         (1, pytest.approx(0.1)), (3, pytest.approx(0.05))]  # fmt: skip


def test_plot_marks_target_and_verdict():
    images = [torch.zeros(40, 60, 3), torch.ones(300, 100, 3)]
    plain = table.top_k_plot(images, PROBA, NAMES, None)
    assert plain.shape == (1, 210, 840, 3) and share(plain, GREY) > 0.02
    assert share(plain, GREEN) == share(plain, RED) == 0
    target = table.top_k_plot(images, PROBA, NAMES, [0, 1])
    assert share(target, GREEN) > 0.01 and share(target, RED) == 0
    judged = table.top_k_plot(images, PROBA, NAMES, None, min_confidence=0.6)
    assert share(judged, GREEN) > 0 and share(judged, RED) > 0


def test_bars_are_as_long_as_the_probabilities():
    lengths = []
    for p in (0.8, 0.4):
        plot = table.top_k_plot([torch.zeros(8, 8, 3)], torch.tensor([[p, 1 - p]]), NAMES[:2], [0], k=1)
        lengths.append(share(plot, GREEN))
    assert lengths[0] / lengths[1] == pytest.approx(2, rel=0.2)  # the text covers a part


def test_a_target_that_is_not_among_the_most_probable_is_added(monkeypatch):
    written = []
    import matplotlib.axes

    draw = matplotlib.axes.Axes.text
    monkeypatch.setattr(
        matplotlib.axes.Axes, "text", lambda axes, x, y, s, **kw: (written.append(s), draw(axes, x, y, s, **kw))
    )  # noqa: E501
    table.top_k_plot([torch.zeros(8, 8, 3)], PROBA[:1], NAMES, [3], k=2)
    assert written == ["1", "70%  Kite", "15%  Swallow", "5%  Snipe"]


def test_only_the_first_images_are_drawn():
    images = [torch.zeros(8, 8, 3)] * 100
    plot = table.top_k_plot(images, PROBA[:1].repeat(100, 1), NAMES, None)
    assert plot.shape == (1, 1830, 1260, 3)


def test_an_image_that_is_not_finite_passes_nothing():
    proba = torch.full((1, 4), float("nan"))
    assert "| reject" in table.confidence_table(proba, NAMES, None, min_confidence=0.01)
    assert (
        table.top_k_plot([torch.full((8, 8, 3), float("nan"))], proba, NAMES, [1], min_confidence=0.01).isfinite().all()
    )
