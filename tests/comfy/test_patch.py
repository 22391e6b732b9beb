"""Guide Model with Classifier under ComfyUI's own samplers, guiders and patches."""

import itertools

import pytest
import torch

from ..numeric import same, with_rounding
from .guiding import CFG, STEPS, noise_for, ours, run, stock


def guided(world, model=None, **settings):
    from higfa_core.comfy.patch import guide_model
    from higfa_core.guidance.settings import Guidance

    return guide_model(model or world.model, world.classifier, [world.name], world.vae, Guidance(**settings))


def with_model(guider, model):
    """The same guider class and conditions on another model."""
    guider.model_patcher, guider.model_options = model, model.model_options
    return guider


def ksampler(model, world, sampler="euler"):
    import nodes

    with torch.inference_mode():
        latent = {"samples": torch.zeros(1, 8, 16, 16)}
        args = 5, STEPS, CFG, sampler, "karras", world.on_positive, world.empty, latent
        return nodes.KSampler().sample(model, *args)[0]["samples"]


@pytest.mark.releases
class TestStockKSampler:
    def test_eta_zero_is_the_unpatched_run(self, world):
        model, slot = guided(world, eta=0.0)
        assert torch.equal(ksampler(model, world), ksampler(world.model, world))
        assert slot.trace.calls and slot.trace.w_text is None

    def test_raises_the_confidence_within_the_window(self, world):
        (plain, before), (model, after) = guided(world, eta=0.0), guided(world, eta=1.0, interval=1)
        ksampler(plain, world), ksampler(model, world)
        assert after.trace.probability[0] > before.trace.probability[0]
        on, off = after.trace.window
        assert [c.sigma for c in after.trace.calls] == [s for s in after.trace.sigmas[:-1] if off < s <= on]

    def test_is_the_guider_with_constant_weights(self, world):
        """The same engine either way: HiGFA Guider without modulation adds the same steps."""
        noise = noise_for(2)
        model, _ = guided(world, eta=0.5, preset="constant")
        patched = run(with_model(stock(world, world.on_positive, world.empty), model), noise)
        assert torch.equal(patched, run(ours(world, eta=0.5, preset="constant"), noise))

    def test_twice_is_bit_equal_and_leaves_nothing_behind(self, world):
        from comfy.patcher_extension import WrappersMP

        model, slot = guided(world, eta=1.0)
        options = repr(model.model_options)
        first = ksampler(model, world)
        trace = slot.trace
        assert torch.equal(first, ksampler(model, world))
        assert slot.trace is not trace and slot.trace.calls[-1].probability == trace.calls[-1].probability
        assert not model.get_all_wrappers(WrappersMP.PREDICT_NOISE) and repr(model.model_options) == options
        assert not world.model.get_all_wrappers(WrappersMP.SAMPLER_SAMPLE)

    def test_heun_calls_between_steps(self, world):
        model, slot = guided(world, eta=0.5, interval=1, max_evals=3)
        assert torch.isfinite(ksampler(model, world, "heun")).all()
        assert slot.trace.model_calls > STEPS and slot.trace.evaluations == 3

    def test_each_latent_tells_its_run(self, world):
        model, slot = guided(world)
        first, second = ksampler(model, world), ksampler(model, world, "heun")
        calls = [slot.run_of(latent).model_calls for latent in (first, second)]
        assert calls == [STEPS, 2 * STEPS - 1]
        with pytest.raises(ValueError, match="2 runs, none of which"):
            slot.run_of(ksampler(world.model, world))


@pytest.mark.releases
class TestOtherGuiders:
    def guiders(self, world):
        import comfy_extras.nodes_custom_sampler as custom
        import comfy_extras.nodes_perpneg as perpneg

        dual = custom.Guider_DualCFG(world.model)
        dual.set_conds(world.on_positive, world.text, world.empty)
        dual.set_cfg(2.0, CFG)
        neg = perpneg.Guider_PerpNeg(world.model)
        neg.set_conds(world.on_positive, world.empty, world.empty)
        neg.set_cfg(CFG, 0.5)
        basic = custom.Guider_Basic(world.model)
        basic.set_conds(world.on_positive)
        return {"dual": dual, "perpneg": neg, "basic": basic}

    @pytest.mark.parametrize("name", ["dual", "perpneg", "basic"])
    def test_step_is_added_to_their_prediction(self, world, name):
        noise = noise_for(1)
        before = run(self.guiders(world)[name], noise)
        measured, _ = guided(world, eta=0.0)
        assert torch.equal(run(with_model(self.guiders(world)[name], measured), noise), before)
        model, slot = guided(world, eta=1.0)
        assert not torch.equal(run(with_model(self.guiders(world)[name], model), noise), before)
        assert slot.trace.calls


