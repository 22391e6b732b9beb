"""Modules without memory for their weights: to compare names and shapes before anything is allocated."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn


def skeleton(make: Callable[[], nn.Module]) -> nn.Module:
    """What `make` makes, on the meta device; a real module where it cannot be made there (RegNet of torchvision
    computes its widths with tensors) and where an argument is wrong, which then is the error of `make`."""
    try:
        with torch.device("meta"):
            return make()
    except (RuntimeError, TypeError, ValueError):
        return make()
