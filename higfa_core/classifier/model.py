"""A fine-grained image classifier: a timm model, class names, preprocessing, calibrated probabilities.

What a classifier file holds and what may lie beside it: see :mod:`.files`.
"""

from __future__ import annotations

import difflib
import json
import math
import os
import re
from collections import Counter
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from . import files
from .files import FORMAT

CHUNK = 32  # images per forward pass of predict_proba


@dataclass(frozen=True)
class Preprocess:
    """How the classifier wants its images; the fields are those of timm's data config.

    ``input_size`` is (h, w) in pixels; ``mean`` and ``std`` are per channel for images in 0..1 (three values,
    or one for a grey-scale model). ``crop_mode`` "center" resizes the shorter side to
    ``input_size / crop_pct``, "squash" both sides; then the centre is cropped. ValueError if out of range.
    """

    input_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    interpolation: str
    crop_pct: float
    crop_mode: str = "center"

    def __post_init__(self):
        for name, kind in (("input_size", int), ("mean", float), ("std", float)):
            object.__setattr__(self, name, tuple(kind(v) for v in getattr(self, name)))
        if len(self.input_size) != 2 or min(self.input_size) < 1:
            raise ValueError(f"input_size must be (height, width) in pixels, got {self.input_size}")
        if len(self.mean) not in (1, 3) or len(self.std) != len(self.mean):
            raise ValueError(f"mean and std need 3 values each (or 1 each), got {self.mean} and {self.std}")
        if not all(math.isfinite(v) for v in self.mean) or not all(0 < v < math.inf for v in self.std):
            raise ValueError(f"mean must be finite and std above 0, got {self.mean} and {self.std}")
        if self.interpolation not in ("bilinear", "bicubic", "nearest"):
            raise ValueError(f"interpolation must be bilinear, bicubic or nearest, got {self.interpolation!r}")
        if not 0 < self.crop_pct <= 1:
            raise ValueError(f"crop_pct must be above 0 and at most 1, got {self.crop_pct}")
        if self.crop_mode not in ("center", "squash"):
            raise ValueError(f"crop_mode must be center or squash, got {self.crop_mode!r}")

    def resized(self, height: int, width: int) -> tuple[int, int]:
        """Size of a ``height`` x ``width`` image before the centre crop, rounded as timm rounds it."""
        h, w = (math.floor(side / self.crop_pct) for side in self.input_size)
        if self.crop_mode == "squash":
            return h, w
        if h == w:
            short = min(height, width)
            return int(h * height / short), int(w * width / short)
        ratio = min(height / h, width / w)
        return round(height / ratio), round(width / ratio)


