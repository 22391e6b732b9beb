"""Calls the classifier under ComfyUI's memory management, interruptibly."""

import comfy.model_management
import torch

from ..classifier import FineGrainedClassifier

CHUNK = 32  # images between checks for an interrupt


def predict(classifier: FineGrainedClassifier, images: torch.Tensor) -> torch.Tensor:
    """ComfyUI images [B, H, W, 1, 3 or 4] in 0..1 -> calibrated probabilities [B, K], float32 on the CPU.

    Grey is repeated, alpha is dropped.

    Raises:
        ValueError: no image, or something other than images.
    """
    images = as_rgb(images)
    if classifier.patcher is not None:
        comfy.model_management.load_models_gpu([classifier.patcher])
    parts = []
    for chunk in images.split(CHUNK):
        comfy.model_management.throw_exception_if_processing_interrupted()
        parts.append(classifier.predict_proba(chunk))
    return torch.cat(parts)


def as_rgb(images: torch.Tensor) -> torch.Tensor:
    """Images [B, H, W, 1, 3 or 4] -> [B, H, W, 3]."""
    if images.ndim != 4 or images.shape[-1] not in (1, 3, 4) or not images.numel():
        raise ValueError(
            f"Expected one or more images of shape [B, H, W, 3] (or 1 channel, or 4), got {list(images.shape)}. "
            "Connect an IMAGE."
        )
    if images.shape[-1] == 1:
        return images.expand(-1, -1, -1, 3)
    return images[..., :3]
