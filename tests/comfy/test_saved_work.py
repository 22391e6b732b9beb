"""Satisfied images cost neither a third branch nor further evaluations, and come out as they would with both."""

import pytest
import torch

from higfa_core.guidance.classifier_step import Signal, settled
from higfa_core.guidance.settings import Guidance

from ..numeric import in_float64, same, with_rounding

RELAX = {"preset": "relax", "eta": 1.0, "smoothing": 0.0}


@pytest.fixture(scope="module")
def family(zoo):
    return zoo.exact("sd15")


class Choosy:
    """The zoo's classifier, but satisfied from the start with the images (by their order) that it is told."""

    def __init__(self, classifier, satisfied):
        self.classifier, self.satisfied, self.seen = classifier, torch.tensor(satisfied), []

    def __getattr__(self, name):
        return getattr(self.classifier, name)

    def logits(self, images, params=None):
        self.seen.append(len(images))
        logits = self.classifier.logits(images, params)
        happy = self.satisfied[: len(images)] if len(images) == len(self.satisfied) else torch.zeros(len(images)).bool()
        sure = torch.zeros_like(logits)
        sure[:, self.classifier.index("Wren")] = 50.0
        return torch.where(happy[:, None], logits * 0 + sure, logits)


def guided(zoo, family, classifier, positive, **settings):
    """(latents, images per call of the diffusion model, trace)."""
    guider, images = zoo.ours(family, classifier, positive, family.negative, **{**RELAX, **settings}), []
    handle = guider.model_patcher.model.diffusion_model.register_forward_pre_hook(lambda m, a: images.append(len(a[0])))
    noise = family.latents(len(classifier.satisfied))
    result = zoo.run(guider, noise, zoo.levels(family, 8))
    handle.remove()
    return result, images, guider.trace


@pytest.fixture(scope="module")
def positive(zoo, family, core_nodes):
    hint = torch.rand(1, 64, 64, 3, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        apply = core_nodes["ControlNetApplyAdvanced"]().apply_controlnet
        return apply(family.positive, family.negative, zoo.controlnet(dtype=torch.float64), hint, 1.0, 0.0, 1.0)[0]


def test_the_third_branch_runs_for_unsatisfied_images_only(zoo, family, positive):
    from dataclasses import replace

    classifier = in_float64(zoo.classifier())
    _, none, trace = guided(zoo, family, Choosy(classifier, [True] * 3), positive)
    assert trace.calls and set(none) == {3} and len(none) == 2 * trace.model_calls
    some, images, trace = guided(zoo, family, Choosy(classifier, [True, False, True]), positive)
    assert images.count(1) == len(trace.calls)
    model = family.model.clone()
    model.set_model_attn2_output_patch(lambda out, options: out)  # may count on the whole batch
    whole, images, _ = guided(zoo, replace(family, model=model), Choosy(classifier, [True, False, True]), positive)
    assert 1 not in images
    stock, sigmas = zoo.stock(family, positive, family.negative), zoo.levels(family, 8)
    rounding = with_rounding(lambda noise: zoo.run(stock, noise, sigmas), family.latents(3))[1]
    assert same(some, whole, rounding)


@pytest.mark.parametrize("patch", ["set_model_attn2_output_patch", "set_model_unet_function_wrapper"])
def test_patches_of_the_model_see_the_whole_batch(zoo, family, positive, patch):
    from dataclasses import replace

    model = family.model.clone()
    if patch == "set_model_attn2_output_patch":
        model.set_model_attn2_output_patch(lambda out, options: out)
    else:
        model.set_model_unet_function_wrapper(lambda apply, args: apply(args["input"], args["timestep"], **args["c"]))
    choosy = Choosy(in_float64(zoo.classifier()), [True, False, True])
    _, images, _ = guided(zoo, replace(family, model=model), choosy, positive)
    assert set(images) == {3}


def test_settled_images_are_not_decoded_again(zoo, family, positive):
    choosy = Choosy(in_float64(zoo.classifier()), [True, False, True])
    guided(zoo, family, choosy, positive)
    assert choosy.seen[:3] == [3, 3, 1] and set(choosy.seen[3:]) <= {1}
    choosy = Choosy(in_float64(zoo.classifier()), [True, False, True])
    guided(zoo, family, choosy, positive, preset="constant")
    assert set(choosy.seen) == {3}, "its step does not fade, so its direction is needed"


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [(0.95, 0.95, True), (0.80, 0.95, False), (0.97, 0.92, False), (0.95, 0.93, True), (0.91, 0.99, True)],
)
def test_settled(before, now, expected):
    def signal(p):
        values, yes = torch.tensor([p]), torch.tensor([True])
        confidence = torch.tensor([1.0 if p >= 0.9 else 0.8])
        return Signal(torch.zeros(1, 4, 2, 2), values, confidence, values, torch.tensor([0]), yes, yes)

    assert settled(signal(before), signal(now), Guidance(p_stop=0.9)).tolist() == [expected]
