"""The guider on real ComfyUI objects, against ComfyUI's own guiders and samplers."""

import logging
from types import SimpleNamespace

import pytest
import torch

from ..numeric import relative, same, with_rounding
from .guiding import CFG, STEPS, noise_for, ours, run, stock

pytestmark = pytest.mark.releases


class TestEqualsStock:
    """With the classifier's step at zero and nothing modulated, the result is ComfyUI's own, to the last bit."""

    def test_contour_scale_one_is_cfg_with_control_on_the_positive(self, world):
        noise = noise_for(2)
        expected = run(stock(world, world.on_positive, world.empty), noise)
        assert torch.equal(run(ours(world, eta=0.0, preset="constant"), noise), expected)

    def test_dual_cfg(self, world):
        import comfy_extras.nodes_custom_sampler as custom

        dual = custom.Guider_DualCFG(world.model.clone())
        dual.set_conds(world.on_positive, world.text, world.empty)
        dual.set_cfg(CFG * 0.5, CFG)
        noise = noise_for(2)
        assert torch.equal(run(ours(world, eta=0.0, preset="constant", contour_scale=0.5), noise), run(dual, noise))

    def test_text_only(self, world):
        noise = noise_for(1)
        expected = run(stock(world, world.text, world.empty), noise)
        assert torch.equal(run(ours(world, world.text, world.empty, eta=0.0, preset="constant"), noise), expected)
        assert torch.equal(run(ours(world, eta=0.0, preset="constant", contour_scale=0.0), noise), expected)

    def test_joint_is_stock_apply_controlnet(self, world):
        noise = noise_for(1)
        expected = run(stock(world, world.positive, world.negative), noise)
        result = run(ours(world, eta=0.0, preset="constant", composition="joint"), noise)
        assert torch.equal(result, expected)

    def test_no_guided_step(self, world):
        noise = noise_for(1)
        guider = ours(world, end_sigma=50.0)
        assert torch.equal(run(guider, noise), run(stock(world, world.on_positive, world.empty), noise))
        assert "never ran" in guider.trace.summary() and "start_percent" in guider.trace.summary()

    def test_legacy_control_flag_does_not_leak_into_the_text_branch(self, world):
        legacy = [[t, {**o, "control_apply_to_uncond": True}] for t, o in world.on_positive]
        noise = noise_for(1)
        settings = {"eta": 0.0, "preset": "constant", "contour_scale": 0.5}
        assert torch.equal(
            run(ours(world, legacy, world.empty, **settings), noise),
            run(ours(world, world.on_positive, world.empty, **settings), noise),
        )


