"""The statistics, the verdict's words, and which images a check reads."""

import math
import random

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import binomtest

from higfa_core.checking import report as check_report
from higfa_core.checking import sample as check_images
from higfa_core.checking import verdict as check
from higfa_core.checking.verdict import CHANGE, FINE, REAL, STOP, TINY, UNCLEAR, VAE, Check, Reading
from higfa_core.classifier import FineGrainedClassifier, Preprocess
from higfa_core.training.data import Labelled, LabelledSet, read_labelled


def reading(stage, right, n, sigma=None, percent=None, first=True):
    """`right` of n images read rightly: the first ones, or the last ones."""
    hits = [True] * right + [False] * (n - right)
    return Reading(stage, tuple(hits if first else hits[::-1]), (0.5,) * n, sigma, percent)


def checked(real, vae, tiny=None, noise=(), n=160, classes=16, missing=()):
    """A check from counts of rightly read images; noise: (sigma, percent, right) of the VAE."""
    readings = [reading(REAL, real, n), reading(VAE, vae, n)]
    readings += [reading(TINY, tiny, n)] if tiny is not None else []
    readings += [reading(VAE, right, n, sigma, percent) for sigma, percent, right in noise]
    return Check(tuple(readings), classes, missing)


# --- statistics


def test_wilson_against_published_values_and_closed_forms():
    # Newcombe, Statistics in Medicine 17 (1998), table I, method 3.
    for successes, n, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611)):
        assert check.wilson(successes, n) == pytest.approx((low, high), abs=5e-5)
    z2 = 1.959964**2
    assert check.wilson(10, 10) == pytest.approx((10 / (10 + z2), 1), abs=1e-6)
    low, high = check.wilson(5, 10)
    assert low + high == pytest.approx(1)


@pytest.mark.parametrize(("lost", "gained"), [(0, 0), (6, 0), (0, 6), (3, 3), (22, 4), (1, 8), (60, 41)])
def test_mcnemar_is_the_exact_binomial_test(lost, gained):
    expected = binomtest(lost, lost + gained).pvalue if lost + gained else 1.0
    assert check.mcnemar(lost, gained) == pytest.approx(expected, rel=1e-9)


def test_loss_counts_pairs_not_totals():
    before = Reading(REAL, (True,) * 5 + (False,) * 3, (0.5,) * 8)
    after = Reading(VAE, (True, True, False, False, False, True, False, False), (0.5,) * 8)
    cost = check.loss(before, after)
    half = 1.959964 * math.sqrt((0.4 + 0.2 - 0.2**2) / 10)  # 3 lost, 1 gained: (3 + 1) / 10 and (1 + 1) / 10
    assert (cost.points, cost.p) == (0.25, 2 * (1 + 4) / 16)
    assert (cost.low, cost.high) == pytest.approx((0.2 - half, 0.2 + half), abs=1e-6)


def test_the_interval_of_the_loss_covers_and_chance_is_not_called_a_loss():
    rng = np.random.default_rng(0)
    covered, alarms, runs, n = 0, 0, 2000, 60
    for _ in range(runs):
        before = rng.random(n) < 0.8
        flipped = rng.random(n) < 0.15
        after = np.where(flipped, rng.random(n) < 0.8, before)  # the same accuracy, so the true loss is 0
        cost = check.loss(Reading(REAL, tuple(before.tolist()), (0,)), Reading(VAE, tuple(after.tolist()), (0,)))
        covered += cost.low <= 0 <= cost.high
        alarms += cost.p < check.LEVEL
    assert covered / runs > 0.94 and alarms / runs < 0.05


def test_read_takes_the_true_class_and_counts_what_is_not_finite_as_wrong():
    nan = float("nan")
    proba = torch.tensor([[0.7, 0.2, 0.1], [0.5, 0.4, 0.1], [nan, nan, nan], [0.1, 0.3, 0.6]])
    got = check.read(VAE, proba, [0, 1, 0, 2], sigma=0.4, percent=0.8)
    assert got.right == (True, False, False, True)
    assert got.probability == pytest.approx((0.7, 0.4, 0.0, 0.6))
    assert (got.n, got.accuracy, got.sigma, got.percent) == (4, 0.5, 0.4, 0.8)
    assert got.mean_probability == pytest.approx(1.7 / 4)


# --- verdict


def grades(made):
    return [finding.grade for finding in check.findings(made)]


def test_all_is_well():
    made = checked(150, 149, 148, [(0.8, 0.7, 130), (0.05, 0.99, 149)])
    assert grades(made) == [FINE] * 4
    words = check.verdict(made)
    assert words.startswith("Ready to guide.\n") and "at least 81 % at sigma 0.8 (VAE, n=160)" in words
    assert "The classifier reads images of the VAE as well as real ones (94 % -> 93 %, n=160, p = 1)" in words


