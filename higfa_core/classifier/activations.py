"""Smooth activations for guidance."""

from __future__ import annotations

import torch
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

RELU = {F.relu, F.relu_, torch.relu, torch.relu_, torch.Tensor.relu, torch.Tensor.relu_}


class SmoothReLU(TorchFunctionMode):
    """Context in which every ReLU, of a module or a plain call, is Softplus(beta) = log(1 + exp(beta x)) / beta.

    A ReLU net is piecewise linear: its gradient jumps from one linear piece to the next. Softplus makes it
    smooth, which gives better guidance from the same weights (EluCD, arXiv 2310.11311: beta 3 with an
    ImageNet DDPM, 5 with EDM). `count` counts the calls replaced.
    """

    def __init__(self, beta: float):
        super().__init__()
        self.beta, self.count = beta, 0

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func not in RELU:
            return func(*args, **kwargs)
        self.count += 1
        return F.softplus(args[0] if args else kwargs["input"], beta=self.beta)