class FineGrainedClassifier:
    """A timm model with the names of its classes and a calibrated temperature.

    ``module`` is put into eval mode, float32, with gradients to the weights off (batch norm uses its running
    statistics, so samples of a batch never influence each other). ``patcher`` is a slot for ComfyUI's
    ModelPatcher.

    The gradient of :meth:`logits` with respect to the images is available inside ComfyUI's inference mode::

        with torch.inference_mode(False), torch.enable_grad():
            params = classifier.clone_params(device)  # once per run
            x = images.clone().requires_grad_()
            grad = torch.autograd.grad(classifier.logits(x, params)[:, k].sum(), x)[0]
    """

    def __init__(
        self,
        module: nn.Module,
        class_names: tuple[str, ...],
        preprocessing: Preprocess,
        temperature: float = 1.0,
        arch: str = "",
        source: str = "classifier",
        model_kwargs: dict | None = None,
    ):
        self.class_names = _checked_names(class_names)
        if not 0 < temperature < math.inf:
            raise ValueError(f"The temperature must be above 0, got {temperature}")
        self.module = module.eval().requires_grad_(False).float()
        self.preprocessing = preprocessing
        self.temperature = float(temperature)
        self.arch = arch
        self.source = source
        self.model_kwargs = dict(model_kwargs or {})
        self.patcher = None

    def index(self, name: str) -> int:
        """Output index of the class ``name``; case and underscores are forgiven where that is unambiguous."""
        if name in self.class_names:
            return self.class_names.index(name)
        plain = [_plain(known) for known in self.class_names]
        if plain.count(_plain(name)) == 1:
            return plain.index(_plain(name))
        closest = difflib.get_close_matches(_plain(name), plain, n=1)
        hint = f": closest '{self.class_names[plain.index(closest[0])]}'" if closest else ""
        shown = ", ".join(self.class_names[:10]) + (", ..." if len(self.class_names) > 10 else "")
        raise ValueError(f"No class '{name}' in {self.source}{hint}. It has {len(self.class_names)} classes: {shown}")

    def preprocess(self, images: Tensor) -> Tensor:
        """Resize, crop and normalise as timm's eval transform does, differentiably.

        images [B, 3, H, W] in 0..1 -> [B, C, h, w] float32.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"Expected images of shape [B, 3, H, W], got {list(images.shape)}")
        p, x = self.preprocessing, images.float()
        if len(p.mean) == 1:  # ITU-R 601 luma, as PIL's convert("L")
            x = 0.299 * x[:, :1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:]
        x = _resize(x, p.resized(*x.shape[-2:]), p.interpolation)
        h, w = p.input_size
        top, left = round((x.shape[-2] - h) / 2), round((x.shape[-1] - w) / 2)
        x = x[..., top : top + h, left : left + w]
        # Python floats, not a stored tensor: one born in inference mode could not take part in autograd.
        return torch.stack([(c - m) / s for c, m, s in zip(x.unbind(1), p.mean, p.std, strict=True)], dim=1)

    def logits(self, images: Tensor, params: dict[str, Tensor] | None = None) -> Tensor:
        """images [B, 3, H, W] in 0..1 -> uncalibrated logits [B, K], float32.

        With ``params`` (from :meth:`clone_params`, on the images' device) the module is called functionally.
        """
        x = self.preprocess(images)
        out = self.module(x) if params is None else torch.func.functional_call(self.module, params, (x,))
        return out.float()

    @torch.no_grad()
    def predict_proba(self, images: Tensor) -> Tensor:
        """ComfyUI images [B, H, W, 3] in 0..1 -> calibrated probabilities [B, K], float32 on the CPU."""
        if images.ndim != 4 or images.shape[-1] != 3 or not images.numel():
            raise ValueError(f"Expected one or more images of shape [B, H, W, 3], got {list(images.shape)}")
        device = next(self.module.parameters()).device
        chunks = (self.logits(chunk.to(device).movedim(-1, 1)) for chunk in images.split(CHUNK))
        return torch.cat([(f / self.temperature).softmax(dim=-1).cpu() for f in chunks])

    def clone_params(self, device: torch.device | str) -> dict[str, Tensor]:
        """Copies of all weights and buffers on ``device`` that autograd accepts, even inside inference mode.

        ComfyUI moves weights in inference mode, after which backward refuses them. Buffers that a state dict
        leaves out (relative position indices) are included: backward needs them too.
        """
        with torch.inference_mode(False), torch.no_grad():
            tensors = {**dict(self.module.named_parameters()), **dict(self.module.named_buffers())}
            return {name: tensor.detach().to(device).clone() for name, tensor in tensors.items()}

    def save(self, path: str | os.PathLike, dtype: torch.dtype = torch.float32) -> None:
        """Write a ``higfa-classifier-1`` safetensors file, atomically and byte for byte reproducibly."""
        path = Path(path)
        if path.suffix != ".safetensors":
            raise ValueError(f"Classifiers are saved as .safetensors, got '{path.name}'")
        if dtype not in (torch.float32, torch.float16):
            raise ValueError(f"Classifiers are saved as float32 or float16, got {dtype}")
        state = {k: _as(v, dtype).cpu().contiguous().clone() for k, v in self.module.state_dict().items()}
        files.refuse_non_finite(state, f"Save {path.name} as float32")
        metadata = {
            "format": FORMAT,
            "arch": self.arch,
            "num_classes": str(len(self.class_names)),
            "class_names": json.dumps(self.class_names, ensure_ascii=False),
            "preprocess": json.dumps(asdict(self.preprocessing)),
            "temperature": repr(self.temperature),
            "model_kwargs": json.dumps(self.model_kwargs),
        }
        files.write(path, state, metadata)

    @classmethod
    def load(cls, path: str | os.PathLike) -> FineGrainedClassifier:
        """Read a classifier file (see files); ValueError names the file, the fault and the remedy."""
        path = Path(path)
        state, facts = files.read(path)
        try:
            return cls._build(path, state, files.decoded(facts))
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path.name}: {error}") from error

    @classmethod
    def _build(cls, path: Path, state: dict[str, Tensor], facts: dict) -> FineGrainedClassifier:
        names = _checked_names(facts["class_names"])
        stated = int(files.number(facts, "num_classes", len(names)))
        if stated != len(names):
            raise ValueError(f"num_classes is {stated}, but there are {len(names)} class names. Correct one")
        kwargs = facts.get("model_kwargs") or {}
        with torch.inference_mode(False):
            module = files.create_module(facts["arch"], len(names), kwargs)
            files.load_state(module, state, facts["arch"], len(names))
        preprocessing = _preprocessing(module, kwargs, facts.get("preprocess") or {})
        temperature = files.number(facts, "temperature", 1.0)
        return cls(module, names, preprocessing, temperature, facts["arch"], path.name, kwargs)


def _plain(name: str) -> str:
    """Without case, underscores and a dataset's numbering: "003.Laysan_Albatross" is "Laysan Albatross"."""
    return " ".join(re.sub(r"^\d+\.", "", name).replace("_", " ").split()).casefold()


def _checked_names(names) -> tuple[str, ...]:
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"class_names must be a list of strings, got {str(names)[:80]}")
    if len(names) < 2:
        raise ValueError(f"a classifier needs at least 2 classes, got {len(names)}. Add the missing names")
    bad = [i + 1 for i, name in enumerate(names) if not name.strip() or "\n" in name]
    if bad:
        raise ValueError(f"class name {bad[0]} of {len(names)} is empty or has a line break. Give it a name")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"class names must be unique, repeated: {', '.join(twice[:5])}. Rename them")
    return tuple(names)


