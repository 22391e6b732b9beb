"""What the ControlNets added at a guided call, used again at the calls that follow it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .composition import Branches

if TYPE_CHECKING:
    from comfy.controlnet import ControlBase

Residuals = dict[str, list[Tensor | None]]  # part of the model -> what is added to its layers


@dataclass
class KeptControls:
    """Lets the ControlNets of a run work at every n-th guided call only.

    A ControlNet is a copy of the diffusion model's encoder, whose features change little from one step to the next:
    Faster Diffusion (arXiv 2312.09608) uses them again, and so does this.

    Args:
        interval: guided calls between two at which the ControlNets run.
        calls: guided calls so far.
        kept: what they added at the latest of these, None where a control was out of its range of steps.
    """

    interval: int
    calls: int = 0
    kept: dict[tuple, Residuals | None] = field(default_factory=dict)

    def of_call(self, branches: Branches) -> Branches:
        """Begins a guided call: its branches, with stand-ins for their controls."""
        if self.calls % self.interval == 0:
            self.kept = {}
        self.calls += 1
        call = _Call(self.kept)
        given = {name: getattr(branches, name) for name in ("cond", "uncond", "third")}
        return replace(branches, **{name: conds and call.with_stand_ins(name, conds) for name, conds in given.items()})

    def to(self, device: torch.device | str) -> KeptControls:
        """A copy on that device."""
        moved = {about: residuals and _moved(residuals, device) for about, residuals in self.kept.items()}
        return replace(self, kept=moved)


class _Call:
    """One guided call: which of its conditionings a control is asked for, and how often.

    Nothing here may depend on object identity: a run that continues another one has new objects.
    """

    def __init__(self, kept: dict[tuple, Residuals | None]):
        self.kept, self.asked = kept, Counter()
        self.places: dict[Any, tuple[str, int]] = {}  # uuid of a conditioning -> its branch and its place there
        self.stand_ins: dict[ControlBase, _StandIn] = {}

    def with_stand_ins(self, name: str, conds: list[dict]) -> list[dict]:
        self.places |= {cond["uuid"]: (name, place) for place, cond in enumerate(conds)}
        return [{**cond, "control": self._stand_in(cond["control"])} if "control" in cond else cond for cond in conds]

    def _stand_in(self, control: ControlBase) -> _StandIn:
        # One for each control: ComfyUI batches conditionings that share theirs.
        return self.stand_ins.setdefault(control, _StandIn(control, len(self.stand_ins), self))


class _StandIn:
    """In the place of a control, or a chain of them; whatever else is asked of it is the control's."""

    def __init__(self, control: ControlBase, number: int, call: _Call):
        self.control, self.number, self.call = control, number, call

    def __getattr__(self, name: str) -> Any:
        return getattr(self.control, name)

    def get_control(self, x_noisy: Tensor, t: Tensor, cond: dict, batched_number: int, transformer_options: dict):
        """As ComfyUI's: residuals for the noisy latents `x_noisy` of `batched_number` conditionings."""
        given, call = (x_noisy, t, cond, batched_number, transformer_options), self.call
        places = tuple(call.places.get(uuid) for uuid in transformer_options["uuids"])
        if None in places:  # a conditioning that a patch made
            return self.control.get_control(*given)
        about = (self.number, places, tuple(x_noisy.shape), _acting(self.control, float(t[0])))
        about = (*about, call.asked[about])  # more than once where a patch divides the image, or asks again
        call.asked[about[:-1]] += 1
        if about not in call.kept:
            call.kept[about] = self.control.get_control(*given)
        residuals = call.kept[about]
        return residuals and {part: list(values) for part, values in residuals.items()}  # models empty the lists


def _acting(control: ControlBase | None, level: float) -> tuple[bool, ...]:
    """Which controls of a chain are within their range of steps."""
    acting = []
    while control is not None:
        limits = control.timestep_range
        acting.append(limits is None or limits[1] <= level <= limits[0])
        control = control.previous_controlnet
    return tuple(acting)


def _moved(residuals: Residuals, device: torch.device | str) -> Residuals:
    return {part: [value if value is None else value.to(device) for value in all] for part, all in residuals.items()}
