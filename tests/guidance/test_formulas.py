"""The mathematics of guidance against closed forms."""

import math

import pytest
import torch

from higfa_core.guidance import formulas as g
from higfa_core.guidance.settings import MODULATIONS, Guidance


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class TestAgreement:
    """exp(-KL(q || p)), against KL written out by scipy."""

    def test_one_class_is_its_probability(self):
        log_p = randn(4, 5).log_softmax(1)
        one_hot = torch.eye(5, dtype=torch.float64)[[0, 3, 3, 1]]
        torch.testing.assert_close(g.agreement(log_p, one_hot), log_p.exp().gather(1, one_hot.argmax(1)[:, None])[:, 0])

    def test_mixture(self):
        from scipy.special import rel_entr

        log_p, q = randn(3, 6).log_softmax(1), randn(3, 6, seed=1).softmax(1)
        expected = torch.exp(-torch.from_numpy(rel_entr(q.numpy(), log_p.exp().numpy())).sum(1))
        torch.testing.assert_close(g.agreement(log_p, q), expected)

    def test_is_one_where_p_is_the_mixture(self):
        q = torch.tensor([[0.7, 0.3, 0.0]])
        log_p = torch.tensor([[0.7, 0.3, 1e-30]]).log()
        assert g.agreement(log_p, q).item() == pytest.approx(1)

    def test_chance_is_the_agreement_of_a_uniform_classifier(self):
        q = torch.tensor([[1.0, 0, 0, 0], [0.5, 0.5, 0, 0], [0.7, 0.1, 0.1, 0.1]])
        uniform = torch.full((3, 4), 0.25).log()
        torch.testing.assert_close(g.chance(q), g.agreement(uniform, q))
        assert g.chance(q)[0].item() == pytest.approx(1 / 4)


class TestConfidence:
    def test_chance_is_zero_and_p_stop_is_one(self):
        p = torch.tensor([0.0, 1 / 16, 0.9, 1.0])
        expected = torch.tensor([0.0, 0.0, 1.0, 1.0])
        torch.testing.assert_close(g.confidence(p, torch.full((4,), 1 / 16), 0.9), expected)

    def test_linear_between(self):
        halfway = torch.tensor([(0.9 + 1 / 200) / 2])
        torch.testing.assert_close(g.confidence(halfway, torch.tensor([1 / 200]), 0.9), torch.tensor([0.5]))

    def test_where_chance_is_above_p_stop_the_classifier_is_satisfied(self):
        assert g.confidence(torch.tensor([0.4]), torch.tensor([0.5]), 0.45).item() == 1.0
        assert g.confidence(torch.tensor([1.0]), torch.tensor([1.0]), 0.9).item() == 1.0  # one class only


class TestModulation:
    @pytest.mark.parametrize("preset", MODULATIONS)
    def test_satisfied_classifier_leaves_text_and_contour_at_full_strength(self, preset):
        m_text, m_contour, _ = g.modulation(MODULATIONS[preset], torch.ones(3), torch.full((3,), 0.1), 16)
        assert m_text.tolist() == [1, 1, 1] and m_contour.tolist() == [1, 1, 1]

    def test_relax_end_points(self):
        relax = MODULATIONS["relax"]
        m_text, m_contour, w_cls = g.modulation(relax, torch.zeros(1), torch.ones(1), 16)
        assert (m_text.item(), m_contour.item(), w_cls.item()) == pytest.approx((0.8, 0.6, 1.0))
        assert g.modulation(relax, torch.ones(1), torch.ones(1), 16)[2].item() == 0.0

    def test_boost_is_log_k_over_entropy_capped(self):
        entropy = torch.tensor([math.log(16), math.log(16) / 2, 1e-9])
        w_cls = g.modulation(MODULATIONS["boost"], torch.zeros(3), entropy, 16)[2]
        assert w_cls.tolist() == pytest.approx([1, 2, g.BOOST_CAP])

    def test_custom_is_the_formula(self):
        settings = Guidance(preset="custom", text_a0=0.5, text_a1=0.9, contour_a0=0.2, contour_a1=1.5, b=2, gamma=3)
        c = torch.tensor([0.0, 0.3, 1.0])
        m_text, m_contour, w_cls = g.modulation(settings.modulation, c, torch.ones(3), 16)
        torch.testing.assert_close(m_text, 0.5 + 0.4 * c * c)
        torch.testing.assert_close(m_contour, 0.2 + 1.3 * c * c)
        torch.testing.assert_close(w_cls, (1 - c) ** 3)

    def test_custom_defaults_are_relax(self):
        assert Guidance(preset="custom").modulation == MODULATIONS["relax"]

    def test_what_moves_text_or_contour(self):
        assert MODULATIONS["relax"].moves
        assert not MODULATIONS["constant"].moves and not MODULATIONS["boost"].moves

    def test_text_weight_never_falls_below_one(self):
        assert g.text_weight(7.5, torch.tensor([0.0, 1.0])).tolist() == [1.0, 7.5]


