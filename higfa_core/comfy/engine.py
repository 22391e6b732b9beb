"""Shared by the guider and the MODEL patch: what a run needs, checked before any work."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from comfy.sd import VAE
from torch import Tensor

from ..classifier import FineGrainedClassifier
from ..guidance.settings import Guidance
from ..guidance.targets import Targets
from .decoder import DecoderChoice, choose_decoder, image_size


@dataclass(frozen=True)
class ModelCall:
    """One call of the diffusion model, as a sampler makes it."""

    x: Tensor
    timestep: Tensor
    options: dict


@dataclass(frozen=True)
class GuidedCall(ModelCall):
    """A call in the final stage, with its noise level."""

    sigma: float


@dataclass(frozen=True)
class Plan:
    """What guides the latents of one run: a decoder, and for each image a target, weights over the classes [B, K]."""

    decoder: DecoderChoice
    names: list[str]
    targets: Tensor


@dataclass(frozen=True)
class Engine:
    """A classifier, its targets, what decodes for it, and the settings. Holds no state of a run.

    Args:
        targets: from `read_targets`.
        vae: None if a tiny decoder is available.
        images: the `batch_index` of the latent to sample; None where it has none.
    """

    classifier: FineGrainedClassifier
    targets: Targets
    vae: VAE | None
    settings: Guidance
    images: Sequence[int] | None = None

    def plan(self, latent_format, shape: Sequence[int]) -> Plan:
        """The plan for latents of that shape.

        Raises:
            ValueError: such latents cannot be guided.
        """
        frames = shape[2] if len(shape) == 5 else 1
        if len(shape) not in (4, 5) or frames != 1:
            raise ValueError(
                f"HiGFA guides single images; this latent has shape {tuple(shape)} (video, audio or nested)."
            )
        names, targets = self.targets.for_batch(shape[0], self.images)
        side = max(image_size(latent_format, shape))
        return Plan(choose_decoder(self.settings.decoder, self.vae, latent_format, side), names, targets)
