import json

import numpy as np
import pytest
import timm.data
import torch
import torchvision
import transformers
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode

from higfa_core.classifier import Preprocess, preprocess
from higfa_core.classifier.formats import processors, torchvision_models

from .nets import SETTINGS, classifier, module, picture


@pytest.mark.parametrize("size", [(90, 130), (131, 77), (40, 50)])
@pytest.mark.parametrize(
    ("input_size", "interpolation", "crop_pct", "crop_mode"),
    [
        ((64, 64), "bilinear", 0.9, "center"),
        ((64, 64), "bicubic", 0.875, "center"),
        ((64, 64), "bicubic", 1.0, "center"),
        ((48, 72), "bilinear", 0.95, "center"),
        ((64, 48), "bicubic", 0.9, "squash"),
        ((64, 64), "nearest", 0.9, "center"),
    ],
)
def test_preprocess_is_timms_eval_transform(size, input_size, interpolation, crop_pct, crop_mode):
    settings = Preprocess(input_size, SETTINGS.mean, SETTINGS.std, interpolation, crop_pct, crop_mode)
    image = picture(*size)
    pil = Image.fromarray((image[0].permute(1, 2, 0) * 255).round().numpy().astype(np.uint8))
    transform = timm.data.create_transform(
        (3, *input_size),
        is_training=False,
        interpolation=interpolation,
        mean=SETTINGS.mean,
        std=SETTINGS.std,
        crop_pct=crop_pct,
        crop_mode=crop_mode,
    )
    ours = classifier(settings=settings).preprocess(image)
    assert ours.shape == (1, 3, *input_size)
    levels = (ours[0] - transform(pil)).abs() * torch.tensor(SETTINGS.std)[:, None, None] * 255
    assert levels.mean() < 0.6  # PIL rounds to 8 bits
    # ... clips bicubic overshoot after each of its passes, and breaks ties of "nearest" its own way
    assert levels.max() < {"bilinear": 1.5, "bicubic": 4, "nearest": 256}[interpolation]
    assert (levels > 1.5).float().mean() < 0.02


class _Operations(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("before", "after"),
    [((131, 77), (64, 50)), ((131, 77), (200, 333)), ((131, 77), (131, 40)), ((5, 9), (1, 64)), ((1, 1), (7, 3))],
)
def test_resizing_is_torchs_with_antialias_forward_and_backward(mode, before, after):
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(2, 3, *before, dtype=torch.float64, generator=generator).requires_grad_()
    weights = torch.rand(2, 3, *after, dtype=torch.float64, generator=generator)
    theirs = torch.nn.functional.interpolate(image, after, mode=mode, antialias=True, align_corners=False).clamp(0, 1)
    ours = preprocess._resize(image, after, mode)
    torch.testing.assert_close(ours, theirs)
    gradients = (torch.autograd.grad((out * weights).sum(), image)[0] for out in (ours, theirs))
    torch.testing.assert_close(*gradients)
    torch.testing.assert_close(preprocess._resize(image.float(), after, mode), theirs.float())
    assert preprocess._resize(image, before, mode) is image


@pytest.mark.parametrize("mode", ["bilinear", "bicubic"])
def test_resizing_has_a_gradient_everywhere_and_the_same_one_twice(mode):
    """torch's own with antialias adds up in random order on CUDA, and MPS had none for long."""
    preprocess._filter.cache_clear()
    settings, operations = Preprocess((24, 24), SETTINGS.mean, SETTINGS.std, mode, 0.9), _Operations()
    with torch.inference_mode():
        settings(picture(90, 70))
    image = picture(90, 70).requires_grad_()
    with operations:
        torch.autograd.grad(settings(image).square().sum(), image)
    assert operations.names and not [name for name in operations.names if "upsample" in name]


def test_logits_are_timms_on_pil_images():
    net = module()
    pils = [Image.fromarray((picture(seed=i)[0].permute(1, 2, 0) * 255).byte().numpy()) for i in range(3)]
    transform = timm.data.create_transform(
        (3, 64, 64),
        is_training=False,
        interpolation="bilinear",
        mean=SETTINGS.mean,
        std=SETTINGS.std,
        crop_pct=0.9,
    )
    images = torch.stack([torch.from_numpy(np.array(pil)).permute(2, 0, 1) / 255 for pil in pils])
    with torch.no_grad():
        theirs = net(torch.stack([transform(pil) for pil in pils]))
    assert theirs.std(dim=0).min() > 0.01  # else any image would do
    torch.testing.assert_close(classifier().logits(images), theirs, atol=5e-3, rtol=0)


def test_grey_model_sees_pils_luma():
    settings = Preprocess((64, 64), (0.5,), (0.5,), "bilinear", 1.0)
    image = picture(64, 64)
    pil = Image.fromarray((image[0].permute(1, 2, 0) * 255).round().byte().numpy()).convert("L")
    theirs = (torch.from_numpy(np.array(pil)) / 255 - 0.5) / 0.5
    assert (classifier(settings=settings, in_chans=1).preprocess(image)[0, 0] - theirs).abs().max() < 2 / 255


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("input_size", (64,)),
        ("input_size", (0, 64)),
        ("mean", (0.5, 0.5)),
        ("std", (0.2, 0.0, 0.2)),
        ("mean", (0.5, float("nan"), 0.5)),
        ("interpolation", "lanczos"),
        ("crop_pct", 0.0),
        ("crop_pct", 1.5),
        ("resize", 60),
        ("resize", (64, 60)),
        ("resize", 64.5),
        ("crop_rounding", "up"),
        ("channel_order", "GBR"),
        ("crop_mode", "border"),
    ],
)
def test_preprocess_refuses_and_names_the_value(field, value):
    fields = dict(zip(("input_size", "mean", "std", "interpolation", "crop_pct"), SETTINGS.__dict__.values()))
    with pytest.raises(ValueError, match=field):
        Preprocess(**{**fields, field: value})


