"""The template that trains its classifiers first, on the miniature's model: real ones are too large to test with."""

import json

import pytest

from higfa_core.miniature.sources import draw_sources

CLASSES = 3
SMALLER = {"pretrained": False, "image_size": 32, "steps": 8, "overwrite": True}
ARCHS = {"Train the guide": "test_resnet", "Train the judge": "test_convnext"}
SET = """([kind, title, values]) => {
    for (const node of app.graph._nodes.filter(node => node.type === kind && (!title || node.title === title)))
        for (const widget of node.widgets) if (widget.name in values) widget.value = values[widget.name];
}"""
# The outputs of Load Miniature take the places of a checkpoint's and a ControlNet's.
MINIATURE = """() => {
    const miniature = LiteGraph.createNode('HiGFA_LoadMiniature');
    app.graph.add(miniature);
    for (const kind of ['CheckpointLoaderSimple', 'ControlNetLoader']) {
        const loader = app.graph._nodes.find(node => node.type === kind);
        for (const output of loader.outputs)
            for (const id of [...output.links ?? []]) {
                const { target_id, target_slot } = app.graph.links[id];
                const slot = miniature.outputs.findIndex(one => one.type === output.type);
                miniature.connect(slot, app.graph.getNodeById(target_id), target_slot);
            }
        app.graph.remove(loader);
    }
}"""
SAID = """() => app.graph._nodes.filter(node => node.type === 'HiGFA_TrainClassifier')
    .map(node => node.widgets.find(widget => widget.name === 'higfa_text').element.textContent)"""


@pytest.fixture
def dataset(server):
    folder = server.base / "input" / "my_dataset"
    draw_sources(folder, 6)
    return folder


def test_the_template_trains_both_classifiers_and_makes_an_image(first_view, dataset):
    view = first_view
    view.open("controlnet_train")
    view.page.evaluate(MINIATURE)
    for title, arch in ARCHS.items():
        view.page.evaluate(SET, ["HiGFA_TrainClassifier", title, SMALLER | {"arch": arch}])
    view.page.evaluate(SET, ["HiGFA_Guidance", None, {"decoder": "auto"}])
    view.page.evaluate(SET, ["EmptyLatentImage", None, {"width": 128, "height": 128}])
    view.page.evaluate(SET, ["HiGFA_KSampler", None, {"steps": 6}])
    view.complete()
    view.shot("controlnet_train-ran")
    models = view.server.base / "models" / "higfa_classifiers"
    for said, name, arch in zip(view.page.evaluate(SAID), ("my_classifier", "my_judge"), ARCHS.values(), strict=True):
        assert (models / f"{name}.safetensors").is_file()
        assert f"{name}.safetensors: {arch}" in said and "of the held-out images" in said
    manifest = view.server.base / "output" / "my_dataset_synthetic" / "manifest.jsonl"
    row = json.loads(manifest.read_text("utf-8").splitlines()[-1])
    assert {"confidence", "judge_confidence"} <= row["scores"].keys() and row["dataset"] == dataset.name
