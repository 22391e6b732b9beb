import math

import pytest
import torch

from higfa_core.classifier.calibrate import bins, calibrate, expected_calibration_error, fit_temperature


def sampled(temperature, n=20_000, classes=8):
    """Logits, and classes drawn with the probabilities softmax(logits / temperature)."""
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(n, classes, generator=generator)
    return logits, torch.multinomial((logits / temperature).softmax(1), 1, generator=generator)[:, 0]


def two_classes(margin, right, wrong):
    """Images with the same margin, so many of which are classified rightly and wrongly."""
    logits = torch.tensor([[margin, 0.0]]).repeat(right + wrong, 1)
    return logits, torch.tensor([0] * right + [1] * wrong)


# temperature


@pytest.mark.parametrize("temperature", [0.4, 1.0, 2.5])
def test_the_temperature_that_made_the_labels_is_found(temperature):
    assert fit_temperature(*sampled(temperature)) == pytest.approx(temperature, rel=0.03)


def test_closed_form_of_two_classes():
    # The likeliest confidence is the share that is right: sigmoid(margin / T) = 0.8, T = margin / log 4.
    assert fit_temperature(*two_classes(3.0, 80, 20), prior=math.inf) == pytest.approx(3.0 / math.log(4), abs=1e-4)


def test_the_prior_solves_its_equation():
    # d/du of n log(1 + exp(-m e^-u)) + u^2 / (2 s^2) = 0 with u = log T
    m, n, s = 4.0, 5, 0.5
    u = math.log(fit_temperature(*two_classes(m, n, 0), prior=s))
    z = m * math.exp(-u)
    assert n * z / (1 + math.exp(z)) + u / s**2 == pytest.approx(0, abs=1e-4)
    assert u < 0


def test_few_images_move_the_temperature_less():
    found = [fit_temperature(*two_classes(3.0, 4 * n, n)) for n in (1, 10, 1000)]
    assert 1 < found[0] < found[1] < found[2] < 3.0 / math.log(4)
    assert found[2] == pytest.approx(3.0 / math.log(4), rel=0.01)


def test_all_right_stays_away_from_the_bound():
    assert 0.2 < fit_temperature(*two_classes(3.0, 32, 0)) < 1
    assert fit_temperature(*two_classes(3.0, 32, 0), prior=math.inf) < 0.06


def test_the_order_of_images_and_a_constant_do_not_matter():
    logits, labels = sampled(1.7, n=500)
    expected = fit_temperature(logits, labels)
    assert fit_temperature(logits.flip(0) + 1000, labels.flip(0)) == pytest.approx(expected, abs=1e-4)


def test_no_images():
    with pytest.raises(ValueError, match="needs held-out images, got none"):
        fit_temperature(torch.zeros(0, 3), torch.zeros(0).long())


# expected calibration error


def test_error_computed_by_hand():
    # Bins of 0.2: (0.4, 0.6] holds 0.55 right and 0.6 wrong, (0.8, 1] holds 0.9 right, right and wrong.
    confidence = torch.tensor([0.55, 0.6, 0.9, 0.9, 0.9], dtype=torch.float64)
    proba = torch.stack([confidence, 1 - confidence], 1)
    labels = torch.tensor([0, 1, 0, 0, 1])
    total, mean, accuracy = bins(proba, labels, 5)
    assert total.tolist() == [0, 0, 2, 0, 3]
    assert mean.tolist() == pytest.approx([0, 0, 0.575, 0, 0.9]) and accuracy[[2, 4]].tolist() == pytest.approx(
        [0.5, 2 / 3]
    )
    expected = 2 / 5 * 0.075 + 3 / 5 * (0.9 - 2 / 3)
    assert expected_calibration_error(proba, labels, 5) == pytest.approx(expected)


def test_certainty_is_in_the_last_bin():
    proba = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    assert bins(proba, torch.tensor([0, 1]))[0].tolist() == [0] * 14 + [2]
    assert expected_calibration_error(proba, torch.tensor([0, 1])) == 0
    assert expected_calibration_error(proba, torch.tensor([1, 0])) == 1


def test_calibration_lowers_both_measures_of_an_overconfident_classifier():
    logits, labels = sampled(2.5)
    found = calibrate(logits, labels)
    assert found.nll_after < found.nll_before and found.images == 20_000
    assert found.ece_before > 0.15 and found.ece_after < 0.015
    assert "rough" not in found.summary() and "ECE 0." in found.summary()


def test_few_images_are_said_to_be_few():
    assert "fewer than 100 images" in calibrate(*two_classes(3.0, 8, 2)).summary()