def test_wrong_image_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\[B, 3, H, W\], got \[1, 4, 64, 64\]"):
        classifier().logits(torch.rand(1, 4, 64, 64))
    with pytest.raises(ValueError, match=r"got \[0, 64, 64, 3\]"):
        classifier().predict_proba(torch.rand(0, 64, 64, 3))


# against the libraries' own transforms


def require_same_picture(settings: dict, theirs, size):
    """Our preprocessing of a picture and `theirs` of the same PIL image agree as 8-bit rounding allows."""
    ours = Preprocess(**settings)
    image = picture(*size, seed=sum(size))
    pil = Image.fromarray((image[0].permute(1, 2, 0) * 255).round().byte().numpy())
    expected = theirs(pil)
    assert ours(image).shape == (1, *expected.shape)
    levels = (ours(image)[0] - expected).abs() * torch.tensor(ours.std)[:, None, None] * 255
    assert levels.mean() < 0.6
    assert levels.max() < (1.5 if ours.interpolation == "bilinear" else 4)
    assert (levels > 1.5).float().mean() < 0.02


@pytest.mark.parametrize("size", [(300, 401), (257, 180)])
@pytest.mark.parametrize("arch", ["resnet50", "resnet18", "efficientnet_b0", "convnext_tiny", "vit_b_16", "swin_t"])
def test_torchvision_presets(arch, size):
    transforms = torchvision.models.get_model_weights(arch).DEFAULT.transforms()
    require_same_picture(torchvision_models.preprocess(arch, None, {}), transforms, size)


PROCESSORS = {
    "ViT": ("ViTImageProcessor", {"size": {"height": 48, "width": 64}, "resample": 3, "image_mean": [0.4, 0.5, 0.6]}),
    "Swin": ("ViTImageProcessor", {"size": 64}),
    "DeiT": ("DeiTImageProcessor", {"size": {"height": 73, "width": 73}, "crop_size": {"height": 64, "width": 64}}),
    "ConvNeXt below 384": ("ConvNextImageProcessor", {"size": {"shortest_edge": 64}, "crop_pct": 0.875}),
    "ConvNeXt from 384": ("ConvNextImageProcessor", {"size": {"shortest_edge": 384}}),
    "CLIP": ("CLIPImageProcessor", {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}}),
    "DINOv2": ("BitImageProcessor", {"size": {"shortest_edge": 75}, "crop_size": {"height": 64, "width": 60}}),
    "LeViT": ("LevitImageProcessor", {"size": {"shortest_edge": 64}, "crop_size": {"height": 64, "width": 64}}),
    "PoolFormer": ("PoolFormerImageProcessor", {"size": {"shortest_edge": 64}, "crop_size": 64, "crop_pct": 0.9}),
    "MobileViT, BGR": (
        "MobileViTImageProcessor",
        {"size": {"shortest_edge": 72}, "crop_size": {"height": 64, "width": 64}, "resample": 2},
    ),
    "EfficientNet normalises twice": (
        "EfficientNetImageProcessor",
        {"size": {"height": 64, "width": 64}, "resample": 3},
    ),
    "0 to 255": (
        "ViTImageProcessor",
        {"size": 64, "do_rescale": False, "image_mean": [120] * 3, "image_std": [60] * 3},
    ),
    "not normalised": ("ViTImageProcessor", {"size": 64, "do_normalize": False}),
}


def saved(folder) -> dict:
    return json.loads((folder / "preprocessor_config.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("name", PROCESSORS)
def test_transformers_processors(tmp_path, name, second):
    """Both implementations of each processor: torchvision and PIL in transformers 5, "slow" and "fast" in 4."""
    kind, options = PROCESSORS[name]
    if second:
        kind += "Pil" if hasattr(transformers, f"{kind}Pil") else "Fast"
        if not hasattr(transformers, kind):
            pytest.skip(f"transformers {transformers.__version__} has no {kind}")
    processor = getattr(transformers, kind)(**options)
    processor.save_pretrained(tmp_path)
    settings = processors.preprocess_settings(saved(tmp_path), "vit")
    assert settings["channel_order"] == ("BGR" if "BGR" in name else "RGB")
    for size in ((90, 130), (131, 77), (200, 211)):  # 200 x 211: the crop's half pixel is rounded down
        require_same_picture(settings, lambda pil: processor(images=pil, return_tensors="pt")["pixel_values"][0], size)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("ViTImageProcessor", {"resample": 1}, r"cannot be followed: resample 1 is none of .*preprocess"),
        ("ViTImageProcessor", {"do_resize": False}, r"does more than resize, crop and normalise.*preprocess"),
        ("CLIPImageProcessor", {"do_center_crop": False}, r"does more than resize"),  # size depends on the image
        ("Siglip2ImageProcessor", {}, r"cannot be followed: it makes \[1, 256, 768\] of an image"),  # patches
        ("PerceiverImageProcessor", {}, r"does more than resize"),  # crops first
    ],
)
def test_processors_that_cannot_be_reproduced_are_refused(tmp_path, kind, options, message):
    getattr(transformers, kind)(**options).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=message):
        processors.preprocess_settings(saved(tmp_path), "vit")
