"""From a denoised latent to the pixels a classifier reads, differentiably.

VAE.decode is unsuitable: it works in place, moves to the CPU and tiles under inference mode. Weights that ComfyUI has
moved are inference tensors, which autograd refuses, so they are cloned once per run and the module is called with the
clones.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import comfy.taesd.taesd
import comfy.utils
import folder_paths
import torch
from torch import Tensor
from torch.func import functional_call

if TYPE_CHECKING:
    from comfy.latent_formats import LatentFormat
    from comfy.sd import VAE

TINY_ABOVE = 512  # pixels; up to this size the full decoder is affordable and shows finer marks


class _Decode(torch.nn.Module):
    """functional_call runs `forward`; a VAE's network is decoded by `decode`."""

    def __init__(self, net: Any):
        super().__init__()
        self.net: Any = net

    def forward(self, z: Tensor) -> Tensor:
        return self.net.decode(z)


class VAEDecoder:
    """A ComfyUI VAE's own decoder: model-space latents [B, C, H, W] (or [B, C, 1, H, W]) -> images [B, 3, H', W'] in
    0..1, in the dtype that ComfyUI chose for this VAE."""

    name = "vae"

    def __init__(self, vae: VAE, latent_format: LatentFormat, device: torch.device):
        self.module, self.process_output, self.dtype = _Decode(vae.first_stage_model), vae.process_output, vae.vae_dtype
        with torch.inference_mode(False):
            # Some formats hold means and standard deviations that were created in inference mode.
            self.latent_format = copy.deepcopy(latent_format)
            self.params = {
                name: weight.to(device, self.dtype if weight.is_floating_point() else weight.dtype, copy=True)
                for name, weight in self.module.state_dict().items()
                if not name.startswith(("net.encoder.", "net.quant_conv."))
            }

    def __call__(self, latents: Tensor) -> Tensor:
        z = self.latent_format.process_out(latents).to(self.dtype)
        decoded = functional_call(self.module, self.params, (z,))
        if decoded.ndim == 5:
            decoded = decoded[:, :, 0]
        # A copy: process_output works in place on a tensor that backward may still need.
        return self.process_output(decoded[:, :3].to(torch.float32, copy=True)).clamp(0, 1)


class TinyDecoder:
    """TAESD from models/vae_approx, or the decoder of a latent format that brings its own (`build_tiny_decoder`). Takes
    model-space latents unchanged; always float32."""

    name, dtype = "tiny", torch.float32

    def __init__(self, path: str, latent_format: LatentFormat, device: torch.device):
        self.latent_format = latent_format
        with torch.inference_mode(False):
            weights = {k: w.clone() for k, w in comfy.utils.load_torch_file(path, safe_load=True).items()}
            build = getattr(latent_format, "build_tiny_decoder", None)
            if build is None:
                taesd = comfy.taesd.taesd.TAESD(None, None, latent_channels=latent_format.latent_channels)
                taesd.taesd_decoder.load_state_dict(weights)
                module, self.decode = taesd, taesd.decode
            else:
                module = self.decode = build()
                module.load_state_dict(weights)
            module.requires_grad_(False).eval().to(device)

    def __call__(self, latents: Tensor) -> Tensor:
        return (self.decode(latents.float()) / 2 + 0.5).clamp(0, 1)


Decoder = VAEDecoder | TinyDecoder


@dataclass(frozen=True)
class VAEChoice:
    """The full decoder, chosen before a run and built at its first guided call."""

    vae: VAE
    latent_format: LatentFormat
    name = "vae"

    def build(self, device: torch.device) -> VAEDecoder:
        return VAEDecoder(self.vae, self.latent_format, device)


@dataclass(frozen=True)
class TinyChoice:
    """The tiny decoder of that file, likewise."""

    path: str
    latent_format: LatentFormat
    name = "tiny"

    def build(self, device: torch.device) -> TinyDecoder:
        return TinyDecoder(self.path, self.latent_format, device)


DecoderChoice = VAEChoice | TinyChoice


def tiny_decoder_path(latent_format: LatentFormat) -> str | None:
    """The latent format's own tiny decoder, or its TAESD decoder in models/vae_approx, or None."""
    own = getattr(latent_format, "tiny_decoder_file", None)
    if own is not None:
        return str(own)
    name = latent_format.taesd_decoder_name
    if not name or latent_format.latent_dimensions != 2:
        return None
    files = [f for f in folder_paths.get_filename_list("vae_approx") if f.startswith(name)]
    return folder_paths.get_full_path("vae_approx", files[0]) if files else None


def choose_decoder(choice: str, vae: VAE | None, latent_format: LatentFormat, image_side: int) -> DecoderChoice:
    """The decoder that `choice` (auto, tiny, vae) means for images of that longest side in pixels.

    Raises:
        ValueError: no decoder is available, or the VAE does not belong to this model; the message says what is missing.
    """
    path = tiny_decoder_path(latent_format)
    if choice == "tiny" and path is None:
        wanted = latent_format.taesd_decoder_name
        raise ValueError(
            f"decoder is 'tiny', but models/vae_approx holds no file that starts with {wanted!r}. "
            "Put it there, or set decoder to 'vae'."
            if wanted and latent_format.latent_dimensions == 2
            else "decoder is 'tiny', but this model's latents have no tiny decoder. Set decoder to 'vae'."
        )
    preferred = image_side > TINY_ABOVE or getattr(latent_format, "tiny_decoder_file", None) is not None
    if path is not None and (choice == "tiny" or vae is None or (choice == "auto" and preferred)):
        return TinyChoice(path, latent_format)
    return VAEChoice(_checked(vae, latent_format), latent_format)


def _checked(vae: VAE | None, latent_format: LatentFormat) -> VAE:
    if vae is None:
        raise ValueError("The classifier reads pixels, and there is nothing to decode latents with. Connect the VAE.")
    if vae.output_channels not in (3, 4):
        raise ValueError(f"The VAE decodes to {vae.output_channels} channels, not to an image. Connect an image VAE.")
    if vae.latent_channels != latent_format.latent_channels:
        raise ValueError(
            f"The VAE has latents of {vae.latent_channels} channels, the model of {latent_format.latent_channels}. "
            "Connect the VAE that belongs to the model."
        )
    return vae


def image_size(latent_format: LatentFormat, shape: Sequence[int]) -> tuple[int, int]:
    """Pixels (height, width) of a latent of that shape."""
    ratio = getattr(latent_format, "spacial_downscale_ratio", 8)  # 0.18.0 has it on some formats only
    return shape[-2] * ratio, shape[-1] * ratio