class TestFinalStage:
    def test_classifier_changes_the_result_and_raises_its_own_confidence(self, world):
        noise = noise_for(4)
        plain, guided = ours(world, eta=0.0, preset="constant"), ours(world, eta=1.0, interval=1)
        before, after = run(plain, noise), run(guided, noise)
        assert not torch.equal(before, after)
        assert sum(guided.trace.probability) > sum(plain.trace.probability)

    def test_decoder_and_classifier_are_not_called_outside(self, world):
        seen, made, guider = [], [], ours(world, interval=1, max_evals=100, decoder="vae")

        def classified(*_):
            seen.append(float(guider.trace.sigmas[guider.trace.model_calls - 1]))

        decoder = world.vae.first_stage_model.decoder
        with (
            world.classifier.module.register_forward_pre_hook(classified),
            decoder.register_forward_pre_hook(lambda *_: made.append(1)),
        ):
            run(guider, noise_for(1))
        sigma_on = world.model.get_model_object("model_sampling").percent_to_sigma(0.7)
        inside = [s for s in guider.trace.sigmas[:-1] if 0.05 < s <= sigma_on]
        assert seen == inside and len(made) == len(inside) > 2

    def test_fixed_stage_costs_what_stock_costs(self, world):
        """Images through the diffusion model and the ControlNet, outside the window, against CFG + ControlNet."""

        def cost(guider, steps_counted):
            images, calls = [], []

            def count(executor, x, *args, **kwargs):
                images.append(len(x))
                return executor(x, *args, **kwargs)

            import comfy.patcher_extension as extension

            guider.model_patcher.add_wrapper_with_key(extension.WrappersMP.APPLY_MODEL, "count", count)
            guider.model_options = guider.model_patcher.model_options
            control = world.positive[0][1]["control"].control_model
            handle = control.register_forward_hook(lambda m, a, o: calls.append(1))
            run(guider, noise_for(1), steps=STEPS, callback=steps_counted(images, calls))
            handle.remove()

        counts = {}

        def until(name, last):
            def make(images, calls):
                def callback(step, x0, x, total):
                    if step == last:
                        counts[name] = (sum(images), len(calls))

                return callback

            return make

        guider = ours(world)
        run(guider, noise_for(1))
        last_fixed = guider.trace.guided_steps[0] - 1
        cost(ours(world), until("ours", last_fixed))
        cost(stock(world, world.on_positive, world.empty), until("stock", last_fixed))
        assert counts["ours"] == counts["stock"]
        assert counts["ours"][0] == 2 * (last_fixed + 1)

    def test_batch_equals_single_runs(self, exact, rounding):
        noise = noise_for(3)
        names = [exact.names[i] for i in (2, 7, 13)]
        guider = ours(exact, names=names, eta=0.25)
        together = run(guider, noise, steps=6)
        assert guider.trace.calls
        for i, name in enumerate(names):
            single = run(ours(exact, names=[name], eta=0.25), noise[i : i + 1], steps=6)
            assert same(together[i : i + 1], single, rounding)

    def test_neighbours_in_a_batch_do_not_matter(self, exact, rounding):
        """Other targets and other noise beside it; satisfied neighbours make batches smaller: float noise."""
        noise, other = noise_for(3), noise_for(3, seed=9)
        other[0] = noise[0]
        one = run(ours(exact, names=[exact.names[i] for i in (2, 7, 13)], eta=1.0), noise, steps=6)
        two = run(ours(exact, names=[exact.names[i] for i in (2, 0, 4)], eta=1.0), other, steps=6)
        assert same(one[0], two[0], rounding) and not same(one[1], two[1], rounding)

    def test_micro_batches_change_nothing(self, exact, rounding):
        noise = noise_for(3)
        one, all_at_once = (run(ours(exact, micro_batch=size), noise, steps=6) for size in (1, 64))
        assert same(one, all_at_once, rounding)

    def test_same_guider_twice_is_bit_equal(self, world):
        guider, noise = ours(world, eta=1.0), noise_for(2)
        assert torch.equal(run(guider, noise), run(guider, noise))

    def test_nothing_of_the_inputs_is_changed(self, world):
        keys = [sorted(o) for _, o in world.positive]
        strength = world.positive[0][1]["control"].strength
        options = repr(sorted(world.model.model_options))
        run(ours(world, eta=1.0), noise_for(1))
        assert [sorted(o) for _, o in world.positive] == keys
        assert world.positive[0][1]["control"].strength == strength
        assert repr(sorted(world.model.model_options)) == options

    @pytest.mark.parametrize("sampler", ["heun", "dpmpp_2m_sde", "euler_cfg_pp", "dpm_2", "uni_pc", "ddim", "lcm"])
    def test_samplers_run_finite(self, world, sampler):
        guider = ours(world, eta=0.5)
        assert torch.isfinite(run(guider, noise_for(1), sampler=sampler, steps=8)).all()
        assert guider.trace.calls

    def test_post_cfg_patches_still_run(self, world):
        seen = []
        model = world.model.clone()
        model.set_model_sampler_post_cfg_function(lambda args: seen.append(1) or args["denoised"])
        guider = ours(world, model=model)
        run(guider, noise_for(1))
        assert len(seen) == guider.trace.model_calls == STEPS


def rescale(model):
    import comfy_extras.nodes_model_advanced as advanced

    return advanced.RescaleCFG().patch(model, 1.0)[0]


def pag(model):
    import comfy_extras.nodes_pag as nodes_pag

    return nodes_pag.PerturbedAttentionGuidance.execute(model, 2.0)[0]


def apg(model):
    import comfy_extras.nodes_apg as nodes_apg

    return nodes_apg.APG.execute(model, 0.0, 2.0, 0.0)[0]


