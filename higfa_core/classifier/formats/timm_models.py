"""Classifiers of timm: built from a name, described by the config.json of a timm repository, or pretrained."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, cast

from torch import Tensor, nn

from .. import names
from ..preprocess import Preprocess, height_and_width
from . import allowed, earlier_timm
from .kinds import SAVE_HINT
from .skeletons import skeleton
from .wrappers import bare
from .wrappers import names as names_of

NAME = re.compile(r"\w+(\.\w+)?", re.ASCII)
NORMS = {"bn_eps", "bn_momentum", "bn_tf"}  # what the EfficientNets take besides the arguments of their class
SEPARATE = "0.9"  # the release since which a config.json keeps its pretrained_cfg apart
TIMEOUT = 5.0  # seconds to wait for the model hub before giving up


def import_timm():
    try:
        import timm
        import timm.data
        import timm.utils
    except ImportError as error:
        raise ImportError("Classifiers need timm: pip install 'timm>=1.0.26' into ComfyUI's Python") from error
    return timm


def require_name(arch: str) -> None:
    """ValueError with the closest name unless timm has the architecture (it would fetch "hf-hub:...")."""
    timm = import_timm()
    if not isinstance(arch, str) or not NAME.fullmatch(arch) or not timm.is_model(arch):
        closest = difflib.get_close_matches(str(arch), timm.list_models(), n=1, cutoff=0.4)
        hint = f": closest '{closest[0]}'" if closest else ""
        raise ValueError(
            f"timm {timm.__version__} has no arch '{arch}'{hint}. Correct it or update timm "
            "(a model of torchvision is 'torchvision/resnet50')."
        )


def build(arch: str, num_classes: int, kwargs: dict) -> nn.Module:
    """The timm model, not pretrained; ValueError for anything but its name and arguments of its network."""
    require_name(arch)
    release = kwargs.get(earlier_timm.RELEASE)
    kwargs = {key: value for key, value in kwargs.items() if key != earlier_timm.RELEASE}
    if kwargs.get("in_chans", 3) not in (1, 3):
        raise ValueError(f"in_chans must be 3 (RGB) or 1 (grey), got {kwargs['in_chans']}. Use such a model.")
    if kwargs:
        allowed.require(arch, kwargs, allowed.declared(_plain(arch)) | NORMS)
    return earlier_timm.restored(_create(arch, num_classes, kwargs), arch, release)


def _plain(arch: str) -> nn.Module:
    return skeleton(lambda: build(arch, 1000, {}))


def _create(arch: str, num_classes: int, kwargs: dict) -> nn.Module:
    try:
        return import_timm().create_model(arch, pretrained=False, num_classes=num_classes, **kwargs)
    except Exception as error:  # a wrong value may raise anything deep inside a network
        raise ValueError(f"timm cannot build {arch} with {kwargs}: {error}. Correct model_kwargs.") from error


def holds(arch: str, state: Mapping[str, Tensor]) -> bool:
    """Whether timm has a model of that name whose weights have these names."""
    if not import_timm().is_model(arch):
        return False
    return names_of(_plain(arch).state_dict()) == names_of(bare(state))


def size_kwargs(arch: str, size: tuple[int, ...]) -> dict:
    """The `img_size` that makes a model for images of (h, w), if it needs one."""
    config = _config(arch) if import_timm().is_model(arch) else {}
    if not config.get("fixed_input_size") or tuple(config["input_size"][-2:]) == tuple(size):
        return {}
    return {"img_size": _side_or_sides(size)}


def _config(arch: str) -> dict:
    """timm's configuration of an architecture; a name of earlier releases leads to that of its successor."""
    config = import_timm().get_pretrained_cfg(arch)
    return config.to_dict() if config else cast(dict, _plain(arch).pretrained_cfg)


def _side_or_sides(size: tuple[int, ...]) -> int | tuple[int, ...]:
    return size[0] if size[0] == size[1] else tuple(size)


