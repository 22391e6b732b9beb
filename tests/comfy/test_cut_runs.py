"""One run cut into several samplers, as SplitSigmas and KSampler (Advanced) do, is the uncut run."""

import pytest
import torch

from ..numeric import relative

STEPS, SETTINGS = 10, {"interval": 2, "smoothing": 0.5, "max_evals": 3, "eta": 1.0}


def cut_in(zoo, guider, family, noise, cuts, sampler="euler"):
    """The guider's result where the schedule is cut after those steps; each part without noise but the first."""
    sigmas, latent = zoo.levels(family, STEPS), None
    for start, end in zip([0, *cuts], [*cuts, STEPS], strict=True):
        latent = zoo.run(guider, noise, sigmas[start : end + 1], sampler, latent)
        noise = torch.zeros_like(noise)
    return latent


@pytest.mark.parametrize("sampler", ["euler", "heun"])
@pytest.mark.parametrize(("cuts", "more"), [([2], {}), ([6], {}), ([7], {"branch_interval": 3}), ([5, 8], {})])
def test_the_guider_cut_is_the_guider(zoo, family, classifier, cuts, more, sampler):
    """The parts know their own steps only: when to evaluate, the direction and the confidence come from before."""
    noise = family.latents(2)
    guider = zoo.ours(family, classifier, start_percent=0.4, **SETTINGS, **more)
    whole = cut_in(zoo, guider, family, noise, [], sampler)
    evaluated = [call.sigma for call in guider.trace.calls if call.evaluated]
    assert len(evaluated) == 3
    stock = cut_in(zoo, zoo.stock(family), family, noise, [], sampler)
    rounding = relative(cut_in(zoo, zoo.stock(family), family, noise, cuts, sampler), stock)
    parts = cut_in(zoo, guider, family, noise, cuts, sampler)
    assert relative(parts, whole) < 1e-5 + 10 * rounding < 1e-3 < relative(whole, stock)
    assert "continues the run that ended at sigma" in guider.trace.summary()
    in_parts = [call.sigma for run in list(guider.slot.runs)[1:] for call in run.calls if call.evaluated]
    assert in_parts == evaluated


def test_ksampler_advanced_with_a_guided_model(zoo, family, classifier, core_nodes):
    from higfa_core.comfy.patch import guide_model
    from higfa_core.guidance.settings import Guidance

    settings = Guidance(start_percent=0.3, **SETTINGS)
    model, slot = guide_model(family.model, classifier, ["Wren"], family.vae, settings)
    latent, sample = {"samples": torch.zeros(1, *family.shape)}, core_nodes["KSamplerAdvanced"]().sample
    run = "euler", "normal", family.positive, family.negative

    def part(latent, start, end, first, last):
        with torch.inference_mode():
            noise, leftover = ("enable" if first else "disable"), ("disable" if last else "enable")
            return sample(model, noise, 5, STEPS, 3.0, *run, latent, start, end, leftover)[0]

    whole = part(latent, 0, STEPS, True, True)["samples"]
    assert slot.trace.calls
    parts = part(part(latent, 0, 5, True, False), 5, STEPS, False, True)["samples"]
    assert relative(parts, whole) < 1e-5
    assert slot.trace.notes == [f"continues the run that ended at sigma {slot.trace.sigmas[0]:.3f}"]


@pytest.mark.parametrize("change", ["noise", "latent", "level"])
def test_what_is_not_the_rest_of_a_run_starts_over(zoo, family, classifier, change):
    noise, sigmas = family.latents(), zoo.levels(family, STEPS)
    guider = zoo.ours(family, classifier, start_percent=0.4, **SETTINGS)
    first = zoo.run(guider, noise, sigmas[:7])
    latent = first * 1.01 if change == "latent" else first
    rest = sigmas[7:] if change == "level" else sigmas[6:]
    again = noise if change == "noise" else torch.zeros_like(noise)
    zoo.run(guider, again, rest, latent=latent)
    assert guider.trace.calls[0].evaluated and "continues" not in guider.trace.summary()
