"""Shared by the scripts in this folder: ComfyUI in this process and the miniature's objects."""

import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def start_comfyui() -> None:
    """Imported here, so that --help needs no ComfyUI."""
    from higfa_core.comfy import startup

    startup.start_comfyui()


@dataclass
class World:
    model: object
    clip: object
    vae: object
    control: object
    classifier: object
    side: int = 16  # of the latents

    def noise(self, batch, seed):
        import torch

        channels = self.model.model.latent_format.latent_channels
        return torch.randn(batch, channels, self.side, self.side, generator=torch.Generator().manual_seed(seed))

    def encode(self, texts):
        """One CONDITIONING whose batch holds a prompt for each image."""
        import torch

        outs = [self.clip.encode_from_tokens(self.clip.tokenize(t), return_pooled=True) for t in texts]
        states, pooled = (torch.cat(column) for column in zip(*outs, strict=True))
        return [[states, {"pooled_output": pooled}]]

    def with_contour(self, conditioning, contours):
        hint = self.control.copy().set_cond_hint(contours.movedim(-1, 1), 1.0, (0.0, 1.0))
        return [[t, {**o, "control": hint, "control_apply_to_uncond": False}] for t, o in conditioning]

    def sample(self, guider, noise, steps, sampler, scheduler, seed):
        import comfy.samplers
        import torch

        model = guider.model_patcher
        sigmas = comfy.samplers.KSampler(model, steps, model.load_device, sampler, scheduler, 1.0).sigmas
        return guider.sample(
            noise, torch.zeros_like(noise), comfy.samplers.sampler_object(sampler), sigmas, disable_pbar=True, seed=seed
        )


def noise_for(seeds):
    """The miniature's noise [B, 8, 16, 16], each image's from a seed of its own."""
    import torch

    return torch.cat([torch.randn(1, 8, 16, 16, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def load_world() -> World:
    from higfa_core.classifier import FineGrainedClassifier
    from higfa_core.comfy.patchers import attach_patcher
    from higfa_core.miniature import models, shipped

    guide = attach_patcher(FineGrainedClassifier.load(shipped.GUIDE))
    return World(models.load_model(), models.load_clip(), models.load_vae(), models.load_controlnet(), guide)


def stock_guider(world, positive, negative, cfg):
    import comfy.samplers

    guider = comfy.samplers.CFGGuider(world.model.clone())
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    return guider


def higfa_guider(world, positive, negative, cfg, names, settings):
    from higfa_core.comfy.guider import HiGFAGuider

    guider = HiGFAGuider(world.model, world.classifier, names, world.vae, settings)
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    return guider
