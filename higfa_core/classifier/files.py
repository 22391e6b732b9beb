"""Classifier files: read and write them, build the timm model, put the weights in.

A classifier file is a timm ``state_dict``. What the weights alone do not say is looked up in this order:

1. the file's own metadata (``higfa-classifier-1``, what :meth:`FineGrainedClassifier.save` writes),
2. a sidecar ``<stem>.json`` with the same keys beside it,
3. ``classes.txt`` beside it, one class name a line, in the order of the outputs.

Keys: ``arch`` (timm name), ``class_names``, ``num_classes``, ``preprocess`` (fields of :class:`Preprocess`),
``temperature``, ``model_kwargs`` (extra arguments of ``timm.create_model``, e.g. ``img_size``, ``in_chans``).
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

FORMAT = "higfa-classifier-1"
SIDECAR_EXAMPLE = '{"arch": "resnet50", "class_names": ["Laysan Albatross", "Sooty Albatross"]}'
SAVE_HINT = "Save only the weights: safetensors.torch.save_file(model.state_dict(), 'name.safetensors')"

JSON_KEYS = ("class_names", "preprocess", "model_kwargs")
WRAPPERS = ("state_dict_ema", "model_ema", "state_dict", "model")  # EMA weights first, as timm does
PREFIXES = ("module.", "model.", "_orig_mod.", "state_dict.")  # DDP, Lightning, torch.compile
# Arguments of timm.create_model that would download, read another file or change what the model returns.
FORBIDDEN_KWARGS = {
    "pretrained",
    "checkpoint_path",
    "cache_dir",
    "num_classes",
    "features_only",
    "scriptable",
}
FORBIDDEN_KWARGS |= {"pretrained_cfg", "pretrained_cfg_overlay", "exportable", "no_jit", "pretrained_strict"}


def read(path: Path) -> tuple[dict[str, Tensor], dict]:
    """Weights and facts (the keys above, JSON still as text) of a classifier file and of what lies beside it."""
    state, facts = _read_weights(path)
    facts = {**facts.pop("weak", {}), **_read_classes_txt(path), **_read_sidecar(path), **facts}
    missing = [key for key in ("arch", "class_names") if not facts.get(key)]
    if missing:
        sidecar = path.with_suffix(".json").name
        raise ValueError(
            f"{path.name} does not say its {' and '.join(missing)}. Put a file '{sidecar}' beside it, "
            f"for example: {SIDECAR_EXAMPLE} (arch is the timm model name; class names may also stand in "
            "classes.txt, one a line, in the order of the outputs)"
        )
    return state, facts


def write(path: Path, state: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Write weights and metadata as safetensors, atomically and byte for byte reproducibly."""
    _write_atomically(path, _reproducible(safetensors.torch.save(state, metadata)))


def decoded(facts: dict) -> dict:
    """The facts with JSON text turned into what it stands for."""
    facts = {k: _json(v, k) if k in JSON_KEYS and isinstance(v, str) else v for k, v in facts.items()}
    for key in ("preprocess", "model_kwargs"):
        if not isinstance(facts.get(key) or {}, dict):
            raise ValueError(f"{key} must be a JSON object, got {facts[key]!r}")
    return facts


def number(facts: dict, key: str, default: float) -> float:
    value = facts.get(key, default)
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{key} must be a number, got {value!r}. Correct it") from error


def create_module(arch: str, num_classes: int, kwargs: dict) -> nn.Module:
    """The timm model, not pretrained; ValueError for anything that would fetch or read another file."""
    timm = import_timm()
    # Only registered names: timm would fetch "hf-hub:..." from the network.
    if not isinstance(arch, str) or not timm.is_model(arch):
        closest = difflib.get_close_matches(str(arch), timm.list_models(), n=1, cutoff=0.4)
        hint = f": closest '{closest[0]}'" if closest else ""
        raise ValueError(f"timm {timm.__version__} has no arch '{arch}'{hint}. Correct it or update timm")
    forbidden = sorted(FORBIDDEN_KWARGS & set(kwargs))
    if forbidden:
        raise ValueError(f"model_kwargs may not hold {', '.join(forbidden)}. Remove them")
    if kwargs.get("in_chans", 3) not in (1, 3):
        raise ValueError(f"in_chans must be 3 (RGB) or 1 (grey), got {kwargs['in_chans']}. Use such a model")
    try:
        return timm.create_model(arch, pretrained=False, num_classes=num_classes, **kwargs)
    except (TypeError, ValueError, KeyError, RuntimeError, AssertionError) as error:
        raise ValueError(f"timm cannot build {arch} with {kwargs}: {error}. Correct model_kwargs") from error


