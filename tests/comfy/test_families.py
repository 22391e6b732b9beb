"""The guider on a small model of every family that ComfyUI samples, against ComfyUI's own guiders (zoo.py)."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from ..numeric import SLACK, in_float64, relative, same, with_rounding

FAMILIES = ("sd15", "sd2", "sdxl", "sd3", "flux", "qwen_image")
FLOW = ("sd3", "flux", "qwen_image")
UNMOVED = {"eta": 0.0, "preset": "constant"}


@pytest.fixture(scope="module")
def smooth_classifier(zoo):
    """No rounding error can switch one of its activations on, and so turn the gradient."""
    return in_float64(zoo.classifier()).with_smooth_activations(3.0)


@pytest.fixture(scope="module", params=FAMILIES)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def family(zoo, name):
    return zoo.family(name)


class TestEveryFamily:
    @pytest.mark.releases
    def test_without_a_step_it_is_stock_cfg(self, zoo, classifier, family):
        noise, sigmas = family.latents(2), zoo.levels(family)
        guider = zoo.ours(family, classifier, **UNMOVED)
        assert torch.equal(zoo.run(guider, noise, sigmas), zoo.run(zoo.stock(family), noise, sigmas))
        assert guider.trace.calls

    def test_the_window_is_the_families_own(self, zoo, classifier, family, name):
        """The classifier looks at every call from percent_to_sigma(start_percent) down to the end, and at no other."""
        on = float(torch.tensor(family.model.get_model_object("model_sampling").percent_to_sigma(0.4)))
        # Where x = (1 - s) x0 + s n, 0.3 / 1.3 has the signal-to-noise ratio that 0.3 has where x = x0 + s n.
        off = 0.3 / 1.3 if name in FLOW else 0.3
        sigmas = torch.tensor([on * 1.1, on * 1.001, on, on * 0.5, 0.31, 0.29, 0.24, 0.22, 0.1, 0.0])
        noise, seen, looks = family.latents(), [], []
        guider = zoo.ours(family, classifier, start_percent=0.4, end_sigma=0.3)
        handle = classifier.module.register_forward_hook(lambda *_: looks.append(seen[-1]))
        result = zoo.run(guider, noise, sigmas, seen=seen)
        handle.remove()
        assert seen == sigmas[:-1].tolist()
        assert looks == [s for s in seen if off < s <= on] == [c.sigma for c in guider.trace.calls]
        assert looks[-1] == seen[6 if name in FLOW else 4] and looks[0] == seen[2]
        assert result.shape == noise.shape and result.isfinite().all()

    def test_the_classifier_moves_every_image(self, zoo, classifier, family):
        noise, sigmas = family.latents(2), zoo.levels(family)
        plain, guider = zoo.run(zoo.stock(family), noise, sigmas), zoo.ours(family, classifier, preset="constant")
        guided = zoo.run(guider, noise, sigmas)
        assert guided.isfinite().all() and guided.shape == noise.shape
        for a, b in zip(guided, plain, strict=True):
            assert relative(a, b) > 1e-3
        assert all(min(call.step_rms) > 0 for call in guider.trace.calls[1:])

    def test_another_class_moves_it_elsewhere(self, zoo, classifier, family):
        noise, sigmas = family.latents(), zoo.levels(family)
        plain = zoo.run(zoo.stock(family), noise, sigmas)
        moves = [
            zoo.run(zoo.ours(family, classifier, names=[name], preset="constant"), noise, sigmas) - plain
            for name in ("Wren", "Kite")
        ]
        assert relative(*moves) > 0.1

    def test_a_batch_is_its_single_runs(self, zoo, smooth_classifier, name):
        """To within rounding; what guidance adds is ten times the bound."""
        family, names = zoo.exact(name), ["Wren", "Kite"]
        noise, sigmas = family.latents(2), zoo.levels(family)

        def guided(noise, names):
            return zoo.run(zoo.ours(family, smooth_classifier, names=names, eta=1.0), noise, sigmas)

        together = guided(noise, names)
        for i, name in enumerate(names):
            one = slice(i, i + 1)
            plain, rounding = with_rounding(lambda x: zoo.run(zoo.stock(family), x, sigmas), noise[one])
            assert same(together[one], guided(noise[one], [name]), rounding)
            assert relative(together[one], plain) > 10 * SLACK * rounding

    def test_same_run_twice_is_bit_equal(self, zoo, classifier, family):
        noise, sigmas = family.latents(2), zoo.levels(family)
        guider = zoo.ours(family, classifier, eta=1.0)
        first = zoo.run(guider, noise, sigmas)
        assert torch.equal(first, zoo.run(guider, noise, sigmas))
        assert torch.equal(first, zoo.run(zoo.ours(family, classifier, eta=1.0), noise, sigmas))

    def test_odd_sides(self, zoo, classifier, family):
        """Where the network pads or rounds: 9 x 7 latents."""
        noise, sigmas = family.latents(shape=(*family.shape[:-2], 9, 7)), zoo.levels(family)
        plain = zoo.run(zoo.stock(family), noise, sigmas)
        assert torch.equal(zoo.run(zoo.ours(family, classifier, **UNMOVED), noise, sigmas), plain)
        guided = zoo.run(zoo.ours(family, classifier), noise, sigmas)
        assert guided.isfinite().all() and guided.shape == noise.shape and relative(guided, plain) > 1e-4

    def test_image_to_image(self, zoo, classifier, family):
        noise, latent, sigmas = family.latents(), family.latents(seed=1), zoo.levels(family, denoise=0.5)
        plain = zoo.run(zoo.stock(family), noise, sigmas, latent=latent)
        assert torch.equal(zoo.run(zoo.ours(family, classifier, **UNMOVED), noise, sigmas, latent=latent), plain)
        guider = zoo.ours(family, classifier)
        guided = zoo.run(guider, noise, sigmas, latent=latent)
        assert guided.isfinite().all() and relative(guided, plain) > 1e-4
        assert guider.trace.guided_steps[-1] < 4 and guider.trace.calls

    @pytest.mark.releases
    def test_inpainting(self, zoo, classifier, family):
        noise, latent, sigmas = family.latents(), family.latents(seed=1), zoo.levels(family)
        mask = torch.zeros(1, 1, 8, 8)
        mask[..., 4:] = 1.0
        plain = zoo.run(zoo.stock(family), noise, sigmas, latent=latent, mask=mask)
        unmoved = zoo.run(zoo.ours(family, classifier, **UNMOVED), noise, sigmas, latent=latent, mask=mask)
        assert torch.equal(unmoved, plain)
        guided = zoo.run(zoo.ours(family, classifier, eta=1.0), noise, sigmas, latent=latent, mask=mask)
        assert guided.isfinite().all() and relative(guided[..., 4:], plain[..., 4:]) > 1e-3
        torch.testing.assert_close(guided[..., :4], latent[..., :4])


@pytest.mark.releases
class TestRefused:
    """Latents that are not single images: named, and before the model is called."""

    def refuse(self, zoo, classifier, family, noise, match):
        seen = []
        guider = zoo.ours(zoo.family(family), classifier)
        with pytest.raises(ValueError, match=match):
            zoo.run(guider, noise, zoo.levels(zoo.family(family)), seen=seen)
        assert not seen

    def test_video(self, zoo, classifier):
        noise = zoo.family("wan_video").latents()
        self.refuse(zoo, classifier, "wan_video", noise, r"single images.*\(1, 16, 3, 8, 8\)")

    def test_several_frames_in_an_image_model(self, zoo, classifier):
        noise = zoo.family("qwen_image").latents(shape=(16, 2, 8, 8))
        self.refuse(zoo, classifier, "qwen_image", noise, r"single images.*\(1, 16, 2, 8, 8\)")

    def test_audio(self, zoo, classifier):
        noise = zoo.family("stable_audio").latents()
        self.refuse(zoo, classifier, "stable_audio", noise, r"single images.*\(1, 64, 16\)")

    def test_nested(self, zoo, classifier):
        from comfy.nested_tensor import NestedTensor

        family = zoo.family("sd15")
        noise = NestedTensor([family.latents(), family.latents(shape=(4, 4, 4))])
        latent = NestedTensor([torch.zeros_like(part) for part in noise.unbind()])
        guider, sigmas, seen = zoo.ours(family, classifier), zoo.levels(family), []
        with pytest.raises(ValueError, match="single images.*nested"):
            zoo.run(guider, noise, sigmas, latent=latent, seen=seen)
        assert not seen

    def test_vae_of_another_family(self, zoo, classifier):
        family = replace(zoo.family("sd3"), vae=zoo.family("sd15").vae)
        with pytest.raises(ValueError, match="4 channels.*16"):
            zoo.run(zoo.ours(family, classifier), family.latents(), zoo.levels(family))

    def test_the_refused_run_leaves_the_model_usable(self, zoo, classifier):
        family = zoo.family("qwen_image")
        noise, sigmas = family.latents(), zoo.levels(family)
        guider = zoo.ours(family, classifier)
        before = zoo.run(guider, noise, sigmas)
        with pytest.raises(ValueError, match="single images"):
            zoo.run(guider, family.latents(shape=(16, 2, 8, 8)), sigmas)
        assert torch.equal(zoo.run(guider, noise, sigmas), before)


@pytest.fixture(scope="module")
def sd15(zoo):
    """In float64: some workflows are equal, but not to the last bit."""
    return zoo.exact("sd15")


@pytest.fixture(scope="module")
def nodes(core_nodes):
    """Runs a stock node by its name and returns its outputs."""

    def call(node, *args, **kwargs):
        with torch.inference_mode():
            return getattr(core_nodes[node](), core_nodes[node].FUNCTION)(*args, **kwargs)

    return call


@pytest.fixture(scope="module")
def hints():
    return torch.rand(2, 1, 64, 64, 3, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def lora(zoo, sd15):
    """A LoRA of rank 2 on every attention projection of the UNet, in the layout of kohya's trainer."""
    import comfy.lora

    generator, weights = torch.Generator().manual_seed(7), {}
    shapes = sd15.model.model.state_dict()
    for key, target in comfy.lora.model_lora_keys_unet(sd15.model.model, {}).items():
        if key.startswith("lora_unet_") and "_attn" in key:
            out, inner = shapes[target].shape
            weights[f"{key}.lora_up.weight"] = torch.randn(out, 2, generator=generator)
            weights[f"{key}.lora_down.weight"] = torch.randn(2, inner, generator=generator) / inner**0.5
    return weights


