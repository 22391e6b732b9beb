"""The small models are what they say they are: otherwise test_families.py proves nothing."""

import dataclasses

import pytest
import torch

from ..numeric import relative, same, with_rounding

# Family -> ComfyUI's own names of model, prediction and latent format, for that family at full size.
EXPECTED = {
    "sd15": ("BaseModel", "EPS", "SD15"),
    "sd2": ("BaseModel", "V_PREDICTION", "SD15"),
    "sdxl": ("SDXL", "EPS", "SDXL"),
    "sd3": ("SD3", "FLOW", "SD3"),
    "flux": ("Flux", "FLUX", "Flux"),
    "qwen_image": ("QwenImage", "FLUX", "Wan21"),
    "wan_video": ("WAN21", "FLOW", "Wan21"),
    "stable_audio": ("StableAudio1", "V_PREDICTION_CONTINUOUS", "StableAudio1"),
}


@pytest.fixture(scope="module", params=EXPECTED)
def named(request, zoo):
    return request.param, zoo.family(request.param)


@pytest.fixture
def family(named):
    return named[1]


def sample(zoo, family, positive=None, cfg=None, seed=0):
    return zoo.run(zoo.stock(family, positive, cfg=cfg), family.latents(2, seed), zoo.levels(family, 2, "simple"))


def test_is_the_family(named):
    name, family = named
    model = family.model.model
    found = type(model).__name__, model.model_type.name, type(model.latent_format).__name__
    assert found == EXPECTED[name]
    assert model.latent_format.latent_channels == family.shape[0]


def test_is_small(family):
    assert 1e5 < sum(p.numel() for p in family.model.model.diffusion_model.parameters()) < 7e6


def test_no_weight_is_left_uninitialised(named, zoo, caplog):
    """ComfyUI's layers start as raw memory; what a loader misses it only logs."""
    getattr(zoo, named[0])()
    assert not [r.message for r in caplog.records if "missing" in r.message.lower() or "unexpected" in r.message]
    state = named[1].model.model.diffusion_model.state_dict()
    assert all(w.isfinite().all() and w.abs().max() < 10 for w in state.values() if w.numel())


def test_output_is_finite_varied_and_repeatable(zoo, family):
    out = sample(zoo, family)
    assert out.isfinite().all()
    assert out.flatten(2).std(2).min() > 0.01
    assert torch.equal(out, sample(zoo, family))


@pytest.mark.parametrize("name", [name for name in EXPECTED if name not in ("wan_video", "stable_audio")])
def test_output_of_an_image_does_not_depend_on_its_neighbours(zoo, name):
    """Nor is rounding blown up: a model that did could not show whether guidance keeps images apart."""
    family = zoo.exact(name)
    sigmas = zoo.levels(family, 2, "simple")
    single, rounding = with_rounding(lambda noise: zoo.run(zoo.stock(family), noise, sigmas), family.latents())
    assert same(sample(zoo, family)[:1], single, rounding)


def test_output_depends_on_noise_and_prompt(zoo, family):
    out = sample(zoo, family, cfg=1.0)
    assert relative(sample(zoo, family, cfg=1.0, seed=1), out) > 0.1
    assert relative(sample(zoo, family, family.negative, cfg=1.0), out) > 1e-3


@pytest.mark.parametrize(
    "name, key", [("sdxl", "pooled_output"), ("sd3", "pooled_output"), ("flux", "pooled_output"), ("flux", "guidance")]
)
def test_output_depends_on_what_else_the_family_reads(zoo, name, key):
    family = zoo.family(name)
    ((states, options),) = family.positive
    changed = sample(zoo, family, [[states, {**options, key: options[key] * 2}]], cfg=1.0)
    assert relative(changed, sample(zoo, family, cfg=1.0)) > 1e-4


def test_distilled_guidance_runs_no_negative(zoo):
    family = zoo.family("flux")
    other = dataclasses.replace(family, negative=family.positive)
    assert torch.equal(sample(zoo, family), sample(zoo, other))
    assert not torch.equal(sample(zoo, family, cfg=2.0), sample(zoo, other, cfg=2.0))


@pytest.mark.parametrize("name", [name for name in EXPECTED if name != "stable_audio"])
def test_the_vae_decodes_the_familys_latents(zoo, name):
    family = zoo.family(name)
    latents = family.latents(2)
    image = family.vae.first_stage_model.decode(family.model.model.latent_format.process_out(latents))
    side = 64 if latents.ndim == 5 else 32
    assert image.shape[:2] == (2, 3) and image.shape[-2:] == (side, side)
    assert image.isfinite().all() and image.flatten(1).std(1).min() > 0.05


def test_image_noise_does_not_depend_on_the_batch(zoo):
    family = zoo.family("gaussian")
    assert torch.equal(family.latents(3)[:2], family.latents(2))
    assert not torch.equal(family.latents(1, seed=1), family.latents(1))


@pytest.mark.parametrize("flow", [False, True])
def test_gaussian_is_the_posterior_mean(zoo, flow):
    """One call at cfg 1 against E[x0 | x] of x0 ~ N(m, 1), x = a x0 + s n, written with the Kalman gain."""
    import comfy.samplers

    family = zoo.gaussian(flow)
    model, mean = family.model.model, float(family.positive[0][0].mean())
    x, sigma = 3 * family.latents(2), torch.tensor([0.6, 0.6])
    model.current_patcher = family.model
    conds = comfy.samplers.process_conds(
        model, x, {"positive": comfy.sampler_helpers.convert_cond(family.positive)}, x.device
    )
    (denoised,) = comfy.samplers.calc_cond_batch(model, [conds["positive"]], x, sigma, {})
    signal = 0.4 if flow else 1.0
    gain = signal / (signal**2 + 0.36)
    torch.testing.assert_close(denoised, mean + gain * (x - signal * mean), atol=1e-5, rtol=1e-5)


def test_gaussian_samples_its_data(zoo):
    family = zoo.family("gaussian")
    sigmas = torch.tensor([*torch.logspace(1.16, -1.5, 60), 0.0])
    out = zoo.run(zoo.stock(family, cfg=1.0), family.latents(64), sigmas)
    latents = family.model.model.latent_format.process_in(out)
    assert float(latents.mean()) == pytest.approx(float(family.positive[0][0].mean()), abs=0.02)
    assert float(latents.std()) == pytest.approx(1, abs=0.07)


def test_controlnet_acts(zoo, core_nodes):
    family, hint = zoo.family("sd15"), torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    apply = core_nodes["ControlNetApplyAdvanced"]().apply_controlnet
    plain, out = sample(zoo, family, cfg=1.0), []
    for strength in (0.0, 0.5, 1.0):
        positive, _ = apply(family.positive, family.negative, zoo.controlnet(), hint, strength, 0.0, 1.0)
        out.append(sample(zoo, family, positive, cfg=1.0))
    assert torch.equal(out[0], plain)
    assert 0.01 < relative(out[1], plain) and 0.01 < relative(out[2], out[1])


def test_classifier_tells_images_apart_and_has_gradients(zoo):
    classifier = zoo.classifier()
    images = torch.rand(4, 3, 20, 28, generator=torch.Generator().manual_seed(0)).requires_grad_()
    p = (classifier.logits(images) / classifier.temperature).softmax(1)
    assert p.shape == (4, 5) and p.std(0).max() > 1e-3 and p.max() < 0.99
    (gradient,) = torch.autograd.grad(p[:, 3].log().sum(), images)
    assert gradient.isfinite().all() and gradient.flatten(1).abs().amax(1).min() > 1e-4
