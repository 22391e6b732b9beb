"""What a classifier file and the files beside it say.

The weights are a `state_dict` of timm, torchvision or transformers. What they alone do not say is looked up
in this order:

1. the file's own metadata (`higfa-classifier-1`, what `FineGrainedClassifier.save` writes),
2. a sidecar `<stem>.json` with the same keys beside it,
3. what a training script put into a torch checkpoint, see `.checkpoints`,
4. `classes.txt` beside it, one class name a line, in the order of the outputs,
5. `config.json` beside it (what `save_pretrained` of transformers or timm's `push_to_hf_hub` writes; with
   `preprocessor_config.json`), unless it is that of another architecture,
6. the weights themselves, where only torchvision has a model with such weights.

Keys: `arch` (timm name, "torchvision/<name>" or "transformers/<model_type>"), `class_names`,
`num_classes`, `preprocess` (fields of `Preprocess`), `temperature`, `model_kwargs` (extra
arguments of `timm.create_model`, e.g. `img_size`, `in_chans`, or of torchvision's; config of transformers).
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from torch import Tensor

from .. import names
from . import checkpoints, timm_models, torchvision_models, transformers_models, weights

log = logging.getLogger(__name__)

FORMAT = "higfa-classifier-1"
SIDECAR_EXAMPLE = '{"arch": "resnet50", "class_names": ["Laysan Albatross", "Sooty Albatross"]}'
JSON_KEYS = ("class_names", "preprocess", "model_kwargs")
BESIDE = ("config.json", "preprocessor_config.json", "classes.txt")  # and the sidecar


def read(path: Path) -> tuple[dict[str, Tensor], dict]:
    """Weights and facts (the keys above) of a classifier file and of what lies beside it."""
    state, metadata, checkpoint = weights.read(path)
    version = metadata.get("format", "")
    if version.startswith("higfa-classifier-") and version != FORMAT:
        raise ValueError(f"{path.name} has the format {version}, this version reads {FORMAT}. Update HiGFA")
    args = checkpoints.arguments(checkpoint)
    facts = _decoded(path, {**_sidecar(path), **metadata})
    facts = {**_checkpoint(path, checkpoint, state, facts), **facts}
    facts = {**_classes_txt(path, facts, args), **facts}
    facts = {**_config(path, facts), **facts, "args": args}
    if not facts.get("arch"):
        facts["arch"] = _recognised(path, state)
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


def _checkpoint(path: Path, content: Mapping, state: dict[str, Tensor], stated: dict) -> dict:
    """What the checkpoint says, where nothing that is `stated` overrules it."""
    facts = {} if stated.get("arch") else {"arch": checkpoints.arch(content, state)}
    if stated.get("class_names"):
        fault = checkpoints.other_order(stated["class_names"], checkpoints.arguments(content))
        if fault:
            log.warning("HiGFA: %s: %s", path.name, fault)
    else:
        try:
            facts["class_names"] = checkpoints.class_names(content)
        except ValueError as error:
            sidecar = path.with_suffix(".json").name
            raise ValueError(f"{path.name}: class_to_idx: {error}. Put the class_names into '{sidecar}'") from error
    return {key: value for key, value in facts.items() if value}


def _classes_txt(path: Path, facts: dict, args: dict) -> dict:
    file, sidecar = path.with_name("classes.txt"), path.with_suffix(".json").name
    if not file.is_file():
        return {}
    listed = names.unnumbered([line.strip() for line in _text(file).strip().splitlines()])
    if facts.get("class_names"):
        if facts["class_names"] != listed:
            log.warning("HiGFA: %s or %s names other classes than classes.txt, which is not used", path.name, sidecar)
        return {}
    fault = checkpoints.other_order(listed, args)
    if fault:
        raise ValueError(
            f"{path.name}: {fault}. Put the lines of classes.txt into the order of the training; if they are in it, "
            f"say so by putting them into '{sidecar}' as class_names"
        )
    return {"class_names": listed}


def _config(path: Path, facts: dict) -> dict:
    """What config.json says, unless nothing is missing or it belongs to another model."""
    file, processor_file = map(path.with_name, BESIDE[:2])
    known = facts.get("arch")
    if not file.is_file():
        return {}
    if known and facts.get("class_names"):
        log.info("HiGFA: %s needs no config.json: the one beside it is not read", path.name)
        return {}
    config = _object(file)
    by_timm = "architecture" in config
    if not by_timm and "model_type" not in config:
        return {}
    arch = str(config["architecture"]) if by_timm else f"transformers/{config['model_type']}"
    if known and str(known).split(".")[0] != arch.split(".")[0]:
        log.warning("HiGFA: %s is %s: config.json beside it, of %s, is not used", path.name, known, arch)
        return {}
    processor = _object(processor_file) if processor_file.is_file() else {}
    try:
        if by_timm:
            return timm_models.facts(config)
        return transformers_models.facts(path.parent, config, processor, "preprocess" not in facts)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error


def _recognised(path: Path, state: dict[str, Tensor]) -> str | None:
    arch = torchvision_models.detect(state)
    name = arch and arch.removeprefix("torchvision/")
    if name and timm_models.holds(name, state):
        raise ValueError(
            f"{path.name} holds a {name}. timm and torchvision both have it, but prepare images differently: put "
            f'{{"arch": "{name}"}} into a file \'{path.with_suffix(".json").name}\' beside it if timm trained it, '
            f'{{"arch": "{arch}"}} if torchvision'
        )
    return arch


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
