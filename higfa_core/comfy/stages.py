"""What a classifier reads in the same images: unchanged, through the decoders, and at the guidance's noise levels."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import comfy.model_sampling
import comfy.sample
import comfy.samplers
import comfy.utils
import torch
from comfy.model_management import throw_exception_if_processing_interrupted
from comfy.model_patcher import ModelPatcher
from comfy.sd import VAE
from torch import Tensor

from ..classifier import FineGrainedClassifier
from ..guidance.schedule import window_from_percent
from ..guidance.settings import NoiseLevels
from .decoder import TinyDecoder, tiny_decoder_path
from .predict import predict
from .run import is_guided


@dataclass(frozen=True)
class Noise:
    """What the model needs to make the estimates that the guidance shows to the classifier.

    Args:
        positive, negative: conditioning without a ControlNet; without `negative`, cfg is 1.
        levels: which noise levels, spread evenly over log sigma from one end of the window to the other.
    """

    positive: list
    negative: list | None = None
    levels: NoiseLevels = NoiseLevels()

    def __post_init__(self):
        if any("control" in options for _, options in [*self.positive, *(self.negative or [])]):
            raise ValueError(
                "The conditioning has a ControlNet, whose contour fits one image only. Connect the prompt itself, from "
                "before Apply ControlNet."
            )


@dataclass(frozen=True)
class Stage:
    """What the classifier read in one stage (`real`, `vae` or `tiny`): calibrated probabilities [B, K].

    `sigma` and `percent` (share of the noise schedule) are those of a noise level, None where no noise was added.
    """

    name: str
    probabilities: Tensor
    sigma: float | None = None
    percent: float | None = None


@torch.no_grad()
def measure(
    classifier: FineGrainedClassifier,
    batches: Iterable[Tensor],
    count: int,
    vae: VAE,
    model: ModelPatcher | None = None,
    noise: Noise | None = None,
) -> list[Stage]:
    """Read images in every stage that can be measured.

    The VAE's stage is ComfyUI's own encode and decode. A noise level is what the guidance sees there: the latent
    noised as the model does it, denoised with one call, and decoded.

    Args:
        batches: images [B, S, S, 3] in 0..1, all of one size, read once; `count` images in all.
        model: MODEL, for the tiny decoder and the noise levels; None leaves them out.
        noise: `Noise`; None leaves the noise levels out.

    Raises:
        ValueError: the VAE is not the model's or not an image VAE, the model is guided, or the window is empty.
    """
    _refuse_other_vae(vae, model)
    if model and is_guided(model):
        raise ValueError(
            "The model is guided by a classifier, which would make it agree with itself. Connect the model from before "
            "Guide Model with Classifier."
        )
    levels = noise_levels(model, noise.levels) if model and noise else []
    run = _Run(classifier, count, _decoders(vae, model), len(levels))
    real, latents = run.real(batches, vae)
    stages = [real, *run.decoded(latents)]
    if model and noise:
        for sigma, percent in levels:
            stages += run.decoded(run.denoised(model, noise, latents, sigma), sigma, percent)
    return stages


def noise_levels(model: ModelPatcher, levels: NoiseLevels) -> list[tuple[float, float]]:
    """(sigma, percent) of each noise level to check, highest first."""
    sampling = model.get_model_object("model_sampling")
    flow = isinstance(sampling, comfy.model_sampling.CONST)
    window = window_from_percent(sampling.percent_to_sigma, levels.start_percent, levels.end_sigma, flow)
    top, end = min(window.sigma_on, float(sampling.sigma_max)), window.sigma_off
    if top <= end:
        raise ValueError(
            f"No noise level to check: start_percent {levels.start_percent} is sigma {top:.3g}, and end_sigma is "
            f"{end:.3g}. Lower one of them."
        )
    count = levels.noise_levels
    sigmas = [top * (end / top) ** (i / max(1, count - 1)) for i in range(count)]
    return [(sigma, _percent(sampling.percent_to_sigma, sigma)) for sigma in sigmas]


def _percent(percent_to_sigma: Callable[[float], float], sigma: float) -> float:
    """The share of the noise schedule at which sigma is reached; percent_to_sigma falls."""
    low, high = 0.0, 1.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if percent_to_sigma(middle) > sigma else (low, middle)
    return high


def _refuse_other_vae(vae: VAE, model: ModelPatcher | None) -> None:
    if vae.output_channels not in (3, 4):
        raise ValueError(f"The VAE decodes to {vae.output_channels} channels, not to an image. Connect an image VAE.")
    wanted = model.model.latent_format.latent_channels if model else vae.latent_channels
    if vae.latent_channels != wanted:
        raise ValueError(
            f"The VAE has latents of {vae.latent_channels} channels, the model of {wanted}. Connect the VAE that "
            "belongs to the model."
        )


def _decoders(vae: VAE, model: ModelPatcher | None) -> dict[str, Callable[[Tensor], Tensor]]:
    """Stage -> function of the VAE's latents that gives ComfyUI images."""

    def full(z):
        images = vae.decode(z)
        return images.reshape(-1, *images.shape[-3:])  # VAEs of video add a frame

    if model is None or (path := tiny_decoder_path(model.model.latent_format)) is None:
        return {"vae": full}
    latent_format = model.model.latent_format
    tiny = TinyDecoder(path, latent_format, model.load_device)
    return {"vae": full, "tiny": lambda z: tiny(latent_format.process_in(z).to(model.load_device)).movedim(1, -1)}


