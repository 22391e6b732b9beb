"""What a classifier file and the files beside it say.

The weights are a ``state_dict`` of timm, torchvision or transformers. What they alone do not say is looked up
in this order:

1. the file's own metadata (``higfa-classifier-1``, what :meth:`FineGrainedClassifier.save` writes),
2. a sidecar ``<stem>.json`` with the same keys beside it,
3. ``classes.txt`` beside it, one class name a line, in the order of the outputs,
4. ``config.json`` beside it (what ``save_pretrained`` of transformers or timm's ``push_to_hf_hub`` writes; with
   ``preprocessor_config.json``), unless the architecture is known by then,
5. what a training script put into a torch checkpoint (``arch``, ``class_to_idx`` ...),
6. the weights themselves, where they are those of a torchvision model.

Keys: ``arch`` (timm name, "torchvision/<name>" or "transformers/<model_type>"), ``class_names``,
``num_classes``, ``preprocess`` (fields of :class:`Preprocess`), ``temperature``, ``model_kwargs`` (extra
arguments of ``timm.create_model``, e.g. ``img_size``, ``in_chans``, or of torchvision's; config of transformers).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor

from . import names, timm_models, torchvision_models, transformers_models, weights

FORMAT = "higfa-classifier-1"
SIDECAR_EXAMPLE = '{"arch": "resnet50", "class_names": ["Laysan Albatross", "Sooty Albatross"]}'
JSON_KEYS = ("class_names", "preprocess", "model_kwargs")
BESIDE = ("config.json", "preprocessor_config.json", "classes.txt")  # and the sidecar


def read(path: Path) -> tuple[dict[str, Tensor], dict]:
    """Weights and facts (the keys above) of a classifier file and of what lies beside it."""
    state, metadata, checkpoint = weights.read(path)
    stated = metadata.get("format", "")
    if stated.startswith("higfa-classifier-") and stated != FORMAT:
        raise ValueError(f"{path.name} has the format {stated}, this version reads {FORMAT}. Update HiGFA")
    facts = _decoded(path, {**_classes_txt(path), **_sidecar(path), **metadata})
    facts = {**_checkpoint(path, checkpoint), **({} if facts.get("arch") else _config(path, facts)), **facts}
    if not facts.get("arch"):
        facts["arch"] = torchvision_models.detect(state)
    _require(path, facts, state)
    return state, facts


def beside(path: Path) -> list[Path]:
    """The file and every file that may describe it."""
    return [path, path.with_suffix(".json"), *(path.with_name(name) for name in BESIDE)]


def number(facts: dict, key: str, default: float) -> float:
    value = facts.get(key, default)
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{key} must be a number, got {value!r}. Correct it") from error


def _require(path: Path, facts: dict, state: Iterable[str]) -> None:
    sidecar = path.with_suffix(".json").name
    missing = [key for key in ("arch", "class_names") if not facts.get(key)]
    if "arch" in missing and any(re.match(r"\w+\.(embeddings|encoder|embedder)\.", key) for key in weights.bare(state)):
        raise ValueError(
            f"{path.name} looks like a transformers model. Put its config.json and preprocessor_config.json beside "
            f"it: save_pretrained writes all three into one folder (or say its arch in {sidecar})"
        )
    if missing:
        raise ValueError(
            f"{path.name} does not say its {' and '.join(missing)}. Put a file '{sidecar}' beside it, "
            f"for example: {SIDECAR_EXAMPLE} (arch is the timm model name, or torchvision/<name>; class names may "
            "also stand in classes.txt, one a line, in the order of the outputs)"
        )


def _decoded(path: Path, facts: dict) -> dict:
    """The facts with JSON text, as safetensors metadata hold it, turned into what it stands for."""
    if "label_names" in facts:  # timm's word
        facts = {"class_names": facts["label_names"], **facts}
    facts = {k: _json(v, f"{path.name}: {k}") if k in JSON_KEYS and isinstance(v, str) else v for k, v in facts.items()}
    for key in ("preprocess", "model_kwargs"):
        if not isinstance(facts.get(key) or {}, dict):
            raise ValueError(f"{path.name}: {key} must be a JSON object, got {facts[key]!r}")
    return facts


def _sidecar(path: Path) -> dict:
    sidecar = path.with_suffix(".json")
    if not sidecar.is_file() or sidecar.name == "config.json":
        return {}
    facts = _object(sidecar)
    return {key: value for key, value in facts.items() if value is not None}


def _config(path: Path, facts: dict) -> dict:
    config, processor = (_object(file) if file.is_file() else {} for file in map(path.with_name, BESIDE[:2]))
    try:
        if "architecture" in config:
            return timm_models.facts(config)
        if "model_type" in config:
            return transformers_models.facts(path.parent, config, processor, "preprocess" not in facts)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error
    return {}


def _checkpoint(path: Path, content: Mapping) -> dict:
    """What training scripts store beside the weights: timm's ``arch``, torchvision folders' ``class_to_idx``."""
    facts = {"arch": content["arch"]} if isinstance(content.get("arch"), str) else {}
    index = content.get("class_to_idx")
    if isinstance(index, Mapping):
        try:
            return {**facts, "class_names": names.listed({number: name for name, number in index.items()})}
        except ValueError as error:
            raise ValueError(f"{path.name}: class_to_idx: {error}. Put the names into classes.txt") from error
    for key in ("class_names", "label_names", "classes"):
        if isinstance(content.get(key), (list, tuple)):
            return {**facts, "class_names": list(content[key])}
    return facts


def _classes_txt(path: Path) -> dict:
    file = path.with_name("classes.txt")
    if not file.is_file():
        return {}
    return {"class_names": [line.strip() for line in _text(file).strip().splitlines()]}


def _object(file: Path) -> dict:
    found = _json(_text(file), file.name)
    if not isinstance(found, dict):
        raise ValueError(f"{file.name} must hold a JSON object. {_example(file.name)}")
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is not UTF-8 text ({error.reason}). Save it as UTF-8") from error


def _json(text: str, name: str):
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{name} is not valid JSON ({error}). {_example(name)}") from error


def _example(name: str) -> str:
    return "Save the model again with save_pretrained" if name in BESIDE else f"Example: {SIDECAR_EXAMPLE}"
