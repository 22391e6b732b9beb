"""The sub-graphs that ComfyUI's node library offers: of nodes that exist, with the values that these declare."""

import json
from pathlib import Path

import pytest

from .test_workflows import schema, widgets

FILES = sorted((Path(__file__).resolve().parent.parent / "subgraphs").glob("*.json"))
pytestmark = [pytest.mark.releases, pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)]


@pytest.fixture
def blueprint(file) -> dict:
    return json.loads(file.read_text("utf-8"))


def test_a_blueprint_is_one_node_with_free_slots(file, blueprint):
    (host,) = blueprint["nodes"]
    (inner,) = blueprint["definitions"]["subgraphs"]
    assert host["type"] == inner["id"] and host["title"] == inner["name"] == file.stem
    assert [slot["name"] for slot in host["inputs"]] == [slot["name"] for slot in inner["inputs"]]
    assert [slot["name"] for slot in host["outputs"]] == [slot["name"] for slot in inner["outputs"]]
    assert all(slot["link"] is None for slot in host["inputs"]) and not blueprint["links"]


def test_its_nodes_are_those_of_the_pack_with_their_defaults(blueprint, core_nodes, pack):
    known = {**core_nodes, **pack.nodes}
    (inner,) = blueprint["definitions"]["subgraphs"]
    for node in inner["nodes"]:
        expected = widgets(known[node["type"]])
        assert {slot["name"] for slot in node["inputs"]} <= set(schema(known[node["type"]]))
        assert len(node["widgets_values"]) == len(expected), node["type"]
        if node["type"].startswith("HiGFA_"):
            defaults = [options.get("default", "fixed") for _, _, options in expected]
            assert node["widgets_values"] == defaults, node["type"]
