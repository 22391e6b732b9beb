"""The templates as a person first sees them."""

import pytest

from .conftest import CLASSIC, NEWER, SHIPPED, WORKFLOWS

TEMPLATES = sorted(path.stem for path in WORKFLOWS.glob("*.json"))
SIZES = {SHIPPED: [(1280, 800), (1920, 1080)], NEWER: [(1280, 800)]}
LEAST_PIXELS = 8  # below that, the classic canvas draws no text at all
MOST_WIDGETS = 8
UNKNOWN = "() => app.graph._nodes.filter(n => !(n.type in LiteGraph.registered_node_types)).map(n => n.type)"
WRONG = "() => app.graph._nodes.filter(n => n.has_errors).map(n => n.type)"
LOADERS = {"CheckpointLoaderSimple", "ControlNetLoader", "HiGFA_LoadClassifier"}  # their files are not there
CANVAS_TITLES = (
    "() => app.canvas.low_quality ? [0] : app.graph._nodes.map(() => LiteGraph.NODE_TEXT_SIZE * app.canvas.ds.scale)"
)
DOM_TITLES = """() => {
    const titles = [...document.querySelectorAll('[data-testid="node-title"]')];
    return titles.map(title => parseFloat(getComputedStyle(title).fontSize) * app.canvas.ds.scale);
}"""
WIDGETS = """() => app.graph._nodes.filter(n => n.type.startsWith('HiGFA_')).map(n => [
    n.type, n.widgets?.filter(w => n.isWidgetVisible(w) && w.serialize !== false).map(w => w.name) ?? []])"""


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_opens_whole_and_readable(view, name):
    titles = CANVAS_TITLES if view.renderer == CLASSIC else DOM_TITLES
    for width, height in SIZES[view.front_end]:
        view.page.set_viewport_size({"width": width, "height": height})
        view.open(name)
        sizes = view.page.evaluate(titles)
        view.shot(f"{name}-{width}")
        assert len(sizes) == view.page.evaluate("app.graph._nodes.length")
        assert min(sizes) >= LEAST_PIXELS, sizes
    assert view.page.evaluate(UNKNOWN) == []
    assert set(view.page.evaluate(WRONG)) <= (LOADERS if name == "controlnet_augment" else set())
    if view.renderer == CLASSIC:  # Nodes 2.0 hides advanced widgets by itself
        shown = dict(view.page.evaluate(WIDGETS))
        assert shown and {node: names for node, names in shown.items() if len(names) > MOST_WIDGETS} == {}
