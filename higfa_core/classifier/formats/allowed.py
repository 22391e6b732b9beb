"""What a classifier file may ask a library to build: arguments that the network itself declares, with plain values.

Libraries accept more than that, including file names, addresses and models to fetch. So nothing in a file reaches a
library unless it is on the list: the names come from the signature of the network's own class, the values are numbers,
short words, and lists and tables of them.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass

from torch import nn

WORD = re.compile(r"[\w.+-]{0,80}", re.ASCII)  # no slash, no colon: neither a path nor an address
LARGEST, LONGEST, DEEPEST = 10**6, 1000, 4
DEPTH, SHALLOW = re.compile(r"(layers?|depths?|blocks?|repeats?)$"), 100
NEVER = {"self", "args", "kwargs", "cfg", "config", "num_classes", "device", "dtype"}


def is_plain(value, depth: int = 0) -> bool:
    """Whether a value is a number, a short word, or a list or table of those."""
    if value is None or isinstance(value, bool):
        return True
    if isinstance(value, (int, float)):
        return math.isfinite(value) and abs(value) <= LARGEST
    if isinstance(value, str):
        return bool(WORD.fullmatch(value))
    if depth == DEEPEST or not isinstance(value, (list, tuple, Mapping)) or len(value) > LONGEST:
        return False
    parts = [*value, *value.values()] if isinstance(value, Mapping) else value
    return all(is_plain(part, depth + 1) for part in parts)


def declared(module: nn.Module) -> set[str]:
    """Arguments that the classes of a network declare, those of their settings class (`cfg`) among them."""
    kinds = type(module).__mro__[: type(module).__mro__.index(nn.Module)]
    parameters = {name: p for kind in kinds for name, p in inspect.signature(kind.__init__).parameters.items()}
    settings = getattr(parameters.get("cfg"), "annotation", None)
    options = {field.name for field in fields(settings)} if is_dataclass(settings) else set()
    return {*parameters, *options} - NEVER


def require(arch: str, kwargs: Mapping, known: Iterable[str]) -> None:
    """ValueError unless all names of `kwargs` are known and all values plain."""
    unknown = sorted(set(kwargs) - set(known))
    if unknown:
        raise ValueError(
            f"model_kwargs may not hold {', '.join(unknown)}. Remove them: {arch} takes {', '.join(sorted(known))}"
        )
    require_plain(kwargs)


def require_depth(kwargs: Mapping, tensors: int) -> None:
    """ValueError where arguments ask for more layers than a file of so many tensors can hold: building them could take
    hours."""
    for key, value in kwargs.items():
        if isinstance(value, Mapping):
            require_depth(value, tensors)
        numbers = [n for n in (value if isinstance(value, (list, tuple)) else [value]) if type(n) is int]
        if DEPTH.search(str(key)) and sum(map(abs, numbers)) > max(tensors, SHALLOW):
            raise ValueError(f"{key} = {str(value)[:60]} is more than the {tensors} tensors of the file. Correct it")


def require_plain(kwargs: Mapping) -> None:
    """ValueError unless all values are plain."""
    for key, value in kwargs.items():
        if not is_plain(value):
            raise ValueError(
                f"model_kwargs may not hold {key} = {str(value)[:60]!r}: only numbers up to {LARGEST:,}, short words "
                "and lists of them. Remove it."
            )
