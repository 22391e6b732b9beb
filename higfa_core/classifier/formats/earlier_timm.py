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
from typing import Any

import torch
import torch.nn.functional as F
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


def told(arch: str, release: object) -> dict:
    """`model_kwargs` that keep the release that trained the network, if today's is another one that looks the same."""
    return {RELEASE: release} if release and _rows(ALIKE, arch) else {}


def require_told(arch: str, kwargs: Mapping) -> None:
    """ValueError if the weights may be those of either of two networks whose probabilities differ."""
    for (major, minor), what, _, needed in _rows(ALIKE, arch):
        if needed and not kwargs.get(RELEASE):
            raise ValueError(
                f"before timm {major}.{minor} {arch} was another network ({what}), and nothing in the file tells "
                'which one was trained. Say it in the JSON file beside it: "timm": "0.6.13", or the release that it was'
            )


def restored(module: nn.Module, arch: str, release: object) -> nn.Module:
    """The network as that release of timm built it. ValueError if it is no release."""
    if release is None:
        return module
    found = re.match(r"(\d+)\.(\d+)", str(release))
    if not found:
        raise ValueError(f'timm must be a release such as "0.6.13", got {str(release)[:60]!r}. Correct it.')
    for changed, what, restore, _ in _rows(ALIKE, arch):
        if (int(found[1]), int(found[2])) >= changed:
            continue
        if restore is None:
            raise ValueError(f"timm no longer builds the {arch} of release {release}: {what}. Train it again.")
        restore(module)
    return module


def _with_elu(module: Any) -> None:
    module.features.conv5_bn_ac.bn.act = nn.ELU()


def _with_sample_norms(module: nn.Module) -> None:
    for parent in list(module.modules()):
        for name, child in parent.named_children():
            if type(child).__name__ == "LayerNorm2d":
                setattr(parent, name, SampleNorm(child))


def _with_1e5(module: nn.Module) -> None:
    contexts = (each for each in module.modules() if type(each).__name__ == "GlobalContext")
    for norm in (each for context in contexts for each in context.modules() if isinstance(each, nn.LayerNorm)):
        norm.eps = 1e-5


class SampleNorm(nn.Module):
    """The normalisation over channels of timm 0.5, for maps [B, C, H, W].

    It took the variance of a sample (n - 1) where the memory is not in the order of the shape.
    """

    def __init__(self, norm: Any):
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps

    def forward(self, x: Tensor) -> Tensor:
        if x.is_contiguous():
            return F.layer_norm(x.movedim(1, -1), self.weight.shape, self.weight, self.bias, self.eps).movedim(-1, 1)
        variance, mean = torch.var_mean(x, dim=1, keepdim=True)
        x = (x - mean) * torch.rsqrt(variance + self.eps)
        return x * self.weight[:, None, None] + self.bias[:, None, None]


def _rows(table: tuple[tuple, ...], arch: str) -> list[list[Any]]:
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

# Networks whose earlier weights look like today's: name, the first release of today's, what has changed, how to build
# the earlier one (None: nobody does any more), whether it has to be known. Others differ by less than bfloat16 rounds.
ALIKE = (
    (r"dpn(68b?|92|98|107|131)", (0, 9), "its last activation was ELU, and is ReLU", _with_elu, True),
    (r"regnetz_d8_evos", (0, 6), "it had EvoNorm-S0, and has EvoNorm-S0a", None, True),
    (r"convnext_\w+", (0, 6), "some normalisations divided by n - 1, and all divide by n", _with_sample_norms, False),
    (r"gc\w+", (0, 6), "the epsilon in its global context was 1e-5, and is 1e-6", _with_1e5, False),
)
RELEASE = "timm"  # the key for the release in `model_kwargs`
