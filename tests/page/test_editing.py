"""What a person does with nodes: copy and paste, undo, pack into a sub-graph and out again, drop an image back."""

import json

import pytest

from .conftest import VIEWS

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
TAKE = """async kind => {  // as a person drags the picture out of the page
    const node = app.graph._nodes.find(node => node.type === kind);
    const answer = await fetch(`/view?${new URLSearchParams(app.nodeOutputs[node.id].images[0])}`);
    window.taken = new File([await answer.blob()], 'bird.png', { type: 'image/png' });
}"""
DROP = """() => {
    const dataTransfer = new DataTransfer();
    dataTransfer.items.add(window.taken);
    const options = { dataTransfer, bubbles: true, cancelable: true };
    document.getElementById('graph-canvas').dispatchEvent(new DragEvent('drop', options));
}"""
SAMPLER, EXPORT = "HiGFA_KSampler", "HiGFA_ExportDataset"


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


def test_an_image_of_a_run_brings_its_workflow_back(view, template):
    index = 60 + VIEWS.index((view.front_end, view.renderer))  # no run is cached
    changes = [["HiGFA_DatasetJob", "index", index], [SAMPLER, "steps", 6], [EXPORT, "save_metadata", True]]
    for change in changes:
        view.page.evaluate(SET, change)
    wanted = view.page.evaluate(PROMPT)
    view.complete()
    view.page.evaluate(TAKE, EXPORT)
    view.open("miniature_compare")
    view.page.evaluate(DROP)
    view.until("kind => app.graph._nodes.some(node => node.type === kind)", EXPORT, seconds=15)
    assert view.page.evaluate(PROMPT) == wanted
    view.page.wait_for_timeout(500)
    view.shot("dropped")


def test_the_blueprint_is_in_the_library_and_opens(view):
    (name,) = [key for key, entry in view.server.get("/global_subgraphs").items() if "HiGFA" in str(entry)]
    blueprint = json.loads(view.server.get(f"/global_subgraphs/{name}")["data"])
    view.open("blueprint", blueprint)
    (inner,) = blueprint["definitions"]["subgraphs"]
    sent = view.page.evaluate(PROMPT)
    assert sorted(node["class_type"] for node in sent.values()) == sorted(node["type"] for node in inner["nodes"])
    view.shot("blueprint")
