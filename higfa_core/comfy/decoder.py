"""From a denoised latent to the pixels a classifier reads, differentiably.

VAE.decode cannot be used: it works in place, moves to the CPU and tiles under inference mode. Weights that ComfyUI
moved are inference tensors, which autograd refuses, so they are cloned once a run and the module is called with the
clones (reference/comfyui.md, section 3).
"""

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
    """A ComfyUI VAE's own decoder: model-space latents [B, C, H, W] -> images [B, 3, H', W'] in 0..1."""

    name = "vae"

    def __init__(self, vae, latent_format, device):
        self.module, self.latent_format, self.dtype = _Decode(vae.first_stage_model), latent_format, vae.vae_dtype
        with torch.inference_mode(False):
            self.params = {
                name: weight.to(device, self.dtype, copy=True) if weight.is_floating_point() else weight.clone()
                for name, weight in self.module.state_dict().items()
                if not name.startswith(("net.encoder.", "net.quant_conv."))
            }

    def __call__(self, latents):
        z = self.latent_format.process_out(latents).to(self.dtype)
        return (functional_call(self.module, self.params, (z,)).float() / 2 + 0.5).clamp(0, 1)


class TinyDecoder:
    """TAESD from models/vae_approx, which takes model-space latents as they are."""

    name = "tiny"

    def __init__(self, path, latent_format, device):
        with torch.inference_mode(False):
            self.module = comfy.taesd.taesd.TAESD(None, None, latent_channels=latent_format.latent_channels)
            weights = comfy.utils.load_torch_file(path, safe_load=True)
            self.module.taesd_decoder.load_state_dict({k: w.clone() for k, w in weights.items()})
            self.module.requires_grad_(False).eval().to(device)

    def __call__(self, latents):
        return (self.module.decode(latents.float()) / 2 + 0.5).clamp(0, 1)


def tiny_decoder_path(latent_format) -> str | None:
    """The TAESD decoder of this latent format in models/vae_approx, or None."""
    name = latent_format.taesd_decoder_name
    files = [f for f in folder_paths.get_filename_list("vae_approx") if name and f.startswith(name)]
    return folder_paths.get_full_path("vae_approx", files[0]) if files else None


def build_decoder(choice: str, vae, latent_format, image_side: int, device):
    """The decoder that `choice` (auto, tiny, vae) means here.

    Raises:
        ValueError: no decoder is to be had; the message says which file or input is missing.
    """
    path = tiny_decoder_path(latent_format)
    if choice == "tiny" and path is None:
        wanted = latent_format.taesd_decoder_name
        raise ValueError(
            f"decoder is 'tiny', but models/vae_approx holds no file that starts with {wanted!r}; "
            "put it there, or set decoder to 'vae'."
            if wanted
            else "decoder is 'tiny', but this model's latents have no tiny decoder; set decoder to 'vae'."
        )
    if path is not None and (choice == "tiny" or vae is None or (choice == "auto" and image_side > TINY_ABOVE)):
        return TinyDecoder(path, latent_format, device)
    if vae is None:
        raise ValueError("The classifier reads pixels and there is nothing to decode with: connect the VAE.")
    return VAEDecoder(vae, latent_format, device)