def load_state(module: nn.Module, state: dict[str, Tensor], arch: str, num_classes: int) -> None:
    """Put weights into the module, whatever wrapper they were saved from; ValueError if they do not fit."""
    wanted = module.state_dict()
    state = _without_prefixes(state, wanted)
    state = {**{k: v for k, v in wanted.items() if k.endswith("num_batches_tracked")}, **state}
    head = module.pretrained_cfg.get("classifier") or ""
    weight = f"{head if isinstance(head, str) else head[0]}.weight"
    if weight in wanted and weight in state and len(state[weight]) != num_classes:
        raise ValueError(
            f"the head has {len(state[weight])} outputs, but there are {num_classes} class names. "
            "Give one name per output, in order"
        )
    faults = [f"missing {key}" for key in wanted if key not in state][:3]
    faults += [f"unexpected {key}" for key in state if key not in wanted][:3]
    faults += [
        f"{key} is {list(state[key].shape)}, {arch} needs {list(wanted[key].shape)}"
        for key in wanted
        if key in state and state[key].shape != wanted[key].shape
    ][:3]
    if faults:
        raise ValueError(f"weights are not those of {arch}: {'; '.join(faults)}. Correct arch or model_kwargs")
    refuse_non_finite(state, "Train or export it again")
    module.load_state_dict(state)


def refuse_non_finite(state: dict[str, Tensor], remedy: str) -> None:
    bad = [key for key, tensor in state.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise ValueError(f"weights are not finite in {', '.join(bad[:3])}. {remedy}")


def import_timm():
    try:
        import timm
        import timm.data
    except ImportError as error:
        raise ImportError("Classifiers need timm: pip install 'timm>=1.0' into ComfyUI's Python") from error
    return timm


def _without_prefixes(state: dict[str, Tensor], wanted) -> dict[str, Tensor]:
    clean = {}
    for key, tensor in state.items():
        if key == "n_averaged":  # counter of torch.optim.swa_utils.AveragedModel
            continue
        name = key
        while name not in wanted and name.startswith(PREFIXES):
            name = name.split(".", 1)[1]
        if name in clean:
            raise ValueError(f"two sets of weights, both with {name}. Keep one. {SAVE_HINT}")
        clean[name] = tensor
    return clean


def _read_weights(path: Path) -> tuple[dict[str, Tensor], dict]:
    if not path.is_file():
        raise FileNotFoundError(f"No classifier file '{path}'. Check the name, or put the file there")
    return (_read_safetensors if path.suffix.lower() in (".safetensors", ".sft") else _read_torch)(path)


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict]:
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            facts = {key: value for key, value in (file.metadata() or {}).items() if value}
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except safetensors.SafetensorError as error:
        raise ValueError(
            f"{path.name} is not a complete safetensors file ({error}). Download or save it again"
        ) from error
    stated = facts.get("format", "")
    if stated.startswith("higfa-classifier-") and stated != FORMAT:
        raise ValueError(f"{path.name} has the format {stated}, this version reads {FORMAT}. Update HiGFA")
    return state, facts


def _read_torch(path: Path) -> tuple[dict[str, Tensor], dict]:
    content = _load_weights_only(path)
    arch = content.get("arch") if isinstance(content, Mapping) else None
    inner = content
    while isinstance(inner, Mapping):
        content = inner
        inner = next((content[key] for key in WRAPPERS if isinstance(content.get(key), Mapping)), None)
    entries = content.items() if isinstance(content, Mapping) else ()
    state = {key: value for key, value in entries if isinstance(value, Tensor)}
    if not state:
        raise ValueError(f"{path.name} holds no weights. {SAVE_HINT}")
    return state, {"weak": {"arch": arch} if isinstance(arch, str) else {}}


def _load_weights_only(path: Path):
    try:
        # timm's training script stores its arguments as a Namespace: plain data.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file raises almost anything
        code = re.search(r"GLOBAL (\S+)", str(error))
        fault = (
            f"is refused: it holds pickled Python code ({code[1]}), which could do anything when loaded"
            if code
            else f"is damaged, or no weights-only torch file ({type(error).__name__}). Download it again"
        )
        raise ValueError(f"{path.name} {fault}. {SAVE_HINT}") from error


def _read_sidecar(path: Path) -> dict:
    sidecar = path.with_suffix(".json")
    if not sidecar.is_file():
        return {}
    facts = _json(_read_text(sidecar), sidecar.name)
    if not isinstance(facts, dict):
        raise ValueError(f"{sidecar.name} must hold a JSON object, for example: {SIDECAR_EXAMPLE}")
    return {key: value for key, value in facts.items() if value is not None}


def _read_classes_txt(path: Path) -> dict:
    file = path.with_name("classes.txt")
    if not file.is_file():
        return {}
    return {"class_names": [line.strip() for line in _read_text(file).strip().splitlines()]}


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is not UTF-8 text ({error.reason}). Save it as UTF-8") from error


def _json(text: str, name: str):
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{name} is not valid JSON ({error}). Example: {SIDECAR_EXAMPLE}") from error


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
