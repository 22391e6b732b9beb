"""The sources of a classifier's facts: an ordered list of readers, of which the first to state a fact wins.

Each is a function (content, known facts) -> facts; `classifier_file` calls them in the order of `READERS`.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ...files.reading import read_text
from .. import names
from . import checkpoints, lightning, timm_models, torchvision_models, transformers_models
from .facts import Facts

log = logging.getLogger(__name__)

FORMAT = "higfa-classifier-1"
OURS = "1.0"  # the release of timm with which that format began; an earlier network has its release in model_kwargs
SIDECAR_EXAMPLE = '{"arch": "resnet50", "class_names": ["Laysan Albatross", "Sooty Albatross"]}'
JSON_KEYS = ("class_names", "preprocess", "model_kwargs")
CONFIG, CLASSES = "config.json", "classes.txt"
PROCESSORS = ("processor_config.json", "preprocessor_config.json")


@dataclass(frozen=True)
class Content:
    """A classifier file as read: weights, safetensors metadata, the rest of a torch checkpoint."""

    path: Path
    state: dict[str, Tensor]
    metadata: Mapping[str, str]
    checkpoint: Mapping

    @property
    def sidecar(self) -> Path:
        return self.path.with_suffix(".json")

    @property
    def args(self) -> dict:
        return checkpoints.arguments(self.checkpoint)


def metadata(content: Content, known: Facts) -> dict:
    """What `FineGrainedClassifier.save`, or any other program with the same keys, writes into a safetensors header."""
    version = content.metadata.get("format", "")
    if version.startswith("higfa-classifier-") and version != FORMAT:
        raise ValueError(f"{content.path.name} has the format {version}, this version reads {FORMAT}. Update HiGFA.")
    by_us = {"timm": OURS} if version == FORMAT else {}
    return _decoded(content.path, {**by_us, **content.metadata})


def sidecar(content: Content, known: Facts) -> dict:
    """The same keys in `<stem>.json` beside the file."""
    if not content.sidecar.is_file() or content.sidecar.name == CONFIG:
        return {}
    return _decoded(content.path, _object(content.sidecar))


def checkpoint(content: Content, known: Facts) -> dict:
    """What a training script stored beside the weights, see `.checkpoints`."""
    facts: dict[str, object] = {"args": content.args}
    if not known.arch:
        facts["arch"] = checkpoints.arch(content.checkpoint, content.state)
    if known.class_names:
        fault = checkpoints.other_order(known.class_names, content.args)
        if fault:
            log.warning("HiGFA: %s: %s", content.path.name, fault)
        return facts
    try:
        return {**facts, "class_names": checkpoints.class_names(content.checkpoint)}
    except ValueError as error:
        raise ValueError(
            f"{content.path.name}: class_to_idx: {str(error).rstrip('.')}. "
            f"Put the class_names into '{content.sidecar.name}'."
        ) from error


def hyper_parameters(content: Content, known: Facts) -> dict:
    """The arguments of a Lightning module, see `.lightning`."""
    try:
        facts = lightning.facts(content.checkpoint)
        if known.class_names is None:
            facts["class_names"] = checkpoints.class_names(facts)
    except ValueError as error:
        raise ValueError(
            f"{content.path.name}: {str(error).rstrip('.')}. If the file is wrong, save its weights alone, with the "
            f"facts in '{content.sidecar.name}'."
        ) from error
    return facts


def classes_txt(content: Content, known: Facts) -> dict:
    """`classes.txt` beside the file: one class name per line, in the order of the outputs."""
    path, file = content.path, content.path.with_name(CLASSES)
    if not file.is_file():
        return {}
    listed = names.unnumbered([line.strip() for line in _text(file).strip().splitlines()])
    if known.class_names:
        if known.class_names != listed:
            log.warning(
                "HiGFA: %s or %s names other classes than classes.txt, which is not used",
                path.name,
                content.sidecar.name,
            )
        return {}
    fault = checkpoints.other_order(listed, content.args)
    if fault:
        raise ValueError(
            f"{path.name}: {fault}. Put the lines of classes.txt into the order of the training; if they are in it, "
            f"say so by putting them into '{content.sidecar.name}' as class_names."
        )
    return {"class_names": listed}


def config_json(content: Content, known: Facts) -> dict:
    """`config.json` of transformers or timm beside the file, unless nothing is missing or it is another model's."""
    path, file = content.path, content.path.with_name(CONFIG)
    if not file.is_file():
        return {}
    if known.arch and known.class_names:
        log.info("HiGFA: %s needs no config.json: the one beside it is not read", path.name)
        return {}
    config = _object(file)
    by_timm = "architecture" in config
    if not by_timm and "model_type" not in config:
        return {}
    arch = str(config["architecture"]) if by_timm else f"transformers/{config['model_type']}"
    if known.arch and str(known.arch).split(".")[0] != arch.split(".")[0]:
        log.warning("HiGFA: %s is %s: config.json beside it, of %s, is not used", path.name, known.arch, arch)
        return {}
    try:
        if by_timm:
            return timm_models.facts(config)
        return transformers_models.facts(config, _processor(path), known.preprocess is None)
    except ValueError as error:
        raise ValueError(f"{path.name}: {error}") from error


