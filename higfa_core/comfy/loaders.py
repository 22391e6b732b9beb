"""Model files, read by ComfyUI's own loaders in a standalone program."""

from pathlib import Path

import comfy.sd
import comfy.utils


def load_models(checkpoint: Path | None, vae_file: Path | None) -> tuple:
    """(MODEL, CLIP, VAE) of a checkpoint, the VAE from `vae_file` where given; without a checkpoint the VAE alone.

    Raises:
        ValueError: ComfyUI does not know such a file, or a part is missing.
    """
    try:
        return _load(checkpoint, vae_file)
    except RuntimeError as error:  # ComfyUI's for a file that it does not know
        raise ValueError(f"ComfyUI cannot use {checkpoint or vae_file}: {error}") from error


def _load(checkpoint, vae_file):
    model = clip = vae = None
    if checkpoint:
        model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(str(checkpoint))
        if clip is None:
            raise ValueError(f"{checkpoint} holds no text encoder. Give a full checkpoint, or --vae alone.")
    if vae_file:
        vae = comfy.sd.VAE(sd=comfy.utils.load_torch_file(str(vae_file), safe_load=True))
    if vae is None:
        raise ValueError(f"{checkpoint} holds no VAE. Name one with --vae.")
    vae.throw_exception_if_invalid()
    return model, clip, vae
