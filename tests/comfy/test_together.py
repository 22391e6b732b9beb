"""Several items of a list in HiGFA KSampler: those of one Dataset Job in one batch, all others one by one."""

import sys

import pytest
import torch

from ..numeric import relative, same, with_rounding

pytestmark = pytest.mark.releases

NAMES = ("Wren", "Kite", "Rail")
SEEDS = (5, 6, 2**40)
RUN = {"steps": 6, "scheduler": "normal", "denoise": 1.0}


@pytest.fixture(scope="module")
def sampler(pack, classifier):
    """HiGFA KSampler over lists; the seeds are those of one Dataset Job where `together`."""
    seed_of = sys.modules[pack.nodes["HiGFA_DatasetJob"].__module__].JobSeed.of
    declared = {item.id: item.default for item in pack.nodes["HiGFA_Guidance"].GET_SCHEMA().inputs}
    guidance = (
        pack.nodes["HiGFA_Guidance"].execute(**{**declared, "start_percent": 0.3, "eta": 2.0, "views": 2}).args[0]
    )

    def run(family, together=True, **lists):
        count, mark = max(map(len, lists.values())), object()
        seeds = [seed_of(seed, mark) if together else seed for seed in SEEDS[:count]]
        inputs = {"model": [family.model], "negative": [family.negative], "vae": [family.vae], "seed": seeds}
        inputs |= {"classifier": [classifier], "guidance": [guidance], "cfg": [family.cfg], "sampler_name": ["euler"]}
        inputs |= {name: [value] for name, value in RUN.items()}
        with torch.inference_mode():
            latents, slots, summaries = pack.nodes["HiGFA_KSampler"].execute(**{**inputs, **lists}).args
        return [latent["samples"] for latent in latents], [slot.trace for slot in slots], summaries

    return run


def prompts(family, count=3):
    """A text for each image, in the shape of the family's own."""
    made = []
    for i in range(count):
        generator = torch.Generator().manual_seed(100 + i)
        ((text, options),) = family.positive
        own = {k: torch.randn(v.shape, generator=generator) if torch.is_tensor(v) else v for k, v in options.items()}
        made.append([[torch.randn(text.shape, generator=generator), own]])
    return made


def latents(family, count=3):
    return [{"samples": family.latents(1, seed=i)} for i in range(count)]


def with_controls(conditionings, control, strength=0.8):
    """As Apply ControlNet does for each item of a list."""
    made = []
    for i, conditioning in enumerate(conditionings):
        hint = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(i))
        own = control.copy().set_cond_hint(hint, strength, (0.0, 1.0))
        made.append([[t, {**o, "control": own, "control_apply_to_uncond": False}] for t, o in conditioning])
    return made


@pytest.mark.parametrize("name", ["sd15", "sdxl", "sd3", "flux"])
def test_each_image_of_a_batch_is_the_one_that_it_is_alone(zoo, sampler, name):
    family = zoo.exact(name)
    given = {"positive": prompts(family), "class_name": list(NAMES)}
    if name == "sd15":
        given["positive"] = with_controls(given["positive"], zoo.controlnet(dtype=torch.float64))

    def alone(x):
        parts = [{"samples": part} for part in x.split(1)]
        return torch.cat(sampler(family, together=False, **given, latent_image=parts)[0])

    x = torch.cat([latent["samples"] for latent in latents(family)])
    single, noise = with_rounding(alone, x)
    batch, traces, summaries = sampler(family, **given, latent_image=latents(family))
    assert all("sampled in a batch of 3" in summary for summary in summaries)
    batch = torch.cat(batch)
    assert same(batch, single, noise)
    assert relative(batch.roll(1, 0), single) > 0.1  # the images differ from each other
    own = sampler(family, together=False, **given, latent_image=latents(family))[1]
    for one, other in zip(traces, own):
        assert (one.targets, one.noise) == (other.targets, other.noise)
        assert one.probability == pytest.approx(other.probability, abs=1e-4)


def test_every_sampler_of_the_list_can(zoo, sampler, pack):
    family = zoo.gaussian()
    module = sys.modules[pack.nodes["HiGFA_KSampler"].__module__]
    batched = sys.modules[module.join_calls.__module__].BATCHED
    import comfy.samplers

    assert len(batched) > 15
    for name in comfy.samplers.KSampler.SAMPLERS:
        given = {"positive": prompts(family), "class_name": list(NAMES), "latent_image": latents(family)}
        batch, _, summaries = sampler(family, **given, sampler_name=[name])
        assert ("batch of 3" in summaries[0]) == (name in batched), name
        alone, _, _ = sampler(family, together=False, **given, sampler_name=[name])
        # Elementwise float32 arithmetic of a few hundred calls; eta 2 doubles what a rounding does (1.1e-4 was seen).
        assert relative(torch.cat(batch), torch.cat(alone)) < 5e-4, name


class TestApart:
    """What cannot be joined exactly is sampled one by one, and says so nowhere but in the log."""

    @pytest.fixture
    def family(self, zoo):
        return zoo.family("sd15")

    @pytest.fixture
    def joined(self, sampler, family):
        def run(**changed):
            given = {"positive": prompts(family), "class_name": list(NAMES), "latent_image": latents(family)}
            return ["batch of" in summary for summary in sampler(family, **{**given, **changed})[2]]

        return run

    def test_nothing_is_the_matter(self, joined):
        assert joined() == [True] * 3

    def test_lists_of_others(self, sampler, family):
        given = {"positive": prompts(family), "class_name": list(NAMES), "latent_image": latents(family)}
        assert not any("batch of" in summary for summary in sampler(family, together=False, **given)[2])

    def test_shapes(self, joined, family):
        sizes = [{"samples": torch.zeros(1, 4, side, 8)} for side in (8, 8, 16)]
        assert joined(latent_image=sizes) == [False] * 3

    def test_latents_of_several_images(self, joined):
        assert joined(latent_image=[{"samples": torch.zeros(2, 4, 8, 8)}]) == [False] * 3

    def test_several_lines_of_classes(self, joined):
        assert joined(class_name=["Wren\nWren"], latent_image=[{"samples": torch.zeros(2, 4, 8, 8)}]) == [False] * 3

    def test_strengths(self, zoo, joined, family):
        control = zoo.controlnet()
        texts = [with_controls([text], control, strength)[0] for text, strength in zip(prompts(family), (1, 1, 0.5))]
        assert joined(positive=texts) == [False] * 3
        assert joined(positive=with_controls(prompts(family), control)) == [True] * 3

    def test_other_settings(self, joined):
        assert joined(cfg=[3.0, 3.0, 4.0]) == [False] * 3
