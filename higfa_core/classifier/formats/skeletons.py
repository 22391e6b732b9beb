"""Modules without memory for their weights: to compare names and shapes before anything is allocated."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


def skeleton(make: Callable[[], nn.Module]) -> nn.Module:
    """The result of `make`, on the meta device; a real module if it cannot be made there (torchvision's RegNet
    computes its widths with tensors), or if an argument is wrong, which raises the error of `make`."""
    try:
        with torch.device("meta"):
            return make()
    except (RuntimeError, TypeError, ValueError):
        return make()
