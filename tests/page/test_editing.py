"""What a person does with nodes: copy and paste, undo, pack into a sub-graph and out again, drop an image back."""

import base64
import json

import pytest
import torch

from higfa_core.store.writer import encode_image

from .conftest import WORKFLOWS

PROMPT = "async () => (await app.graphToPrompt()).output"
SENT = """async kind => Object.entries((await app.graphToPrompt()).output)
    .filter(([, node]) => node.class_type === kind).map(([, node]) => node.inputs)"""
COPY = """kind => {
    const node = app.graph._nodes.find(node => node.type === kind);
    app.canvas.copyToClipboard([node]);
    app.canvas.pasteFromClipboard();
}"""
SET = """([kind, name, value]) => {
    const node = app.graph._nodes.find(node => node.type === kind);
    node.widgets.find(widget => widget.name === name).value = value;
    const { changeTracker } = app.extensionManager.workflow.activeWorkflow;
    (changeTracker.captureCanvasState ?? changeTracker.checkState).call(changeTracker);
}"""
UNDO = "async () => { await app.extensionManager.workflow.activeWorkflow.changeTracker.undo(); }"
PACK = """kinds => {
    const chosen = app.graph._nodes.filter(node => kinds.includes(node.type));
    const { node } = app.graph.convertToSubgraph(new Set(chosen));
    return String(node.id);
}"""
UNPACK = "id => app.graph.unpackSubgraph(app.graph.getNodeById(Number(id)))"
DROP = """async data => {
    const bytes = Uint8Array.from(atob(data), letter => letter.charCodeAt(0));
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(new File([bytes], 'bird.png', { type: 'image/png' }));
    const options = { dataTransfer, bubbles: true, cancelable: true };
    document.getElementById('graph-canvas').dispatchEvent(new DragEvent('drop', options));
}"""
SAMPLER = "HiGFA_KSampler"


@pytest.fixture
def template(view):
    view.open("miniature_augment")


def plain(prompt):
    """What is sent, whatever the numbers of the nodes: kinds with the values of their widgets."""
    values = [
        (node["class_type"], {name: value for name, value in node["inputs"].items() if not isinstance(value, list)})
        for node in prompt.values()
    ]
    return sorted(values, key=json.dumps)


def test_a_copy_has_the_values_and_leaves_the_links(view, template):
    before = view.page.evaluate(SENT, SAMPLER)
    view.page.evaluate(COPY, SAMPLER)
    view.until("kind => app.graph._nodes.filter(node => node.type === kind).length === 2", SAMPLER, seconds=10)
    values = view.page.evaluate(
        """kind => app.graph._nodes.filter(node => node.type === kind).map(node => node.serialize().widgets_values)""",
        SAMPLER,
    )
    assert values[0] == values[1]
    assert view.page.evaluate(SENT, SAMPLER)[0] == before[0]
    view.shot("copied")


def test_a_change_is_undone(view, template):
    view.page.evaluate(SET, [SAMPLER, "steps", 24])
    view.page.evaluate(SET, [SAMPLER, "steps", 77])
    assert view.page.evaluate(SENT, SAMPLER)[0]["steps"] == 77
    view.page.evaluate(UNDO)
    assert view.page.evaluate(SENT, SAMPLER)[0]["steps"] == 24


def test_into_a_sub_graph_and_out_again(view, template):
    before = plain(view.page.evaluate(PROMPT))
    host = view.page.evaluate(PACK, [SAMPLER, "HiGFA_Guidance"])
    assert plain(view.page.evaluate(PROMPT)) == before
    view.shot("packed")
    view.page.evaluate(UNPACK, host)
    assert plain(view.page.evaluate(PROMPT)) == before


def test_an_image_that_carries_its_workflow_opens_it(view, template):
    wanted = plain(view.page.evaluate(PROMPT))
    workflow = view.page.evaluate("JSON.stringify(app.graph.serialize())")
    graph = (WORKFLOWS / "api" / "miniature_augment.json").read_text("utf-8")
    data = encode_image(torch.zeros(64, 64, 3), "png", {"prompt": graph, "workflow": workflow})
    view.open("miniature_compare")
    assert plain(view.page.evaluate(PROMPT)) != wanted
    view.page.evaluate(DROP, base64.b64encode(data).decode())
    view.until("kind => app.graph._nodes.some(node => node.type === kind)", "HiGFA_ExportDataset", seconds=15)
    assert plain(view.page.evaluate(PROMPT)) == wanted


def test_the_blueprint_is_in_the_library_and_opens(view):
    (name,) = [key for key, entry in view.server.get("/global_subgraphs").items() if "HiGFA" in str(entry)]
    blueprint = json.loads(view.server.get(f"/global_subgraphs/{name}")["data"])
    view.open("blueprint", blueprint)
    (inner,) = blueprint["definitions"]["subgraphs"]
    sent = view.page.evaluate(PROMPT)
    assert sorted(node["class_type"] for node in sent.values()) == sorted(node["type"] for node in inner["nodes"])
    view.shot("blueprint")
