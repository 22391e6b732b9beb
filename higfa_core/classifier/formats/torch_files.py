"""Torch files: weights only, no code, and no tensor that claims more than the file holds."""

from __future__ import annotations

import argparse
import re
import zipfile
from collections import Counter
from collections.abc import Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import kinds
from .numpy_scalars import SAFE_GLOBALS

WRAPPERS = ("state_dict_ema", "model_ema", "ema_state_dict")  # EMA weights first, as timm does
WRAPPERS += ("state_dict", "model_state_dict", "model", "net", "weights", "module")  # module: DeepSpeed


def read(path: Path) -> tuple[dict[str, Tensor], dict]:
    """(weights, the rest of the checkpoint); ValueError names fault and remedy."""
    kinds.refuse_other_files(path)
    outer, sizes = _load(path)
    inner = outer
    while isinstance(inner, Mapping):
        content = inner
        inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
    entries = content.items() if isinstance(outer, Mapping) else ()
    # n_averaged counts the updates of torch.optim.swa_utils.AveragedModel
    state = {key: value for key, value in entries if _is_weight(key, value) and key != "n_averaged"}
    if not state:
        held = ", ".join(map(str, outer)) if isinstance(outer, Mapping) else type(outer).__name__
        raise ValueError(
            f"{path.name} holds no weights as state_dict, model or the like, only {held[:80]}. {kinds.SAVE_HINT}"
        )
    kinds.refuse_other_models(path, state)
    _refuse_false_sizes(path, state, sizes)
    return state, {key: value for key, value in outer.items() if key not in state}


def _is_weight(key, value) -> bool:
    return isinstance(key, str) and isinstance(value, Tensor)


def _load(path: Path) -> tuple[Any, Counter | None]:
    """The content of the file, and the sizes of its records: None for the format before torch 1.6, which has none.

    Records are memory-mapped, not read: their claims are checked before use.
    """
    sizes = _record_sizes(path)
    try:
        # timm's training script stores its arguments as a Namespace: plain data.
        with _only_safe_globals([argparse.Namespace, *SAFE_GLOBALS]):
            return torch.load(path, map_location="cpu", weights_only=True, mmap=sizes is not None), sizes
    except Exception as error:  # a damaged file raises almost anything
        raise ValueError(f"{path.name} {_fault(str(error), type(error).__name__)}") from error


def _fault(message: str, kind: str) -> str:
    code = re.search(r"GLOBAL (\S+)", message)
    if code:
        return kinds.code_in_it(code[1])
    if "resize storage" in message or "record size" in message:
        return "is damaged: a tensor claims more elements than the file holds. Download or save it again"
    return f"is damaged, or no weights-only torch file ({kind}). Download it again. {kinds.SAVE_HINT}"


def _record_sizes(path: Path) -> Counter | None:
    """Record size -> number of records in a zip file; None if it is not a zip file."""
    if not zipfile.is_zipfile(path):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
    except (zipfile.BadZipFile, OSError, NotImplementedError, UnicodeError, ValueError) as error:
        raise ValueError(f"{path.name} is damaged ({error}). Download or save it again.") from error
    if any(record.compress_type != zipfile.ZIP_STORED for record in records):
        raise ValueError(f"{path.name} is compressed, which torch.save never does. {kinds.SAVE_HINT}")
    return Counter(record.file_size for record in records if "/data/" in record.filename)


def _refuse_false_sizes(path: Path, state: Mapping[str, Tensor], sizes: Counter | None) -> None:
    """ValueError for tensors larger than their storage, and for storages larger than their record."""
    storages = {}
    for key, tensor in state.items():
        if tensor.layout != torch.strided or tensor.device.type != "cpu" or tensor.is_quantized or tensor.is_nested:
            raise ValueError(f"{path.name}: {key} is not a plain tensor. {kinds.SAVE_HINT}")
        held = tensor.untyped_storage()
        if tensor.numel() * tensor.element_size() > held.nbytes():
            raise ValueError(
                f"{path.name} is refused: {key} claims {tensor.numel():,} elements, its storage holds "
                f"{held.nbytes() // tensor.element_size():,}. Download or save it again."
            )
        storages[held.data_ptr()] = held.nbytes()
    claimed = Counter(size for size in storages.values() if size)
    if sizes is not None and claimed - sizes:
        raise ValueError(
            f"{path.name} is refused: a storage claims {max(claimed - sizes):,} bytes, and no record of the file has "
            "as many. Download or save it again."
        )


@contextmanager
def _only_safe_globals(allowed: list):
    """ComfyUI allows numpy's own dtype for the whole process, which could take precedence over its stand-in."""
    others = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        with torch.serialization.safe_globals(allowed):
            yield
    finally:
        torch.serialization.add_safe_globals(others)