class _Run:
    """One progress bar over all stages; latents are lists of batches of the VAE's latents."""

    def __init__(self, classifier: FineGrainedClassifier, count: int, decoders: dict[str, Callable], levels: int):
        self.classifier, self.decoders = classifier, decoders
        self.bar = comfy.utils.ProgressBar(count * (1 + len(decoders) + levels * (1 + len(decoders))))

    def real(self, batches: Iterable[Tensor], vae: VAE) -> tuple[Stage, list[Tensor]]:
        probabilities, latents = [], []
        for images in batches:
            probabilities.append(self._shown(images))
            # One by one: video VAEs treat a batch as frames.
            latents.append(torch.cat([vae.encode(image) for image in images.split(1)]))
        return Stage("real", torch.cat(probabilities)), latents

    def decoded(
        self, latents: list[Tensor], sigma: float | None = None, percent: float | None = None
    ) -> Iterator[Stage]:
        for name, decode in self.decoders.items():
            yield Stage(name, torch.cat([self._shown(decode(z)) for z in latents]), sigma, percent)

    def denoised(self, model: ModelPatcher, noise: Noise, latents: list[Tensor], sigma: float) -> list[Tensor]:
        """The model's estimates of the clean latents from one call at `sigma`; the same noise at every level."""
        guider = comfy.samplers.CFGGuider(model)
        guider.inner_set_conds({"positive": noise.positive} | ({"negative": noise.negative} if noise.negative else {}))
        guider.set_cfg(noise.levels.cfg if noise.negative else 1.0)
        sampler, sigmas = comfy.samplers.KSAMPLER(_one_call), torch.tensor([sigma, 0.0])
        drawn = comfy.sample.prepare_noise(torch.cat(latents), noise.levels.seed).split(len(latents[0]))
        estimates = []
        for n, z in zip(drawn, latents, strict=True):
            throw_exception_if_processing_interrupted()
            estimates.append(guider.sample(n, z, sampler, sigmas, disable_pbar=True, seed=noise.levels.seed))
            self.bar.update(len(z))
        return estimates

    def _shown(self, images: Tensor) -> Tensor:
        probabilities = predict(self.classifier, images)
        self.bar.update(len(images))
        return probabilities


def _one_call(model: Callable, x: Tensor, sigmas: Tensor, extra_args: dict, callback=None, disable=None) -> Tensor:
    """A sampler that returns the model's first estimate."""
    return model(x, sigmas[0] * x.new_ones([len(x)]), **extra_args)
