"""What Lightning's `save_hyperparameters` leaves in a checkpoint: the arguments of the user's own module.

There is no convention for their names. Those common in modules around `timm.create_model` are read, if they fit.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping

from . import timm_models, torchvision_models

ARCH = ("model_name", "arch", "architecture", "model_arch", "timm_model", "backbone", "model")
SIZE = ("img_size", "image_size", "input_size")
HYPER_PARAMETERS = ("hyper_parameters", "datamodule_hyper_parameters")
NUMBERED = ("class_to_idx", "idx_to_class", "id2label", "label2id")  # tables of classes, not of arguments
MOST_TABLES = 100
SEVERAL_LABELS = ("multi_label", "multilabel", "is_multilabel")


def facts(content: Mapping) -> dict:
    """Architecture, classes and image size; ValueError if the outputs are not mutually exclusive classes."""
    given = _hyper_parameters(content)
    _refuse_several_labels(given)
    known = next((name for key in ARCH if (name := _known(given.get(key)))), None)
    kwargs = given.get("model_kwargs")
    found = {"arch": known, "model_kwargs": dict(kwargs) if isinstance(kwargs, Mapping) else None}
    found |= {key: given.get(key) for key in ("num_classes", "class_names", "classes", *NUMBERED[:3])}
    size = next((given[key] for key in SIZE if given.get(key)), None)
    if isinstance(size, int) and size > 0:
        size = [size, size]
    if isinstance(size, (list, tuple)) and len(size) in (2, 3) and all(type(side) is int for side in size):
        found["preprocess"] = {"input_size": list(size)[-2:]}
    return {key: value for key, value in found.items() if value is not None}


def _hyper_parameters(content: Mapping) -> dict:
    """Those of the module and of its data; outer ones come before those of tables in them (`model: {name: ...}`)."""
    tables, found = [(key, content.get(key)) for key in HYPER_PARAMETERS], {}
    for where, table in (tables.pop(0) for _ in range(MOST_TABLES) if tables):
        table = vars(table) if isinstance(table, argparse.Namespace) else table
        if not isinstance(table, Mapping) or where in NUMBERED:
            continue
        given = {**table, "arch": table.get("name")} if where in ARCH and "arch" not in table else table
        found = {**{key: value for key, value in given.items() if value is not None}, **found}
        tables += [(key, value) for key, value in table.items() if isinstance(value, Mapping)]
    return found


def _known(name) -> str | None:
    """The architecture of a name, if timm has it or it is said to be torchvision's."""
    if not isinstance(name, str) or not re.fullmatch(r"(torchvision/)?\w+(\.\w+)?", name, re.ASCII):
        return None
    library, _, plain = name.rpartition("/")
    if library:
        return name if plain in torchvision_models.known() else None
    return name if timm_models.import_timm().is_model(name) else None


def _refuse_several_labels(given: Mapping) -> None:
    stated = [key for key in SEVERAL_LABELS if given.get(key) is True]
    stated += [key for key in ("task", "problem_type") if re.fullmatch("multi_?label.*", str(given.get(key)))]
    if stated:
        raise ValueError(
            f"hyper_parameters say {stated[0]} = {given[stated[0]]!r}: it was trained for several labels per "
            "image, and guidance needs mutually exclusive classes. Choose a classifier of such classes."
        )