class TestPatches:
    """Patches of the model do in the final stage, and beside a contour with a weight of its own, what they do early."""

    @pytest.mark.parametrize("patch", [rescale, pag])
    def test_classifier_sees_the_fixed_weights_and_the_sampler_follows_the_moved_ones(self, exact, patch, monkeypatch):
        from higfa_core.comfy.corrector import Corrector

        seen, first = [], []
        original = Corrector.__call__
        monkeypatch.setattr(Corrector, "__call__", lambda self, *args: seen.append(args[0]) or original(self, *args))
        model, noise = patch(exact.model), noise_for(1)
        conds = SimpleNamespace(model=model), exact.on_positive, exact.empty
        fixed = run(stock(*conds), noise, steps=4, callback=lambda step, x0, x, total: first.append(x0.clone()))
        # Whatever the confidence, 1 + (3 - 1) / 2 and 3 * 2 / 3 are 2.
        halved = {"text_a0": 0.5, "text_a1": 0.5, "contour_a0": 2 / 3, "contour_a1": 2 / 3}
        guider = ours(exact, model=model, start_percent=0.0, end_sigma=0.0, eta=0.0, preset="custom", **halved)
        result = run(guider, noise, steps=4)
        moved, rounding = with_rounding(lambda noise: run(stock(*conds, cfg=2.0), noise, steps=4), noise)
        assert same(seen[0], first[0], rounding) and same(result, moved, rounding)
        assert relative(moved, fixed) > 1e-3

    @pytest.mark.parametrize("contour_scale", [1.0, 0.5])
    def test_of_the_branches(self, exact, contour_scale):
        """All scaled alike, the estimate is scaled; such a patch is asked for two branches, as by stock."""
        import comfy.samplers
        import comfy_extras.nodes_custom_sampler as custom
        from comfy.patcher_extension import WrappersMP

        def scaled(args):
            positive, negative = args["conds"]
            assert positive is not None
            options = args["input"], args["sigma"], args["model_options"]
            return [0.9 * out for out in comfy.samplers.calc_cond_batch(args["model"], args["conds"], *options)]

        model, noise = exact.model.clone(), noise_for(1)
        model.set_model_sampler_calc_cond_batch_function(scaled)
        dual = custom.Guider_DualCFG(exact.model.clone())
        dual.set_conds(exact.on_positive, exact.text, exact.empty)
        dual.set_cfg(CFG * contour_scale, CFG)
        dual.model_patcher.add_wrapper_with_key(
            WrappersMP.PREDICT_NOISE, "scaled", lambda executor, *args, **kwargs: 0.9 * executor(*args, **kwargs)
        )
        # Below chance p_stop counts every classifier as satisfied: `relax` gives the fixed weights.
        guider = ours(exact, model=model, contour_scale=contour_scale, p_stop=0.01)
        expected, rounding = with_rounding(lambda noise: run(dual, noise, steps=6), noise)
        assert same(run(guider, noise, steps=6), expected, rounding)
        assert guider.trace.calls

    @pytest.mark.parametrize("contour_scale", [1.0, 0.5])
    def test_a_contour_of_strength_zero_stays_none_beside_apg(self, exact, contour_scale):
        from higfa_core.comfy.conditioning import scaled_control

        model, noise = apg(exact.model), noise_for(1)
        settings = {"model": model, "eta": 0.0, "preset": "custom", "contour_a0": 0.2, "contour_a1": 0.2}
        text_only = ours(exact, exact.text, exact.empty, **settings)
        expected, rounding = with_rounding(lambda noise: run(text_only, noise, steps=6), noise)
        silent = scaled_control([exact.on_positive], 0.0)[0]
        result = run(ours(exact, silent, exact.empty, contour_scale=contour_scale, **settings), noise, steps=6)
        assert same(result, expected, rounding)
        assert relative(expected, run(stock(exact, exact.text, exact.empty), noise, steps=6)) > 1e-3


class TestTrace:
    def test_records_the_guided_calls(self, world):
        guider = ours(world, names=list(world.names[:2]), eta=0.5, interval=2)
        run(guider, noise_for(2))
        trace = guider.trace
        assert [c.sigma for c in trace.calls] == [trace.sigmas[i] for i in trace.guided_steps]
        assert [c.evaluated for c in trace.calls[:4]] == [True, False, True, False]
        for call in trace.calls:
            assert len(call.probability) == 2 and all(0 <= p <= 1 for p in call.probability)
            assert all(1 <= w <= CFG for w in call.w_text) and all(0 <= w <= CFG for w in call.w_contour)
        assert trace.summary().startswith(f"guided steps {trace.guided_steps[0] + 1}-{trace.guided_steps[-1] + 1} of")

    def test_survives_json(self, world):
        import json

        guider = ours(world)
        run(guider, noise_for(1))
        assert json.loads(guider.trace.to_json())["decoder"] == "tiny"


