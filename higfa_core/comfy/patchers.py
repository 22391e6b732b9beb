"""Puts the classifier under ComfyUI's memory management."""

import comfy.model_management
import comfy.model_patcher
import torch

from ..classifier import FineGrainedClassifier


class WholePatcher(comfy.model_patcher.ModelPatcher):
    """Loads all weights or none: unlike ComfyUI's own, plain PyTorch layers cannot fetch weights left on the CPU."""

    def partially_load(
        self, device_to: torch.device, extra_memory: float = 0, force_patch_weights: bool = False
    ) -> int:
        return super().partially_load(device_to, 1e32, force_patch_weights)


def attach_patcher(classifier: FineGrainedClassifier) -> FineGrainedClassifier:
    """Give a FineGrainedClassifier a ModelPatcher, so that ComfyUI counts, loads and offloads its weights."""
    classifier.patcher = WholePatcher(
        classifier.module,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )
    return classifier
