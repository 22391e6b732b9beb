"""From an `arch` to a module: timm ("resnet50"), "torchvision/resnet50" or "transformers/vit"."""

from __future__ import annotations

import copy
from dataclasses import fields
from functools import partial

import torch
from torch import Tensor, nn

from ...wording import counted
from ..preprocess import Preprocess, height_and_width
from . import allowed, earlier_timm, timm_models, torchvision_models, transformers_models, weights
from .facts import Facts
from .skeletons import skeleton


def load(arch: str, state: dict[str, Tensor], num_classes: int, kwargs: dict) -> nn.Module:
    """The module with its weights, giving logits [B, num_classes]; ValueError if they do not match.

    Names and shapes are compared with a module without memory before a real one is made.
    """
    weights.refuse_non_finite(state, "Train or export it again")
    weights.refuse_quantised(state)
    library, name = _split(arch)
    allowed.require_depth(kwargs, len(state))
    if library is transformers_models:
        return library.load(name, state, num_classes, kwargs)
    if library is timm_models:
        earlier_timm.require_told(name, kwargs)
    build = partial(library.build, name, num_classes, kwargs)
    fitted = weights.fitted(skeleton(build), state, arch, num_classes)
    module = build()
    weights.put(module, fitted)
    return module


def arguments(facts: Facts, state: dict[str, Tensor]) -> dict:
    """`model_kwargs` as stated, completed from the training script's arguments and from the weights."""
    library, name = _split(facts.arch or "")
    given = facts.model_kwargs or {}
    allowed.require_depth(given, len(state))  # here already: some sizes are found by building
    if library is transformers_models:
        return given
    if library is timm_models:
        trained = timm_models.trained_kwargs(name, facts.args or {})
        given = {**earlier_timm.arguments(name, state), **earlier_timm.told(name, facts.timm), **trained, **given}
    return library.sized(name, given, state, (facts.preprocess or {}).get("input_size"))


def preprocessing(arch: str, module: nn.Module, kwargs: dict, given: dict, args: dict | None = None) -> Preprocess:
    """`given`, completed from the training script's arguments, then from the library's defaults for it."""
    known = [field.name for field in fields(Preprocess)]
    unknown = [key for key in given if key not in known]
    if unknown:
        raise ValueError(f"preprocess has no {', '.join(unknown)}. It has {', '.join(known)}")
    library, name = _split(arch)
    config = {} if library is transformers_models else library.preprocess(name, module, kwargs, args)
    if "crop_pct" in given:
        config.pop("resize", None)
    config = {**config, **given}
    missing = [key for key in ("input_size", "mean", "std", "interpolation") if key not in config]
    if missing:
        raise ValueError(f"preprocess lacks {', '.join(missing)}. Add them, or preprocessor_config.json beside it.")
    settings = Preprocess(**{**config, "input_size": height_and_width(config["input_size"])})
    channels = kwargs.get("in_chans", 3)
    if len(settings.mean) != channels:
        raise ValueError(
            f"the model takes {channels} channel(s), but preprocess mean has {len(settings.mean)} value(s). "
            f"Give mean and std with {channels} value(s) each"
        )
    return settings


def file_state(arch: str, module: nn.Module) -> dict[str, Tensor]:
    """The weights under the names that a file should use."""
    by_transformers = isinstance(module, transformers_models.Logits)
    return transformers_models.file_state(module) if by_transformers else module.state_dict()


def require_outputs(module: nn.Module, preprocess: Preprocess, num_classes: int) -> None:
    """ValueError unless the module returns one logit per class for an image preprocessed like this."""
    logits = _dry_run(module, (1, len(preprocess.mean), *preprocess.input_size))
    if not isinstance(logits, Tensor) or logits.ndim != 2:
        got = f"shape {list(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise ValueError(f"the model must return logits [B, {num_classes}], got {got}. Use an image classifier.")
    if logits.shape[1] != num_classes:
        raise ValueError(
            f"the model has {counted(logits.shape[1], 'output')}, but there are {num_classes} class names. "
            "Give one name per output, in order"
        )


@torch.no_grad()
def _dry_run(module: nn.Module, shape: tuple[int, ...]):
    """The module's output for one image: only its shape where that works, else by running it."""
    try:
        # A copy without memory: some models cache tensors they computed, which must not be empty.
        tensors = (*module.parameters(), *module.buffers())
        twin = copy.deepcopy(module, {id(t): torch.empty_like(t, device="meta") for t in tensors})
        with torch.device("meta"):
            return twin(torch.empty(shape))
    except Exception:  # whatever goes wrong there, the real run decides
        parameter = next(module.parameters(), torch.empty(0))
    try:
        return module(torch.zeros(shape, device=parameter.device))
    except (AssertionError, TypeError, ValueError, RuntimeError) as error:
        size = " x ".join(map(str, shape[1:]))
        raise ValueError(f"the model does not take images of {size}: {error}. Correct input_size.") from error


def _split(arch: str):
    library, _, name = arch.partition("/") if isinstance(arch, str) else ("", "", "")
    if library == "torchvision":
        return torchvision_models, name
    return (transformers_models, name) if library == "transformers" else (timm_models, arch)