def alone(conditioning):
    """Each entry's controls stay in its own branch, as HiGFA's nested composition wants them."""
    return [[t, {**o, "control_apply_to_uncond": False} if "control" in o else o] for t, o in conditioning]


def bare(conditioning):
    drop = ("control", "control_apply_to_uncond")
    return [[t, {k: v for k, v in o.items() if k not in drop}] for t, o in conditioning]


class Workflows:
    """Conditionings as people wire them with stock nodes: each takes and gives (positive, negative)."""

    def __init__(self, zoo, nodes, hints, lora, strength=1.0):
        self.zoo, self.nodes, self.hints, self.lora, self.strength = zoo, nodes, hints, lora, strength

    def contour(self, p, n, hint=0, seed=5, strength=1.0, start=0.0, end=1.0):
        control = self.zoo.controlnet(seed, torch.float64), self.hints[hint], strength * self.strength
        return self.nodes("ControlNetApplyAdvanced", p, n, *control, start, end)

    def half_time_contour(self, p, n):
        return self.contour(p, n, strength=0.8, start=0.2, end=0.6)

    def two_controlnets(self, p, n):
        return self.contour(*self.contour(p, n), hint=1, seed=6, strength=0.7)

    def legacy_contour(self, p, n):
        return self.nodes("ControlNetApply", p, self.zoo.controlnet(dtype=torch.float64), self.hints[0], self.strength)[
            0
        ], n

    def contour_beside_an_area_prompt(self, p, n):
        return self.area_prompt(*self.contour(p, n))

    def lora_hooks(self, p, n):
        import comfy.hooks

        return comfy.hooks.set_hooks_for_conditioning(p, comfy.hooks.create_hook_lora(self.lora, 1.0, 1.0)), n

    def scheduled_prompt(self, p, n):
        early = self.nodes("ConditioningSetTimestepRange", p, 0.0, 0.6)[0]
        late = self.nodes("ConditioningSetTimestepRange", self.zoo.prompt(16, 3), 0.6, 1.0)[0]
        return self.nodes("ConditioningCombine", early, late)[0], n

    def area_prompt(self, p, n):
        corner = self.nodes("ConditioningSetArea", self.zoo.prompt(16, 3), 32, 40, 8, 16, 1.5)[0]
        return self.nodes("ConditioningCombine", p, corner)[0], n

    def masked_prompt(self, p, n):
        mask = torch.zeros(1, 64, 64)
        mask[:, 16:] = 1.0
        part = self.nodes("ConditioningSetMask", self.zoo.prompt(16, 3), mask, "default", 1.0)[0]
        return self.nodes("ConditioningCombine", p, part)[0], n

    def everything(self, p, n):
        return self.lora_hooks(*self.two_controlnets(*self.area_prompt(*self.scheduled_prompt(p, n))))


