"""Conditioning with its ControlNets removed, confined to their own branch, or scaled. Inputs are never changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from comfy.controlnet import ControlBase

Conditioning = list  # of [tensor, options], as ComfyUI's nodes pass it


def without_control(conditioning: Conditioning) -> Conditioning:
    """A copy without ControlNets.

    The flag of the legacy Apply ControlNet is removed as well: with it ComfyUI copies the positive's control into every
    other branch (comfy.samplers.process_conds).
    """
    drop = ("control", "control_apply_to_uncond")
    return [[tensor, {k: v for k, v in options.items() if k not in drop}] for tensor, options in conditioning]


def own_control(conditioning: Conditioning) -> Conditioning:
    """Controls stay in this branch, whichever Apply ControlNet node made them."""
    return [[t, {**o, "control_apply_to_uncond": False} if "control" in o else o] for t, o in conditioning]


def has_control(conditioning: Conditioning) -> bool:
    return any("control" in options for _, options in conditioning)


def scaled_control(conditionings: list[Conditioning], factor: float) -> list[Conditioning]:
    """Conditionings whose ControlNets are copies of `factor` times the strength.

    A control shared by several entries stays one object: ComfyUI runs such entries in one batch.
    """
    copies: dict[ControlBase, ControlBase] = {}

    def scaled(control: ControlBase | None) -> ControlBase | None:
        if control is None:
            return None
        if control not in copies:
            copies[control] = control.copy()
            copies[control].strength = control.strength * factor
            copies[control].set_previous_controlnet(scaled(control.previous_controlnet))
        return copies[control]

    if factor == 1.0:
        return conditionings
    return [
        [[t, {**o, "control": scaled(o["control"])} if "control" in o else o] for t, o in conditioning]
        for conditioning in conditionings
    ]
