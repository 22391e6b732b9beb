"""The shipped workflows, in the form the canvas opens and in the form the server runs, against real definitions."""

import itertools
import json
import re
from pathlib import Path

import pytest

from higfa_core.plans.templates import TITLES

FOLDER = Path(__file__).resolve().parent.parent / "workflows"
NAMES = sorted(TITLES)
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
SHOWING = {"IMAGECOMPARE": {"__value__": ["", ""]}}  # widgets that store nothing, and what the page sends for them
FILES = ("ckpt_name", "control_net_name", "classifier_name")  # options are the files of this machine
AFTER_GENERATE = ("fixed", "increment", "decrement", "randomize")
INPUT, OUTPUT = -10, -20  # the borders of a sub-graph, as its links name them
MOST_BOXES = 12
APPS = ("miniature_app", "controlnet_augment")
READABLE = 8 / 12  # text of 12 pixels is readable from there on; the page fits a template into 75 % of the window
LARGEST = (0.75 * 1280 / READABLE - 20, 0.75 * 800 / READABLE - 20)
TITLE_HEIGHT = 30  # LiteGraph draws the title above `pos`
ABSOLUTE_PATH = re.compile(r"(?:^|[\s\"'`(=])(?:/\w|~/|[A-Za-z]:[\\/]|\\\\)")

pytestmark = [pytest.mark.releases, pytest.mark.parametrize("name", NAMES)]


@pytest.fixture
def canvas(name) -> dict:
    return json.loads((FOLDER / f"{TITLES[name]}.json").read_text(encoding="utf-8"))


