"""Names of weights as training leaves them, and as the library's own module calls them now.

One translation, in this order: what wrappers put in (`_orig_mod.` of torch.compile, `module.` of
DistributedDataParallel, `model.` of Lightning ...) goes, wherever it stands; where the rest is not what the module
calls its weights, `.earlier_timm` translates the names of timm's earlier releases. Whether the result fits is for
`weights.fitted`.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from . import earlier_timm
from .folded import folded
from .kinds import SAVE_HINT

log = logging.getLogger(__name__)

# No library gives these names to its own parts.
NEVER_NAMES = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
# Libraries may: removed at the start, and inside a name if the module has no such name.
WORDS = ("module", "model", "net", "state_dict", "timm_model")
PREFIXES = tuple(f"{word}." for word in WORDS)
EMA = re.compile(r"(^|[._])ema[._]")  # averaged weights beside those of the last step
COUNTERS = "num_batches_tracked"  # left out by some files; eval mode does not use it


def bare(state: Mapping[str, Tensor], prefixes: tuple[str, ...] = PREFIXES) -> dict[str, Tensor]:
    """The weights without those of the prefixes that all names share."""
    state = _renamed(state, lambda key: NEVER_NAMES.sub("", key))
    while state and any(all(key.startswith(prefix) for key in state) for prefix in prefixes):
        state = {key.split(".", 1)[1]: tensor for key, tensor in state.items()}
    return dict(state)


def names(state: Iterable[str]) -> set[str]:
    """The names that distinguish weights, without those that some files omit."""
    return {key for key in state if not key.endswith(COUNTERS)}


def translated(state: Mapping[str, Tensor], module: nn.Module, arch: str) -> dict[str, Tensor]:
    """The weights under the names of `module`, as far as they are its own; ValueError where there are two sets."""
    earlier_timm.refuse_changed(arch, state)
    wanted = names(module.state_dict())
    state = folded(state, wanted)
    state = _renamed(state, lambda key: NEVER_NAMES.sub("", key))
    whole = _prefixes_of(state, wanted)
    if not whole:
        state = _renamed(state, _without_words(wanted))
        whole = _prefixes_of(state, wanted)
    averaged = [prefix for prefix in whole if EMA.search(prefix)]
    if len(whole) > 1 and len(averaged) == 1:
        log.info("HiGFA: of two sets of weights, the averaged ones in '%s' are used", averaged[0])
        return earlier_timm.trained(_of(state, averaged[0]), module.state_dict())
    if len(whole) > 1:
        raise ValueError(f"two sets of weights, in '{whole[0]}' and in '{whole[1]}'. Keep one. {SAVE_HINT}")
    if whole:
        return earlier_timm.trained(_under(state, whole[0], arch), module.state_dict())
    for prefix in _likely_prefixes(state):
        changed = earlier_timm.translated(_of(state, prefix), module)
        if names(changed) == wanted:
            _under(state, prefix, arch)
            log.info("HiGFA: the weights have names of an earlier timm, translated by its %s", type(module).__name__)
            return changed
    return bare(state)


def _renamed(state: Mapping[str, Tensor], rename) -> dict[str, Tensor]:
    """The weights renamed, unless two names would coincide."""
    renamed = {rename(key): tensor for key, tensor in state.items()}
    return renamed if len(renamed) == len(state) else dict(state)


def _without_words(wanted: set[str]):
    parts = {part for key in wanted for part in key.split(".")}
    words = [word for word in WORDS if word not in parts]
    pattern = re.compile(rf"(?<![^.])({'|'.join(words) or '(?!)'})\.")
    return lambda key: pattern.sub("", key)


def _prefixes_of(state: Mapping[str, Tensor], wanted: set[str]) -> list[str]:
    """The prefixes under which all the wanted names occur."""
    cuts = ((key, cut) for key in state for cut in (0, *(dot.end() for dot in re.finditer(r"\.", key))))
    found = Counter(key[:cut] for key, cut in cuts if key[cut:] in wanted)
    return [prefix for prefix in found if found[prefix] == len(wanted)]


def _likely_prefixes(state: Mapping[str, Tensor]) -> list[str]:
    """Prefixes that nine of ten names have, shortest first: there may be a loss with weights beside the model."""
    counts = Counter(key[: dot.end()] for key in state for dot in re.finditer(r"\.", key))
    return ["", *sorted((p for p, count in counts.items() if count > 0.9 * len(state)), key=len)]


def _under(state: Mapping[str, Tensor], prefix: str, arch: str) -> dict[str, Tensor]:
    beside = [key for key in state if not key.startswith(prefix)]
    if beside:
        log.warning("HiGFA: left out, not part of %s: %s", arch, ", ".join(beside[:5]))
    return _of(state, prefix)


def _of(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {key.removeprefix(prefix): tensor for key, tensor in state.items() if key.startswith(prefix)}
