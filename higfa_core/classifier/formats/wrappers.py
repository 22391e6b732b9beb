"""Names of weights as training leaves them, and as the library's own module calls them now.

One translation, in this order: what wrappers put in (`_orig_mod.` of torch.compile, `module.` of
DistributedDataParallel, `model.` of Lightning ...) goes, wherever it stands; where the rest is not what the module
calls its weights, timm's own `checkpoint_filter_fn` translates the names of its earlier releases. Whether the result
fits is for `weights.fitted`.
"""

from __future__ import annotations

import inspect
import logging
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from .kinds import SAVE_HINT

log = logging.getLogger(__name__)

# No library calls a part of its own like this.
NEVER_NAMES = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# Libraries may: removed in front, and within where the module has no such name.
WORDS = ("module", "model", "net", "state_dict", "timm_model")
PREFIXES = tuple(f"{word}." for word in WORDS)
# What timm renames, but computes differently since: the logits of timm 0.6's PoolFormer are 0.03 apart.
CHANGED = ("timm.models.metaformer",)
COUNTERS = "num_batches_tracked"  # left out by some files; eval mode does not use it


def bare(state: Mapping[str, Tensor], prefixes: tuple[str, ...] = PREFIXES) -> dict[str, Tensor]:
    """Without those of the prefixes that all names share."""
    state = _renamed(state, lambda key: NEVER_NAMES.sub("", key))
    while state and any(all(key.startswith(prefix) for key in state) for prefix in prefixes):
        state = {key.split(".", 1)[1]: tensor for key, tensor in state.items()}
    return dict(state)


def names(state: Iterable[str]) -> set[str]:
    """The names by which weights are told apart; what some files leave out is not among them."""
    return {key for key in state if not key.endswith(COUNTERS)}


def translated(state: Mapping[str, Tensor], module: nn.Module, arch: str) -> dict[str, Tensor]:
    """The weights under the names of `module`, as far as they are its own; ValueError where there are two sets."""
    wanted = names(module.state_dict())
    state = _renamed(state, lambda key: NEVER_NAMES.sub("", key))
    whole = _prefixes_of(state, wanted)
    if not whole:
        state = _renamed(state, _without_words(wanted))
        whole = _prefixes_of(state, wanted)
    if len(whole) > 1:
        raise ValueError(f"two sets of weights, in '{whole[0]}' and in '{whole[1]}'. Keep one. {SAVE_HINT}")
    if whole:
        return _under(state, whole[0], arch)
    for prefix in _likely_prefixes(state):
        changed = _by_timm({key.removeprefix(prefix): t for key, t in state.items() if key.startswith(prefix)}, module)
        if names(changed) == wanted:
            _under(state, prefix, arch)
            log.info("HiGFA: the weights have names of an earlier timm, translated by its %s", type(module).__name__)
            return changed
    return bare(state)


def _renamed(state: Mapping[str, Tensor], rename) -> dict[str, Tensor]:
    """With other names, unless two would become one."""
    renamed = {rename(key): tensor for key, tensor in state.items()}
    return renamed if len(renamed) == len(state) else dict(state)


def _without_words(wanted: set[str]):
    parts = {part for key in wanted for part in key.split(".")}
    words = [word for word in WORDS if word not in parts]
    pattern = re.compile(rf"(?<![^.])({'|'.join(words) or '(?!)'})\.")
    return lambda key: pattern.sub("", key)


def _prefixes_of(state: Mapping[str, Tensor], wanted: set[str]) -> list[str]:
    """The prefixes under which all the wanted names are."""
    cuts = ((key, cut) for key in state for cut in (0, *(dot.end() for dot in re.finditer(r"\.", key))))
    found = Counter(key[:cut] for key, cut in cuts if key[cut:] in wanted)
    return [prefix for prefix in found if found[prefix] == len(wanted)]


def _likely_prefixes(state: Mapping[str, Tensor]) -> list[str]:
    """Prefixes that nine of ten names have, shortest first: beside the model there may be a loss with weights."""
    counts = Counter(key[: dot.end()] for key in state for dot in re.finditer(r"\.", key))
    return ["", *sorted((p for p, count in counts.items() if count > 0.9 * len(state)), key=len)]


def _under(state: Mapping[str, Tensor], prefix: str, arch: str) -> dict[str, Tensor]:
    beside = [key for key in state if not key.startswith(prefix)]
    if beside:
        log.warning("HiGFA: left out, no part of %s: %s", arch, ", ".join(beside[:5]))
    return {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}


def _by_timm(state: dict[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """As the filter beside the module's class makes it, or unchanged. What it would resample stays as it is."""
    translate = _filter_of(type(module))
    if translate is None or type(module).__module__ in CHANGED:
        return state
    try:
        changed = translate(dict(state), module)
    except Exception as error:  # it is written for files of its own release, not for what this one may hold
        log.info("HiGFA: timm does not translate the names: %s", error)
        return state
    own = {id(tensor) for tensor in state.values()}  # under another name it is the same tensor still
    resampled = {k for k, t in changed.items() if k in state and id(t) not in own and t.numel() != state[k].numel()}
    return {key: state[key] if key in resampled else tensor for key, tensor in changed.items()}


def _filter_of(kind: type):
    """The function (state, module) -> state of the file of timm in which the class is, if it has one."""
    places = [sys.modules[each.__module__] for each in kind.__mro__ if each.__module__.startswith("timm.models.")]
    known = ("checkpoint_filter_fn", "checkpoint_filter_fn_classifier", "_filter_fn")
    found = next((getattr(place, name) for place in places for name in known if hasattr(place, name)), None)
    if found is None or len(inspect.signature(found).parameters) > 1:
        return found
    return lambda state, _: found(state)
