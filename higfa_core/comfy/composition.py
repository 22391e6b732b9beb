"""Equation (1) of docs/method.md at one model call: the branches that run, and their mix at any weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import comfy.samplers
import torch
from comfy.model_base import BaseModel
from torch import Tensor

from . import rows
from .engine import ModelCall
from .shares import Shares


@dataclass(frozen=True)
class Branches:
    """The conditionings of one model call, as ComfyUI's samplers take them.

    Patches see ordinary CFG of `cond` and `uncond`. The contour's share D_tc - D_t, from a third branch, is added on
    top: D_u + w_text (D_tc - D_u) + (w_contour - w_text) (D_tc - D_t) is the same sum as (1).

    Args:
        cond: text and contour; text alone where `contour_apart`.
        uncond: None where CFG needs none.
        third: the text without contour; with it where `contour_apart`. None if the contour is never weighted.
        contour_apart: the contour has its own weight in the fixed stage as well (contour_scale is not 1).
    """

    cond: list
    uncond: list | None
    third: list | None
    contour_apart: bool

    @classmethod
    def of(cls, conds: dict[str, list], cfg: float, contour_scale: float, options: dict) -> Branches:
        """The branches of a run's conditionings `positive`, `negative` and, where the contour is weighted, `text`.

        As in stock sampling, the branch whose coefficient 1 - cfg is 0 is not run.
        """
        skip = math.isclose(cfg, 1.0) and not options.get("disable_cfg1_optimization", False)
        uncond = None if skip else conds.get("negative")
        positive, text = conds["positive"], conds.get("text")
        if text is not None and contour_scale != 1.0:
            return cls(text, uncond, positive, contour_apart=True)
        return cls(positive, uncond, text, contour_apart=False)


def predict_pair(model: BaseModel, pair: list, call: ModelCall) -> list[Tensor]:
    """Estimates of [cond, uncond], as comfy.samplers.sampling_function makes them; zeros for None.

    The only place that runs the diffusion model. Every call is one that stock sampling makes, so that patches of the
    model see nothing unusual: `cond_or_uncond` holds 0 and 1, in one batch wherever stock sampling batches them.
    """
    if patch := call.options.get("sampler_calc_cond_batch_function"):
        return patch(_arguments(model, pair, call))
    return comfy.samplers.calc_cond_batch(model, pair, call.x, call.timestep, call.options)


def _arguments(model: BaseModel, pair: list, call: ModelCall) -> dict:
    """What ComfyUI tells the patches around CFG."""
    return {
        "conds": pair,
        "input": call.x,
        "sigma": call.timestep,
        "model": model,
        "model_options": call.options,
    }


class Composition:
    """Runs the branches of a model call, the third one when it is first needed; calling it with weights gives their
    estimate.

    Args:
        cfg: the weight of the text in the fixed stage, which pre-CFG patches receive.
        shares: of the run, where branches may stand in for later ones; None where each call runs its own.
    """

    def __init__(self, model: BaseModel, branches: Branches, call: ModelCall, cfg: float, shares: Shares | None = None):
        self.model, self.branches, self.call, self.shares = model, branches, call, shares
        self.images: list[int] | None = None  # those whose contour share will be needed; None for all
        pair = [branches.cond, branches.uncond]
        out = predict_pair(model, pair, call) if shares is None else shares.pair(pair, self._pair)
        patches = call.options.get("sampler_pre_cfg_function", [])
        # The contour's share comes from the model's own outputs, before patches change one side of it.
        self.unpatched = out[0].clone() if patches else out[0]
        for patch in patches:
            arguments = _arguments(model, pair, call)
            out = patch({**arguments, "conds_out": out, "cond_scale": cfg, "timestep": call.timestep})
        self.cond, self.uncond = out[:2]

    def _pair(self, pair: list) -> list[Tensor]:
        return predict_pair(self.model, pair, self.call)

    @cached_property
    def contour(self) -> Tensor:
        """D_tc - D_t, [B, C, H, W]."""
        return self._contour() if self.shares is None else self.shares.of_contour(self.images, self._contour)

    def _contour(self) -> Tensor:
        third = self._third()
        return third - self.unpatched if self.branches.contour_apart else self.unpatched - third

    def _third(self) -> Tensor:
        """The third branch's estimate; of `images` only, if no patch would notice, and `unpatched` for the others."""
        conds, call, batch = self.branches.third or [], self.call, len(self.call.x)
        if self.images is None or len(self.images) == batch or not rows.may_split(self.model, conds, call.options):
            return predict_pair(self.model, [conds, None], call)[0]
        part = [rows.conds_of(conds, self.images, batch), None]
        third = self.unpatched.clone()
        third[self.images] = predict_pair(self.model, part, rows.call_of(call, self.images))[0]
        return third

    def __call__(self, w_text: float | Tensor, w_contour: float | Tensor, options: dict | None = None) -> Tensor:
        """The estimate [B, C, H, W] at these weights; `options` replace those of the call for CFG patches."""
        branches = self.branches
        mixed = self._mixed(w_text, self.call.options if options is None else options)
        share = w_contour if branches.contour_apart else w_contour - w_text
        if branches.third is None or (not isinstance(share, Tensor) and share == 0):
            return mixed
        return mixed + self.contour * share

    def _mixed(self, w_text: float | Tensor, options: dict) -> Tensor:
        """ComfyUI's mix of cond and uncond. A patch in its place gets a number, and the whole batch, as in stock
        sampling: with weights that differ it is called once for each of them."""
        if not isinstance(w_text, Tensor) or "sampler_cfg_function" not in options:
            return self._cfg(w_text, options)
        weights = w_text.flatten().tolist()
        mixed = {weight: self._cfg(weight, options) for weight in weights}
        return torch.stack([mixed[weight][i] for i, weight in enumerate(weights)])

    def _cfg(self, w_text: float | Tensor, options: dict) -> Tensor:
        call, branches = self.call, self.branches
        return comfy.samplers.cfg_function(
            self.model, self.cond, self.uncond, w_text, call.x, call.timestep, options, branches.cond, branches.uncond
        )
