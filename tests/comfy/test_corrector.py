"""The classifier step against closed forms: a classifier whose gradient is known, an identity decoder."""

from types import SimpleNamespace

import pytest
import torch

from higfa_core.guidance import formulas as guidance
from higfa_core.guidance.schedule import Window
from higfa_core.guidance.settings import Guidance
from higfa_core.guidance.trace import Trace

SHAPE = (3, 4, 8, 8)


class QuadraticClassifier:
    """Two classes; f_0 = -|x - m|^2 / 2, f_1 = 0, so d log p_0 / dx = -(1 - p_0) (x - m)."""

    class_names, temperature = ("a", "b"), 1.0

    def __init__(self, centre):
        self.centre = centre

    def clone_params(self, device):
        return {}

    def logits(self, images, params):
        energy = -(images - self.centre).square().sum((1, 2, 3)) / 2
        return torch.stack([energy, torch.zeros_like(energy)], 1)


@pytest.fixture
def make(comfyui):
    from higfa_core.comfy.corrector import Corrector
    from higfa_core.comfy.engine import Engine, Plan

    def build(classifier, known=None, decoder=None, **settings):
        trace = Trace([0.4, 0.3, 0.0], [0, 1], ["a"], interval=settings.get("interval", 2))
        plan = Plan(decoder or _Identity(), ["a"], torch.tensor([[1.0, 0.0]] * SHAPE[0]))
        return Corrector(Engine(classifier, None, None, Guidance(**settings)), plan, Window(0.8, 0.05), trace, "cpu")

    return build


class _Identity:
    """A decoder choice and the decoder that it builds."""

    name, latent_format = "identity", SimpleNamespace(spacial_downscale_ratio=1)

    def __init__(self, dtype=torch.float32):
        self.dtype = dtype

    def build(self, device):
        return self

    def __call__(self, latents):
        return latents


def sample(seed):
    return torch.randn(*SHAPE, generator=torch.Generator().manual_seed(seed)) * 0.1


def test_gradient_probability_and_step(make):
    x, m = sample(0), sample(1)
    corrector = make(QuadraticClassifier(m), eta=0.5, preset="constant", parallel=1.0)
    with torch.inference_mode():
        delta = corrector(x, 0.4).delta
    pull = m - x
    p = torch.sigmoid(-pull.square().sum((1, 2, 3)) / 2)
    torch.testing.assert_close(corrector.signal.probability, p)
    unit = pull / pull.square().mean((1, 2, 3), keepdim=True).sqrt()
    size = 0.5 * (0.4 / (1 + 0.4**2) ** 0.5)  # past the ramp: the middle of 0.4 and 0.3 is below 0.7 * 0.8
    limit = 0.5 * x.square().mean((1, 2, 3), keepdim=True).sqrt()
    torch.testing.assert_close(delta, unit * torch.minimum(torch.full_like(limit, size), limit))


def test_relax_weights_follow_the_closed_form(make):
    x, m = sample(0), sample(1)
    corrector = make(QuadraticClassifier(m), preset="relax", p_stop=0.9)
    correction = corrector(x, 0.4)
    p = torch.sigmoid(-(m - x).square().sum((1, 2, 3)) / 2)
    c = ((p - 0.5) / 0.4).clamp(0, 1)
    torch.testing.assert_close(correction.text, 0.8 + 0.2 * c)
    torch.testing.assert_close(correction.contour, 0.6 + 0.4 * c)


def test_direction_is_kept_between_evaluations(make):
    corrector = make(QuadraticClassifier(sample(1)), preset="constant", interval=2, eta=0.01)
    first = corrector(sample(0), 0.4).delta
    second = corrector(sample(7), 0.3).delta
    scale = (0.3 / (1 + 0.3**2) ** 0.5) / (0.4 / (1 + 0.4**2) ** 0.5)
    torch.testing.assert_close(second, first * scale)
    assert [c.evaluated for c in corrector.trace.calls] == [True, False]