def apg(model, world):
    import comfy_extras.nodes_apg as nodes_apg

    return nodes_apg.APG.execute(model, 0.5, 5.0, -0.3)[0]


def pag(model, world):
    import comfy_extras.nodes_pag as nodes_pag

    return nodes_pag.PerturbedAttentionGuidance.execute(model, 2.0)[0]


def rescale(model, world):
    import comfy_extras.nodes_model_advanced as advanced

    return advanced.RescaleCFG().patch(model, 0.5)[0]


def guide(model, world):
    return guided(world, model, eta=1.0)[0]


class TestStacked:
    def test_order_of_the_nodes_does_not_matter(self, world):
        """Ours before, after and between APG, RescaleCFG and PAG, which keep their own order."""
        noise, turn = noise_for(1), itertools.cycle([1, 2])
        for others in itertools.permutations([apg, pag, rescale]):
            results = []
            for place in (0, next(turn), 3):
                model = world.model
                for patch in (*others[:place], guide, *others[place:]):
                    model = patch(model, world)
                guider = with_model(stock(world, world.on_positive, world.empty), model)
                results.append(run(guider, noise, steps=4))
            first, *rest = results
            assert torch.isfinite(first).all() and all(torch.equal(first, result) for result in rest)

    @pytest.mark.parametrize("patch", [apg, pag, rescale])
    def test_our_guider_notices_no_seam(self, exact, patch):
        """Where the classifier is satisfied, the three-branch final stage gives what stock gives with that patch."""
        import copy

        satisfied = copy.copy(exact.classifier)
        satisfied.logits = lambda images, params=None: (
            images.mean((1, 2, 3))[:, None] * 0
            + torch.tensor([100.0 if name == exact.name else 0.0 for name in exact.names])
        )
        model, noise = patch(exact.model, exact), noise_for(1)
        patched = with_model(stock(exact, exact.on_positive, exact.empty), model)
        expected, rounding = with_rounding(lambda noise: run(patched, noise, steps=6), noise)
        guider = ours(exact, classifier=satisfied, model=patch(exact.model, exact))
        result = run(guider, noise, steps=6)
        assert guider.trace.probability == [1.0]
        assert same(result, expected, rounding)


@pytest.mark.releases
class TestBadInput:
    def test_guided_twice(self, world):
        model, _ = guided(world)
        with pytest.raises(ValueError, match="already guided"):
            guided(world, model)
        with pytest.raises(ValueError, match="already guided by Guide Model"):
            ours(world, model=model)

    def test_unknown_class(self, world):
        from higfa_core.comfy.patch import guide_model
        from higfa_core.guidance.settings import Guidance

        with pytest.raises(ValueError, match="No class 'Dodo'"):
            guide_model(world.model, world.classifier, ["Dodo"], world.vae, Guidance())

    def test_video_latent(self, world):
        model, _ = guided(world)
        with pytest.raises(ValueError, match="single images.*1, 8, 2, 16, 16"):
            run(with_model(stock(world, world.text, world.empty), model), torch.randn(1, 8, 2, 16, 16))

    def test_cancel_reaches_the_user(self, world):
        import comfy.model_management as mm

        model, slot = guided(world, interval=1)
        guider = with_model(stock(world, world.on_positive, world.empty), model)

        def callback(step, x0, x, total):
            if step == 8:
                mm.interrupt_current_processing(True)

        with pytest.raises(mm.InterruptProcessingException):
            run(guider, noise_for(1), callback=callback)
        assert slot.trace.calls, "what happened before the cancel is kept"
