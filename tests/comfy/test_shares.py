"""branch_interval: which branches run at a guided call, and what stands in for those that do not."""

import pytest
import torch

from ..numeric import same
from .guiding import CFG, noise_for, ours, run

UNSURE = {"eta": 0.0, "p_stop": 1.0}  # the classifier measures and is never satisfied: all three weights move


def images_of_each_call(guider, noise):
    """How many images go through the diffusion model at each guided call of a run."""
    from comfy.patcher_extension import WrappersMP

    seen = {}

    def count(executor, x, t, *args, **kwargs):
        seen[float(t.flatten()[0])] = seen.get(float(t.flatten()[0]), 0) + len(x)
        return executor(x, t, *args, **kwargs)

    guider.model_patcher.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "count", count)
    guider.model_options = guider.model_patcher.model_options
    run(guider, noise)
    return [count for level, count in seen.items() if level in [call.sigma for call in guider.trace.calls]]


@pytest.mark.parametrize(
    ("preset", "every", "between"), [("constant", 2, 1), ("relax", 3, 1)], ids=["constant", "relax"]
)
def test_only_text_with_contour_runs_in_between(world, preset, every, between):
    counts = images_of_each_call(ours(world, preset=preset, branch_interval=3, **UNSURE), noise_for(1))
    assert counts == [(between if i % 3 else every) for i in range(len(counts))] and len(counts) > 3


def keeping(model, inside):
    """ComfyUI's guider; inside the window every second call adds the last call's cond - uncond to cond."""
    import comfy.samplers

    class Keeping(comfy.samplers.CFGGuider):
        calls = 0

        def predict_noise(self, x, timestep, model_options={}, seed=None):  # noqa: B006
            conds = [self.conds["positive"], self.conds["negative"]]
            cond, uncond = comfy.samplers.calc_cond_batch(self.inner_model, conds, x, timestep, model_options)
            if float(timestep.flatten()[0]) in inside:
                self.calls += 1
                if self.calls % 2 == 0:
                    return cond + (self.cfg - 1) * self.kept
            self.kept = cond - uncond
            return uncond + self.cfg * self.kept

    return Keeping(model.clone())


def test_what_stands_in_is_the_last_difference(exact, rounding):
    guider = ours(exact, preset="constant", branch_interval=2, eta=0.0)
    result = run(guider, noise_for(1), steps=6)
    expected = keeping(exact.model, [call.sigma for call in guider.trace.calls])
    expected.set_conds(exact.on_positive, exact.empty)
    expected.set_cfg(CFG)
    assert same(result, run(expected, noise_for(1), steps=6), rounding)
    assert not same(result, run(ours(exact, preset="constant", eta=0.0), noise_for(1), steps=6), rounding)


def test_a_contour_that_was_not_needed_is_made_when_it_is(exact):
    """Satisfied images have no contour share; one that stops being satisfied gets its own, at any call."""
    from higfa_core.comfy.shares import Shares

    made = []

    def share(value):
        return lambda: made.append(value) or torch.full((2,), float(value))

    shares = Shares(2)
    assert shares.of_contour([0], share(1))[0] == 1 and shares.of_contour([0], share(2))[0] == 1
    assert shares.of_contour([0, 1], share(3))[1] == 3 and shares.of_contour([1], share(4))[1] == 3
    shares.calls = 2
    shares.pair([None, None], lambda pair: pair)
    assert shares.of_contour(None, share(5))[0] == 5 and shares.of_contour([1], share(6))[0] == 5
    assert made == [1, 3, 5]


def test_workflows_from_before_the_setting_run(pack):
    node = pack.nodes["HiGFA_Guidance"]
    declared = {item.id: item for item in node.GET_SCHEMA().inputs}
    assert [name for name, item in declared.items() if item.optional] == [
        "branch_interval",
        "control_interval",
        "give_up_below",
    ]
    old = {name: item.default for name, item in declared.items() if not item.optional}
    made = node.execute(**old).args[0]
    assert (made.branch_interval, made.control_interval, made.give_up_below) == (1, 1, 0)
