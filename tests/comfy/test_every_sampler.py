"""Every sampler with every scheduler through the guider, on data N(m, 1) with its exact denoiser (zoo.py).

On the flow model, whose guider differs in nothing but the noise levels, a sampler meets every third scheduler.
What ComfyUI itself cannot run at this few steps is found by running it, and printed.
"""

import pytest
import torch

SAMPLERS = (
    "euler", "euler_cfg_pp", "euler_ancestral", "euler_ancestral_cfg_pp", "heun", "heunpp2", "exp_heun_2_x0",
    "exp_heun_2_x0_sde", "dpm_2", "dpm_2_ancestral", "lms", "dpm_fast", "dpm_adaptive", "dpmpp_2s_ancestral",
    "dpmpp_2s_ancestral_cfg_pp", "dpmpp_sde", "dpmpp_sde_gpu", "dpmpp_2m", "dpmpp_2m_cfg_pp", "dpmpp_2m_sde",
    "dpmpp_2m_sde_gpu", "dpmpp_2m_sde_heun", "dpmpp_2m_sde_heun_gpu", "dpmpp_3m_sde", "dpmpp_3m_sde_gpu", "ddpm",
    "lcm", "ipndm", "ipndm_v", "deis", "res_multistep", "res_multistep_cfg_pp", "res_multistep_ancestral",
    "res_multistep_ancestral_cfg_pp", "gradient_estimation", "gradient_estimation_cfg_pp", "er_sde", "seeds_2",
    "seeds_3", "sa_solver", "sa_solver_pece", "ddim", "uni_pc", "uni_pc_bh2",
)  # fmt: skip
STEPS, START, END = 5, 0.3, 0.05
pytestmark = [pytest.mark.filterwarnings(f"ignore:::{owner}") for owner in ("comfy", "torchsde")]


@pytest.fixture(scope="module")
def classifier(zoo):
    return zoo.linear_classifier()


@pytest.fixture(scope="module", params=["gaussian", "gaussian_flow"])
def family(request, zoo):
    return zoo.family(request.param)


def outcome(zoo, guider, noise, sigmas, sampler) -> tuple[torch.Tensor | None, str]:
    """The sample, or why there is none: "" if all is well."""
    try:
        result = zoo.run(guider, noise, sigmas, sampler)
    except Exception as error:  # whatever a sampler raises is what is asked for
        return None, f"{type(error).__name__}: {error}"
    return result, "" if result.isfinite().all() else "not finite"


def inside(family, sigmas: list[float]) -> list[float]:
    """The noise levels in the guided window, by ComfyUI's own percent_to_sigma."""
    on = family.model.get_model_object("model_sampling").percent_to_sigma(START)
    off = END / (1 + END) if family.shape[0] == 16 else END
    return [s for s in sigmas if off < s <= float(torch.tensor(on))]


@pytest.mark.releases
def test_no_sampler_is_missing_here(comfyui):
    import comfy.samplers

    assert set(comfy.samplers.SAMPLER_NAMES) <= set(SAMPLERS)


def test_what_comfyui_cannot_run_is_found(zoo):
    """kl_optimal divides by steps - 1."""
    family = zoo.family("gaussian")
    assert outcome(zoo, zoo.stock(family), family.latents(), zoo.levels(family, 1, "kl_optimal"), "euler")[1]


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_sampler(zoo, classifier, family, sampler, capsys):
    import comfy.samplers

    if sampler not in comfy.samplers.SAMPLER_NAMES:
        pytest.skip("not in this ComfyUI")
    noise, settings = family.latents(2), {"start_percent": START, "end_sigma": END}
    cannot, guided_with = {}, []
    schedulers = comfy.samplers.SCHEDULER_NAMES
    if family.shape[0] == 16:
        schedulers = schedulers[SAMPLERS.index(sampler) % 3 :: 3]
    for scheduler in schedulers:
        sigmas = zoo.levels(family, STEPS, scheduler, sampler=sampler)
        expected, reason = outcome(zoo, zoo.stock(family), noise, sigmas, sampler)
        if reason:
            cannot[scheduler] = reason
            continue
        assert torch.equal(zoo.run(zoo.ours(family, None, **settings), noise, sigmas, sampler), expected)
        unmoved = zoo.ours(family, classifier, eta=0.0, preset="constant", **settings)
        assert torch.equal(zoo.run(unmoved, noise, sigmas, sampler), expected), scheduler

        guider, seen = zoo.ours(family, classifier, eta=0.5, **settings), []
        result = zoo.run(guider, noise, sigmas, sampler, seen=seen)
        assert result.isfinite().all() and result.shape == noise.shape, scheduler
        assert [call.sigma for call in guider.trace.calls] == inside(family, seen), scheduler
        assert torch.equal(result, expected) != bool(guider.trace.calls), scheduler
        guided_with += [scheduler] * bool(guider.trace.calls)
    assert len(guided_with) + len(cannot) >= len(schedulers) - 2, (guided_with, cannot)
    if cannot:
        with capsys.disabled():
            print(f"\nComfyUI's own guider cannot run {sampler} in {STEPS} steps:", cannot)
