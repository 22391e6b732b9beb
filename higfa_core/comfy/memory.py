"""Tells ComfyUI how much memory the guidance will take, so that it makes room before the run."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from comfy.model_patcher import ModelPatcher

from ..classifier import FineGrainedClassifier
from ..guidance.settings import Guidance
from .decoder import DecoderChoice, TinyChoice, image_size

# Peak of a guided call, measured by benchmarks/guided_call.py, with a margin: a multiple of ComfyUI's own estimate of
# decoding without gradient; float32 values per pixel (TAESD); float32 values per input pixel (ResNet-50, ViT-B).
VAE_FACTOR, TINY_VALUES, CLASSIFIER_VALUES = 1.5, 600, 500


def guidance_memory(
    classifier: FineGrainedClassifier, decoder: DecoderChoice, settings: Guidance, shape: Sequence[int]
) -> int:
    """Bytes that guided calls need beside the diffusion model: clones of the weights, and what backward saves.

    Args:
        shape: of the run's latents, [B, C, H, W].
    """
    height, width = image_size(decoder.latent_format, shape)
    count = min(shape[0], settings.images_at_once(height * width))
    input_height, input_width = classifier.preprocessing.input_size
    classify = 4 * CLASSIFIER_VALUES * input_height * input_width * settings.views
    if isinstance(decoder, TinyChoice):
        decode, weights = 4 * TINY_VALUES * height * width, 0
    else:
        vae = decoder.vae
        decode = VAE_FACTOR * vae.memory_used_decode((1, *shape[1:]), vae.vae_dtype)
        weights = _bytes(vae.first_stage_model, torch.finfo(vae.vae_dtype).bits // 8)
    return int(weights + _bytes(classifier.module, 4) + count * (decode + classify))


def _bytes(module: torch.nn.Module, size: int) -> int:
    return size * sum(parameter.numel() for parameter in module.parameters())


class Workspace:
    """Stands among a run's controls, whose memory ComfyUI counts before it loads models."""

    def __init__(self, size: int):
        self.size = size

    def get_models(self) -> list:
        return []

    def inference_memory_requirements(self, dtype: torch.dtype) -> int:
        return self.size


def load_with_room(
    size: int, executor: Callable, model: ModelPatcher, noise_shape: Sequence[int], conds: dict, *args, **kwargs
) -> tuple:
    """ComfyUI's prepare_sampling (as `executor`), requesting `size` bytes more than the model itself needs.

    Not with several GPUs, where ComfyUI would clone everything among the controls.
    """
    if model.get_additional_models_with_key("multigpu"):
        return executor(model, noise_shape, conds, *args, **kwargs)
    room = {"higfa_memory": [{"control": Workspace(size), "model_conds": {}}]}
    inner_model, conds_out, models = executor(model, noise_shape, {**conds, **room}, *args, **kwargs)
    return inner_model, {name: cond for name, cond in conds_out.items() if name not in room}, models
