"""Classifiers of torchvision: built from "torchvision/<name>", or recognised by their weights."""

from __future__ import annotations

import difflib
import re

import torch
from torch import Tensor, nn

from .weights import bare, keys

FORBIDDEN_KWARGS = {"weights", "weights_backbone", "progress", "num_classes", "pretrained"}
HEAD = re.compile(r"(?:fc|head|heads\.head|classifier(?:\.(\d+))?)\.weight")
BUFFERS = ("running_mean", "running_var", "relative_coords_table")


def build(name: str, num_classes: int, kwargs: dict) -> nn.Module:
    """`torchvision.models.<name>` without weights; ValueError names the closest, or the wrong argument."""
    models = _models()
    known = models.list_models(module=models)
    if name not in known:
        closest = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
        hint = f": closest 'torchvision/{closest[0]}'" if closest else ""
        raise ValueError(f"torchvision has no arch '{name}'{hint}. Correct it")
    forbidden = sorted(FORBIDDEN_KWARGS & set(kwargs))
    if forbidden:
        raise ValueError(f"model_kwargs may not hold {', '.join(forbidden)}. Remove them")
    if name in ("googlenet", "inception_v3"):  # their default draws from scipy, for a minute
        kwargs = {"init_weights": False, **kwargs}
    try:
        return models.get_model(name, weights=None, num_classes=num_classes, **kwargs)
    except (TypeError, ValueError) as error:
        raise ValueError(f"torchvision cannot build {name} with {kwargs}: {error}. Correct model_kwargs") from error


def preprocess(name: str, module: nn.Module, kwargs: dict, args: dict | None = None) -> dict:
    """Fields of Preprocess as torchvision's default weights of the model want them.

    `args`: those of torchvision's train.py, which say how it validated.
    """
    transforms = _models().get_model_weights(name).DEFAULT.transforms()
    (size,), (resize,) = transforms.crop_size, transforms.resize_size
    if "image_size" in kwargs:
        size = resize = kwargs["image_size"]
    settings = {
        "input_size": (size, size),
        "mean": transforms.mean,
        "std": transforms.std,
        "interpolation": transforms.interpolation.value,
        "resize": resize,
    }
    if args and args.get("val_crop_size"):
        size = args["val_crop_size"]
        settings |= {"input_size": (size, size), "resize": args.get("val_resize_size") or size}
        settings["interpolation"] = args.get("interpolation") or settings["interpolation"]
    return settings


def detect(state: dict[str, Tensor]) -> str | None:
    """ "torchvision/<name>" where the weights are those of exactly one of its models, whatever the classes.

    Their number finds it (no two of torchvision's models have equally many, counted with 1000 classes), their names
    confirm it: timm's EfficientNet is as large.
    """
    state = bare(state)
    heads = {key: int(match[1] or 0) for key in state if (match := HEAD.fullmatch(key)) and state[key].ndim > 1}
    if not heads:
        return None
    weight = max(heads, key=heads.get)
    outputs, per_output = len(state[weight]), state[weight][0].numel() + (weight.replace("weight", "bias") in state)
    count = sum(t.numel() for key, t in state.items() if t.is_floating_point() and not key.endswith(BUFFERS))
    count += (1000 - outputs) * per_output
    models = _models()
    for name in models.list_models(module=models):
        if models.get_model_weights(name).DEFAULT.meta["num_params"] == count:
            return f"torchvision/{name}" if keys(_skeleton(name).state_dict()) == keys(state) else None
    return None


def _skeleton(name: str) -> nn.Module:
    try:
        with torch.device("meta"):
            return build(name, 1000, {})
    except NotImplementedError:  # RegNet computes its widths with tensors
        return build(name, 1000, {})


def _models():
    from torchvision import models

    return models