def _processor(path: Path) -> dict:
    """The settings of the image processor: transformers 5 may store them with those of others."""
    several, single = (_object(file) if file.is_file() else {} for file in map(path.with_name, PROCESSORS))
    return several["image_processor"] if isinstance(several.get("image_processor"), dict) else single


def weights(content: Content, known: Facts) -> dict:
    """The architecture, if only torchvision has a model with such weights."""
    if known.arch:
        return {}
    arch = torchvision_models.detect(content.state)
    name = arch and arch.removeprefix("torchvision/")
    if name and timm_models.holds(name, content.state):
        raise ValueError(
            f"{content.path.name} holds a {name}. timm and torchvision both have it, but prepare images differently: "
            f'put {{"arch": "{name}"}} into a file \'{content.sidecar.name}\' beside it if timm trained it, '
            f'{{"arch": "{arch}"}} if torchvision'
        )
    return {"arch": arch}


READERS: tuple[tuple[str, Callable[[Content, Facts], dict]], ...] = (
    ("the file's metadata", metadata),
    ("the JSON file beside it", sidecar),
    ("the checkpoint", checkpoint),
    ("the checkpoint's hyper_parameters", hyper_parameters),
    ("classes.txt", classes_txt),
    ("config.json", config_json),
    ("the weights", weights),
)


def _decoded(path: Path, facts: Mapping) -> dict:
    """The facts, with JSON text (as in safetensors metadata) decoded."""
    facts = {"class_names": facts.get("label_names"), **facts}  # timm's word
    facts = {k: _json(v, f"{path.name}: {k}") if k in JSON_KEYS and isinstance(v, str) else v for k, v in facts.items()}
    for key in ("preprocess", "model_kwargs"):
        if not isinstance(facts.get(key) or {}, dict):
            raise ValueError(f"{path.name}: {key} must be a JSON object, got {facts[key]!r}")
    return facts


def _object(file: Path) -> dict:
    found = _json(_text(file), file.name)
    if not isinstance(found, dict):
        raise ValueError(f"{file.name} must hold a JSON object. {_example(file.name)}")
    return found


def _text(path: Path) -> str:
    try:
        return read_text(path, "utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is not UTF-8 text ({error.reason}). Save it as UTF-8.") from error


def _json(text: str, name: str):
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:  # also a number of 5,000 digits, 100,000 brackets
        raise ValueError(f"{name} is not valid JSON ({error}). {_example(name)}") from error


def _example(name: str) -> str:
    if name in (CONFIG, *PROCESSORS):
        return "Save the model again with save_pretrained"
    return f"Example: {SIDECAR_EXAMPLE}"
