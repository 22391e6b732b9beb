"""The image processor of a transformers model as a `Preprocess`.

transformers has some twenty processor classes, which differ in order, rounding and in the settings they respect. So the
processor is probed: plain colours give size, mean, std and channel order, and among the ways to resize and crop, the
one that reproduces its result on a test image is used.
"""

from __future__ import annotations

import json
import re
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..preprocess import MAX_SIDE, Preprocess
from . import allowed

RESAMPLE = {0: "nearest", 2: "bilinear", 3: "bicubic"}
# Those of the networks in transformers_models.MODEL_TYPES; others run programs (LayoutLM's runs tesseract).
KINDS = re.compile(
    "(Beit|Bit|ConvNext|CLIP|DeiT|Donut|EfficientFormer|EfficientNet|Levit|MobileNetV1|MobileNetV2|MobileViT|Perceiver"
    "|PoolFormer|PPLCNet|Pvt|Segformer|Siglip|Siglip2|TextNet|ViT)(ImageProcessor(Fast|Pil)?|FeatureExtractor)"
)
TOLERANCE = 0.6  # mean difference in steps of 1/255: both round to 8 bits, but at different points


def preprocess_settings(processor: dict, model_type: str) -> dict:
    """Fields of `Preprocess` for the content of a preprocessor_config.json; ValueError if these cannot express it.

    Args:
        processor: the JSON object.
        model_type: that of config.json, which determines the processor if the object does not.
    """
    if processor.get("auto_map"):
        raise ValueError(
            f"preprocessor_config.json needs code that comes with the model (auto_map), which is refused. {REMEDY}"
        )
    try:
        asked = _processor(processor, model_type)
        tried = list(_tried(asked, _plain_settings(asked)))
    except Exception as error:  # whatever a processor makes of the wrong settings
        raise ValueError(f"preprocessor_config.json cannot be followed: {error}. {REMEDY}") from error
    difference, settings = min(tried, key=lambda pair: pair[0], default=(float("inf"), {}))
    if difference > TOLERANCE:
        raise ValueError(
            f"preprocessor_config.json ({type(asked).__name__}) does more than resize, crop and normalise. {REMEDY}"
        )
    return settings


def _processor(settings: dict, model_type: str):
    """The processor, from a folder with these settings and nothing else."""
    kind = settings.get("image_processor_type") or settings.get("feature_extractor_type")
    if kind is not None and not (isinstance(kind, str) and KINDS.fullmatch(kind)):
        raise ValueError(f"it is a {str(kind)[:60]}")
    wrong = [key for key, value in settings.items() if not allowed.is_plain(value) or key == "device"]
    large = [key for key in ("size", "crop_size") if _largest(settings.get(key)) > MAX_SIDE]
    if wrong or large:
        raise ValueError(f"{(wrong or large)[0]} is {str(settings[(wrong or large)[0]])[:60]}")
    from transformers import AutoImageProcessor

    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "preprocessor_config.json").write_text(json.dumps(settings), encoding="utf-8")
        Path(folder, "config.json").write_text(json.dumps({"model_type": model_type}), encoding="utf-8")
        return AutoImageProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def _largest(size) -> float:
    sides = size.values() if isinstance(size, dict) else size if isinstance(size, list) else [size]
    return max((side for side in sides if isinstance(side, (int, float))), default=0)


def _plain_settings(processor) -> dict:
    """Size, mean, std and channel order from the processor's output for black, white and red."""
    black, white, red = (_pixels(processor, Image.new("RGB", (96, 96), c)) for c in ("black", "white", "red"))
    low, high = (image.double().mean(dim=(-2, -1)) for image in (black, white))
    std = 1 / (high - low)
    rgb = (red - black).abs().mean(dim=(-2, -1)).argmax() == 0
    resample = int(processor.resample)
    if resample not in RESAMPLE:
        raise ValueError(f"resample {resample} is none of 0 (nearest), 2 (bilinear), 3 (bicubic)")
    return {
        "input_size": tuple(black.shape[-2:]),
        "mean": tuple(float(f"{value:.6g}") + 0.0 for value in (-low * std).tolist()),
        "std": tuple(float(f"{value:.6g}") for value in std.tolist()),
        "interpolation": RESAMPLE[resample],
        "channel_order": "RGB" if rgb else "BGR",
    }


def _tried(processor, plain: dict):
    """(mean difference from the processor's output in steps of 1/255, settings) of every possible way."""
    for way in _ways(processor):
        sides = way if isinstance(way, tuple) else (way, way)
        if any(side < crop for side, crop in zip(sides, plain["input_size"])):
            continue
        picture = _picture(min(sides), plain["input_size"][1])
        theirs = _pixels(processor, Image.fromarray(picture))
        for rounding in ("floor", "round"):
            ours = Preprocess(**plain, resize=way, crop_rounding=rounding)
            mine = ours(torch.from_numpy(picture).movedim(-1, 0)[None] / 255)[0]
            if mine.shape == theirs.shape:
                steps = (mine - theirs).abs() * torch.tensor(ours.std)[:, None, None] * 255
                yield float(steps.mean()), {**plain, "resize": way, "crop_rounding": rounding}


def _ways(processor) -> set[int | tuple[int, int]]:
    """What the processor's `size` may mean: the length of the shorter side, or both sides."""
    size, crop_pct = dict(processor.size), getattr(processor, "crop_pct", None) or 1.0
    short = size.get("shortest_edge")
    if short:  # unchanged, ConvNeXt and PoolFormer, LeViT, ConvNeXt from 384 up
        return {short, int(short / crop_pct), int(short * 256 / 224), (short, short)}
    return {(size["height"], size["width"]), int(size["height"] / crop_pct)}


def _picture(short: int, crop: int) -> np.ndarray:
    """Soft random colours [H, W, 3] uint8, of a width at which the two roundings of the crop differ."""
    margin = next(m for m in range(short // 2, short // 2 + 5) if (short + m - crop) % 4 == 3)
    noise = torch.rand(1, 3, 12, 20, generator=torch.Generator().manual_seed(0))
    size = (2 * short, 2 * (short + margin))
    image = torch.nn.functional.interpolate(noise, size, mode="bicubic", align_corners=False).clamp(0, 1)
    return (image[0].movedim(0, -1) * 255).round().byte().numpy()


def _pixels(processor, image: Image.Image) -> Tensor:
    pixels = torch.as_tensor(np.asarray(processor(images=image, return_tensors="pt")["pixel_values"]))
    if pixels.shape[:2] != (1, 3) or pixels.ndim != 4:
        raise ValueError(f"it makes {list(pixels.shape)} of an image, not one picture in three colours")
    return pixels[0].float()


REMEDY = (
    "Say in a .json of the model file's name beside it how images are prepared, for example: "
    '{"preprocess": {"input_size": [224, 224], "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], '
    '"interpolation": "bilinear"}}'
)
