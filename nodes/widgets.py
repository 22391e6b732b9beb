"""The widgets of settings that `higfa_core` declares on dataclasses."""

from typing import Any

from comfy_api.latest import io

from ..higfa_core.settings import ADVANCED, HIDDEN, Setting, settings_of

INPUTS = {bool: io.Boolean.Input, int: io.Int.Input, float: io.Float.Input, str: io.String.Input}


def widgets(cls: type, *names: str, **options: Any) -> list[io.Input]:
    """Inputs for the settings of a dataclass, or for those named, in that order; `options` go to each input."""
    return [widget(item, **options) for item in settings_of(cls, *names) if names or item.tier != HIDDEN]


def widget(item: Setting, **options: Any) -> io.Input:
    """The input for one setting; `options` extend what is declared."""
    options = {"default": item.default, "tooltip": item.text, **options}
    if item.tier == ADVANCED:
        options["advanced"] = True
    if item.optional:
        options["optional"] = True
    if item.choices:
        return io.Combo.Input(item.name, options=list(item.choices), **options)
    if item.low is not None:
        options |= {"min": item.kind(item.low), "max": item.kind(item.high)}
    if item.step is not None:
        options["step"] = item.kind(item.step)
    if item.round is not None:
        options["round"] = item.round
    return INPUTS[item.kind](item.name, **options)
