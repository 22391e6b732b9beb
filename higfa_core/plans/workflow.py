"""API-format workflows: finding nodes, filling in a job, and telling whether two produce the same pixels."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from ..files.hashes import json_sha256
from .plan import Job, jobs_to_json

JOB, EXPORT, GUIDANCE = "HiGFA_DatasetJob", "HiGFA_ExportDataset", "HiGFA_Guidance"
Graph = Mapping[str, Mapping[str, Any]]


def find_node(graph: Graph, class_type: str) -> str:
    """The id of the only node of that type. ValueError unless there is exactly one."""
    found = [node for node, about in graph.items() if about.get("class_type") == class_type]
    if len(found) != 1:
        raise ValueError(f"The workflow must have one {class_type} node, but has {len(found)}: {', '.join(found)}")
    return found[0]


def check_workflow(graph: object) -> None:
    """ValueError unless this is an API-format workflow with Dataset Job and Export Dataset, connected."""
    if isinstance(graph, Mapping) and {"nodes", "links"} <= graph.keys():
        raise ValueError("This workflow is in the canvas format. Export it with File > Export (API).")
    if not isinstance(graph, Mapping) or not all(map(_is_node, graph.values())):
        raise ValueError("This is not a workflow in API format. Export it with File > Export (API).")
    job, export = find_node(graph, JOB), find_node(graph, EXPORT)
    link = graph[export]["inputs"].get("job")
    if not is_link(link) or str(link[0]) != job:
        raise ValueError("Export Dataset has no job input. Connect Dataset Job's job output, which carries the labels.")
    if not is_link(graph[export]["inputs"].get("images")):
        raise ValueError("Export Dataset has no images input. Connect the images.")
    if job not in needed(graph, str(graph[export]["inputs"]["images"][0])):
        raise ValueError("Export Dataset's images do not depend on Dataset Job. Connect them, or all jobs are alike.")
    digest(graph, export)  # raises for dangling links and cycles


def digest(graph: Graph, export: str) -> str:
    """SHA-256 (hex) of the part of the workflow that determines the pixels that Export Dataset gets.

    It covers the nodes upstream of its `images` input, by their types, values and links. Node ids, titles and
    everything else in the workflow do not count, nor do the values of Dataset Job (they are in the job key).
    """
    link = graph[export]["inputs"].get("images")
    try:
        return json_sha256(_describe(graph, link, {})) if is_link(link) else ""
    except RecursionError:
        raise ValueError("The workflow's nodes form a circle, or a value is nested too deep. Correct it.") from None


def image_key(job_key: str, workflow: str) -> str:
    """The image key: of the images that `workflow` (a `digest`, "" for none) makes of a job."""
    return hashlib.sha256(f"{job_key}{workflow}".encode()).hexdigest() if workflow else job_key


def fill_in(
    graph: Graph,
    jobs: Sequence[Job],
    dataset_name: str,
    export: Mapping[str, object] | None = None,
    classes_file: str = "",
) -> dict:
    """A copy of the workflow set to these jobs, exporting to `dataset_name`; `export`: other widgets of that node,
    `classes_file`: where the server has the names of the classes, if the jobs are not to carry them."""
    about = jobs_to_json(jobs, classes_file)
    changes = {JOB: {"job": about}, EXPORT: {"dataset_name": dataset_name, **(export or {})}}
    filled: dict[str, Any] = dict(graph)
    for kind, values in changes.items():
        node = find_node(graph, kind)
        filled[node] = {**graph[node], "inputs": {**graph[node]["inputs"], **values}}
    return filled


def with_values(graph: Graph, name: str, values: Mapping[str, object]) -> dict[str, Any]:
    """A copy of the workflow with these values of the node of that title or type. ValueError unless there is exactly
    one, which has them as widgets."""
    found = [node for node, about in graph.items() if name in (about["class_type"], _title(about))]
    if len(found) != 1:
        known = ", ".join(sorted({_title(about) for about in graph.values()}))
        raise ValueError(f"The workflow has {len(found)} nodes {name!r}, not one. It has: {known}.")
    (node,) = found
    inputs = graph[node]["inputs"]
    for value in values:
        if value not in inputs:
            raise ValueError(f"{name} has no {value!r}. It has: {', '.join(inputs)}.")
        if is_link(inputs[value]):
            raise ValueError(f"{name} gets {value} from another node. Type it into the widget.")
    return {**graph, node: {**graph[node], "inputs": {**inputs, **values}}}


def _title(about: Mapping) -> str:
    return (about.get("_meta") or {}).get("title") or about["class_type"]


def needed(graph: Graph, node: str) -> dict:
    """The part of the workflow that a node needs, itself included."""
    found, todo = set(), [node]
    while todo:
        if (node := todo.pop()) not in found and node in graph:
            found.add(node)
            todo += [str(value[0]) for value in graph[node]["inputs"].values() if is_link(value)]
    return {node: about for node, about in graph.items() if node in found}


def is_link(value: object) -> TypeGuard[Sequence]:
    """Whether an input's value is a link [node id, output slot]."""
    return isinstance(value, (list, tuple)) and len(value) == 2 and isinstance(value[1], int)


def _is_node(value: object) -> bool:
    if not isinstance(value, Mapping) or not isinstance(value.get("class_type"), str):
        return False
    return isinstance(value.get("inputs"), Mapping)


def _describe(graph: Graph, value: object, known: dict[str, str]) -> object:
    if not is_link(value):
        # JavaScript writes 1.0 as 1.
        return int(value) if isinstance(value, float) and value.is_integer() else value
    node, slot = str(value[0]), value[1]
    if node not in known:
        if node not in graph:
            raise ValueError(f"The workflow has a link to node {node!r}, which it lacks. Export it again.")
        about = graph[node]
        inputs = {} if about["class_type"] == JOB else about["inputs"]
        described = {name: _describe(graph, inner, known) for name, inner in inputs.items()}
        known[node] = json_sha256([about["class_type"], described])
    return [known[node], slot]