def test_a_tiny_decoder_that_costs_eleven_points():
    made = checked(130, 130, 112, [(0.8, 0.7, 120)])
    assert grades(made) == [FINE, FINE, CHANGE, FINE]
    assert "The tiny decoder costs 11 points (81 % -> 70 %, n=160, p < 0.001): use the full VAE" in check.verdict(made)
    assert check.verdict(made).startswith("Ready to guide after a change.")


def test_a_vae_that_loses_the_marks():
    made = checked(150, 90)
    assert grades(made) == [FINE, CHANGE]
    assert "The VAE costs 38 points (94 % -> 56 %, n=160" in check.verdict(made)


def test_a_small_loss_is_named_but_changes_nothing():
    made = checked(155, 149)
    assert check.loss(*made.readings).p == 2 / 2**6
    assert grades(made) == [FINE, FINE] and "costs 3.8 points" in check.verdict(made)


def test_a_loss_that_chance_explains_is_not_called_one():
    made = checked(15, 11, n=16)  # 25 points, but 4 of 16 images
    assert grades(made) == [FINE, UNCLEAR]
    assert "Whether the VAE costs accuracy is open (94 % -> 69 %, n=16, p = 0.12)" in check.verdict(made)
    assert check.verdict(made).startswith("Too few images to be sure.")


def test_a_gain_is_no_loss():
    readings = (reading(REAL, 130, 160), reading(VAE, 145, 160))
    assert check.loss(*readings).p < check.LEVEL
    assert grades(Check(readings, 16)) == [FINE, FINE]


def test_a_classifier_that_is_wrong_on_real_images():
    made = checked(96, 96)
    assert grades(made) == [STOP, FINE]
    assert check.verdict(made).startswith("Not ready to guide.\n- The classifier is wrong on 40 % of the real images")
    assert "n=160, 95 % interval of the accuracy 52 to 67 %" in check.verdict(made)
    assert grades(checked(12, 12, n=20))[0] == UNCLEAR  # 60 % of 20 may still be 78 %


def test_noise_that_blinds_the_classifier():
    made = checked(150, 150, noise=[(0.8, 0.7, 37), (0.4, 0.82, 110), (0.1, 0.95, 148)])
    assert grades(made) == [FINE, FINE, CHANGE]
    expected = "At sigma 0.8 (start_percent 0.70) the accuracy is 23 % (VAE, n=160), without noise 94 %: raise"
    assert f"{expected} start_percent to 0.82, where it is 69 %." in check.verdict(made)


def test_noise_levels_are_judged_from_the_lowest_up():
    made = checked(150, 150, noise=[(0.1, 0.95, 148), (0.8, 0.7, 140), (0.4, 0.82, 37)])
    assert "At sigma 0.4" in check.verdict(made) and "raise start_percent to 0.95" in check.verdict(made)


def test_the_advice_leaves_a_window():
    made = checked(150, 150, noise=[(0.8, 0.7, 37), (0.05, 0.997, 148)])
    assert "raise start_percent to 0.99, where it is 92 %." in check.verdict(made)


def test_a_model_that_never_shows_the_marks():
    made = checked(150, 150, noise=[(0.8, 0.7, 10), (0.05, 0.99, 12)])
    assert grades(made)[-1] == STOP and "no lower noise level is better" in check.verdict(made)


@pytest.mark.parametrize(("right", "grade"), [(9, FINE), (8, UNCLEAR), (2, CHANGE)])
def test_what_a_noise_level_needs(right, grade):
    """Half of what is above chance, 53 %: 9 of 16 have it, 8 may (up to 72 %), 2 cannot (up to 36 %)."""
    made = checked(16, 16, noise=[(0.8, 0.7, right), (0.1, 0.9, 16)], n=16)
    assert made.needed(made.clean(VAE)) == pytest.approx(1 / 16 + 15 / 32)
    assert grades(made)[-1] == grade


def test_the_tiny_decoder_is_not_judged_at_noise_levels_when_it_is_not_to_be_used():
    noisy = tuple(reading(stage, 150, 160, 0.5, 0.8) for stage in (VAE, TINY))
    bad = Check((*checked(150, 150, 20).readings, *noisy), 16)
    good = Check((*checked(150, 150, 150).readings, *noisy), 16)
    assert grades(bad) == [FINE, FINE, CHANGE, FINE] and grades(good) == [FINE] * 5


def test_what_was_not_measured_is_said():
    words = check.verdict(checked(150, 150, missing=("the noise levels; connect model",)))
    assert words.startswith("Ready to guide, as far as measured.")
    assert words.endswith("- Not measured: the noise levels; connect model")


# --- table and plot


