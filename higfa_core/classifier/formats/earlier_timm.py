"""Weights saved by earlier releases of timm: under other names, or of networks that timm now builds differently.

timm's own `checkpoint_filter_fn` translates most of the names; the rest are translated here.
`benchmarks/old_timm.py` measures both with files from those releases themselves.
"""

from __future__ import annotations

import inspect
import logging
import re
import sys
from collections.abc import Callable, Mapping

from torch import Tensor, nn

log = logging.getLogger(__name__)

# Computed by the network, but stored by earlier releases.
COMPUTED = re.compile(r"(^|\.)(attn_mask|relative_position_index|relative_coords_table|attention_bias_idxs)$")

# Networks that timm still builds on request: name, a weight by which they are told apart, whether the earlier
# network has it, arguments of the earlier one.
ARGUMENTS = (
    (r"tnt_[sb]_patch16_224", "blocks.0.norm2_proj.weight", False, {"legacy": True}),
    (r"ecaresnext50t_32x4d", "layer1.2.conv1.weight", False, {"layers": [2, 2, 2, 2]}),
)
# Networks that it no longer builds: name, a weight (with its shape) that only the earlier one has, what has changed.
CHANGED = (
    (
        r"poolformer_\w+",
        r"network\.0\.0\.norm1\.weight",
        "up to timm 0.6 its last normalisation was that of the whole feature map, and now it is that of the average",
    ),
    (
        r"convnext_tiny_hnf",
        r"stages\.0\.blocks\.0\.mlp\.fc1\.weight \[\d+, \d+\]",
        "timm 0.5 divided by n - 1 in its normalisations, and now it divides by n",
    ),
    (
        r"gcresnet50t",
        r"mlp_add\.norm\.weight \[\d+, 1, 1\]",
        "up to timm 0.4 its normalisations had an epsilon of 1e-5, and now they have 1e-6",
    ),
    (
        r"botnet26t_256|eca_botnext26ts_256|gcresnext26ts",
        r"stages\.0\.2\.conv1_1x1\.conv\.weight",
        "up to timm 0.4 it had more blocks",
    ),
)
# Networks whose earlier weights look like today's: name, what has changed.
ALIKE = ((r"dpn\w+", "up to timm 0.6 its last activation was ELU, and since 0.9 it is ReLU"),)


def arguments(arch: str, state: Mapping[str, Tensor]) -> dict:
    """The arguments with which timm builds the network that an earlier release gave this name, if they differ."""
    for key, present, kwargs in _rows(ARGUMENTS, arch):
        if any(each.endswith(key) for each in state) == present:
            return dict(kwargs)
    return {}


def refuse_changed(arch: str, state: Mapping[str, Tensor]) -> None:
    """ValueError with the reason if the weights are those of a network that timm no longer builds."""
    weights = [f"{key} {list(tensor.shape)}" for key, tensor in state.items()]
    for weight, reason in _rows(CHANGED, arch):
        if any(re.search(weight, each) for each in weights):
            raise ValueError(
                f"the weights are those of the {arch} of an earlier timm, another network than today's: {reason}. "
                "Train it again with the installed timm."
            )


def warn_of_change(arch: str) -> None:
    """Log what the weights do not tell: whether they were trained before or after a change."""
    for (reason,) in _rows(ALIKE, arch):
        log.warning("HiGFA: %s: %s. If an earlier timm trained it, its probabilities are wrong here", arch, reason)


def _rows(table: tuple[tuple, ...], arch: str) -> list[list]:
    """The rows of a table for an architecture, with or without the tag of its weights."""
    return [row for name, *row in table if re.fullmatch(name, str(arch).split(".")[0])]


def translated(state: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """The weights under today's names of `module`, as far as they are known."""
    rename = RENAMES.get(type(module).__module__, dict)
    return trained(rename(_filtered(state, module)), module.state_dict())


def trained(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The weights without those that the network computes, unless it still stores them."""
    return {key: tensor for key, tensor in state.items() if key in wanted or not COMPUTED.search(key)}


def _filtered(state: Mapping[str, Tensor], module: nn.Module) -> dict[str, Tensor]:
    """The weights as renamed by timm's filter for the module's class, or unchanged. Resampled ones stay unchanged."""
    translate = _filter_of(type(module))
    if translate is None:
        return dict(state)
    try:
        changed = translate(dict(state), module)
    except Exception as error:  # it is written for files of its own release, not for arbitrary ones
        log.info("HiGFA: timm does not translate the names: %s", error)
        return dict(state)
    own = {id(tensor) for tensor in state.values()}  # under another name it is the same tensor still
    resampled = {k for k, t in changed.items() if k in state and id(t) not in own and t.numel() != state[k].numel()}
    return {key: state[key] if key in resampled else tensor for key, tensor in changed.items()}


def _filter_of(kind: type) -> Callable | None:
    """The function (state, module) -> state of the file of timm in which the class is, if it has one."""
    places = [sys.modules[each.__module__] for each in kind.__mro__ if each.__module__.startswith("timm.models.")]
    known = ("checkpoint_filter_fn", "checkpoint_filter_fn_classifier", "_filter_fn")
    found = next((getattr(place, name) for place in places for name in known if hasattr(place, name)), None)
    if found is None or len(inspect.signature(found).parameters) > 1:
        return found
    return lambda state, _: found(state)


def _pit(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Up to 0.6 a stage ended with the pooling that now starts the next one."""
    if not any(key.startswith("transformers.0.pool.") for key in state):
        return state
    pool = re.compile(r"^transformers\.(\d+)\.pool\.")
    return {pool.sub(lambda found: f"transformers.{int(found[1]) + 1}.pool.", key): t for key, t in state.items()}


def _levit(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Up to 0.6 the blocks were numbered consecutively, with attention and MLP counted separately."""
    places = _levit_places(state)

    def rename(key: str) -> str:
        key = re.sub(r"^patch_embed\.(\d+)\.", lambda found: f"stem.conv{int(found[1]) // 2 + 1}.", key)
        key = re.sub(r"^blocks\.(\d+)\.(m\.)?", lambda found: places[int(found[1])], key)
        for old, new in (("mlp.0.", "mlp.ln1."), ("mlp.2.", "mlp.ln2."), ("proj.1.", "proj.ln."), (".q.1.", ".q.ln.")):
            key = key.replace(old, new)
        return re.sub(r"\.[cl]\.", ".linear.", key)

    return {rename(key): tensor for key, tensor in state.items()}


def _levit_places(state: Mapping[str, Tensor]) -> dict[int, str]:
    """Today's prefix of each numbered block, including its trailing dot."""
    numbers = sorted({int(found[1]) for key in state if (found := re.match(r"blocks\.(\d+)\.", key))})
    places, stage, block, downsampled = {}, 0, 0, False
    for i in numbers:
        if f"blocks.{i}.kv.c.weight" in state:
            stage, block, downsampled = stage + 1, 0, True
            places[i] = f"stages.{stage}.downsample.attn_downsample."
        elif f"blocks.{i}.m.qkv.c.weight" in state:
            places[i], downsampled = f"stages.{stage}.blocks.{block}.attn.", False
        elif downsampled:
            places[i], downsampled = f"stages.{stage}.downsample.mlp.", False
        else:
            places[i], block = f"stages.{stage}.blocks.{block}.mlp.", block + 1
    return places


RENAMES = {"timm.models.levit": _levit, "timm.models.pit": _pit}
