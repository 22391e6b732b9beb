"""give_up_below: hopeless images are not finished, and say so."""

import pytest
import torch

from ..numeric import same
from .guiding import noise_for, ours, run, stock

ALL = 1.0 - 1e-6  # no estimate of the miniature is that sure of its class at the first evaluation


def is_plain(latents):
    """Zero, but for the rounding of a last step from latents of the size of the noise."""
    return float(latents.abs().max()) < 1e-6


def calls_of(guider):
    """The noise levels at which the diffusion model runs, filled by a run."""
    from comfy.patcher_extension import WrappersMP

    levels = []

    def count(executor, x, t, *args, **kwargs):
        levels.append(float(t.flatten()[0]))
        return executor(x, t, *args, **kwargs)

    guider.model_patcher.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "count", count)
    guider.model_options = guider.model_patcher.model_options
    return levels


@pytest.mark.parametrize("sampler", ["euler", "dpmpp_2m"])
def test_a_hopeless_image_costs_nothing_more_and_is_plain(world, sampler):
    guider = ours(world, give_up_below=ALL)
    levels = calls_of(guider)
    result = run(guider, noise_for(1), sampler)
    trace = guider.trace
    first = trace.calls[0].sigma
    assert levels and min(levels) == first and len(trace.calls) == 1
    assert trace.skipped == sum(0 < sigma < first for sigma in trace.sigmas) > 0
    assert trace.given_up == trace.calls[0].probability and is_plain(result)
    said = (
        f"1 of 1 image given up below {ALL:g}: not finished, {trace.skipped} of {trace.model_calls} model calls saved"
    )
    assert said in trace.summary()


def test_the_others_of_a_batch_are_as_without_it(exact, rounding):
    noise = noise_for(3)
    plain = ours(exact)
    expected = run(plain, noise)
    first = plain.trace.calls[0].probability
    limit = sum(sorted(first)[:2]) / 2  # one of them is below
    guider = ours(exact, give_up_below=limit)
    result = run(guider, noise)
    lost = first.index(min(first))
    kept = [i for i in range(3) if i != lost]
    assert [p is not None for p in guider.trace.given_up] == [i == lost for i in range(3)]
    assert same(result[kept], expected[kept], rounding)
    assert is_plain(result[lost]) and guider.trace.skipped == 0
    own = [guider.trace.of_image(i, 7) for i in range(3)]
    assert own[lost].given_up == [first[lost]] and own[kept[0]].given_up == [None]
    assert ["given up" in trace.summary() for trace in own] == [i == lost for i in range(3)]


def test_a_batch_of_which_no_image_is_left_ends(world):
    guider = ours(world, give_up_below=ALL)
    levels = calls_of(guider)
    assert is_plain(run(guider, noise_for(3)))
    assert min(levels) == guider.trace.calls[0].sigma and guider.trace.skipped > 0


def test_a_run_that_continues_does_not_begin_them_again(world):
    import comfy.samplers

    guider = ours(world, give_up_below=ALL)
    model = guider.model_patcher
    sigmas = comfy.samplers.KSampler(model, 12, model.load_device, "euler", "karras", 1.0).sigmas
    sampler, noise = comfy.samplers.sampler_object("euler"), noise_for(1)
    with torch.inference_mode():
        half = guider.sample(noise, torch.zeros_like(noise), sampler, sigmas[:10], None, None, True, seed=1)
        assert guider.trace.given_up
        levels = calls_of(guider)
        rest = guider.sample(torch.zeros_like(noise), half, sampler, sigmas[9:], None, None, True, seed=1)
    assert not levels and is_plain(rest) and guider.trace.given_up


def test_a_guided_model_gives_up_too(world):
    from higfa_core.comfy.patch import guide_model
    from higfa_core.guidance.settings import Guidance

    model, slot = guide_model(world.model, world.classifier, [world.name], world.vae, Guidance(give_up_below=ALL))
    guider = stock(world, world.positive, world.negative)
    guider.model_patcher = model
    guider.model_options = model.model_options
    assert is_plain(run(guider, noise_for(1))) and slot.trace.skipped > 0
