"""Finds patches that act only where positive and negative share a batch, in a run where they never do."""

from __future__ import annotations

from collections.abc import Callable

from comfy.model_patcher import create_model_options_clone
from torch import Tensor

KINDS = ("attn1_output_patch", "attn2_output_patch")  # they receive the rows of a whole batch and may mix them


class WatchedPatch:
    """Wraps a patch of attention outputs and records whether it changes anything."""

    def __init__(self, patch: Callable):
        self.patch, self.acted = patch, False

    def __call__(self, out: Tensor, extra_options: dict) -> Tensor:
        before = out.clone()  # some patches write into what they are given
        result = self.patch(out, extra_options)
        paired = {0, 1} <= set(extra_options["cond_or_uncond"])
        self.acted = self.acted or paired or bool((result != before).any())
        return result


class Watch:
    """For one model call with `options`: a copy in which patches that look at a batch's branches are watched."""

    def __init__(self, options: dict):
        self.options = create_model_options_clone(options)
        patches = self.options.get("transformer_options", {}).get("patches", {})
        self.watched = []
        for kind in KINDS:
            for i, patch in enumerate(patches.get(kind, [])):
                if "cond_or_uncond" in _constants(patch):
                    patches[kind][i] = WatchedPatch(patch)
                    self.watched.append(patches[kind][i])

    def silent(self) -> list[str]:
        """The nodes or functions whose patches changed nothing in that call."""
        return sorted({_owner(watched.patch) for watched in self.watched if not watched.acted})


def _constants(patch: Callable) -> tuple:
    code = getattr(patch, "__code__", None) or getattr(type(patch).__call__, "__code__", None)
    return code.co_consts if code else ()


def _owner(patch: Callable) -> str:
    """`NAGuidance` for a function that NAGuidance.execute made."""
    return getattr(patch, "__qualname__", type(patch).__qualname__).split(".")[0]
