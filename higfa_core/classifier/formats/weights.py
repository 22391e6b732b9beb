"""Weights in files: read safetensors and weights-only torch files, fit them to a model, write safetensors."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from ...files.atomic import write_atomic
from ...wording import counted
from . import kinds, torch_files
from .wrappers import COUNTERS, translated

LARGER = 4  # a network with that many times the file's elements is a different one


def read(path: Path) -> tuple[dict[str, Tensor], dict[str, str], dict]:
    """(weights, safetensors metadata, the rest of a torch checkpoint). ValueError names fault and remedy."""
    if not path.is_file():
        raise FileNotFoundError(f"No classifier file '{path}'. Check the name, or put the file there.")
    if re.search(r"-\d{5}-of-\d{5}$", path.stem):
        raise ValueError(
            f"{path.name} is one of several parts. Save the model in one file: "
            "model.save_pretrained(folder, max_shard_size='50GB')."
        )
    if path.suffix.lower() in (".safetensors", ".sft"):
        (state, metadata), checkpoint = _read_safetensors(path), {}
    else:
        (state, checkpoint), metadata = torch_files.read(path), {}
    return {key: _usable(path, key, tensor) for key, tensor in state.items()}, metadata, checkpoint


def write(path: Path, state: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write weights and metadata as safetensors, atomically and reproducibly to the byte."""
    write_atomic(path, _reproducible(safetensors.torch.save(state, metadata)))


def fitted(module: nn.Module, state: Mapping[str, Tensor], arch: str, num_classes: int) -> dict[str, Tensor]:
    """The weights under the names of `module`, whatever wrapper or release of timm they were saved from.

    `module` may be without memory. ValueError unless names and shapes are exactly its own.
    """
    wanted = module.state_dict()
    state = translated(state, module, arch)
    both = [key for key in wanted if key in state]
    require_fit(
        arch,
        num_classes,
        [key for key in wanted if key not in state and not key.endswith(COUNTERS)],
        [key for key in state if key not in wanted],
        [(key, state[key].shape, wanted[key].shape) for key in both if state[key].shape != wanted[key].shape],
    )
    return state


def put(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load `fitted` weights into the module."""
    wanted = module.state_dict()
    wanted.update(state)
    module.load_state_dict(wanted)  # it carries the layers' versions, which files lose


def require_fit(arch: str, num_classes: int, missing: list, unexpected: list, mismatched: list) -> None:
    """ValueError unless all three are empty. `mismatched` holds (name, shape in the file, shape needed)."""
    heads = {found[0] for _, found, needed in mismatched if found[1:] == needed[1:] and needed[0] == num_classes}
    if len(heads) == 1 and not missing:
        raise ValueError(
            f"the head has {counted(heads.pop(), 'output')}, but there are {num_classes} class names. "
            "Give one name per output, in order"
        )
    faults = [f"missing {key}" for key in missing][:3] + [f"unexpected {key}" for key in unexpected][:3]
    faults += [f"{key} is {list(found)}, {arch} needs {list(needed)}" for key, found, needed in mismatched][:3]
    if faults:
        wrong = "config.json" if arch.startswith("transformers/") else "arch or model_kwargs"
        if any(re.search(r"pos_|position|relative", key) for key, _, _ in mismatched):
            wrong += " (trained with images of another size? Then give it, for example as img_size)"
        raise ValueError(f"weights are not those of {arch}: {'; '.join(faults)}. Correct {wrong}")


def refuse_larger(module: nn.Module, state: Mapping[str, Tensor], what: str) -> None:
    """ValueError if a network (without memory) has many times the elements of the file."""
    needed, held = (sum(t.numel() for t in tensors) for tensors in (module.state_dict().values(), state.values()))
    if needed > LARGER * held + 1e6:
        raise ValueError(f"{what} describes a network of {needed:,} elements, the file holds {held:,}. Correct {what}")


def refuse_non_finite(state: Mapping[str, Tensor], remedy: str) -> None:
    """ValueError if a weight is infinite or NaN."""
    bad = [key for key, tensor in state.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise ValueError(f"weights are not finite in {', '.join(bad[:3])}. {remedy}")


def refuse_quantised(state: Mapping[str, Tensor]) -> None:
    """ValueError if a weight holds whole numbers."""
    whole = [key for key, tensor in state.items() if key.endswith(".weight") and not tensor.is_floating_point()]
    if whole:
        kind = str(state[whole[0]].dtype).removeprefix("torch.")
        raise ValueError(f"weights are quantised: {whole[0]} is {kind}. Choose the file before it was quantised.")


def _usable(path: Path, key: str, tensor: Tensor) -> Tensor:
    """The tensor in its own memory; eight-bit floats, which torch hardly supports, become float32."""
    kind = str(tensor.dtype).removeprefix("torch.")
    if tensor.is_complex() or kind.startswith(("float4", "uint4", "int4", "bits")):
        raise ValueError(f"{path.name}: {key} is {kind}, which is not a classifier weight. {kinds.SAVE_HINT}")
    return tensor.float() if kind.startswith("float8") else tensor.clone()


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            kinds.refuse_other_models(path, file.keys())  # before gigabytes are read
            metadata = {key: value for key, value in (file.metadata() or {}).items() if value}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path.name} is not a complete safetensors file ({error}). Download or save it again."
        ) from error
    return state, metadata


def _reproducible(blob: bytes) -> bytes:
    """The same safetensors bytes with a sorted metadata block: the library writes it in random order."""
    size = int.from_bytes(blob[:8], "little")
    header = json.loads(blob[8 : 8 + size])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + blob[8 + size :]