@pytest.fixture(scope="module", params=[name for name in vars(Workflows) if not name.startswith("_")])
def wired(request, zoo, sd15, nodes, hints, lora):
    """The workflow's (positive, negative), and what ComfyUI's CFG makes of it, with the contour on both or on one."""

    def conds(strength):
        workflows = Workflows(zoo, nodes, hints, lora, strength)
        return getattr(workflows, request.param)(sd15.positive, sd15.negative)

    def sampled(positive, negative):
        return zoo.run(zoo.stock(sd15, positive, negative), noise, sigmas)

    noise, sigmas, whole = sd15.latents(), zoo.levels(sd15), conds(1.0)
    on_one = zoo.stock(sd15, alone(whole[0]), bare(whole[1]))
    one, rounding = with_rounding(lambda noise: zoo.run(on_one, noise, sigmas), noise)
    runs = {"one": one, "rounding": rounding, "both": sampled(*whole), "sampled": sampled}
    return SimpleNamespace(conds=whole, half=conds(0.5), noise=noise, sigmas=sigmas, **runs)


@pytest.mark.releases
class TestWorkflows:
    """What people wire in front of the sampler, on the SD1.5-like UNet."""

    def test_it_acts(self, zoo, sd15, wired):
        """Else the others would pass whatever the guider does with it."""
        assert relative(wired.both, zoo.run(zoo.stock(sd15), wired.noise, wired.sigmas)) > 1e-3

    def test_nested_is_stock_with_the_contour_on_the_positive(self, zoo, sd15, classifier, wired):
        guider = zoo.ours(sd15, classifier, *wired.conds, **UNMOVED)
        assert torch.equal(zoo.run(guider, wired.noise, wired.sigmas), wired.one)
        assert guider.trace.calls

    def test_joint_is_stock(self, zoo, sd15, classifier, wired):
        guider = zoo.ours(sd15, classifier, *wired.conds, composition="joint", **UNMOVED)
        assert torch.equal(zoo.run(guider, wired.noise, wired.sigmas), wired.both)

    def test_half_contour_in_joint_is_half_the_strength_of_every_control(self, zoo, sd15, classifier, wired):
        guider = zoo.ours(sd15, classifier, *wired.conds, composition="joint", contour_scale=0.5, **UNMOVED)
        assert torch.equal(zoo.run(guider, wired.noise, wired.sigmas), wired.sampled(*wired.half))

    def test_half_contour_is_dual_cfg(self, zoo, sd15, classifier, wired):
        """Without a ControlNet there is nothing to weigh, and it is CFG.

        Not to the last bit: ComfyUI puts prompts into one batch in the order of the branches, which is not ours.
        """
        import comfy_extras.nodes_custom_sampler as custom

        positive, negative = wired.conds
        expected = wired.one
        if any("control" in options for _, options in positive):
            dual = custom.Guider_DualCFG(sd15.model.clone())
            dual.set_conds(alone(positive), bare(positive), bare(negative))
            dual.set_cfg(sd15.cfg * 0.5, sd15.cfg)
            expected = zoo.run(dual, wired.noise, wired.sigmas)
            assert relative(expected, wired.one) > 1e-3
        guider = zoo.ours(sd15, classifier, positive, negative, contour_scale=0.5, **UNMOVED)
        assert same(zoo.run(guider, wired.noise, wired.sigmas), expected, wired.rounding)

    def test_contour_scale_zero_takes_every_control_off(self, zoo, sd15, classifier, wired):
        guider = zoo.ours(sd15, classifier, *wired.conds, contour_scale=0.0, **UNMOVED)
        expected = wired.sampled(*(bare(conditioning) for conditioning in wired.conds))
        assert torch.equal(zoo.run(guider, wired.noise, wired.sigmas), expected)

    def test_a_satisfied_classifier_gives_the_fixed_weights_back(self, zoo, sd15, classifier, wired):
        """`relax` at confidence 1: three branches recomposed at full weight are what two make."""
        guider = zoo.ours(sd15, classifier, *wired.conds, preset="relax", p_stop=0.01)
        assert same(zoo.run(guider, wired.noise, wired.sigmas), wired.one, wired.rounding)
        assert guider.trace.calls[-1].confidence == [1.0]

    @pytest.mark.parametrize("composition", ["nested", "joint"])
    def test_guided(self, zoo, sd15, classifier, wired, composition):
        guider = zoo.ours(sd15, classifier, *wired.conds, composition=composition, eta=1.0)
        guided = zoo.run(guider, wired.noise, wired.sigmas)
        assert guided.isfinite().all()
        assert relative(guided, wired.one if composition == "nested" else wired.both) > 1e-3

    def test_inputs_stay_as_they_were(self, zoo, sd15, classifier, wired):
        """ComfyUI keeps conditioning objects from one run to the next."""
        for composition in ("nested", "joint"):
            guider = zoo.ours(sd15, classifier, *wired.conds, composition=composition, contour_scale=0.5)
            zoo.run(guider, wired.noise, wired.sigmas)
        assert torch.equal(wired.sampled(*wired.conds), wired.both)