class TestClassScore:
    def test_sharpness_one_is_log_probability(self):
        logits, target = randn(5, 7), torch.eye(7, dtype=torch.float64)[:5]
        torch.testing.assert_close(g.class_score(logits, target, 1.0), logits.log_softmax(1).diagonal()[:5])

    def test_mixture_is_minus_cross_entropy(self):
        logits, q = randn(5, 7), randn(5, 7, seed=1).softmax(1)
        expected = -torch.nn.functional.cross_entropy(logits, q, reduction="none")
        torch.testing.assert_close(g.class_score(logits, q, 1.0), expected)

    def test_gradient_is_target_minus_softened_softmax(self):
        logits, target = randn(1, 5).requires_grad_(), torch.tensor([[0, 0.4, 0.6, 0, 0]], dtype=torch.float64)
        (gradient,) = torch.autograd.grad(g.class_score(logits, target, 0.5).sum(), logits)
        torch.testing.assert_close(gradient, target - (0.5 * logits).softmax(1).detach())


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


class TestMask:
    """Inpainting: the step lives where the mask is, and is as large there as it would be in an image of that size."""

    mask = torch.zeros(1, 1, 8, 8, dtype=torch.float64)
    mask[..., 2:6] = 1.0

    def test_step_is_that_of_the_part_alone(self):
        gradient, denoised = randn(2, 4, 8, 8), randn(2, 4, 8, 8, seed=1)
        step, _ = g.direction(gradient, denoised, mask=self.mask)
        alone, _ = g.direction(gradient[..., 2:6], denoised[..., 2:6])
        assert step[..., :2].abs().max() == 0 == step[..., 6:].abs().max()
        torch.testing.assert_close(step[..., 2:6], alone)

    def test_cap_compares_inside_the_mask(self):
        step, denoised = randn(1, 4, 8, 8) * self.mask, randn(1, 4, 8, 8, seed=1)
        delta = g.displacement(step, 100.0, torch.ones(1), denoised, 0.5, self.mask)
        torch.testing.assert_close(g.rms(delta[..., 2:6]), 0.5 * g.rms(denoised[..., 2:6]))

    def test_empty_mask_gives_no_step(self):
        step, _ = g.direction(randn(1, 4, 8, 8), randn(1, 4, 8, 8, seed=1), mask=torch.zeros_like(self.mask))
        delta = g.displacement(step, 1.0, torch.ones(1), randn(1, 4, 8, 8), 0.5, torch.zeros_like(self.mask))
        assert delta.abs().max() == 0


class TestDisplacement:
    def test_size(self):
        step, _ = g.direction(randn(2, 4, 8, 8), randn(2, 4, 8, 8, seed=1))
        delta = g.displacement(step, 0.1, torch.tensor([1.0, 0.5]), randn(2, 4, 8, 8, seed=1), 0.5)
        assert g.rms(delta).flatten().tolist() == pytest.approx([0.1, 0.05])

    def test_capped_by_the_estimate(self):
        denoised = randn(1, 4, 8, 8, seed=1) * 0.01
        delta = g.displacement(randn(1, 4, 8, 8), 10.0, torch.ones(1), denoised, 0.3)
        torch.testing.assert_close(g.rms(delta), 0.3 * g.rms(denoised))

    def test_no_step_from_an_estimate_that_is_not_a_number(self):
        denoised = randn(2, 4, 8, 8, seed=1)
        denoised[0, 0, 0, 0] = float("nan")
        delta = g.displacement(randn(2, 4, 8, 8), 0.1, torch.ones(2), denoised, 0.5)
        assert delta[0].abs().max() == 0 < delta[1].abs().max()


def test_automatic_micro_batch():
    assert [Guidance().images_at_once(side * side) for side in (128, 256, 512, 1024)] == [16, 4, 1, 1]
    assert Guidance(micro_batch=3).images_at_once(1024 * 1024) == 3


@pytest.mark.parametrize(
    ("name", "value"),
    [("eta", -1), ("eta", float("nan")), ("start_percent", 1.5), ("preset", "strong"), ("views", 3), ("p_stop", 0),
     ("interval", 0), ("decoder", "fast"), ("composition", "both"), ("smoothing", 1.0),
     ("rms_cap", 0), ("b", 0), ("gamma", -1), ("text_a0", -0.1), ("micro_batch", -1)],
)  # fmt: skip
def test_settings_out_of_range_name_the_value(name, value):
    with pytest.raises(ValueError, match=name) as error:
        Guidance(**{name: value})
    assert str(value) in str(error.value)
