"""The mathematics of guidance against closed forms."""

import math

import pytest
import torch

from higfa_core import guidance as g


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class TestCompose:
    def test_equal_weights_are_classifier_free_guidance(self):
        u, t, tc = (randn(2, 4, 8, 8, seed=s) for s in range(3))
        torch.testing.assert_close(g.compose(u, t, tc, 7.5, 7.5), u + 7.5 * (tc - u))

    def test_no_contour_leaves_text_alone(self):
        u, t, tc = (randn(2, 4, 8, 8, seed=s) for s in range(3))
        torch.testing.assert_close(g.compose(u, t, tc, 3.0, 0.0), u + 3.0 * (t - u))

    def test_coefficients_sum_to_one(self):
        same = randn(1, 4, 8, 8)
        torch.testing.assert_close(g.compose(same, same, same, 5.0, 2.0), same)

    def test_per_sample_weights(self):
        u, t, tc = (randn(2, 4, 8, 8, seed=s) for s in range(3))
        w_text, w_contour = torch.tensor([2.0, 5.0]).view(2, 1, 1, 1), torch.tensor([1.0, 0.0]).view(2, 1, 1, 1)
        both = g.compose(u, t, tc, w_text, w_contour)
        torch.testing.assert_close(both[0], g.compose(u[0], t[0], tc[0], 2.0, 1.0))
        torch.testing.assert_close(both[1], g.compose(u[1], t[1], tc[1], 5.0, 0.0))


class TestConfidence:
    def test_chance_is_zero_and_p_stop_is_one(self):
        p = torch.tensor([0.0, 1 / 16, 0.9, 1.0])
        torch.testing.assert_close(g.confidence(p, 16, 0.9), torch.tensor([0.0, 0.0, 1.0, 1.0]))

    def test_linear_between(self):
        halfway = torch.tensor([(0.9 + 1 / 200) / 2])
        torch.testing.assert_close(g.confidence(halfway, 200, 0.9), torch.tensor([0.5]))

    def test_one_class_is_always_satisfied(self):
        assert g.confidence(torch.tensor([1.0]), 1, 0.9).item() == 1.0


class TestModulation:
    @pytest.mark.parametrize("preset", g.PRESETS)
    def test_satisfied_classifier_leaves_text_and_contour_at_full_strength(self, preset):
        m_text, m_contour, _ = g.modulation(preset, torch.ones(3), torch.full((3,), 0.1), 16)
        assert m_text.tolist() == [1, 1, 1] and m_contour.tolist() == [1, 1, 1]

    def test_relax_end_points(self):
        m_text, m_contour, w_cls = g.modulation("relax", torch.zeros(1), torch.ones(1), 16)
        assert (m_text.item(), m_contour.item(), w_cls.item()) == pytest.approx((0.8, 0.6, 1.0))
        assert g.modulation("relax", torch.ones(1), torch.ones(1), 16)[2].item() == 0.0

    def test_boost_is_log_k_over_entropy_capped(self):
        entropy = torch.tensor([math.log(16), math.log(16) / 2, 1e-9])
        assert g.modulation("boost", torch.zeros(3), entropy, 16)[2].tolist() == pytest.approx([1, 2, g.BOOST_CAP])

    def test_text_weight_never_falls_below_one(self):
        assert g.text_weight(7.5, torch.tensor([0.0, 1.0])).tolist() == [1.0, 7.5]


class TestClassScore:
    def test_sharpness_one_is_log_probability(self):
        logits, target = randn(5, 7), torch.arange(5)
        expected = logits.log_softmax(1).gather(1, target[:, None])[:, 0]
        torch.testing.assert_close(g.class_score(logits, target, 1.0), expected)

    def test_gradient_is_indicator_minus_softened_softmax(self):
        logits, target = randn(1, 5).requires_grad_(), torch.tensor([2])
        (gradient,) = torch.autograd.grad(g.class_score(logits, target, 0.5).sum(), logits)
        expected = -(0.5 * logits).softmax(1).detach()
        expected[0, 2] += 1
        torch.testing.assert_close(gradient, expected)


class TestDirection:
    def test_unit_rms_and_orthogonal(self):
        gradient, denoised = randn(3, 4, 8, 8) * 100, randn(3, 4, 8, 8, seed=1)
        step, finite = g.direction(gradient, denoised)
        assert finite.all()
        torch.testing.assert_close(g.rms(step), torch.ones(3, 1, 1, 1, dtype=torch.float64))
        assert (step * denoised).sum((1, 2, 3)).abs().max() < 1e-9

    def test_parallel_kept_is_the_plain_gradient(self):
        gradient, denoised = randn(2, 4, 8, 8), randn(2, 4, 8, 8, seed=1)
        step, _ = g.direction(gradient, denoised, parallel=1.0)
        torch.testing.assert_close(step, gradient / g.rms(gradient))

    def test_vanishing_gradient_stays_small(self):
        step, _ = g.direction(randn(1, 4, 8, 8) * 1e-8, randn(1, 4, 8, 8, seed=1))
        assert 0 < g.rms(step).item() < 1e-3

    @pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
    def test_non_finite_sample_is_left_out_alone(self, bad):
        gradient, denoised = randn(2, 4, 8, 8), randn(2, 4, 8, 8, seed=1)
        alone, _ = g.direction(gradient[1:], denoised[1:])
        gradient[0, 0, 0, 0] = bad
        step, finite = g.direction(gradient, denoised)
        assert finite.tolist() == [False, True]
        assert step[0].abs().max() == 0
        torch.testing.assert_close(step[1:], alone)

    def test_huge_finite_gradient_does_not_overflow(self):
        step, finite = g.direction(torch.full((1, 4, 8, 8), 1e30), torch.randn(1, 4, 8, 8))
        assert finite.all() and torch.isfinite(step).all()

    def test_zero_gradient_gives_zero_step(self):
        step, _ = g.direction(torch.zeros(1, 4, 8, 8), randn(1, 4, 8, 8).float())
        assert step.abs().max() == 0


class TestDisplacement:
    def test_size(self):
        step, _ = g.direction(randn(2, 4, 8, 8), randn(2, 4, 8, 8, seed=1))
        delta = g.displacement(step, 0.1, torch.tensor([1.0, 0.5]), randn(2, 4, 8, 8, seed=1))
        assert g.rms(delta).flatten().tolist() == pytest.approx([0.1, 0.05])

    def test_capped_by_the_estimate(self):
        denoised = randn(1, 4, 8, 8, seed=1) * 0.01
        delta = g.displacement(randn(1, 4, 8, 8), 10.0, torch.ones(1), denoised)
        torch.testing.assert_close(g.rms(delta), g.DISPLACEMENT_CAP * g.rms(denoised))


@pytest.mark.parametrize(
    ("name", "value"),
    [("eta", -1), ("eta", float("nan")), ("start_percent", 1.5), ("preset", "strong"), ("views", 3), ("p_stop", 0),
     ("interval", 0), ("decoder", "fast"), ("composition", "both"), ("smoothing", 1.0)],
)  # fmt: skip
def test_settings_out_of_range_name_the_value(name, value):
    with pytest.raises(ValueError, match=name) as error:
        g.Guidance(**{name: value})
    assert str(value) in str(error.value)