def test_table_has_every_number():
    made = checked(130, 130, 112, [(0.832, 0.7, 96)])
    rows = check_report.table(made).splitlines()
    assert len(rows) == 5 and len(rows[0].split("  ")) > 6
    assert rows[1].split() == "real images 160 81.2% 74.5% to 86.5% 50.0%".split()
    assert rows[3].endswith("+11.2 VAE  p < 0.001") and rows[3].startswith("tiny decoder")
    assert rows[4].startswith("sigma 0.832, VAE") and "60.0%" in rows[4] and "+21.2 VAE" in rows[4]


def test_plot_draws_the_noise_levels_only_where_they_were_measured():
    small = check_report.plot(checked(150, 140), "a $name$ with 100 %")
    large = check_report.plot(checked(150, 140, 100, [(0.8, 0.7, 100), (0.1, 0.95, 139)]))
    assert small.shape == (1, 450, 500, 3) and large.shape == (1, 550, 1100, 3)
    tiny_orange = (large - torch.tensor([0xE9, 0xB9, 0x83]) / 255).abs().amax(-1) < 0.04  # d9822b, 55 % opaque
    assert tiny_orange.sum() > 5000


# --- images


@pytest.fixture
def folder(tmp_path):
    for name in ("001.Kite", "002.Swallow"):
        (tmp_path / name).mkdir()
        for i in range(10):
            pixels = np.random.default_rng([i, len(name)]).integers(0, 255, (20, 30, 3), np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{i}.png")
    return tmp_path


class Constant(torch.nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.zeros(classes))

    def forward(self, x):
        return self.logits.expand(len(x), -1)


def classifier(*names):
    preprocess = Preprocess((8, 8), (0.5,) * 3, (0.5,) * 3, "bilinear", 1.0)
    return FineGrainedClassifier(Constant(len(names)), names, preprocess, source="birds.safetensors")


def test_images_are_chosen_per_class_and_by_seed(folder):
    dataset = read_labelled(folder)
    everything = check_images.choose(dataset, "all", 4, 0)
    assert [label for _, label, _ in everything] == [0] * 4 + [1] * 4
    assert everything == check_images.choose(dataset, "all", 4, 0) != check_images.choose(dataset, "all", 4, 1)
    held_out = check_images.choose(dataset, "validation", 100, 0)
    assert sorted(held_out) == sorted(dataset.validation) and len(held_out) == 4


def test_another_class_does_not_change_what_is_drawn(folder):
    dataset = read_labelled(folder)
    more = LabelledSet(
        (*dataset.class_names, "Wren"), (*dataset.train, Labelled(folder / "wren.png", 2)), dataset.validation
    )
    drawn = [check_images.choose(d, "all", 3, 5)[:6] for d in (dataset, more)]
    assert drawn[0] == drawn[1]


def test_class_names_are_forgiven_their_numbers_and_all_unknown_ones_are_listed():
    birds = classifier("Swallow", "Kite", "Red_Wren")
    assert check_images.class_indices(("001.Kite", "002.Swallow", "red wren"), birds) == [1, 0, 2]
    expected = (
        r"The classifier does not know 2 of 3 class names: 'Swalow', 'Gull'\. Rename them, .*"
        r"No class 'Swalow' in birds.safetensors: closest 'Swallow'\. It has 3 classes: Swallow, Kite, Red_Wren"
    )
    with pytest.raises(ValueError, match=expected):
        check_images.class_indices(("Swalow", "Kite", "Gull"), birds)


@pytest.mark.parametrize(
    ("part", "count", "message"),
    [("test", 1, "validation or all, got 'test'"), ("all", 0, "images per class: 0. Ask for at least 1")],
)
def test_bad_choice_is_refused(folder, part, count, message):
    with pytest.raises(ValueError, match=message):
        check_images.choose(read_labelled(folder), part, count, 0)


def test_squares_are_the_centre():
    image = torch.zeros(1, 20, 30, 3)
    image[:, :, 5:25] = 1
    assert torch.equal(check_images.square(image, 20), torch.ones(1, 20, 20, 3))
    assert torch.allclose(check_images.square(image, 7), torch.ones(1, 7, 7, 3))
    rng = random.Random(0)
    ramp = torch.tensor([[rng.random() for _ in range(64)] for _ in range(64)])[None, ..., None].expand(-1, -1, -1, 3)
    halved = check_images.square(ramp, 32)
    reference = Image.fromarray((ramp[0, ..., 0].numpy() * 255).round().astype(np.uint8)).resize(
        (32, 32), Image.BICUBIC
    )
    assert (halved[0, ..., 0] * 255 - torch.tensor(np.array(reference)).float()).abs().max() < 2


def test_files_are_read_in_batches_of_one_size(folder):
    files = check_images.choose(read_labelled(folder), "all", 4, 0)
    batches = list(check_images.load_batches(files, 16, pixels=3 * 16 * 16))
    assert [batch.shape for batch in batches] == [(3, 16, 16, 3), (3, 16, 16, 3), (2, 16, 16, 3)]
