"""Training that starts from a classifier on disk: its architecture, its preprocessing, its weights."""

from __future__ import annotations

import functools
import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from torch import nn

from ..classifier.formats import timm_models
from ..classifier.model import FineGrainedClassifier
from ..classifier.preprocess import Preprocess
from ..files.hashes import file_sha256
from . import backbone

if TYPE_CHECKING:
    from .settings import TrainSettings

log = logging.getLogger(__name__)


def resolved(settings: TrainSettings) -> TrainSettings:
    """The settings with the architecture of their `init`. ValueError if they ask for another, or it is not timm's."""
    if not settings.init:
        return settings
    found, asked = _read(settings.init), settings.arch
    if "/" in found.arch or not timm_models.import_timm().is_model(found.arch):
        raise ValueError(f"{settings.init} holds {found.arch or 'an unnamed network'}, and only timm's are trained.")
    if asked not in (type(settings).arch, found.arch):
        raise ValueError(f"{settings.init} holds {found.arch}, not {asked}. Leave arch out, or init.")
    return replace(settings, arch=found.arch)


def build(settings: TrainSettings, class_names: tuple[str, ...]) -> tuple[nn.Module, dict, Preprocess]:
    """(module, its `model_kwargs`, its preprocessing) of resolved settings, with the weights to start from.

    Those of `init` must fit to the last one. Only the last layer is new, and only if the classes differ.
    """
    if not settings.init:
        return backbone.build(settings.arch, len(class_names), settings.pretrained, settings.image_size)
    found = _read(settings.init)
    if settings.image_size:
        kwargs = timm_models.size_kwargs(settings.arch, (settings.image_size,) * 2)
    else:
        kwargs = found.model_kwargs
    module = timm_models.build(settings.arch, len(class_names), kwargs)
    head = set(_head(module))
    given, wanted = found.module.state_dict(), module.state_dict()
    same = sorted(found.class_names) == sorted(class_names)
    if same:  # a row of the last layer for each class, in the order of these classes
        order = [found.class_names.index(name) for name in class_names]
        given = {k: v[order] if k in head else v for k, v in given.items()}
    taken = given if same else {k: v for k, v in given.items() if k not in head}
    lacking = [k for k in wanted if k not in taken and (same or k not in head)]
    unfit = [k for k in taken if k not in wanted or taken[k].shape != wanted[k].shape]
    if lacking or unfit:
        raise ValueError(
            f"The weights of {settings.init} do not fit {settings.arch} at this size: {(lacking + unfit)[0]}. "
            "Leave image_size at 0, or train from timm's weights."
        )
    module.load_state_dict({**wanted, **taken})
    log.info("%s", words(settings, class_names))
    look, size = found.preprocessing, settings.image_size
    size = (size, size) if size else look.input_size
    return module, kwargs, Preprocess(size, look.mean, look.std, look.interpolation, crop_pct=1.0)


def words(settings: TrainSettings, class_names: tuple[str, ...]) -> str:
    """What the training starts from."""
    if not settings.init:
        return ""
    found = _read(settings.init)
    name = Path(settings.init).name
    if sorted(found.class_names) == sorted(class_names):
        return f"all weights of {name}, which has these classes"
    return f"the weights of {name}, but for its last layer: it has other classes ({len(found.class_names)})"


def digest(settings: TrainSettings) -> dict[str, str]:
    """What tells one start from another, for the key of a run; nothing without `init`."""
    return {"init_sha256": file_sha256(settings.init)} if settings.init else {}


def _head(module: nn.Module) -> list[str]:
    """The names of the weights that timm's own classifier layers have."""
    heads = module.get_classifier()  # type: ignore[operator]
    owned = {id(p) for head in (heads if isinstance(heads, tuple | list) else (heads,)) for p in head.parameters()}
    return [name for name, parameter in module.named_parameters() if id(parameter) in owned]


def _read(path: str) -> FineGrainedClassifier:
    return _kept(path, file_sha256(path))


@functools.lru_cache(maxsize=1)
def _kept(path: str, sha256: str) -> FineGrainedClassifier:
    return FineGrainedClassifier.load(path)