@pytest.fixture
def api(name) -> dict:
    return json.loads((FOLDER / "api" / f"{name}.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def definitions(core_nodes, pack) -> dict:
    return {**core_nodes, **pack.nodes}


def subgraphs(canvas) -> dict[str, dict]:
    return {inner["id"]: inner for inner in canvas.get("definitions", {}).get("subgraphs", [])}


def boxes(canvas) -> list[dict]:
    """The nodes of the first level that are nodes of ComfyUI, not notes or sub-graphs."""
    return [node for node in canvas["nodes"] if node["type"] not in {"MarkdownNote", *subgraphs(canvas)}]


def executed(canvas) -> list[dict]:
    """The nodes that run: those of the first level and those inside sub-graphs."""
    return boxes(canvas) + [node for inner in subgraphs(canvas).values() for node in inner["nodes"]]


def sources(canvas) -> dict[tuple[int, str], tuple]:
    """(node, input) -> ("link", node, slot), across sub-graphs, or ("value", of the sub-graph's widget)."""
    outer = {link[0]: (link[1], link[2]) for link in canvas["links"]}
    hosts = {node["id"]: node for node in canvas["nodes"] if node["type"] in subgraphs(canvas)}

    def leaves(origin, slot):
        """Where a link of the first level begins, inside a sub-graph if need be."""
        if origin not in hosts:
            return origin, slot
        links = subgraphs(canvas)[hosts[origin]["type"]]["links"]
        (found,) = [x for x in links if x["target_id"] == OUTPUT and x["target_slot"] == slot]
        return found["origin_id"], found["origin_slot"]

    def enters(host, slot):
        given = host["inputs"][slot]
        if given["link"] is not None:
            return "link", *leaves(*outer[given["link"]])
        widgets = [item["name"] for item in host["inputs"] if "widget" in item]
        return "value", dict(zip(widgets, host["widgets_values"], strict=True))[given["name"]]

    found = {}
    for node in boxes(canvas):
        for slot in node["inputs"]:
            if slot["link"] is not None:
                found[node["id"], slot["name"]] = "link", *leaves(*outer[slot["link"]])
    for host in hosts.values():
        inner = subgraphs(canvas)[host["type"]]
        for link in inner["links"]:
            if link["target_id"] == OUTPUT:
                continue
            (node,) = [node for node in inner["nodes"] if node["id"] == link["target_id"]]
            within = link["origin_id"] != INPUT
            origin = link["origin_id"], link["origin_slot"]
            name = node["inputs"][link["target_slot"]]["name"]
            found[node["id"], name] = ("link", *origin) if within else enters(host, link["origin_slot"])
    return found


def schema(node_class) -> dict[str, tuple[str, dict]]:
    """Input name -> (type, options) in ComfyUI's order; a combo's choices are options["options"]."""
    inputs = {}
    for part in ("required", "optional"):
        for name, (kind, *rest) in node_class.INPUT_TYPES().get(part, {}).items():
            options = dict(rest[0]) if rest else {}
            if isinstance(kind, list):
                kind, options = "COMBO", {**options, "options": kind}
            inputs[name] = (kind, options)
    return inputs


def widgets(node_class) -> list[tuple[str, str, dict]]:
    """(name, type, options) of every value that the canvas stores for a node, in its order."""
    found = []
    for name, (kind, options) in schema(node_class).items():
        if kind not in WIDGETS or options.get("forceInput"):
            continue
        found.append((name, kind, options))
        if options.get("control_after_generate"):
            found.append((f"{name}: after generate", "COMBO", {"options": AFTER_GENERATE}))
    return found


def as_api(canvas, definitions) -> dict:
    """What the canvas would send to the server: values of the widgets, overruled by links."""
    given, prompt = sources(canvas), {}
    for node in executed(canvas):
        names = [name for name, *_ in widgets(definitions[node["type"]])]
        values = dict(zip(names, node.get("widgets_values", [])))
        inputs = {key: value for key, value in values.items() if not key.endswith(": after generate")}
        kinds = {name: kind for name, (kind, _) in schema(definitions[node["type"]]).items()}
        inputs |= {name: SHOWING[kind] for name, kind in kinds.items() if kind in SHOWING}
        for (owner, name), (kind, *source) in given.items():
            if owner == node["id"]:
                inputs[name] = [str(source[0]), source[1]] if kind == "link" else source[0]
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt


def is_legal(kind: str, options: dict, value) -> bool:
    if kind == "COMBO":
        return value in options["options"]
    if kind == "STRING":
        return isinstance(value, str)
    if kind == "BOOLEAN":
        return isinstance(value, bool)
    types = (int,) if kind == "INT" else (int, float)
    return type(value) in types and options.get("min", value) <= value <= options.get("max", value)


def test_every_workflow_has_its_api_twin_and_its_thumbnail(name):
    assert (FOLDER / "api" / f"{name}.json").is_file()
    thumbnail = (FOLDER / f"{TITLES[name]}.jpg").read_bytes()
    assert thumbnail[:2] == b"\xff\xd8" and len(thumbnail) <= 60_000


def test_every_node_exists(canvas, api, definitions):
    used = {node["type"] for node in executed(canvas)} | {node["class_type"] for node in api.values()}
    assert used <= set(definitions)


def test_the_api_twin_gives_every_required_input_and_no_other(api, definitions):
    for key, node in api.items():
        known = definitions[node["class_type"]].INPUT_TYPES()
        required, optional = set(known.get("required", {})), set(known.get("optional", {}))
        given = set(node["inputs"])
        assert required <= given <= required | optional, (key, node["class_type"], given ^ required)


def test_canvas_and_api_say_the_same(canvas, api, definitions):
    converted = as_api(canvas, definitions)
    assert set(converted) == set(api)
    for key, node in api.items():
        assert converted[key] == {"class_type": node["class_type"], "inputs": node["inputs"]}
    titles = {str(node["id"]): node["title"] for node in executed(canvas) if "title" in node}
    assert titles == {key: api[key]["_meta"]["title"] for key in titles}


def test_widget_values_are_as_many_as_the_widgets_and_legal(canvas, definitions):
    for node in executed(canvas):
        expected = widgets(definitions[node["type"]])
        assert len(node.get("widgets_values", [])) == len(expected), (node["type"], [name for name, *_ in expected])
        for (name, kind, options), value in zip(expected, node.get("widgets_values", [])):
            assert name in FILES or is_legal(kind, options, value), (node["type"], name, value)


def test_slots_are_those_of_the_definitions(canvas, definitions):
    for node in executed(canvas):
        node_class = definitions[node["type"]]
        known = schema(node_class)
        slots = {slot["name"]: slot for slot in node["inputs"]}
        assert set(slots) == set(known), node["type"]
        stored = {name for name, *_ in widgets(node_class)} | {
            name for name, (kind, _) in known.items() if kind in SHOWING
        }
        for name, slot in slots.items():
            assert slot["type"] == known[name][0], (node["type"], name)
            assert slot.get("widget") == ({"name": name} if name in stored else None), (node["type"], name)
        if node["type"].startswith("HiGFA_"):
            assert [slot["type"] for slot in node["outputs"]] == list(node_class.RETURN_TYPES)
            assert [slot["name"] for slot in node["outputs"]] == list(node_class.RETURN_NAMES)


def test_links_agree_at_both_ends(canvas, definitions):
    nodes = {node["id"]: node for node in canvas["nodes"]}
    assert len(nodes) == len(canvas["nodes"]) and max(nodes) <= canvas["last_node_id"]
    hosts = subgraphs(canvas)
    outgoing, incoming = [], []
    for link, origin, origin_slot, target, target_slot, kind in canvas["links"]:
        assert link <= canvas["last_link_id"]
        if nodes[origin]["type"] not in hosts:
            assert definitions[nodes[origin]["type"]].RETURN_TYPES[origin_slot] == kind
        assert nodes[origin]["outputs"][origin_slot]["type"] == kind
        assert nodes[target]["inputs"][target_slot]["type"] in (kind, "*")
        outgoing.append((link, origin, origin_slot))
        incoming.append((link, target, target_slot))
    assert sorted(outgoing) == sorted(
        (link, node["id"], slot)
        for node in canvas["nodes"]
        for slot, output in enumerate(node["outputs"])
        for link in output["links"] or []
    )
    assert sorted(incoming) == sorted(
        (entry["link"], node["id"], slot)
        for node in canvas["nodes"]
        for slot, entry in enumerate(node["inputs"])
        if entry["link"] is not None
    )


def box(node) -> tuple[float, float, float, float]:
    (x, y), (width, height) = node["pos"], node["size"]
    return x, y - TITLE_HEIGHT, x + width, y + (0 if node["flags"].get("collapsed") else height)


def overlap(a, b) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def test_nothing_lies_on_anything_else(canvas):
    for level in (canvas, *subgraphs(canvas).values()):
        for one, other in itertools.combinations(level["nodes"], 2):
            assert not overlap(box(one), box(other)), (one["type"], other["type"])


def test_the_first_level_is_small_enough_to_be_read(canvas):
    left, top, right, bottom = zip(*map(box, canvas["nodes"]))
    assert len(canvas["nodes"]) <= MOST_BOXES
    assert max(right) - min(left) <= LARGEST[0] and max(bottom) - min(top) <= LARGEST[1]


def test_one_note_explains_the_workflow_and_names_what_it_talks_about(canvas, api):
    (note,) = [node for node in canvas["nodes"] if node["type"] == "MarkdownNote"]
    (text,) = note["widgets_values"]
    inputs = {key for node in api.values() for key in node["inputs"]}
    inputs |= {value for node in api.values() for value in node["inputs"].values() if isinstance(value, str)}
    assert {"eta", "start_percent"} <= set(re.findall(r"\*\*(\w+)\*\*", text)) & inputs
    for export in (node for node in api.values() if node["class_type"] == "HiGFA_ExportDataset"):
        assert f"output/{export['inputs']['dataset_name']}/train/" in text
    (job,) = [node for node in api.values() if node["class_type"] == "HiGFA_DatasetJob"]
    assert f"input/{job['inputs']['dataset']}/" in text


def test_an_app_shows_settings_and_images_of_its_graph(name, canvas, definitions):
    app = canvas["extra"].get("linearData", {"inputs": [], "outputs": []})
    assert bool(app["inputs"]) == (name in APPS) and canvas["extra"].get("linearMode", False) == (
        name == "miniature_app"
    )
    nodes = {node["id"]: definitions[node["type"]] for node in boxes(canvas)}
    for node, widget in app["inputs"]:
        assert widget in [one for one, *_ in widgets(nodes[node])]
    assert all(nodes[node].OUTPUT_NODE for node in app["outputs"]) and bool(app["outputs"]) == (name in APPS)


def test_no_absolute_paths(name):
    def strings(value):
        if isinstance(value, str):
            yield value
        elif isinstance(value, (dict, list)):
            for part in value.values() if isinstance(value, dict) else value:
                yield from strings(part)

    for path in (FOLDER / f"{TITLES[name]}.json", FOLDER / "api" / f"{name}.json"):
        found = [text for text in strings(json.loads(path.read_text(encoding="utf-8"))) if ABSOLUTE_PATH.search(text)]
        assert not found
