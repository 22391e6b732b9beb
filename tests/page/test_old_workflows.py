"""Workflows saved with version 0.1.0: Dataset Job's values in another order, Transform Contour's sizes by old names."""

PROMPT = "async () => (await app.graphToPrompt()).output"
AGAIN = "async () => { await app.loadGraphData(app.graph.serialize()); return (await app.graphToPrompt()).output; }"
JOB = ["my_set", 5, "increment", "a {class} from before", 7, 99, "other", "", "", "auto"]
TRANSFORM = [1, 0, "fixed", 0.5, 15, 0.8, 1.2, 0.1, 0, 0, 0, 448, 512]

RANGES = ("flip", "rotation", "scale_min", "scale_max", "translation", "perspective", "elastic", "outside")
WIDGETS = {"variants": "INT", "seed": "INT", **dict.fromkeys(RANGES, "FLOAT"), "width": "INT", "height": "INT"}
WIDTH = 2 + list(WIDGETS).index("width")  # its slot


def node(number, kind, values, **slots):
    return {"id": number, "type": kind, "pos": [400 * number, 0], "size": [300, 200], "widgets_values": values, **slots}


def as_saved_by_0_1_0():
    """Three nodes; the width comes from a node of its own."""
    slots = [{"name": "contour", "type": "IMAGE", "link": None}, {"name": "mask", "type": "MASK", "link": None}]
    slots += [{"name": name, "type": kind, "widget": {"name": name}, "link": None} for name, kind in WIDGETS.items()]
    slots[WIDTH]["link"] = 1
    nodes = [
        node(1, "PrimitiveInt", [448, "fixed"], outputs=[{"name": "INT", "type": "INT", "links": [1]}]),
        node(2, "HiGFA_TransformContour", TRANSFORM, inputs=slots),
        node(3, "HiGFA_DatasetJob", JOB),
    ]
    return {"version": 0.4, "last_node_id": 3, "last_link_id": 1, "nodes": nodes, "links": [[1, 1, 0, 2, WIDTH, "INT"]]}


def test_an_old_workflow_opens_with_its_values_and_links(view):
    view.open("old", as_saved_by_0_1_0())
    sent = view.page.evaluate(PROMPT)
    wanted = {"dataset": "my_set", "index": 5, "prompt_template": "a {class} from before", "replicas": 7}
    wanted |= {"plan_seed": 99, "contour_from": "other", "job": "", "plan": "", "layout": "auto"}
    assert wanted.items() <= sent["3"]["inputs"].items()  # what came later has its default
    assert sent["2"]["inputs"]["image_width"] == ["1", 0] and sent["2"]["inputs"]["image_height"] == 512
    assert view.page.evaluate(AGAIN) == sent
