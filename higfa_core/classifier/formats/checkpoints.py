"""What training scripts leave in a torch checkpoint beside the weights: architecture, class names, arguments.

The arguments are those of timm's or torchvision's `train.py`, or of a script that uses the same names. What they
say about the model and its images is read in `.timm_models` and `.torchvision_models`.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping

from torch import Tensor

from .. import names
from . import timm_models, torchvision_models


def arguments(content: Mapping) -> dict:
    """The arguments of the training script, or none."""
    args = content.get("args")
    args = vars(args) if isinstance(args, argparse.Namespace) else args
    return dict(args) if isinstance(args, Mapping) else {}


def arch(content: Mapping, state: Mapping[str, Tensor]) -> str | None:
    """The architecture, if the checkpoint states it: a timm name, unless script or weights are torchvision's."""
    args, stated = arguments(content), content.get("arch")
    if not isinstance(stated, str):
        return f"torchvision/{args.get('model')}" if _by_torchvision(args) else None
    recognised = torchvision_models.detect(state)
    # best_acc1 is what PyTorch's ImageNet example stores; timm has the same ResNet, but prepares images differently.
    if recognised == f"torchvision/{stated}" and ("best_acc1" in content or not timm_models.holds(stated, state)):
        return recognised
    return stated


def class_names(content: Mapping) -> list[str] | None:
    """The class names, if the checkpoint states them; ValueError if their numbers have gaps."""
    index = content.get("class_to_idx")
    if isinstance(index, Mapping):
        return names.listed({str(number): name for name, number in index.items()})
    index = next((content[key] for key in ("id2label", "idx_to_class") if isinstance(content.get(key), Mapping)), None)
    if index is not None:
        return names.listed({str(number): name for number, name in index.items()})
    found = (content.get(key) for key in ("class_names", "label_names", "classes"))
    return next((list(labels) for labels in found if isinstance(labels, (list, tuple))), None)


def other_order(listed: list[str], args: Mapping) -> str | None:
    """What is wrong with class names in one sort order if the script sorted its class folders in the other.

    timm sorts them naturally (2 before 10, ignoring case), torchvision as `sorted` does.
    """
    by_timm = "class_map" in args and not args["class_map"] and "/" not in str(args.get("dataset"))
    names_given = isinstance(listed, list) and all(isinstance(name, str) for name in listed)
    if not names_given or not (by_timm or _by_torchvision(args)):
        return None
    plain, natural = sorted(listed), sorted(sorted(listed), key=timm_models.import_timm().utils.natural_key)
    trained, other = (natural, plain) if by_timm else (plain, natural)
    if listed != other or trained == other:
        return None
    i = next(i for i, pair in enumerate(zip(trained, other)) if pair[0] != pair[1])
    theirs, given = (", ".join(order[i : i + 3]) for order in (trained, other))
    library = "timm" if by_timm else "torchvision"
    return f"{library} counts class folders as {theirs} from class {i + 1} on, the class names stand as {given}"


def _by_torchvision(args: Mapping) -> bool:
    return "val_crop_size" in args
