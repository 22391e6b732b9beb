"""Equation (1) of docs/method.md at one model call: the branches that run, and their mix at any weights."""

from __future__ import annotations

import math
from dataclasses import dataclass

import comfy.samplers
from comfy.model_base import BaseModel
from torch import Tensor

from .engine import ModelCall


@dataclass(frozen=True)
class Branches:
    """The conditionings of one model call, as ComfyUI's samplers take them.

    Patches see ordinary CFG of `cond` and `uncond`. The contour's share D_tc - D_t, told by a third branch, comes on
    top: D_u + w_text (D_tc - D_u) + (w_contour - w_text) (D_tc - D_t) is the same sum as (1).

    Args:
        cond: text and contour; text alone where `contour_apart`.
        uncond: None where CFG needs none.
        third: the text without contour; with it where `contour_apart`. None where nothing weighs the contour.
        contour_apart: the contour has a weight of its own also in the fixed stage (contour_scale is not 1).
    """

    cond: list
    uncond: list | None
    third: list | None
    contour_apart: bool

    @classmethod
    def of(cls, conds: dict[str, list], cfg: float, contour_scale: float, options: dict) -> Branches:
        """The branches of a run's conditionings `positive`, `negative` and, where the contour can be weighed, `text`.

        As stock does, the branch whose coefficient 1 - cfg is 0 is not run.
        """
        skip = math.isclose(cfg, 1.0) and not options.get("disable_cfg1_optimization", False)
        uncond = None if skip else conds.get("negative")
        positive, text = conds["positive"], conds.get("text")
        if text is not None and contour_scale != 1.0:
            return cls(text, uncond, positive, contour_apart=True)
        return cls(positive, uncond, text, contour_apart=False)


class Composition:
    """Runs the branches of a model call; called with weights, it gives the estimate that they make.

    Args:
        cfg: the weight of the text in the fixed stage, which pre-CFG patches are told.
    """

    def __init__(self, model: BaseModel, branches: Branches, call: ModelCall, cfg: float):
        self.model, self.branches, self.call = model, branches, call
        pair, third = self._predictions()
        # Taken before patches change one side of it.
        self.contour = None if third is None else third - pair[0] if branches.contour_apart else pair[0] - third
        for patch in call.options.get("sampler_pre_cfg_function", []):
            pair = patch({**self._arguments(), "conds_out": pair, "cond_scale": cfg, "timestep": call.timestep})
        self.cond, self.uncond = pair[:2]

    def __call__(self, w_text: float | Tensor, w_contour: float | Tensor, options: dict | None = None) -> Tensor:
        """The estimate [B, C, H, W] at these weights; `options` replace the call's for the patches of CFG."""
        call, branches = self.call, self.branches
        options = call.options if options is None else options
        mixed = comfy.samplers.cfg_function(
            self.model, self.cond, self.uncond, w_text, call.x, call.timestep, options, branches.cond, branches.uncond
        )
        if self.contour is None:
            return mixed
        return mixed + self.contour * (w_contour if branches.contour_apart else w_contour - w_text)

    def _predictions(self) -> tuple[list[Tensor], Tensor | None]:
        """([cond, uncond], third); a patch of this step takes pairs, and like stock's at cfg 1 may have no uncond."""
        call, third = self.call, self.branches.third
        if patch := call.options.get("sampler_calc_cond_batch_function"):
            arguments = self._arguments()
            return patch(arguments), None if third is None else patch({**arguments, "conds": [third, None]})[0]
        conds = [self.branches.cond, self.branches.uncond, *([] if third is None else [third])]
        out = comfy.samplers.calc_cond_batch(self.model, conds, call.x, call.timestep, call.options)
        return out[:2], None if third is None else out[2]

    def _arguments(self) -> dict:
        """What ComfyUI tells the patches around CFG."""
        call = self.call
        return {
            "conds": [self.branches.cond, self.branches.uncond],
            "input": call.x,
            "sigma": call.timestep,
            "model": self.model,
            "model_options": call.options,
        }
