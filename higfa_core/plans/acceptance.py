"""Who accepts the images of a workflow, and what that is worth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .rules import Rules
from .workflow import EXPORT, Graph, find_node, is_link, needed

LOAD, MINIATURE = "HiGFA_LoadClassifier", "HiGFA_LoadMiniature"
OWN_GUIDE = (
    "accepted by the guide that steered the images: its probability is no evidence after guidance. Connect an "
    "independent judge to Export Dataset (higfa plan --judge FILE), and use min_judge_confidence."
)
OWN_MINIATURE = OWN_GUIDE.replace("an independent judge", "Load Miniature's JUDGE").replace(
    " (higfa plan --judge FILE)", ""
)
NONE = "the rules need a judge, and Export Dataset has none, so it will fail. Connect one, or plan with --judge FILE."
SAME = "the judge of Export Dataset is the guide that steered the images: it is no judge. Connect another classifier."


def acceptance(graph: Graph, rules: Rules, export: str = "") -> str:
    """What is to be said about the acceptance of a workflow's images; empty where an independent judge accepts them, or
    nobody does. `export`: the node's id where there are several."""
    inputs = graph[export or find_node(graph, EXPORT)]["inputs"]
    guides = _guides(graph, inputs)
    scores = rules.needs
    if any(name.startswith("judge") for name in scores):
        return NONE if not inputs.get("judge") else SAME if _origin(inputs["judge"]) in guides else ""
    own = _origin(inputs.get("classifier"))
    if own not in guides or not scores & {"confidence", "rank", "margin"}:
        return ""
    return OWN_MINIATURE if own and graph[own[0]]["class_type"] == MINIATURE else OWN_GUIDE


def with_judge(graph: Graph, name: str) -> dict[str, Any]:
    """A copy of the workflow whose Export Dataset asks the classifier file `name` as its judge. Neither the pixels nor
    the keys of the images depend on it."""
    export, node = find_node(graph, EXPORT), "judge"
    while node in graph:
        node += "_"
    values = {"classifier_name": name, "temperature": 0.0, "timm_name": "", "smooth_relu": 0.0}
    about = {"class_type": LOAD, "inputs": values, "_meta": {"title": "Judge"}}
    asked = {**graph[export], "inputs": {**graph[export]["inputs"], "judge": [node, 0]}}
    return {**graph, node: about, export: asked}


def _guides(graph: Graph, inputs: Mapping) -> set[tuple]:
    """Where the classifiers come from that steer what Export Dataset gets."""
    if not is_link(link := inputs.get("images")):
        return set()
    upstream = needed(graph, str(link[0])).values()
    return {origin for node in upstream if (origin := _origin(node["inputs"].get("classifier")))}


def _origin(link: object) -> tuple | None:
    return (str(link[0]), link[1]) if is_link(link) else None
