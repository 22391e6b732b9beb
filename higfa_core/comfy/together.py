"""Samples several images of one sampler node in one batch: joins their conditionings, latents and seeds.

Whatever cannot be joined exactly is sampled separately: another shape, area, mask, control or strength; a sampler that
draws noise at every step, whose draws for a batch differ from those for its images.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from comfy.controlnet import ControlBase
from torch import Tensor

from .conditioning import Conditioning

JOINED = ("pooled_output", "attention_mask")  # tensors of a conditioning that hold one entry per image
# Samplers that draw no further noise and whose steps do not depend on neighbours (unlike dpm_adaptive's).
BATCHED = """euler euler_cfg_pp heun heunpp2 exp_heun_2_x0 dpm_2 lms dpm_fast dpmpp_2m dpmpp_2m_cfg_pp ipndm ipndm_v
deis gradient_estimation gradient_estimation_cfg_pp ddim uni_pc uni_pc_bh2""".split()
IMAGES = ("samples", "noise_mask")  # those of a LATENT
OWN = {"positive", "negative", "latent_image", "class_name", "seed"}  # what may differ between the images of a batch
HINT = ("cond_hint_original", "previous_controlnet")  # what may differ between the controls of two images


class Apart(ValueError):
    """These images cannot be sampled in one batch."""


def join_calls(calls: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The inputs of a sampler node for several images, joined for one batch; `seed` and `class_name` are the first's.

    Raises:
        Apart: they differ in more than text, contour, class and seed, or the sampler does not allow it.
    """
    first = dict(calls[0])
    if len(calls) == 1:
        return first
    if first["sampler_name"] not in BATCHED:
        raise Apart(f"{first['sampler_name']} draws noise at every step, or steps by the whole batch")
    for name in first.keys() - OWN:
        _same(call[name] for call in calls)
    if any("\n" in call["class_name"].strip() for call in calls):
        raise Apart("an image has several lines of classes")
    controls: dict[tuple, ControlBase] = {}
    for name in ("positive", "negative"):
        first[name] = _join_conditioning([call[name] for call in calls], controls)
    first["latent_image"] = _join_latents([call["latent_image"] for call in calls])
    return first


def split_latent(latent: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The LATENT of a batch as one per image."""
    own = {name: latent[name].split(1) for name in IMAGES if name in latent}
    return [{**latent, **{name: parts[i] for name, parts in own.items()}} for i in range(len(latent["samples"]))]


def _join_latents(latents: Sequence[Mapping]) -> dict:
    names = _same(list(latent) for latent in latents)
    if "batch_index" in names:
        raise Apart("a latent is one of an earlier batch")
    return {name: (_cat if name in IMAGES else _same)([latent[name] for latent in latents]) for name in names}


def _join_conditioning(parts: Sequence[Conditioning], controls: dict) -> Conditioning:
    _same(map(len, parts))
    return [[_cat([text for text, _ in entries]), _join_options(entries, controls)] for entries in zip(*parts)]


def _join_options(entries: Sequence, controls: dict) -> dict:
    options = [about for _, about in entries]
    joined = {}
    for name in _same(sorted(about) for about in options):
        values = [about[name] for about in options]
        if name == "control":
            joined[name] = _join_controls(values, controls)
        else:
            joined[name] = _cat(values) if name in JOINED and torch.is_tensor(values[0]) else _same(values)
    return joined


def _join_controls(controls: Sequence[ControlBase], known: dict) -> ControlBase:
    """One control for all; the same one if positive and negative share it, because stock sampling then batches them."""
    place = tuple(map(id, controls))
    if place not in known:
        _same(map(type, controls))
        fields = [{k: v for k, v in vars(control).items() if k not in HINT} for control in controls]
        for name in _same(sorted(found) for found in fields):
            _same([found[name] for found in fields])
        joined = controls[0].copy()
        joined.cond_hint_original = _cat([control.cond_hint_original for control in controls])
        earlier = [control.previous_controlnet for control in controls]
        joined.previous_controlnet = None
        if any(control is not None for control in earlier):
            joined.set_previous_controlnet(_join_controls(earlier, known))
        known[place] = joined
    return known[place]


def _cat(values: Sequence[Tensor]) -> Tensor:
    if any(not torch.is_tensor(value) for value in values):
        raise Apart("one of the images lacks a tensor that another has")
    _same((value.shape[1:], value.dtype) for value in values)
    if any(len(value) != 1 for value in values):
        raise Apart("an input holds more than one image")
    return torch.cat(list(values))


def _same(values: Iterable) -> Any:
    first, *others = values
    if not all(_equal(first, other) for other in others):
        raise Apart("the images differ in more than text, contour and seed")
    return first


def _equal(a: Any, b: Any) -> bool:
    if a is b:
        return True
    if torch.is_tensor(a) or torch.is_tensor(b):
        return torch.is_tensor(a) and torch.is_tensor(b) and a.shape == b.shape and torch.equal(a, b)
    if isinstance(a, (list, tuple)) and isinstance(b, (list, tuple)):
        return len(a) == len(b) and all(map(_equal, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_equal(a[name], b[name]) for name in a)
    return type(a) is type(b) and isinstance(a, (int, float, str, torch.dtype, torch.device)) and a == b