def _resize(x: Tensor, size: tuple[int, int], mode: str) -> Tensor:
    if tuple(x.shape[-2:]) == size:
        return x
    if mode == "nearest":
        return F.interpolate(x, size=size, mode="nearest-exact")
    x = F.interpolate(x, size=size, mode=mode, antialias=True, align_corners=False)
    return x.clamp(0, 1) if mode == "bicubic" else x  # PIL's 8-bit bicubic clips its overshoot


def _as(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.detach().to(dtype) if tensor.is_floating_point() else tensor.detach()


def _preprocessing(module: nn.Module, kwargs: dict, given: dict) -> Preprocess:
    """``given``, completed by what timm knows of the architecture."""
    known = [field.name for field in fields(Preprocess)]
    unknown = [key for key in given if key not in known]
    if unknown:
        raise ValueError(f"preprocess has no {', '.join(unknown)}. It has {', '.join(known)}")
    config = files.import_timm().data.resolve_data_config({}, pretrained_cfg=module.pretrained_cfg)
    if "img_size" in kwargs:
        size = kwargs["img_size"]
        config["input_size"] = (size, size) if isinstance(size, int) else size
    config = {**config, **given}
    settings = Preprocess(**{**config, "input_size": tuple(config["input_size"])[-2:]})
    channels = kwargs.get("in_chans", 3)
    if len(settings.mean) != channels:
        raise ValueError(
            f"the model takes {channels} channel(s), but preprocess mean has {len(settings.mean)} value(s). "
            f"Give mean and std with {channels} value(s) each"
        )
    return settings
