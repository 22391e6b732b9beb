"""Stages are told by noise level, and the total push must not depend on how many steps a run has."""

import numpy as np
import pytest
import torch

from higfa_core.guidance.schedule import Pacing, Window, next_level, window_from_percent


def karras(steps, low=0.0292, high=14.615, rho=7.0):
    """Equation (5) of Karras et al. 2022, written out here on its own."""
    i = np.arange(steps) / (steps - 1)
    sigmas = (high ** (1 / rho) + i * (low ** (1 / rho) - high ** (1 / rho))) ** rho
    return torch.tensor([*sigmas, 0.0], dtype=torch.float32)


def normal(steps):
    """Stable Diffusion's levels at evenly spaced timesteps 999..0."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    kept = np.cumprod(1 - betas)
    at = np.interp(np.linspace(999, 0, steps), np.arange(1000), np.log((1 - kept) / kept) / 2)
    return torch.tensor([*np.exp(at), 0.0], dtype=torch.float32)


def test_window_is_half_open():
    window = Window(0.8, 0.05)
    assert window.active(0.8) and window.active(0.4)
    assert not window.active(0.05) and not window.active(0.81)


def test_bounds_compare_in_float32():
    third = 1 / 3
    assert Window(third, 0.01).active(float(np.float32(third)))
    assert not Window(0.8, third).active(float(np.float32(third)))


def test_ramp():
    window = Window(1.0, 0.05)
    assert window.ramp(1.0) == 0 and window.ramp(0.7) == pytest.approx(1) and window.ramp(0.1) == 1
    assert window.ramp(0.85) == pytest.approx(0.5)


@pytest.mark.parametrize("bounds", [(0.8, 0.05), (1e9, 0.0), (1.0, 0.0, True), (0.6, 0.05, True)])
def test_progress_rises_from_one_end_of_the_window_to_the_other(bounds):
    window = Window(*bounds)
    levels = np.linspace(min(window.sigma_on, 20.0), window.sigma_off, 9)
    progress = [window.progress(level) for level in levels]
    assert window.progress(window.sigma_on) == 0 and progress[-1] == 1
    assert all(a < b for a, b in zip(progress, progress[1:]))


class TestPacing:
    def evaluated(self, sigmas, interval=2, max_evals=8, cut=0, calls=1):
        """Which guided steps evaluate; after `cut` of them another sampler takes over."""
        window = Window(0.83, 0.05)
        steps = [s for s in sigmas.tolist() if window.active(s)]
        pacing, found = Pacing(interval, max_evals), []
        for i, sigma in enumerate(steps):
            if i == cut:
                pacing = Pacing(**vars(pacing))
            found += [i for _ in range(calls) if pacing.evaluates(window.progress(sigma))]
        return found, len(steps)

    @pytest.mark.parametrize("schedule", [karras, normal])
    @pytest.mark.parametrize("steps", [12, 20, 25, 30, 40])
    def test_every_second_step_in_common_schedules(self, schedule, steps):
        found, guided = self.evaluated(schedule(steps))
        assert found == list(range(0, guided, 2))

    @pytest.mark.parametrize("calls", [1, 2, 3])
    @pytest.mark.parametrize("max_evals", [1, 3, 8])
    def test_max_evals_is_a_maximum_spread_over_the_noise_levels(self, max_evals, calls):
        found, guided = self.evaluated(normal(200), interval=1, max_evals=max_evals, calls=calls)
        assert len(found) == max_evals and found[0] == 0
        assert max(np.diff([*found, guided])) < 2.5 * guided / max_evals

    def test_a_cut_changes_nothing(self):
        whole, guided = self.evaluated(karras(50), interval=3, max_evals=5)
        assert all(self.evaluated(karras(50), interval=3, max_evals=5, cut=cut)[0] == whole for cut in range(guided))


def test_posterior_scale_is_the_gaussian_posterior():
    """x = x0 + s n with x0 ~ N(0, 1): Var[x0 | x] = s^2 / (1 + s^2); flow: x = (1 - t) x0 + t n."""
    assert Window(1, 0).posterior_scale(0.5) == pytest.approx((0.25 / 1.25) ** 0.5)
    t = 0.3
    assert Window(1, 0, flow=True).posterior_scale(t) == pytest.approx((t**2 / (t**2 + (1 - t) ** 2)) ** 0.5)
    assert Window(1, 0).posterior_scale(1e-9) < 1e-8


def test_guided_steps():
    sigmas = torch.tensor([10.0, 1.0, 0.8, 0.3, 0.05, 0.0])
    assert Window(0.8, 0.05).guided_steps(sigmas) == [2, 3]


def test_flow_end_has_the_same_signal_to_noise_ratio():
    window = window_from_percent(lambda p: 1 - p, 0.7, 0.05, flow=True)
    assert window.sigma_on == pytest.approx(0.3)
    assert window.sigma_off / (1 - window.sigma_off) == pytest.approx(0.05)


def test_next_level_between_steps():
    assert next_level([1.0, 0.5, 0.0], 1.0) == 0.5
    assert next_level([1.0, 0.5, 0.0], 0.7) == 0.5
    assert next_level([1.0, 0.5], 0.5) == 0.0


@pytest.mark.parametrize("schedule", [karras, normal])
def test_total_displacement_does_not_depend_on_the_step_count(schedule):
    """Euler on Gaussian data, D(x) = x / (1 + sigma^2) plus a unit push in the window; no network."""

    def final(steps, push, middle):
        window, x = Window(0.83, 0.05), 3.0
        sigmas = schedule(steps).tolist()
        for s, n in zip(sigmas[:-1], sigmas[1:], strict=True):
            d = x / (1 + s * s)
            if window.active(s):
                ramp = window.ramp(s, next_level(sigmas, s)) if middle else window.ramp(s)
                d += push * ramp * window.posterior_scale(s)
            x += (x - d) / s * (n - s)
        return x

    def spread(middle):
        totals = [final(n, 0.25, middle) - final(n, 0.0, middle) for n in (20, 30, 50)]
        assert min(totals) > 0.05
        return max(totals) / min(totals) - 1

    assert spread(middle=True) < 0.025
    assert spread(middle=False) > 2 * spread(middle=True)  # why the ramp is read in the middle of a step
