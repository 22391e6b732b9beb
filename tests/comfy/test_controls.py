"""control_interval: at which guided calls the ControlNet runs, and what stands in for it in between."""

import pytest
import torch

from ..numeric import same
from .guiding import CFG, noise_for, ours, run

UNSURE = {"eta": 0.0, "p_stop": 1.0}  # the classifier measures and is never satisfied: all three weights move
STEADY = {"eta": 0.0, "preset": "constant"}

pytestmark = pytest.mark.releases


def steps_with_control(world, guider, noise):
    """The guided steps at which the ControlNet runs, and all guided steps."""
    seen, net = [], world.positive[0][1]["control"].control_model
    handle = net.register_forward_hook(lambda *_: seen.append(guider.trace.model_calls - 1))
    run(guider, noise)
    handle.remove()
    guided = guider.trace.guided_steps
    return [step for step in seen if step in guided], guided


class Remembering:
    """A control whose answer is that of the latest odd call inside the window."""

    def __init__(self, control, inside):
        self.control, self.inside, self.calls, self.last = control, inside, 0, None

    def __getattr__(self, name):
        return getattr(self.control, name)

    def get_control(self, x, t, *others):
        if float(t[0]) not in self.inside:
            return self.control.get_control(x, t, *others)
        self.calls += 1
        if self.calls % 2:
            self.last = self.control.get_control(x, t, *others)
        return {part: list(values) for part, values in self.last.items()}


def stock_with(world, positive, negative, inside):
    """ComfyUI's guider, with the contours of these conditionings Remembering."""
    import comfy.samplers

    made = {}

    def remembering(conditioning):
        return [
            [text, {**o, "control": made.setdefault(o["control"], Remembering(o["control"], inside))}]
            if "control" in o
            else [text, o]
            for text, o in conditioning
        ]

    guider = comfy.samplers.CFGGuider(world.model.clone())
    guider.set_conds(remembering(positive), remembering(negative))
    guider.set_cfg(CFG)
    return guider


@pytest.mark.parametrize(
    "settings",
    [STEADY, UNSURE, {**UNSURE, "branch_interval": 2}, {**STEADY, "contour_scale": 0.5}],
    ids=["constant", "relax", "with branch_interval", "contour apart"],
)
def test_it_runs_at_every_third_guided_call(world, settings):
    guider = ours(world, control_interval=3, **settings)
    ran, guided = steps_with_control(world, guider, noise_for(2))
    assert ran == guided[::3] and len(ran) > 1


def test_joint_runs_it_once_for_both_branches(world):
    guider = ours(world, control_interval=3, composition="joint", **STEADY)
    ran, guided = steps_with_control(world, guider, noise_for(1))
    assert ran == guided[::3]


@pytest.mark.parametrize("composition", ["nested", "joint"])
def test_what_stands_in_is_the_last_output(exact, rounding, composition):
    options = {"composition": composition, **STEADY}
    guider = ours(exact, control_interval=2, **options)
    result = run(guider, noise_for(2), steps=6)
    inside = [call.sigma for call in guider.trace.calls]
    conds = (exact.on_positive, exact.empty) if composition == "nested" else (exact.positive, exact.negative)
    assert len(inside) > 1 and same(result, run(stock_with(exact, *conds, inside), noise_for(2), steps=6), rounding)
    assert not same(result, run(ours(exact, **options), noise_for(2), steps=6), rounding)


def test_a_contour_that_ends_inside_the_window_ends_there(world):
    """At 0.9 of the schedule, whatever was kept from before."""
    from comfy.patcher_extension import WrappersMP

    import nodes

    control, hint = world.positive[0][1]["control"], torch.zeros(1, 128, 128, 3)
    hint[:, 40:90, 40:44] = 1.0
    apply = nodes.ControlNetApplyAdvanced().apply_controlnet
    positive, negative = apply(world.text, world.empty, control, hint, 1.0, 0.0, 0.9)
    guider, seen = ours(world, positive, negative, control_interval=10, **STEADY), {}

    def look(executor, x, t, *args, **kwargs):
        level = float(t.flatten()[0])
        seen[level] = seen.get(level, False) or any(isinstance(value, dict) and "output" in value for value in args)
        seen[level] |= kwargs.get("control") is not None
        return executor(x, t, *args, **kwargs)

    guider.model_patcher.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "look", look)
    guider.model_options = guider.model_patcher.model_options
    run(guider, noise_for(1))
    end = world.model.get_model_object("model_sampling").percent_to_sigma(0.9)
    guided = [call.sigma for call in guider.trace.calls]
    assert [seen[level] for level in guided] == [level >= end for level in guided]
    assert len({level >= end for level in guided}) == 2


def test_runs_and_their_inputs_stay_apart(world):
    """Nothing is left of a run in the conditioning or for the next run."""
    guider, noise = ours(world, control_interval=3, eta=1.0), noise_for(2)
    control = world.positive[0][1]["control"]
    first = run(guider, noise)
    assert torch.equal(run(guider, noise), first) and world.positive[0][1]["control"] is control


def test_a_cut_run_is_the_uncut_run(world):
    """The second part begins with what the ControlNet added in the first."""
    import comfy.samplers

    def sample(noise, latent, sigmas):
        with torch.inference_mode():
            sampler = comfy.samplers.sampler_object("euler")
            return guider.sample(noise, latent, sampler, sigmas, disable_pbar=True, seed=1)

    guider, noise = ours(world, control_interval=4, eta=1.0), noise_for(1)
    whole = run(guider, noise)
    sigmas, cut = torch.tensor(guider.trace.sigmas), guider.trace.guided_steps[2]
    half = sample(noise, torch.zeros_like(noise), sigmas[: cut + 1])
    parts = sample(torch.zeros_like(noise), half, sigmas[cut:])
    assert "continues the run" in guider.trace.summary()
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-4)
    other = run(ours(world, eta=1.0), noise)
    assert (other - whole).abs().max() > 1e-3