def test_smoothing(make):
    corrector = make(QuadraticClassifier(sample(1)), interval=1, smoothing=0.5)
    c = []
    for seed in (0, 7):
        corrector(sample(seed), 0.4)
        c.append(corrector.signal.confidence)
    raw = guidance.confidence(corrector.signal.probability, torch.tensor(0.5), 0.9)
    torch.testing.assert_close(c[1], 0.5 * c[0] + 0.5 * raw)


def test_mirrored_views_average_gradient_and_probability(make):
    x, m = sample(0), sample(1)
    both = make(QuadraticClassifier(m), views=2, preset="constant", parallel=1.0)
    both(x, 0.4)
    p = [torch.sigmoid(-(m - v).square().sum((1, 2, 3)) / 2) for v in (x, x.flip(-1))]
    torch.testing.assert_close(both.signal.probability, (p[0] + p[1]) / 2)
    pull = ((1 - p[0])[:, None, None, None] * (m - x) + (1 - p[1])[:, None, None, None] * (m.flip(-1) - x)) / 2
    expected, _ = guidance.direction(pull, x, parallel=1.0)
    torch.testing.assert_close(both.signal.direction, expected)


class SteepClassifier(QuadraticClassifier):
    """As it was, but the first image's gradient is infinite: the square root's at 0."""

    def logits(self, images, params):
        steep = images[:1].square().sum().mul(0).sqrt() * torch.eye(len(images))[0]
        return super().logits(images, params) + steep[:, None] * torch.tensor([1.0, 0.0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_no_gradient_is_not_certainty(make, dtype):
    """The probability that the trace tells is the classifier's own; only the weights are those of a satisfied one."""
    x, m = sample(0), sample(1)
    corrector = make(SteepClassifier(m), decoder=_Identity(dtype), smoothing=0.0, p_stop=1.0)
    correction = corrector(x, 0.4)
    p = torch.sigmoid(-(m - x).square().sum((1, 2, 3)) / 2)
    torch.testing.assert_close(corrector.trace.calls[0].probability, p)
    assert correction.text[0] == 1 > correction.text[1]
    assert correction.delta[0].abs().max() == 0 < correction.delta[1].abs().max()
    corrector.trace.finish(1.0, 0.0)
    summary = corrector.trace.summary()
    assert "1 of 3 images got no step at up to 1 of 1 evaluation: the gradient was not finite" in summary
    assert ("--bf16-vae" in summary) == (dtype == torch.float16)


def test_an_answer_that_is_not_a_number_is_probability_zero(make):
    x = sample(0)
    x[0, 0, 0, 0] = float("nan")
    corrector = make(QuadraticClassifier(sample(1)), eta=0.5)
    delta = corrector(x, 0.4).delta
    trace = corrector.trace
    trace.finish(1.0, 0.0)
    assert trace.probability[0] == 0 < trace.probability[1] and trace.calls[0].step_rms[0] == 0
    assert torch.isfinite(delta).all() and "1 of 3 images" in trace.summary()
    assert "NaN" not in trace.to_json()


@pytest.mark.parametrize("calls", [1, 2, 3])
@pytest.mark.parametrize("interval", [1, 2])
def test_max_evals_is_a_maximum_spread_over_the_steps(make, calls, interval):
    """However often a sampler calls the model in one of eight steps."""
    corrector = make(QuadraticClassifier(sample(1)), max_evals=4, interval=interval)
    levels = torch.linspace(0.8, 0.1, 8).tolist()
    corrector.trace.sigmas, corrector.trace.guided_steps = [2.0, *levels, 0.0], list(range(1, 9))
    for i in range(8 * calls):
        corrector(sample(i), levels[i // calls])
    looks = [i // calls for i, call in enumerate(corrector.trace.calls) if call.evaluated]
    assert len(looks) == 4 and looks[0] == 0 and looks[-1] >= 6
