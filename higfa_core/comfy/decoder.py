"""From a denoised latent to the pixels a classifier reads, differentiably.

VAE.decode cannot be used: it works in place, moves to the CPU and tiles under inference mode. Weights that ComfyUI
moved are inference tensors, which autograd refuses, so they are cloned once a run and the module is called with the
clones.
"""

import copy
from dataclasses import dataclass

import comfy.taesd.taesd
import comfy.utils
import folder_paths
import torch
from torch.func import functional_call

TINY_ABOVE = 512  # pixels; up to here the full decoder is affordable and shows finer marks


class _Decode(torch.nn.Module):
    """functional_call runs `forward`; a VAE's network is decoded by `decode`."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, z):
        return self.net.decode(z)


class VAEDecoder:
    """A ComfyUI VAE's own decoder: model-space latents [B, C, H, W] (or [B, C, 1, H, W]) -> images [B, 3, H', W'] in
    0..1, in the dtype that ComfyUI chose for this VAE."""

    name = "vae"

    def __init__(self, vae, latent_format, device):
        self.module, self.process_output, self.dtype = _Decode(vae.first_stage_model), vae.process_output, vae.vae_dtype
        with torch.inference_mode(False):
            # Means and standard deviations that some formats hold were born in inference mode.
            self.latent_format = copy.deepcopy(latent_format)
            self.params = {
                name: weight.to(device, self.dtype if weight.is_floating_point() else weight.dtype, copy=True)
                for name, weight in self.module.state_dict().items()
                if not name.startswith(("net.encoder.", "net.quant_conv."))
            }

    def __call__(self, latents):
        z = self.latent_format.process_out(latents).to(self.dtype)
        decoded = functional_call(self.module, self.params, (z,))
        if decoded.ndim == 5:
            decoded = decoded[:, :, 0]
        # A copy: process_output works in place, on what backward may still need.
        return self.process_output(decoded[:, :3].to(torch.float32, copy=True)).clamp(0, 1)


class TinyDecoder:
    """TAESD from models/vae_approx, which takes model-space latents as they are; always float32."""

    name, dtype = "tiny", torch.float32

    def __init__(self, path, latent_format, device):
        self.latent_format = latent_format
        with torch.inference_mode(False):
            self.module = comfy.taesd.taesd.TAESD(None, None, latent_channels=latent_format.latent_channels)
            weights = comfy.utils.load_torch_file(path, safe_load=True)
            self.module.taesd_decoder.load_state_dict({k: w.clone() for k, w in weights.items()})
            self.module.requires_grad_(False).eval().to(device)

    def __call__(self, latents):
        return (self.module.decode(latents.float()) / 2 + 0.5).clamp(0, 1)


@dataclass(frozen=True)
class DecoderChoice:
    """Which decoder a run will use; made before the run, built at its first guided call."""

    name: str
    vae: object
    latent_format: object
    tiny_path: str | None

    def build(self, device):
        if self.name == "tiny":
            return TinyDecoder(self.tiny_path, self.latent_format, device)
        return VAEDecoder(self.vae, self.latent_format, device)


def tiny_decoder_path(latent_format) -> str | None:
    """The TAESD decoder of this latent format in models/vae_approx, or None."""
    name = latent_format.taesd_decoder_name
    if not name or latent_format.latent_dimensions != 2:
        return None
    files = [f for f in folder_paths.get_filename_list("vae_approx") if f.startswith(name)]
    return folder_paths.get_full_path("vae_approx", files[0]) if files else None


def choose_decoder(choice: str, vae, latent_format, image_side: int) -> DecoderChoice:
    """The decoder that `choice` (auto, tiny, vae) means for images of that longest side in pixels.

    Raises:
        ValueError: no decoder is to be had, or the VAE is not this model's; the message says what is missing.
    """
    path = tiny_decoder_path(latent_format)
    if choice == "tiny" and path is None:
        wanted = latent_format.taesd_decoder_name
        raise ValueError(
            f"decoder is 'tiny', but models/vae_approx holds no file that starts with {wanted!r}; "
            "put it there, or set decoder to 'vae'."
            if wanted and latent_format.latent_dimensions == 2
            else "decoder is 'tiny', but this model's latents have no tiny decoder; set decoder to 'vae'."
        )
    if path is not None and (choice == "tiny" or vae is None or (choice == "auto" and image_side > TINY_ABOVE)):
        return DecoderChoice("tiny", vae, latent_format, path)
    _check_vae(vae, latent_format)
    return DecoderChoice("vae", vae, latent_format, path)


def _check_vae(vae, latent_format):
    if vae is None:
        raise ValueError("The classifier reads pixels and there is nothing to decode with: connect the VAE.")
    if vae.output_channels not in (3, 4):
        raise ValueError(f"The VAE decodes to {vae.output_channels} channels, not to an image: connect an image VAE.")
    if vae.latent_channels != latent_format.latent_channels:
        raise ValueError(
            f"The VAE has latents of {vae.latent_channels} channels, the model of {latent_format.latent_channels}: "
            "connect the VAE that belongs to the model."
        )


def image_size(latent_format, shape) -> tuple[int, int]:
    """Pixels (height, width) of a latent of that shape."""
    ratio = getattr(latent_format, "spacial_downscale_ratio", 8)  # 0.18.0 has it on some formats only
    return shape[-2] * ratio, shape[-1] * ratio
