"""Tensors in files: read safetensors and weights-only torch files, write safetensors, fit them to a model."""

from __future__ import annotations

import argparse
import json
import logging
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import contextmanager
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from .numpy_scalars import SAFE_GLOBALS

log = logging.getLogger(__name__)

SAVE_HINT = "Save only the weights: safetensors.torch.save_file(model.state_dict(), 'name.safetensors')"
WRAPPERS = ("state_dict_ema", "model_ema", "ema_state_dict")  # EMA weights first, as timm does
WRAPPERS += ("state_dict", "model_state_dict", "model", "net", "weights")
PREFIXES = ("module.", "model.", "net.", "_orig_mod.", "state_dict.", "timm_model.")  # DDP, Lightning, torch.compile
NOT_CLASSIFIERS = {
    r"lora_(up|down|A|B|mid|magnitude)\b|^lora_(unet|te)|\.lora\.": "a LoRA: it belongs into models/loras",
    r"^(model\.diffusion_model|first_stage_model|input_blocks|down_blocks|double_blocks|joint_blocks"
    r"|transformer_blocks)\.": "a diffusion model: it belongs into models/checkpoints or models/diffusion_models",
}


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str], dict]:
    """(weights, safetensors metadata, what else a torch checkpoint holds). ValueError names fault and remedy."""
    if not path.is_file():
        raise FileNotFoundError(f"No classifier file '{path}'. Check the name, or put the file there")
    if re.search(r"-\d{5}-of-\d{5}$", path.stem):
        raise ValueError(
            f"{path.name} is one of several parts. Save the model in one file: "
            "model.save_pretrained(folder, max_shard_size='50GB')"
        )
    if path.suffix.lower() in (".safetensors", ".sft"):
        return *_read_safetensors(path), {}
    state, rest = _read_torch(path)
    return state, {}, rest


