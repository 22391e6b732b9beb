"""Weights that training kept in two parts, put together: weight normalisation, in both of torch's ways, and pruning."""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from torch import Tensor


def folded(state: Mapping[str, Tensor], wanted: set[str]) -> dict[str, Tensor]:
    """The weights, one in place of each two parts, unless the network itself has the parts (`wanted`)."""
    result = dict(state)
    for key in state:
        for pattern, second, weight, together in PARTS:
            found = re.fullmatch(pattern, key)
            if found and key not in wanted and found.expand(second) in state:
                result[found.expand(weight)] = together(result.pop(key), result.pop(found.expand(second)))
    return result


def _normalised(length: Tensor, direction: Tensor) -> Tensor:
    """`length` has size 1 in the dimensions over which the norm is taken."""
    over = [dim for dim, size in enumerate(length.shape) if size == 1]
    return direction * (length / torch.linalg.vector_norm(direction, dim=over, keepdim=True))


# The name of one part, that of the other, that of the weight, how they make it.
PARTS = (
    (r"(.*\.)?parametrizations\.(\w+)\.original0", r"\1parametrizations.\2.original1", r"\1\2", _normalised),
    (r"(.*)_g", r"\1_v", r"\1", _normalised),
    (r"(.*)_orig", r"\1_mask", r"\1", torch.mul),
)
