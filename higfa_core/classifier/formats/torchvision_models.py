"""Classifiers of torchvision: built from "torchvision/<name>", or recognised by their weights."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from . import allowed
from .skeletons import skeleton
from .wrappers import bare, names

HEAD = re.compile(r"(?:fc|head|heads\.head|classifier(?:\.(\d+))?)\.weight")
BUFFERS = ("running_mean", "running_var", "relative_coords_table")


def known() -> list[str]:
    """The names of torchvision's image classifiers."""
    return _models().list_models(module=_models())


def build(name: str, num_classes: int, kwargs: dict) -> nn.Module:
    """`torchvision.models.<name>` without weights; ValueError names the closest, or the wrong argument."""
    models = _models()
    if name not in known():
        closest = difflib.get_close_matches(name, known(), n=1, cutoff=0.4)
        hint = f": closest 'torchvision/{closest[0]}'" if closest else ""
        raise ValueError(f"torchvision has no arch '{name}'{hint}. Correct it.")
    if kwargs:
        allowed.require(name, kwargs, allowed.declared(_plain(name)))
    if name in ("googlenet", "inception_v3"):  # their default initialisation uses scipy and takes a minute
        kwargs = {"init_weights": False, **kwargs}
    try:
        return models.get_model(name, weights=None, num_classes=num_classes, **kwargs)
    except Exception as error:  # a wrong value may raise anything deep inside a network
        raise ValueError(f"torchvision cannot build {name} with {kwargs}: {error}. Correct model_kwargs.") from error


def sized(name: str, kwargs: dict, state: Mapping[str, Tensor], stated) -> dict:
    """`kwargs` with the `image_size` that follows from a vision transformer's tokens, if it is not the usual one."""
    tokens = [t.shape[1] for key, t in state.items() if key.endswith("encoder.pos_embedding") and t.ndim == 3]
    if len(tokens) != 1 or "image_size" in kwargs or not name.startswith("vit_"):
        return kwargs
    module: Any = skeleton(lambda: build(name, 2, kwargs))
    patches = module.image_size // module.patch_size
    side = math.isqrt(max(tokens[0] - 1, 0))
    square = side > 0 and side * side == tokens[0] - 1
    return {**kwargs, "image_size": side * module.patch_size} if square and side != patches else kwargs


def preprocess(name: str, module: nn.Module, kwargs: dict, args: dict | None = None) -> dict:
    """The fields of Preprocess for torchvision's default weights of the model.

    `args`: those of torchvision's train.py, which tell how it validated.
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


def detect(state: Mapping[str, Tensor]) -> str | None:
    """ "torchvision/<name>" if the weights are those of exactly one of its models, whatever the classes.

    It is found by their number (no two of torchvision's models have equally many, counted with 1000 classes) and
    confirmed by their names: timm's EfficientNet is equally large.
    """
    state = bare(state)
    heads = {key: int(match[1] or 0) for key in state if (match := HEAD.fullmatch(key)) and state[key].ndim > 1}
    if not heads:
        return None
    weight = max(heads, key=heads.__getitem__)
    outputs, per_output = len(state[weight]), state[weight][0].numel() + (weight.replace("weight", "bias") in state)
    count = sum(t.numel() for key, t in state.items() if t.is_floating_point() and not key.endswith(BUFFERS))
    count += (1000 - outputs) * per_output
    models = _models()
    for name in models.list_models(module=models):
        if models.get_model_weights(name).DEFAULT.meta["num_params"] == count:
            return f"torchvision/{name}" if names(_plain(name).state_dict()) == names(state) else None
    return None


def _plain(name: str) -> nn.Module:
    return skeleton(lambda: build(name, 1000, {}))


def _models() -> Any:
    from torchvision import models

    return models