class TestBadInput:
    def test_unknown_class(self, world):
        with pytest.raises(ValueError, match="Cinder Finsh.*Cinder Finch"):
            ours(world, names=["Cinder Finsh"])

    def test_class_names_do_not_match_the_batch(self, world):
        with pytest.raises(ValueError, match="2 class names for a batch of 3"):
            run(ours(world, names=list(world.names[:2])), noise_for(3))

    def test_no_decoder(self, world, no_tiny_decoder):
        from higfa_core.comfy.guider import HiGFAGuider
        from higfa_core.guidance.settings import Guidance

        guider = HiGFAGuider(world.model, world.classifier, [world.name], None, Guidance())
        guider.set_conds(world.positive, world.negative)
        guider.set_cfg(CFG)
        with pytest.raises(ValueError, match="Connect the VAE"):
            run(guider, noise_for(1))

    def test_tiny_decoder_missing(self, world, no_tiny_decoder):
        with pytest.raises(ValueError, match="'tiny'.*'vae'"):
            run(ours(world, decoder="tiny"), noise_for(1))

    def test_video_latent(self, world):
        noise = torch.randn(1, 8, 2, 16, 16)
        with pytest.raises(ValueError, match="single images"):
            run(ours(world), noise)

    def test_classifier_that_gives_nan_is_left_out(self, exact, rounding):
        import copy

        broken = copy.copy(exact.classifier)
        broken.logits = lambda images, params=None: images.mean((1, 2, 3))[:, None].expand(-1, 32) * float("nan")
        guider = ours(exact, classifier=broken, eta=1.0)
        noise = noise_for(2)
        result = run(guider, noise, steps=6)
        # Confidence counts as 1, so text and contour keep their fixed weights and the result is stock's.
        assert same(result, run(stock(exact, exact.on_positive, exact.empty), noise, steps=6), rounding)
        assert "not finite" in guider.trace.summary()

    def test_diffusion_model_that_gives_nan_does_not_end_the_run(self, world):
        """The sample is lost, its neighbour and the run are not; Export Dataset then refuses the image by name."""
        model = world.model.clone()

        def spoil(executor, x, *args, **kwargs):
            out = executor(x, *args, **kwargs)
            out[0] = float("nan")
            return out

        import comfy.patcher_extension as extension

        model.add_wrapper_with_key(extension.WrappersMP.APPLY_MODEL, "spoil", spoil)
        guider = ours(world, eta=1.0, model=model)
        result = run(guider, noise_for(2))
        assert torch.isnan(result[0]).all() and torch.isfinite(result[1]).all()
        assert "not finite" in guider.trace.summary()


class TestRobust:
    def test_cancel_stops_within_one_step(self, world):
        import comfy.model_management as mm

        guider, steps = ours(world), []

        def callback(step, x0, x, total):
            steps.append(step)
            if step == 2:
                mm.interrupt_current_processing(True)

        with pytest.raises(mm.InterruptProcessingException):
            run(guider, noise_for(1), callback=callback)
        assert steps == [0, 1, 2]
        assert guider.run is None

    def test_cancel_in_the_final_stage(self, world):
        import comfy.model_management as mm

        guider = ours(world, interval=1)
        run(guider, noise_for(1))
        first, steps = guider.trace.guided_steps[0], []

        def callback(step, x0, x, total):
            steps.append(step)
            if step == first:
                mm.interrupt_current_processing(True)

        with pytest.raises(mm.InterruptProcessingException):
            run(guider, noise_for(1), callback=callback)
        assert steps[-1] == first

    def test_out_of_memory_falls_back_and_says_so(self, exact, rounding, caplog, no_tiny_decoder):
        import comfy.model_management as mm

        sizes = []

        def decode(module, arguments):
            sizes.append(len(arguments[0]))
            raise mm.OOM_EXCEPTION("no memory")

        guider, noise = ours(exact, eta=1.0, micro_batch=4), noise_for(4)
        decoder = exact.vae.first_stage_model.decoder
        with caplog.at_level(logging.WARNING), decoder.register_forward_pre_hook(decode):
            result = run(guider, noise, steps=6)
        assert sizes == [4, 2, 1]
        assert same(result, run(stock(exact, exact.on_positive, exact.empty), noise, steps=6), rounding)
        assert "without the classifier" in guider.trace.summary() and "out of memory" in caplog.text

    def test_inpainting_keeps_what_is_masked(self, world):
        latent, mask = noise_for(1, seed=5), torch.zeros(1, 1, 16, 16)
        mask[..., 8:] = 1.0
        result = run(ours(world, eta=1.0), noise_for(1), mask=mask, latent=latent)
        torch.testing.assert_close(result[..., :8], latent[..., :8])