class Recorder:
    """A model patch that keeps one tensor for positive and one for negative, as IPAdapter, InstantID and PuLID do."""

    def __init__(self):
        self.seen = set()

    def on(self, model):
        model = model.clone()
        model.set_model_attn2_output_patch(self)
        return model

    def __call__(self, out, extra_options):
        branches = extra_options["cond_or_uncond"]
        self.seen.add(tuple(branches))
        kept = torch.ones(1), -torch.ones(1)
        return out + torch.cat([kept[i].expand(len(out) // len(branches)) for i in branches])[:, None, None]


class TestPatchesOfOthers:
    """They meet what stock sampling shows them, and nothing else."""

    SETTINGS = ({"preset": "constant"}, {"preset": "relax"}, {"preset": "custom", "text_a1": 0.9})

    def shown_by_stock(self, zoo, sd15, conds):
        """The batches (0 is the positive, 1 the negative) of CFG, and of a single branch, on these conditionings."""
        (positive, negative), recorder = conds, Recorder()
        model = replace(sd15, model=recorder.on(sd15.model))
        noise, sigmas = sd15.latents(), zoo.levels(sd15)
        for p, n in ((positive, negative), (alone(positive), bare(negative)), (bare(positive), bare(negative))):
            for cfg in (1.0, 3.0):
                zoo.run(zoo.stock(model, p, n, cfg), noise, sigmas)
        return recorder.seen

    @pytest.mark.parametrize("composition", ["nested", "joint"])
    def test_see_positive_and_negative_in_stock_batches(self, zoo, sd15, classifier, wired, composition):
        stock, noise, sigmas = self.shown_by_stock(zoo, sd15, wired.conds), sd15.latents(), zoo.levels(sd15)
        assert {branch for batch in stock for branch in batch} == {0, 1}
        for settings in self.SETTINGS:
            for scale in (0.0, 0.5, 1.0):
                for cfg in (1.0, 3.0):
                    recorder = Recorder()
                    family = replace(sd15, model=recorder.on(sd15.model))
                    given = {"composition": composition, "contour_scale": scale, "cfg": cfg, **settings}
                    guider = zoo.ours(family, classifier, *wired.conds, **given)
                    zoo.run(guider, noise, sigmas)
                    assert recorder.seen <= stock and guider.trace.calls, given

    def test_one_that_needs_both_in_a_batch_acts_or_is_named(self, zoo, sd15, nodes, classifier, hints, lora):
        from comfy_extras.nodes_nag import NAGuidance

        conds = Workflows(zoo, nodes, hints, lora).contour(sd15.positive, sd15.negative)
        patched = replace(sd15, model=NAGuidance.execute(sd15.model, 5.0, 0.5, 1.5)[0])
        noise, sigmas, summaries = sd15.latents(), zoo.levels(sd15), {}
        for composition, acts in (("nested", False), ("joint", True)):
            with_nag, without = (zoo.ours(f, classifier, *conds, composition=composition) for f in (patched, sd15))
            changed = relative(zoo.run(with_nag, noise, sigmas), zoo.run(without, noise, sigmas)) > 1e-3
            assert changed == acts
            summaries[composition] = with_nag.trace.summary()
        assert "NAGuidance has no effect" in summaries["nested"] and "joint" in summaries["nested"]
        assert "NAGuidance" not in summaries["joint"]

    def test_one_that_acts_on_single_branches_is_not_named(self, zoo, sd15, nodes, classifier, hints, lora):
        conds = Workflows(zoo, nodes, hints, lora).contour(sd15.positive, sd15.negative)
        guider = zoo.ours(replace(sd15, model=Recorder().on(sd15.model)), classifier, *conds)
        zoo.run(guider, sd15.latents(), zoo.levels(sd15))
        assert "no effect" not in guider.trace.summary()

    def test_one_in_the_place_of_cfg_gets_a_number_and_the_whole_batch(self, zoo, sd15, classifier):
        """As in stock sampling, also where the images of a batch have weights of their own."""
        told = set()

        def plain_cfg(args):
            told.add((type(args["cond_scale"]), len(args["cond"])))
            return args["uncond"] + (args["cond"] - args["uncond"]) * args["cond_scale"]

        model = sd15.model.clone()
        model.set_model_sampler_cfg_function(plain_cfg)
        noise, sigmas, names = sd15.latents(2), zoo.levels(sd15), ("Wren", "Kite")
        guider = zoo.ours(replace(sd15, model=model), classifier, names=names, eta=1.0)
        patched, trace = zoo.run(guider, noise, sigmas), guider.trace
        weights = [call.w_text for call in trace.calls]
        assert told == {(float, 2)} and any(len(set(pair)) == 2 for pair in weights), weights
        assert relative(patched, zoo.run(zoo.ours(sd15, classifier, names=names, eta=1.0), noise, sigmas)) < 1e-4


@pytest.mark.releases
class TestSkipLayerGuidance:
    def test_goes_on_in_the_final_stage(self, zoo, classifier):
        """Core's simple node replaces the step that runs the branches, and takes two of them."""
        import comfy_extras.nodes_slg as slg

        family = zoo.exact("sd3")
        model = slg.SkipLayerGuidanceDiTSimple.execute(family.model, 0.0, 1.0, double_layers="0")[0]
        patched = replace(family, model=model)
        noise, sigmas = family.latents(), zoo.levels(family)
        expected, rounding = with_rounding(lambda noise: zoo.run(zoo.stock(patched), noise, sigmas), noise)
        assert relative(expected, zoo.run(zoo.stock(family), noise, sigmas)) > 1e-3
        guider = zoo.ours(patched, classifier, preset="relax", p_stop=0.01)
        assert same(zoo.run(guider, noise, sigmas), expected, rounding)
        assert guider.trace.calls


class TestSmallImages:
    @pytest.mark.parametrize("sides", [(4, 4), (5, 2), (1, 1)])
    def test_smaller_than_the_classifiers_input(self, zoo, sd15, sides):
        """The image is 4 times the latent's side, the classifier wants 64 pixels."""
        noise, sigmas = sd15.latents(2, shape=(4, *sides)), zoo.levels(sd15)
        plain = zoo.run(zoo.stock(sd15), noise, sigmas)
        guided = zoo.run(zoo.ours(sd15, zoo.classifier(64), eta=1.0), noise, sigmas)
        assert guided.isfinite().all() and relative(guided, plain) > 1e-4


class TestStepCount:
    """Euler on data N(m, 1) with the exact denoiser: what guidance adds does not depend on the number of steps."""

    @pytest.mark.parametrize("scheduler", ["karras", "normal", "simple", "sgm_uniform", "exponential", "beta"])
    @pytest.mark.parametrize("name", ["gaussian", "gaussian_flow"])
    def test_total_displacement(self, zoo, name, scheduler):
        family, classifier = zoo.family(name), zoo.linear_classifier()
        noise, moves = family.latents(4), {}
        for steps in (20, 30, 50):
            sigmas = zoo.levels(family, steps, scheduler)
            guider = zoo.ours(family, classifier, preset="constant", start_percent=0.7, eta=0.25)
            moves[steps] = float((zoo.run(guider, noise, sigmas) - zoo.run(zoo.stock(family), noise, sigmas)).norm())
        assert max(moves.values()) < 1.1 * min(moves.values()), moves
