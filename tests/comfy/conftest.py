"""The miniature as ComfyUI objects, made once; see guiding.py beside this file."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ..numeric import with_rounding
from .guiding import make_exact_world, make_world, noise_for, run, stock


@pytest.fixture(scope="session")
def zoo(comfyui):
    """Small networks of every family: zoo.py beside this file."""
    from . import zoo

    return zoo


@pytest.fixture(scope="module")
def family(zoo):
    """One of the zoo's models; a file may have its own."""
    return zoo.family("sd15")


@pytest.fixture(scope="module")
def classifier(zoo):
    return zoo.classifier()


@pytest.fixture(scope="session")
def world(comfyui):
    """The miniature: see guiding.py beside this file."""
    return make_world()


@pytest.fixture(scope="session")
def exact(comfyui):
    """The miniature in float64, for what is equal but not to the last bit."""
    return make_exact_world()


@pytest.fixture(scope="session")
def rounding(exact):
    """What one rounding of the noise does to a stock run of six steps."""
    guider = stock(exact, exact.on_positive, exact.empty)
    return with_rounding(lambda noise: run(guider, noise, steps=6), noise_for(1))[1]


@pytest.fixture
def no_tiny_decoder(world, monkeypatch):
    """The miniature without the tiny decoder that it brings."""
    for name in ("tiny_decoder_file", "build_tiny_decoder"):
        monkeypatch.setattr(type(world.model.model.latent_format), name, None)


@pytest.fixture
def tiny(world, no_tiny_decoder, monkeypatch):
    """A TAESD decoder of random weights where ComfyUI keeps such files, for the miniature's latents."""
    import comfy.taesd.taesd
    import folder_paths

    torch.manual_seed(0)
    folder = Path(folder_paths.get_folder_paths("vae_approx")[0])
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / "taesd_miniature_decoder.safetensors"
    weights = comfy.taesd.taesd.Decoder(8).state_dict()  # of this layout, but not initialised
    for weight in weights.values():
        # A gain of 0.7 keeps what comes out in 0..1, not clipped to black and white.
        torch.nn.init.normal_(weight, std=0.7 * (2 / weight[0].numel()) ** 0.5 if weight.ndim > 1 else 0.0)
    save_file(weights, file)
    monkeypatch.setattr(world.model.model.latent_format, "taesd_decoder_name", "taesd_miniature_decoder", raising=False)
    folder_paths.filename_list_cache.clear()
    yield file
    file.unlink()
    folder_paths.filename_list_cache.clear()
