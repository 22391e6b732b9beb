"""The miniature as ComfyUI objects, and runs of ComfyUI's guiders and ours on it, for the tests beside this file."""

from types import SimpleNamespace

import pytest
import torch

STEPS, CFG = 12, 3.0


def make_world():
    """Model, VAE, classifier, two prompts and a contour."""
    import node_helpers

    import nodes
    from higfa_core.classifier import FineGrainedClassifier
    from higfa_core.comfy.patchers import attach_patcher
    from higfa_core.miniature import birds, models

    def encode(text):
        return nodes.CLIPTextEncode().encode(clip, text)[0]

    with torch.inference_mode():  # as ComfyUI runs nodes
        clip = models.load_clip()
        contour = torch.zeros(1, 128, 128, 3)
        contour[:, 40:90, 40] = contour[:, 40:90, 90] = contour[:, 40, 40:90] = contour[:, 90, 40:90] = 1.0
        positive, negative = encode("a photo of a Cinder Finch"), encode("")
        control = models.load_controlnet()
        controlled = nodes.ControlNetApplyAdvanced().apply_controlnet(
            positive, negative, control, contour, 1.0, 0.0, 1.0
        )
        on_positive = node_helpers.conditioning_set_values(
            positive, {"control": controlled[0][0][1]["control"], "control_apply_to_uncond": False}
        )
        return SimpleNamespace(
            model=models.load_model(),
            vae=models.load_vae(),
            classifier=attach_patcher(FineGrainedClassifier.load(models.WEIGHTS / "guide.safetensors")),
            text=positive,
            empty=negative,
            positive=controlled[0],
            negative=controlled[1],
            on_positive=on_positive,
            name=birds.CLASS_NAMES[2],
            names=birds.CLASS_NAMES,
        )


def make_exact_world():
    """The same in float64, but for what ComfyUI and we compute between the networks: see numeric.py one folder up."""
    from comfy.cli_args import args

    from ..numeric import in_float64

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(args, "fp64_unet", True)  # ComfyUI's --fp64-unet
        world = make_world()
    with torch.inference_mode():
        world.vae.first_stage_model.double()
    world.vae.vae_dtype = torch.float64
    in_float64(world.classifier)
    assert world.model.model.diffusion_model.dtype == torch.float64
    return world


def noise_for(batch, seed=0):
    return torch.randn(batch, 8, 16, 16, generator=torch.Generator().manual_seed(seed))


def run(guider, noise, sampler="euler", scheduler="karras", steps=STEPS, callback=None, mask=None, latent=None):
    import comfy.samplers

    with torch.inference_mode():
        model = guider.model_patcher
        sigmas = comfy.samplers.KSampler(model, steps, model.load_device, sampler, scheduler, 1.0).sigmas
        latent = torch.zeros_like(noise) if latent is None else latent
        return guider.sample(
            noise, latent, comfy.samplers.sampler_object(sampler), sigmas, mask, callback, True, seed=1
        )


def stock(world, positive, negative, cfg=CFG):
    import comfy.samplers

    guider = comfy.samplers.CFGGuider(world.model.clone())
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    return guider


def ours(world, positive=None, negative=None, names=None, cfg=CFG, classifier="own", model=None, **settings):
    from higfa_core.comfy.guider import HiGFAGuider
    from higfa_core.guidance.settings import Guidance

    classifier = world.classifier if classifier == "own" else classifier
    guider = HiGFAGuider(model or world.model, classifier, names or [world.name], world.vae, Guidance(**settings))
    guider.set_conds(world.positive if positive is None else positive, world.negative if negative is None else negative)
    guider.set_cfg(cfg)
    return guider