def sized(arch: str, kwargs: dict, state: Mapping[str, Tensor], stated) -> dict:
    """`kwargs` with the `img_size` for which the weights were trained, if it is not the usual one.

    It follows from a position embedding (one token per patch), or else from `stated`, the input size (..., h, w).
    """
    require_name(arch)
    if {"img_size", "dynamic_img_size"} & set(kwargs):
        return kwargs
    size = tuple(stated[-2:]) if isinstance(stated, (list, tuple)) else ()
    size = size if len(size) == 2 and all(type(side) is int and side > 0 for side in size) else None
    tokens = [t.shape[1] for key, t in state.items() if re.search(r"(^|\.)pos_embed$", key) and t.ndim == 3]
    if len(tokens) == 1 and (grid := _grid(arch, kwargs)):
        found = size_of_tokens(tokens[0], *grid, size)
        return {**kwargs, "img_size": _side_or_sides(found)} if found else kwargs
    return {**kwargs, **(size_kwargs(arch, size) if size else {})}


def size_of_tokens(tokens: int, usual: int, grid: tuple[int, int], patch: tuple[int, int], stated=None):
    """The image size (h, w) for that number of tokens; None if it is the usual one, or ambiguous.

    Args:
        tokens: position embeddings in the file.
        usual: those of the architecture at its own size, of which `grid` are patches.
        grid: rows and columns of patches at that size.
        patch: (h, w) in pixels.
        stated: the input size, which decides if the image is not square.
    """
    if tokens == usual:
        return None
    patches = tokens - usual + grid[0] * grid[1]
    side = math.isqrt(max(patches, 0))
    if stated and (stated[0] // patch[0]) * (stated[1] // patch[1]) == patches:
        return tuple(stated)
    return (side * patch[0], side * patch[1]) if side and side * side == patches else None


def _grid(arch: str, kwargs: dict) -> tuple[int, tuple, tuple] | None:
    """(tokens, grid, patch size) of a model with one position embedding per patch."""
    module = skeleton(lambda: build(arch, 2, kwargs))
    embedding, patches = getattr(module, "pos_embed", None), getattr(module, "patch_embed", None)
    grid, patch = getattr(patches, "grid_size", None), getattr(patches, "patch_size", None)
    if not isinstance(embedding, Tensor) or embedding.ndim != 3 or not grid or not patch:
        return None
    return embedding.shape[1], tuple(grid), tuple(patch)


def trained_kwargs(arch: str, args: Mapping) -> dict:
    """`model_kwargs` of the model that timm's train.py made with these arguments."""
    if not args:
        return {}
    require_name(arch)
    channels, *size = _resolved(_config(arch), args)["input_size"]
    kwargs = {"in_chans": args.get("in_chans") or channels, "global_pool": args.get("gp"), "bn_eps": args.get("bn_eps")}
    kwargs = {key: value for key, value in kwargs.items() if value and (key, value) != ("in_chans", 3)}
    kwargs |= args.get("model_kwargs") or {}
    return kwargs if {"img_size", "dynamic_img_size"} & set(kwargs) else {**kwargs, **size_kwargs(arch, tuple(size))}


def preprocess(arch: str, module: nn.Module, kwargs: dict, args: Mapping | None = None) -> dict:
    """timm's fields of Preprocess for the architecture and tag, and for the arguments of its train.py."""
    settings = _data_config(cast(dict, module.pretrained_cfg), args or {})
    if "img_size" in kwargs:
        size = kwargs["img_size"]
        settings["input_size"] = (size, size) if isinstance(size, int) else size
    return settings


def facts(config: dict) -> dict:
    """The facts in the config.json of a timm repository (or of transformers' wrapper around timm)."""
    for name in ("pretrained_cfg", "model_args", "label_descriptions"):
        if not isinstance(config.get(name) or {}, dict):
            got = str(config[name])[:60]
            raise ValueError(f"{name} in config.json must be a JSON object, got {got!r}. Correct it.")
    cfg = config.get("pretrained_cfg") or config
    kwargs = config.get("model_args") or {}
    given = {
        "timm": SEPARATE if config.get("pretrained_cfg") else None,
        "arch": config["architecture"],
        "model_kwargs": {key: value for key, value in kwargs.items() if key != "num_classes"},
        "class_names": class_names({**cfg, **config}),
    }
    if cfg.get("input_size") and cfg.get("mean"):
        given["preprocess"] = _data_config(cfg, {})
    return {key: value for key, value in given.items() if value}


def class_names(config: dict) -> list[str] | None:
    """The names in a timm config, or those of the ImageNet subset that its tag names."""
    labels, words = config.get("label_names"), config.get("label_descriptions") or {}
    if labels:
        found = names.listed(labels)
        return found and names.listed([words.get(name, name) for name in found])
    data = import_timm().data
    subset = data.infer_imagenet_subset(config)
    if subset is None or not re.search(r"in(1|12|21|22)k", config.get("tag") or ""):
        return None
    return names.listed(data.ImageNetInfo(subset).label_descriptions())


def pretrained(name: str) -> tuple[nn.Module, list[str]]:
    """Pretrained model of a timm name and its class names. The one place where something may be downloaded.

    Weights in the local cache of huggingface_hub are used without network access. ValueError with the remedy if timm
    has none, knows no class names, or cannot reach them.
    """
    timm = import_timm()
    if name.startswith("hf-hub:"):
        raise ValueError(f"'{name}' is a repository, not a timm name. {_by_hand(name.removeprefix('hf-hub:'))}")
    require_name(name)
    if not timm.models.is_model_pretrained(name):
        tags = timm.list_models(f"{name.split('.')[0]}.*", pretrained=True)
        closest = difflib.get_close_matches(name, tags, n=5, cutoff=0)
        raise ValueError(
            f"timm has no pretrained weights '{name}'. It has: {', '.join(closest) or 'none of this arch'}"
        )
    config: Any = timm.models.get_pretrained_cfg(name)
    labels = class_names({**config.to_dict(), "num_classes": config.num_classes})
    if not labels:
        raise ValueError(f"timm does not know the class names of '{name}'. {_by_hand(config.hf_hub_id)}")
    return _pretrained_module(name, config), labels


def _pretrained_module(name: str, config) -> nn.Module:
    overlay = {}
    if config.hf_hub_id:
        file = cached_file(config) or check_reachable(config, f"'{name}' is not on this computer and", _by_hand)
        overlay = {"file": file, "custom_load": False} if file else {}
    try:
        return import_timm().create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
    except (OSError, RuntimeError) as error:
        raise ValueError(f"the weights of '{name}' are unavailable ({error}). {_by_hand(config.hf_hub_id)}") from error


def cached_file(config) -> str | None:
    """The weights of a timm configuration in the local cache of huggingface_hub, if present."""
    import huggingface_hub

    file = huggingface_hub.try_to_load_from_cache(config.hf_hub_id, config.hf_hub_filename or "model.safetensors")
    return file if isinstance(file, str) else None


def check_reachable(config, what: str, remedy: Callable[[str], str]) -> None:
    """ValueError within seconds if the weights are unavailable; timm itself would keep trying for most of a minute.

    `what` begins the message, `remedy` (of the repository) ends it.
    """
    import huggingface_hub

    url = huggingface_hub.hf_hub_url(config.hf_hub_id, config.hf_hub_filename or "model.safetensors")
    try:
        huggingface_hub.get_hf_file_metadata(url, timeout=TIMEOUT)
    except huggingface_hub.errors.EntryNotFoundError:
        return  # timm knows other file names
    except Exception as error:  # which one depends on the version of huggingface_hub
        raise ValueError(f"{what} cannot be downloaded ({error}). {remedy(config.hf_hub_id)}") from error


def _by_hand(repository: str | None) -> str:
    where = f"https://huggingface.co/{repository}" if repository else "its source"
    return (
        f"Download model.safetensors and config.json from {where} into a folder of models/higfa_classifiers, "
        "and choose that file"
    )


def _data_config(cfg: dict, args: Mapping) -> dict:
    config = _resolved(cfg, args)
    known = {field.name for field in fields(Preprocess)}
    config = {key: value for key, value in config.items() if key in known}
    return {**config, "input_size": height_and_width(config.get("input_size"))}


def _resolved(cfg: dict, args: Mapping) -> dict:
    if isinstance(args.get("input_size"), int):  # as the scripts of DeiT and MAE have it
        args = {**args, "input_size": None, "img_size": args["input_size"]}
    try:
        return import_timm().data.resolve_data_config(args, pretrained_cfg=cfg)
    except (AssertionError, TypeError) as error:
        given = {key: args[key] for key in ("input_size", "img_size", "mean", "std") if args.get(key) is not None}
        raise ValueError(f"the training arguments in the file, {given}, are not those of timm. {SAVE_HINT}") from error
