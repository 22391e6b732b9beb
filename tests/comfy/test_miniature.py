"""The miniature through ComfyUI's stock nodes, as a user wires them."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors import safe_open

pytestmark = pytest.mark.releases


@pytest.fixture(scope="module")
def loaded(pack):
    """What Load Miniature puts on the canvas."""
    with torch.inference_mode():
        out = pack.nodes["HiGFA_LoadMiniature"].execute()
    names = ("model", "clip", "vae", "control", "guide", "class_names", "judge")
    return SimpleNamespace(**dict(zip(names, out.args, strict=True)), text=out.ui.as_dict()["text"])


@pytest.fixture(scope="module")
def renders():
    """Fresh images of every species: uint8-exact floats [32, 128, 128, 3] and their labels."""
    from higfa_core.miniature import birds

    images = [birds.render(i, 7_000_000 + i).image for i in range(32)]
    return torch.from_numpy(np.stack(images)).float() / 255, torch.arange(32)


def stock(core_nodes, name, **inputs):
    node = core_nodes[name]
    with torch.inference_mode():
        return getattr(node(), node.FUNCTION)(**inputs)


def test_vae_encode_and_decode(core_nodes, loaded, renders):
    images, _ = renders
    (latent,) = stock(core_nodes, "VAEEncode", pixels=images, vae=loaded.vae)
    assert latent["samples"].shape == (32, 8, 16, 16)
    (back,) = stock(core_nodes, "VAEDecode", samples=latent, vae=loaded.vae)
    assert back.shape == images.shape
    psnr = -10 * torch.log10((back - images).square().mean())
    assert psnr > 25


def test_text_to_image_with_previews(core_nodes, loaded, monkeypatch):
    import comfy.utils
    import latent_preview
    from comfy.cli_args import args

    shown = []
    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", lambda value, total, preview, **kw: shown.append(preview))
    monkeypatch.setattr(args, "preview_method", latent_preview.LatentPreviewMethod.Auto)
    (positive,) = stock(core_nodes, "CLIPTextEncode", clip=loaded.clip, text="a photo of a (Cinder Finch:1.2)")
    (negative,) = stock(core_nodes, "CLIPTextEncode", clip=loaded.clip, text="")
    (latent,) = stock(core_nodes, "EmptyLatentImage", width=128, height=128, batch_size=2)
    (latent,) = stock(
        core_nodes, "KSampler", model=loaded.model, seed=3, steps=20, cfg=3.0, sampler_name="dpmpp_2m",
        scheduler="karras", positive=positive, negative=negative, latent_image=latent, denoise=1.0,
    )  # fmt: skip
    (images,) = stock(core_nodes, "VAEDecode", samples=latent, vae=loaded.vae)
    assert images.shape == (2, 128, 128, 3)
    previews = [p for p in shown if p]
    assert len(previews) >= 10 and previews[-1][1].size == (16, 16)
    # The preview is the image, small: a linear fit of the latents, so its colours agree roughly.
    small = torch.nn.functional.avg_pool2d(images[:1].movedim(-1, 1), 8)[0].movedim(0, -1)
    preview = torch.from_numpy(np.array(previews[-1][1])).float() / 255
    assert torch.corrcoef(torch.stack([preview.flatten(), small.flatten()]))[0, 1] > 0.75


def test_prompt_weights_act(core_nodes, loaded):
    encode = lambda text: stock(core_nodes, "CLIPTextEncode", clip=loaded.clip, text=text)[0][0][0]  # noqa: E731
    plain, strong = encode("a photo of a Cinder Finch"), encode("a photo of a (Cinder Finch:1.5)")
    assert plain.shape == strong.shape == (1, 20, 64)
    changed = (plain - strong).abs().sum(-1)[0] > 1e-6
    assert changed.nonzero().flatten().tolist() == [4, 5]


def test_contour_decides_where_the_bird_is(core_nodes, loaded):
    """ControlNet at work: the bird must cover the drawn outline, not the other half of the image."""
    from higfa_core import contour
    from higfa_core.miniature import birds

    view = birds.render(0, 7_100_000, 128)
    image, mask = torch.from_numpy(view.image)[None].float() / 255, torch.from_numpy(view.mask)[None].float() / 255
    lines = contour.extract(image, "canny", blur=0.0, mask=mask)
    (positive,) = stock(
        core_nodes, "CLIPTextEncode", clip=loaded.clip, text="a photo of a black Marsh Finch, sky background"
    )
    (negative,) = stock(core_nodes, "CLIPTextEncode", clip=loaded.clip, text="")
    controlled = stock(
        core_nodes, "ControlNetApplyAdvanced", positive=positive, negative=negative, control_net=loaded.control,
        image=lines, strength=1.0, start_percent=0.0, end_percent=1.0,
    )  # fmt: skip
    (latent,) = stock(core_nodes, "EmptyLatentImage", width=128, height=128, batch_size=4)
    (latent,) = stock(
        core_nodes, "KSampler", model=loaded.model, seed=5, steps=20, cfg=3.0, sampler_name="dpmpp_2m",
        scheduler="karras", positive=controlled[0], negative=controlled[1], latent_image=latent, denoise=1.0,
    )  # fmt: skip
    (images,) = stock(core_nodes, "VAEDecode", samples=latent, vae=loaded.vae)
    inside = torch.nn.functional.interpolate(mask[:, None], size=(128, 128), mode="area")[0, 0] > 0.5
    darkness = 1 - images.mean(-1)
    assert darkness[:, inside].mean() > darkness[:, ~inside].mean() + 0.2


@pytest.mark.parametrize("role", ["guide", "judge"])
def test_a_classifier_is_as_good_as_its_file_says(loaded, role):
    from higfa_core.miniature import birds, shipped

    with safe_open(shipped.GUIDE if role == "guide" else shipped.JUDGE, framework="pt") as file:
        about = file.metadata()
    stated, count = float(about["fresh_accuracy"]), 320
    images = np.stack([birds.render(i % 32, 7_000_000 + i).image for i in range(count)])
    classifier = getattr(loaded, role)
    seen = classifier.predict_proba(torch.from_numpy(images).float() / 255).argmax(1)
    right = float((seen == torch.arange(count) % 32).float().mean())
    assert abs(right - stated) < 4 * math.sqrt(stated * (1 - stated) / count)
    assert 0.6 <= stated <= 0.8 if role == "guide" else stated > 0.9
    (words,) = loaded.text
    assert f"{role}: right on {stated:.0%} of fresh renders, trained on {int(about['images_per_class']):,} " in words
    assert loaded.class_names.splitlines() == list(classifier.class_names)
