"""numpy's scalars in torch checkpoints (a metric, the numbers of `class_to_idx`), without numpy's unpickling.

numpy trusts the flags of a pickled dtype: a float that claims to hold objects makes it follow the file's bytes as
pointers. The stand-in here reads plain numbers and text; other scalars become None.
"""

from __future__ import annotations

import re

import numpy as np


class _Dtype:
    def __init__(self, code, align=False, copy=True):
        self.code, self.order = code, "="

    def __setstate__(self, state):
        self.order = state[1]


def _scalar(dtype: _Dtype, data: bytes):
    code = f"{dtype.order}{dtype.code}"
    if not re.fullmatch(r"[<>=|]([biuf]\d{1,2}|U\d{1,6})", code):
        return None
    if "U" in code:
        return data.decode("utf-32-be" if dtype.order == ">" else "utf-32-le")
    (value,) = np.frombuffer(data, code)
    return value.item()


def _named(stand_in, module: str, name: str):
    """The stand-in under the name by which weights-only loading looks for numpy's own."""
    stand_in.__module__, stand_in.__qualname__, stand_in.__name__ = module, name, name
    return stand_in


SAFE_GLOBALS = [
    _named(_Dtype, "numpy", "dtype"),
    _named(lambda dtype, data: _scalar(dtype, data), "numpy._core.multiarray", "scalar"),
    _named(lambda dtype, data: _scalar(dtype, data), "numpy.core.multiarray", "scalar"),  # numpy 1
]
