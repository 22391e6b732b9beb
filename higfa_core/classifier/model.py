"""A fine-grained image classifier: a module, class names, preprocessing, calibrated probabilities.

For the contents of a classifier file and the files beside it, see `.formats.classifier_file`.
"""

from __future__ import annotations

import contextlib
import copy
import json
import logging
import math
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from . import names
from .activations import SmoothReLU
from .formats import architectures, timm_models, weights
from .formats import classifier_file as files
from .formats.classifier_file import FORMAT
from .formats.facts import Facts
from .preprocess import Preprocess

log = logging.getLogger(__name__)

CHUNK = 32  # images per forward pass of predict_proba


class FineGrainedClassifier:
    """An image classifier with the names of its classes and a calibrated temperature.

    `module` takes preprocessed images and returns logits [B, K], one per class name (ValueError otherwise).
    It is put into eval mode, float32, with gradients to the weights off (batch norm uses its running
    statistics, so samples of a batch never influence each other). `patcher` is a slot for ComfyUI's
    ModelPatcher.

    The gradient of `logits` with respect to the images is available inside ComfyUI's inference mode::

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
        self.class_names = names.checked(class_names)
        if not 0 < temperature < math.inf:
            raise ValueError(f"The temperature must be above 0, got {temperature}. Correct it.")
        self.module = module.eval().requires_grad_(False).float()
        architectures.require_outputs(self.module, preprocessing, len(self.class_names))
        self.preprocessing = preprocessing
        self.temperature = float(temperature)
        self.arch = arch
        self.source = source
        self.model_kwargs = dict(model_kwargs or {})
        self.smooth_relu = 0.0
        self.patcher: Any = None

    def index(self, name: str) -> int:
        """Output index of the class `name`. Case, underscores, numbering ("003.") and missing synonyms are
        ignored where that is unambiguous; otherwise ValueError with the closest name."""
        return names.index(name, self.class_names, self.source)

    def preprocess(self, images: Tensor) -> Tensor:
        """Resize, crop and normalise as the library that made the model does, differentiably.

        images [B, 3, H, W] in 0..1 -> [B, C, h, w] float32.
        """
        return self.preprocessing(images)

    def logits(self, images: Tensor, params: dict[str, Tensor] | None = None) -> Tensor:
        """images [B, 3, H, W] in 0..1 -> uncalibrated logits [B, K], float32.

        With `params` (from `clone_params`, on the images' device) the module is called functionally.
        """
        x = self.preprocess(images)
        with SmoothReLU(self.smooth_relu) if self.smooth_relu else contextlib.nullcontext():
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
        """Copies of all weights and buffers on `device` that autograd accepts, even inside inference mode.

        ComfyUI moves weights in inference mode, after which backward refuses them. Buffers that a state dict
        leaves out (relative position indices) are included: backward needs them too.
        """
        with torch.inference_mode(False), torch.no_grad():
            tensors = {**dict(self.module.named_parameters()), **dict(self.module.named_buffers())}
            return {name: tensor.detach().to(device).clone() for name, tensor in tensors.items()}

    @torch.no_grad()
    def with_smooth_activations(self, beta: float) -> FineGrainedClassifier:
        """The same weights with Softplus(`beta`) for ReLU, see `.activations.SmoothReLU`.

        `beta` above 0: 3 to 5 in the source; larger values are closer to ReLU. Probabilities also come from the
        smooth network, so a calibrated temperature is only approximate. ValueError without a ReLU.
        """
        if not 0 < beta < math.inf:
            raise ValueError(f"beta of the smooth activations must be above 0, got {beta}")
        parameter = next(self.module.parameters())
        with SmoothReLU(beta) as smooth:
            self.logits(torch.zeros(1, 3, *self.preprocessing.input_size, device=parameter.device))
        if not smooth.count:
            raise ValueError(f"0 ReLU replaced: {self.source} ({self.arch}) has none. Set smooth_relu to 0.")
        log.info("HiGFA: Softplus(%g) for %d ReLU of %s", beta, smooth.count, self.source)
        smoothed = copy.copy(self)
        smoothed.smooth_relu, smoothed.patcher = float(beta), None
        return smoothed

    def save(
        self,
        path: str | os.PathLike,
        dtype: torch.dtype = torch.float32,
        extra: dict[str, str] | None = None,
    ) -> None:
        """Write a `higfa-classifier-1` safetensors file, atomically and reproducibly to the byte.

        `extra` is added to its metadata (the results of training).
        """
        path = Path(path)
        if path.suffix != ".safetensors":
            raise ValueError(f"Classifiers are saved as .safetensors, got '{path.name}'. Change the suffix.")
        if dtype not in (torch.float32, torch.float16):
            raise ValueError(f"Classifiers are saved as float32 or float16, got {dtype}. Choose one of these.")
        if not self.arch:
            raise ValueError(f"{path.name} could not be loaded without its arch. Make the classifier with arch='...'.")
        state = architectures.file_state(self.arch, self.module)
        state = {k: _as(v, dtype).cpu().contiguous().clone() for k, v in state.items()}
        weights.refuse_non_finite(state, f"Save {path.name} as float32")
        metadata = {
            **(extra or {}),
            "format": FORMAT,
            "arch": self.arch,
            "num_classes": str(len(self.class_names)),
            "class_names": json.dumps(self.class_names, ensure_ascii=False),
            "preprocess": json.dumps(asdict(self.preprocessing)),
            "temperature": repr(self.temperature),
            "model_kwargs": json.dumps(self.model_kwargs),
        }
        weights.write(path, state, metadata)

    @classmethod
    @torch.inference_mode(False)
    def load(cls, path: str | os.PathLike) -> FineGrainedClassifier:
        """Read a classifier file, see `.formats.classifier_file`; ValueError names file, fault and remedy."""
        path = Path(path)
        state, facts = files.read(path)
        try:
            return cls._build(path, state, facts)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{path.name}: {error}") from error

    @classmethod
    @torch.inference_mode(False)
    def from_timm(cls, name: str) -> FineGrainedClassifier:
        """timm's pretrained model `name` ("resnet50.a1_in1k"), downloaded unless it is cached on this computer."""
        name = name.strip()
        module, class_names = timm_models.pretrained(name)
        preprocessing = architectures.preprocessing(name, module, {}, {})
        return cls(module, tuple(class_names), preprocessing, arch=name, source=name)

    @classmethod
    def _build(cls, path: Path, state: dict[str, Tensor], facts: Facts) -> FineGrainedClassifier:
        class_names = names.checked(facts.class_names)
        stated = facts.number("num_classes", len(class_names))
        if stated != len(class_names):
            raise ValueError(
                f"num_classes is {stated:g}, but there are {len(class_names)} class names "
                f"(from {facts.origins['num_classes']} and {facts.origins['class_names']}). Correct one."
            )
        arch, args = facts.arch or "", facts.args or {}
        kwargs = architectures.arguments(facts, state)
        module = architectures.load(arch, state, len(class_names), kwargs)
        preprocessing = architectures.preprocessing(arch, module, kwargs, facts.preprocess or {}, args)
        temperature = facts.number("temperature", 1.0)
        return cls(module, class_names, preprocessing, temperature, arch, path.name, kwargs)


def _as(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.detach().to(dtype) if tensor.is_floating_point() else tensor.detach()
