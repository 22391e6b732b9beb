"""Numbers that nobody expects, through real samplers: finite or clearly refused, and no image changes for another."""

import pytest
import torch

from .guiding import make_world, noise_for, ours, run


@pytest.fixture(scope="module")
def half(comfyui):
    """The miniature in float16, networks and arithmetic: on a CPU, ComfyUI itself would cast to float32."""
    world = make_world()
    with torch.inference_mode():
        world.model.model.diffusion_model.half()
        world.model.model.diffusion_model.dtype = torch.float16
        world.vae.first_stage_model.half()
    world.model.model.manual_cast_dtype = None
    world.vae.vae_dtype = torch.float16
    assert world.model.model.get_dtype_inference() == torch.float16
    return world


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
@pytest.mark.parametrize("settings", [{}, {"eta": 1.0, "micro_batch": 1}], ids=["default", "one at a time"])
def test_nan_in_one_image_leaves_its_neighbours_bit_equal(world, sampler, settings):
    noise = noise_for(3)
    broken = noise.clone()
    broken[1, 0, 3, 3] = float("nan")
    whole, found = (run(ours(world, **settings), start, sampler) for start in (noise, broken))
    assert torch.equal(found[0], whole[0]) and torch.equal(found[2], whole[2])
    assert not torch.isfinite(found[1]).all() and torch.isfinite(whole).all()


def test_nan_is_named_in_the_summary(world):
    noise = noise_for(2)
    noise[0] = float("nan")
    guider = ours(world, eta=1.0)
    run(guider, noise)
    assert "not finite" in guider.trace.summary()


def test_a_model_of_half_precision_is_guided_to_finite_images(half):
    guider = ours(half, eta=1.0)
    assert torch.isfinite(run(guider, noise_for(1), steps=3)).all()
    assert guider.trace.summary() and "not finite" not in guider.trace.summary()


@pytest.mark.parametrize("eta", [1000.0, -1.0, float("nan"), float("inf"), "strong"])
def test_a_step_out_of_range_is_refused_with_the_range(world, eta):
    with pytest.raises(ValueError, match="Invalid eta: .* Choose a number from 0 to 10"):
        ours(world, eta=eta)


@pytest.mark.parametrize("cfg", [-5.0, 0.0, 30.0])
def test_any_cfg_gives_finite_images(world, cfg):
    assert torch.isfinite(run(ours(world, cfg=cfg, eta=10.0), noise_for(2))).all()


def test_the_longest_step_gives_finite_images(world):
    assert torch.isfinite(run(ours(world, eta=10.0), noise_for(2))).all()


def test_a_batch_of_64(world):
    noise = noise_for(64)
    found = run(ours(world), noise, steps=2)
    assert found.shape == (64, 8, 16, 16) and torch.isfinite(found).all()
    few = run(ours(world), noise[:4], steps=2)
    torch.testing.assert_close(found[:4], few, rtol=1e-3, atol=1e-3)
