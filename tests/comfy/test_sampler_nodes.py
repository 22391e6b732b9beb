"""HiGFA KSampler, its advanced form and the two others as nodes: what a latent brings, and what it takes along."""

import itertools
import json

import pytest
import torch

from ..numeric import relative

pytestmark = pytest.mark.releases

RUN = {"steps": 8, "cfg": 3.0, "sampler_name": "euler", "scheduler": "normal"}
LINES = ("Wren", "Kite", "Rail")


@pytest.fixture(scope="module")
def nodes(pack, core_nodes):
    """Name -> function that runs the node as ComfyUI does; of ours without the prefix."""

    def runner(node):
        def run(*args, **inputs):
            with torch.inference_mode():
                return node.execute(*args, **inputs).args

        return run

    return {name.removeprefix("HiGFA_"): runner(node) for name, node in pack.nodes.items()}


@pytest.fixture(scope="module")
def settings(pack):
    def make(**changed):
        declared = {item.id: item.default for item in pack.nodes["HiGFA_Guidance"].GET_SCHEMA().inputs}
        return pack.nodes["HiGFA_Guidance"].execute(**{**declared, "start_percent": 0.3, **changed}).args[0]

    return make


@pytest.fixture(scope="module")
def ours(nodes, family, classifier):
    """HiGFA KSampler (Advanced): (latent, trace, summary)."""

    def run(latent, guidance, names="Wren", **inputs):
        given = {**RUN, "noise_seed": 7, **inputs}
        return nodes["KSamplerAdvanced"](
            family.model, family.positive, family.negative, latent, family.vae, classifier, names, guidance=guidance,
            **given,
        )  # fmt: skip

    return run


@pytest.fixture(scope="module")
def stock(core_nodes, family):
    def run(latent, noise_seed=7, **inputs):
        given = {"add_noise": "enable", "start_at_step": 0, "end_at_step": 10_000}
        given = {**RUN, **given, "return_with_leftover_noise": "disable", **inputs, "noise_seed": noise_seed}
        with torch.inference_mode():
            sample = core_nodes["KSamplerAdvanced"]().sample
            return sample(
                family.model, positive=family.positive, negative=family.negative, latent_image=latent, **given
            )[0]

    return run


@pytest.fixture
def latent(family):
    """Of two images that are the third and the first of a batch; not empty, so that any part of a run changes it."""
    return {"samples": family.latents(2, seed=4), "batch_index": [2, 0]}


class TestAdvanced:
    STEPS = [(0, 10_000), (3, 10_000), (0, 5), (2, 6), (5, 5), (8, 10_000), (0, 0)]

    @pytest.mark.parametrize("start, end", STEPS)
    def test_without_a_step_it_is_ksampler_advanced(self, ours, stock, settings, latent, start, end):
        guidance = settings(eta=0.0, preset="constant")
        for add_noise, leftover in itertools.product(("enable", "disable"), repeat=2):
            part = {"start_at_step": start, "end_at_step": end, "add_noise": add_noise}
            part["return_with_leftover_noise"] = leftover
            expected, (result, slot, summary) = stock(latent, **part), ours(latent, guidance, **part)
            assert torch.equal(result["samples"], expected["samples"]), part
            assert ("nothing was sampled" in summary) == (slot.trace is None) == (min(end, 8) <= start), part

    @pytest.mark.parametrize("sampler", ["dpm_2", "uni_pc", "ddim"])
    def test_samplers_that_leave_a_level_out(self, ours, stock, settings, latent, sampler):
        part = {"start_at_step": 2, "end_at_step": 6, "return_with_leftover_noise": "enable", "sampler_name": sampler}
        result, *_ = ours(latent, settings(eta=0.0, preset="constant"), **part)
        assert torch.equal(result["samples"], stock(latent, **part)["samples"])

    @pytest.mark.parametrize("cuts", [[4], [6], [3, 5]])
    def test_a_run_cut_in_parts_is_the_run(self, ours, stock, settings, latent, cuts):
        guidance = settings(eta=1.0, interval=2, smoothing=0.5, max_evals=3)
        whole, slot, _ = ours(latent, guidance)
        expected = [call.sigma for call in slot.trace.calls if call.evaluated]
        part, ends, evaluated = latent, [0, *cuts, RUN["steps"]], []
        for i, (start, end) in enumerate(itertools.pairwise(ends)):
            part, slot, summary = ours(
                part,
                guidance,
                add_noise="disable" if i else "enable",
                start_at_step=start,
                end_at_step=end,
                return_with_leftover_noise="enable" if i < len(cuts) else "disable",
            )
            assert ("continues the run that ended" in summary) == bool(i)
            evaluated += [call.sigma for call in slot.trace.calls if call.evaluated]
        assert evaluated == expected and len(expected) > 1
        assert relative(part["samples"], whole["samples"]) < 1e-5
        assert relative(stock(latent)["samples"], whole["samples"]) > 1e-3

    def test_another_class_does_not_continue(self, ours, settings, latent):
        guidance = settings(eta=1.0)
        first, *_ = ours(latent, guidance, end_at_step=4, return_with_leftover_noise="enable")
        for names, continues in (("Wren", True), ("Kite", False)):
            _, _, summary = ours(first, guidance, names, start_at_step=4, add_noise="disable")
            assert ("continues" in summary) == continues

    def test_it_asks_for_what_ksampler_advanced_asks_for(self, pack, core_nodes):
        """By the same names, in the same ranges, so that one can be put in place of the other."""
        own = {item.id: item for item in pack.nodes["HiGFA_KSamplerAdvanced"].GET_SCHEMA().inputs}
        asked = core_nodes["KSamplerAdvanced"].INPUT_TYPES()["required"]
        assert asked.keys() <= own.keys()
        assert own.keys() - asked.keys() == {"vae", "classifier", "class_name", "guidance"}
        for name, (_, *options) in asked.items():
            for bound in ("min", "max") if options else ():
                assert getattr(own[name], bound, None) == options[0].get(bound), name


