"""The queued graph, so that a node can check before the run what is connected to it.

ComfyUI gives `validate_inputs` a node's own values only, and None for those that are linked.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any

from comfy_api.latest import io

from ..higfa_core.classifier import names
from ..higfa_core.guidance.targets import read_targets
from . import choices
from .live import prompt_server

log = logging.getLogger(__name__)

NOTHING: Mapping[str, Any] = MappingProxyType({})
_graph: ContextVar[Mapping[str, Any]] = ContextVar("higfa_graph", default=NOTHING)
# Node id of what makes a classifier -> kind of its choices, and the widget that names the file or folder.
CLASSIFIERS = {
    "HiGFA_LoadClassifier": ("classifier", "classifier_name"),
    "HiGFA_TrainClassifier": ("dataset", "dataset"),
    "HiGFA_LoadMiniature": ("miniature", ""),
}


def remember(data: dict) -> dict:
    """A prompt handler of ComfyUI's server: called in the task that then validates the prompt."""
    _graph.set(_mapping(data.get("prompt")))
    return data


def watch_prompts() -> None:
    """Look at each prompt, where there is a server."""
    if (server := prompt_server()) is not None:
        server.add_on_prompt_handler(remember)


class Known:
    """The classes of a connected classifier that has not been made yet."""

    def __init__(self, class_names: list[str], source: str):
        self.class_names, self.source = class_names, source

    def index(self, name: str) -> int:
        return names.index(name, self.class_names, self.source)


def target_flaw(hidden: io.HiddenHolder | None, lines: list[str]) -> str | None:
    """What is wrong with the classes that a sampler is to show; None where nothing is known to be.

    Args:
        hidden: of the node, with its unique_id.
        lines: class names or mixtures, one per target.
    """
    classifier = known_classifier(hidden)
    if classifier is None:
        return None
    try:
        targets = read_targets(lines, classifier)
        if (batch := _batch_size(hidden)) is not None:
            targets.for_batch(batch)
    except ValueError as error:
        return str(error)
    return None


def known_classifier(hidden: io.HiddenHolder | None) -> Known | None:
    """The classes of the node's classifier, where they stand in a file or folder."""
    node = _origin(hidden, "classifier")
    kind, widget = CLASSIFIERS.get(str(node.get("class_type")), ("", ""))
    values = _mapping(node.get("inputs"))
    name = values.get(widget, "")
    if not kind or not isinstance(name, str) or values.get("timm_name", ""):  # timm's names are known at run time
        return None
    try:
        classes = choices.CHOICES[kind](name)
    except (OSError, ValueError) as error:  # the node that reads it says so
        log.debug("HiGFA: the classes of %s are not known yet: %s", name, error)
        return None
    return Known(classes, name or "the miniature") if classes else None


def _batch_size(hidden: io.HiddenHolder | None) -> int | None:
    """How many images a new, empty latent has."""
    node = _origin(hidden, "latent_image")
    size = _mapping(node.get("inputs")).get("batch_size")
    return size if str(node.get("class_type")).startswith("Empty") and type(size) is int and size > 0 else None


def _origin(hidden: io.HiddenHolder | None, name: str) -> Mapping[str, Any]:
    """The node that is connected to an input of the node that is validated."""
    graph = _graph.get()
    node = _mapping(graph.get(str(hidden.unique_id) if hidden else ""))
    link = _mapping(node.get("inputs")).get(name)
    return _mapping(graph.get(str(link[0]))) if isinstance(link, list) and link else NOTHING


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else NOTHING
