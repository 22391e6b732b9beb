"""Puts the classifier under ComfyUI's memory management."""

import comfy.model_management
import comfy.model_patcher


def attach_patcher(classifier):
    """Give a FineGrainedClassifier a ModelPatcher, so that ComfyUI counts, loads and offloads its weights."""
    classifier.patcher = comfy.model_patcher.ModelPatcher(
        classifier.module,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )
    return classifier