class TestOneImageOfABatch:
    """Latent From Batch gives one image of a batch with its place there: noise and class are those it had."""

    def test_every_entry_keeps_its_class(self, nodes, settings, family, classifier, core_nodes):
        import comfy.sample
        import comfy.samplers

        guidance = settings(eta=1.0)
        names, whole = "\n".join(LINES), {"samples": torch.zeros(3, *family.shape)}
        single = core_nodes["LatentFromBatch"]().frombatch(whole, 1, 1)[0]
        run = {**RUN, "seed": 7, "denoise": 1.0}

        def ksampler(latent):
            inputs = {"model": family.model, "positive": family.positive, "negative": family.negative}
            inputs |= {"latent_image": latent, "vae": family.vae, "classifier": classifier, "class_name": names}
            lists = {name: [value] for name, value in {**inputs, "guidance": guidance, **run}.items()}
            (result,), (slot,), _ = nodes["KSampler"](**lists)
            return result["samples"], slot.trace

        def guider(latent):
            made, slot = nodes["Guider"](
                family.model, family.positive, family.vae, classifier, names, RUN["cfg"], family.negative, guidance,
                latent,
            )  # fmt: skip
            levels = comfy.samplers.KSampler(family.model, 8, family.model.load_device, "euler", "normal", 1.0).sigmas
            noise = comfy.sample.prepare_noise(latent["samples"], 7, latent.get("batch_index"))
            with torch.inference_mode():
                sampler = comfy.samplers.sampler_object("euler")
                return made.sample(noise, latent["samples"], sampler, levels, disable_pbar=True, seed=7), slot.trace

        def patched(latent):
            model, slot = nodes["GuideModel"](family.model, family.vae, classifier, names, guidance, latent)
            with torch.inference_mode():
                sample = core_nodes["KSampler"]().sample
                done = sample(
                    model, positive=family.positive, negative=family.negative, latent_image=latent, **run
                )[0]  # fmt: skip
            return done["samples"], slot.trace

        for entry in (ksampler, guider, patched):
            batch, trace = entry(whole)
            assert (trace.targets, trace.images, trace.seed) == (list(LINES), [0, 1, 2], 7)
            alone, trace = entry(single)
            assert (trace.targets, trace.images, trace.seed) == (["Kite"], [1], 7)
            assert relative(alone, batch[1:2]) < 1e-3 < relative(alone, batch[:1])

    def test_the_json_of_the_trace_has_seed_and_place(self, ours, settings, latent):
        _, slot, _ = ours(latent, settings())
        told = json.loads(slot.trace.to_json())
        assert (told["seed"], told["images"]) == (7, [2, 0])

    def test_a_latent_of_another_batch_is_refused(self, nodes, settings, family, classifier, latent):
        made, _ = nodes["Guider"](
            family.model, family.positive, family.vae, classifier, "Wren", 3.0, family.negative, settings(), latent
        )
        sigmas = torch.tensor([1.0, 0.0])
        with pytest.raises(ValueError, match="lists 2 images, but 3 are sampled"), torch.inference_mode():
            made.sample(family.latents(3), torch.zeros(3, *family.shape), None, sigmas)
