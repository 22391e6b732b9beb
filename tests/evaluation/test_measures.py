"""Measures against the values of prdc, vendi-score, torchmetrics and torch-fidelity, and against closed forms."""

import importlib.util
import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from higfa_core.evaluation import measures, spectrum

HERE = Path(__file__).parent
ORACLES = json.loads((HERE / "oracles.json").read_text())["cases"]
_spec = importlib.util.spec_from_file_location("oracles", HERE.parent.parent / "benchmarks/metric_oracles.py")
oracles = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(oracles)


@pytest.fixture(params=ORACLES, ids=lambda found: str(found["case"]))
def known(request):
    n, m, size, k = request.param["case"]
    real, made = (torch.from_numpy(oracles.features(seed, count, size)) for seed, count in ((0, n), (1, m)))
    return real, made, k, request.param


def test_neighbourhoods_are_those_of_prdc(known):
    real, made, k, found = known
    ours = measures.manifolds(real, made, k)
    assert vars(ours) == pytest.approx(found["prdc"], rel=1e-12)


def test_chunks_change_nothing(known, monkeypatch):
    real, made, k, found = known
    monkeypatch.setattr(measures, "CHUNK", 7)
    assert vars(measures.manifolds(real, made, k)) == pytest.approx(found["prdc"], rel=1e-12)


def test_the_vendi_score_is_that_of_its_authors(known):
    _, made, _, found = known
    assert measures.vendi(made) == pytest.approx(found["vendi"], rel=1e-9)


def test_the_kernel_distance_is_that_of_torchmetrics_and_torch_fidelity(known):
    real, made, _, found = known
    same = min(len(real), len(made))
    ours = measures.kernel_distance(real[:same], made[:same])
    assert ours == pytest.approx(found["torchmetrics"], rel=1e-9) == pytest.approx(found["torch_fidelity"], rel=1e-9)


def test_the_vendi_score_counts_what_differs():
    assert measures.vendi(torch.eye(7)) == pytest.approx(7)
    assert measures.vendi(torch.ones(9, 3)) == pytest.approx(1)
    assert measures.vendi(torch.eye(3).repeat(5, 1) * 4) == pytest.approx(3)  # length means nothing


def test_the_kernel_distance_of_two_sizes_by_hand():
    first, second = torch.tensor([[1.0], [2.0], [0.0]]), torch.tensor([[1.0], [3.0]])

    def k(a, b):
        return (a * b + 1) ** 3

    xx = sum(k(a, b) for i, a in enumerate((1, 2, 0)) for j, b in enumerate((1, 2, 0)) if i != j) / 6
    yy, xy = k(1, 3), sum(k(a, b) for a in (1, 2, 0) for b in (1, 3)) / 6
    assert measures.kernel_distance(first, second) == pytest.approx(xx + yy - 2 * xy)


def test_copies_are_not_authentic_and_strangers_are():
    real = torch.tensor([[0.0], [1.0], [10.0]])
    made = torch.tensor([[0.0], [0.9], [1.5], [-2.0], [19.0], [20.0]])
    # The neighbours of 0, 1 and 10 are at 1, 1 and 9.
    assert measures.authentic(made, real).tolist() == [False, False, False, True, True, True]
    distance, which = measures.nearest(made, real)
    assert which.tolist() == [0, 1, 1, 0, 2, 2]
    assert distance.tolist() == pytest.approx([0, 0.1, 0.5, 2, 9, 10], abs=1e-6)


@pytest.mark.parametrize("n, m", [(5, 9), (9, 5)])
def test_too_few_images_are_refused(n, m):
    with pytest.raises(ValueError, match="5 (real|synthetic) images are too few for 5 neighbours"):
        measures.manifolds(torch.rand(n, 2), torch.rand(m, 2), 5)


def noise(seed, count=40, size=32):
    generator = np.random.default_rng(seed)
    return [torch.from_numpy(generator.normal(0.5, 0.1, (size, size, 1))).expand(-1, -1, 3) for _ in range(count)]


def test_twice_the_contrast_is_six_decibels_at_every_frequency():
    images = noise(0)
    louder = [(image - 0.5) * 2 + 0.5 for image in images]
    found = spectrum.gap(*([spectrum.radial_power(x, 32) for x in some] for some in (images, louder)))
    assert found.numpy() == pytest.approx(20 * math.log10(2), abs=1e-9) and len(found) == 16


def test_a_wave_is_found_at_its_frequency_and_blur_at_the_high_ones():
    x = torch.arange(64, dtype=torch.float64)
    wave = (0.5 + 0.3 * torch.sin(2 * math.pi * 9 * x / 64)).expand(64, 64)[..., None].expand(-1, -1, 3)
    assert int(spectrum.radial_power(wave, 64).argmax()) + 1 == 9
    images = noise(1)
    blurred = [(image + image.roll(1, 0) + image.roll(1, 1) + image.roll((1, 1), (0, 1))) / 4 for image in images]
    found = spectrum.gap(*([spectrum.radial_power(x, 32) for x in some] for some in (images, blurred)))
    assert spectrum.high(found) < -3 and float(found[0]) > -1


def test_any_shape_has_a_spectrum_and_a_black_image_is_finite():
    power = spectrum.radial_power(torch.rand(50, 90, 3), 32)
    assert power.shape == (16,) and bool((power > 0).all())
    black = [spectrum.radial_power(torch.zeros(32, 32, 3), 32)]
    assert bool(spectrum.gap(black, black).isfinite().all())
