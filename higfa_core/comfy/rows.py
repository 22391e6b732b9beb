"""A model call for only some images of a batch, if nothing but the diffusion model sees the smaller batch."""

from __future__ import annotations

import comfy.conds
import comfy.utils
from comfy.model_base import BaseModel
from comfy.patcher_extension import WrappersMP
from torch import Tensor

from .engine import ModelCall

# Options that do not affect a model call; any other may belong to a patch that relies on the whole batch.
HARMLESS = {"transformer_options", "sampler_cfg_function", "sampler_pre_cfg_function", "sampler_post_cfg_function",
            "disable_cfg1_optimization", "denoise_mask_function", "to_load_options"}  # fmt: skip
HARMLESS_TRANSFORMER = {"wrappers", "callbacks", "sample_sigmas"}
OF_A_CALL = (WrappersMP.CALC_COND_BATCH, WrappersMP.APPLY_MODEL, WrappersMP.DIFFUSION_MODEL)
# What a conditioning may hold: the first four have no rows, the last two are indexed by row.
KNOWN = {"area", "strength", "uuid", "pooled_output", "timestep_start", "timestep_end", "start_percent", "end_percent",
         "mask_strength", "set_area_to_bounds", "cross_attn", "model_conds", "mask"}  # fmt: skip


def may_split(model: BaseModel, conds: list[dict], options: dict) -> bool:
    """Whether a call may cover only some images: no patch, hook or unknown conditioning relies on the others."""
    transformer = options.get("transformer_options", {})
    wrapped = any(transformer.get("wrappers", {}).get(kind) for kind in OF_A_CALL)
    unknown = [transformer[name] for name in transformer.keys() - HARMLESS_TRANSFORMER]
    patched = options.keys() - HARMLESS or any(not isinstance(value, dict | list) or value for value in unknown)
    patcher = model.current_patcher
    replaced = {name for name in patcher.object_patches if not name.startswith("model_sampling")}
    if wrapped or patched or replaced or patcher.injections:
        return False
    return all(cond.keys() <= KNOWN for cond in conds)


def call_of(call: ModelCall, rows: list[int]) -> ModelCall:
    return ModelCall(call.x[rows], call.timestep[rows], call.options)


def conds_of(conds: list[dict], rows: list[int], batch: int) -> list[dict]:
    """Those images' conditionings, as ComfyUI's samplers take them."""

    def taken(values: Tensor) -> Tensor:
        return values if len(values) == 1 else comfy.utils.repeat_to_batch_size(values, batch)[rows]

    def one(cond: comfy.conds.CONDRegular) -> comfy.conds.CONDRegular:
        if isinstance(cond, comfy.conds.CONDConstant):
            return cond
        if isinstance(cond, comfy.conds.CONDList):
            return cond._copy_with([taken(values) for values in cond.cond])
        return cond._copy_with(taken(cond.cond))

    split = []
    for cond in conds:
        mask = {"mask": taken(cond["mask"])} if "mask" in cond else {}
        split.append({**cond, **mask, "model_conds": {name: one(c) for name, c in cond["model_conds"].items()}})
    return split