def write(path: Path, state: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write weights and metadata as safetensors, atomically and byte for byte reproducibly."""
    _write_atomically(path, _reproducible(safetensors.torch.save(state, metadata)))


def put(module: nn.Module, state: dict[str, Tensor], arch: str, num_classes: int) -> None:
    """Put weights into the module, whatever wrapper they were saved from; ValueError if they do not fit."""
    wanted = module.state_dict()
    state = _unwrapped(state, keys(wanted), arch)
    state = {**{k: v for k, v in wanted.items() if k.endswith("num_batches_tracked")}, **state}
    both = [key for key in wanted if key in state]
    require_fit(
        arch,
        num_classes,
        [key for key in wanted if key not in state],
        [key for key in state if key not in wanted],
        [(key, state[key].shape, wanted[key].shape) for key in both if state[key].shape != wanted[key].shape],
    )
    wanted.update(state)
    module.load_state_dict(wanted)  # it carries the versions of the layers, which files lose


def require_fit(arch: str, num_classes: int, missing: list, unexpected: list, mismatched: list) -> None:
    """ValueError unless all three are empty. `mismatched` holds (name, shape in the file, shape needed)."""
    heads = {found[0] for _, found, needed in mismatched if found[1:] == needed[1:] and needed[0] == num_classes}
    if len(heads) == 1 and not missing:
        raise ValueError(
            f"the head has {heads.pop()} outputs, but there are {num_classes} class names. "
            "Give one name per output, in order"
        )
    faults = [f"missing {key}" for key in missing][:3] + [f"unexpected {key}" for key in unexpected][:3]
    faults += [f"{key} is {list(found)}, {arch} needs {list(needed)}" for key, found, needed in mismatched][:3]
    if faults:
        wrong = "config.json" if arch.startswith("transformers/") else "arch or model_kwargs"
        raise ValueError(f"weights are not those of {arch}: {'; '.join(faults)}. Correct {wrong}")


def refuse_non_finite(state: Mapping[str, Tensor], remedy: str) -> None:
    bad = [key for key, tensor in state.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise ValueError(f"weights are not finite in {', '.join(bad[:3])}. {remedy}")


def bare(state: Mapping[str, Tensor], prefixes: tuple[str, ...] = PREFIXES) -> dict[str, Tensor]:
    """Without those of the prefixes that all names share."""
    while any(all(key.startswith(prefix) for key in state) for prefix in prefixes):
        state = {key.split(".", 1)[1]: tensor for key, tensor in state.items()}
    return dict(state)


def keys(state: Mapping[str, Tensor]) -> set[str]:
    """The names by which weights are told apart; what some files leave out is not among them."""
    return {key for key in state if not key.endswith("num_batches_tracked")}


def _unwrapped(state: dict[str, Tensor], wanted: set[str], arch: str) -> dict[str, Tensor]:
    """Those under the prefix that holds all the wanted ones, without it."""
    cuts = ((key, cut) for key in state for cut in (0, *(dot.end() for dot in re.finditer(r"\.", key))))
    found = Counter(key[:cut] for key, cut in cuts if key[cut:] in wanted)
    whole = [prefix for prefix in found if found[prefix] == len(wanted)]
    if len(whole) > 1:
        raise ValueError(f"two sets of weights, in '{whole[0]}' and in '{whole[1]}'. Keep one. {SAVE_HINT}")
    if not whole:
        return bare(state)
    beside = [key for key in state if not key.startswith(whole[0])]
    if beside:
        log.warning("HiGFA: left out, no part of %s: %s", arch, ", ".join(beside[:5]))
    return {key.removeprefix(whole[0]): tensor for key, tensor in state.items() if key.startswith(whole[0])}


def _refuse_other_models(path: Path, keys: Iterable[str]) -> None:
    for key in keys:
        for pattern, what in NOT_CLASSIFIERS.items():
            if re.search(pattern, key):
                raise ValueError(f"{path.name} is {what}. Choose an image classifier (it holds {key})")


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            _refuse_other_models(path, file.keys())  # before gigabytes are read
            metadata = {key: value for key, value in (file.metadata() or {}).items() if value}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path.name} is not a complete safetensors file ({error}). Download or save it again"
        ) from error
    return state, metadata


def _read_torch(path: Path) -> tuple[dict[str, Tensor], dict]:
    inner = outer = _load_weights_only(path)
    while isinstance(inner, Mapping):
        content = inner
        inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
    entries = content.items() if isinstance(outer, Mapping) else ()
    # n_averaged counts the updates of torch.optim.swa_utils.AveragedModel
    state = {key: value for key, value in entries if isinstance(value, Tensor) and key != "n_averaged"}
    if not state:
        held = ", ".join(map(str, outer)) if isinstance(outer, Mapping) else type(outer).__name__
        raise ValueError(
            f"{path.name} holds no weights as state_dict, model or the like, only {held[:80]}. {SAVE_HINT}"
        )
    _refuse_other_models(path, state)
    return state, {key: value for key, value in outer.items() if key not in state}


def _load_weights_only(path: Path):
    try:
        # timm's training script stores its arguments as a Namespace: plain data.
        with _only_safe_globals([argparse.Namespace, *SAFE_GLOBALS]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises almost anything
        code = re.search(r"GLOBAL (\S+)", str(error))
        fault = (
            f"is refused: it holds pickled Python code ({code[1]}), which could do anything when loaded"
            if code
            else f"is damaged, or no weights-only torch file ({type(error).__name__}). Download it again"
        )
        raise ValueError(f"{path.name} {fault}. {SAVE_HINT}") from error


@contextmanager
def _only_safe_globals(allowed: list):
    """ComfyUI allows numpy's own dtype for the whole process, which could win over the one that stands in for it."""
    others = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        with torch.serialization.safe_globals(allowed):
            yield
    finally:
        torch.serialization.add_safe_globals(others)


def _reproducible(blob: bytes) -> bytes:
    """The same safetensors bytes with a sorted metadata block: the library writes it in random order."""
    size = int.from_bytes(blob[:8], "little")
    header = json.loads(blob[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + blob[8 + size :]


def _write_atomically(path: Path, blob: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(blob)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
