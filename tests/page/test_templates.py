"""The templates as a person first sees them, and as they are once they have run."""

import pytest

from higfa_core.plans.templates import TITLES

from .conftest import ALL, CLASSIC, SHIPPED, VIEWS, template

TEMPLATES = sorted(TITLES)
SIZES = [(1280, 800), (1920, 1080)]
LEAST_PIXELS = 8  # below that, the classic canvas draws no text at all
MOST_WIDGETS = 8
WIDGET_KINDS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
NEEDLESS = {"HiGFA_ExportDataset": {"class_name"}}  # of nodes that are told it by a link
UNKNOWN = "() => app.graph._nodes.filter(n => !(n.type in LiteGraph.registered_node_types)).map(n => n.type)"
WRONG = "() => app.graph._nodes.filter(n => n.has_errors).map(n => n.type)"
NEED_FILES = {"controlnet_augment", "controlnet_train"}
LOADERS = {"CheckpointLoaderSimple", "ControlNetLoader", "HiGFA_LoadClassifier"}  # of files that are not there
RESIZED = """() => {
    const { canvas } = app.canvas;
    return canvas.width > 0.9 * innerWidth * devicePixelRatio;
}"""
CANVAS_TITLES = (
    "() => app.canvas.low_quality ? [0] : app.graph._nodes.map(() => LiteGraph.NODE_TEXT_SIZE * app.canvas.ds.scale)"
)
DOM_TITLES = """() => {
    const titles = [...document.querySelectorAll('[data-testid="node-title"]')];
    return titles.map(title => parseFloat(getComputedStyle(title).fontSize) * app.canvas.ds.scale);
}"""
ALL_WIDGETS = """() => app.graph._nodes.filter(n => n.type.startsWith('HiGFA_')).map(n => {
    const toggle = n.widgets?.find(w => w.name === 'higfa_advanced');
    toggle?.callback();
    const shown = n.widgets?.filter(w => n.isWidgetVisible(w)).map(w => w.name) ?? [];
    toggle?.callback();
    return [n.type, shown, n.serialize().widgets_values ?? []];
})"""
QUICKER = """([index, values]) => {
    const graphs = [app.graph, ...app.graph.subgraphs.values()];
    for (const widget of graphs.flatMap(graph => graph._nodes).flatMap(node => node.widgets ?? []))
        if (widget.name in values) widget.value = values[widget.name];
}"""
LISTEN = """async () => {
    const { api } = await import('/scripts/api.js');
    const isFirst = !window.lines;
    window.lines = {};
    const keep = ({ detail: { node, state } }) => (window.lines[node] ??= []).push(state.text);
    if (isFirst) api.addEventListener('higfa.guidance', keep);
}"""
QUICK = {"steps": 8, "row_values": "0, 1", "column_values": "0.5", "epochs": 1}
# What each node has to show: type, pictures, and what a guiding or a finishing node says.
SHOWN = """() => app.graph._nodes.map(node => [node.type, (app.nodeOutputs[node.id]?.images ?? []).length,
    node.widgets?.filter(w => ['higfa_guidance', 'higfa_text'].includes(w.name))
        .map(w => (w.element.querySelector('[data-testid=higfa-line]') ?? w.element).textContent) ?? []])"""
WIDGETS = """() => app.graph._nodes.filter(n => n.type.startsWith('HiGFA_')).map(n => [
    n.type, n.widgets?.filter(w => n.isWidgetVisible(w) && w.serialize !== false).map(w => w.name) ?? []])"""


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_opens_whole_and_readable(view, name):
    titles = CANVAS_TITLES if view.renderer == CLASSIC else DOM_TITLES
    for width, height in SIZES if ALL or view.front_end == SHIPPED else SIZES[:1]:
        view.page.set_viewport_size({"width": width, "height": height})
        view.until(RESIZED)
        view.open(name)
        sizes = view.page.evaluate(titles)
        view.shot(f"{name}-{width}")
        assert len(sizes) == view.page.evaluate("app.graph._nodes.length")
        assert min(sizes) >= LEAST_PIXELS, sizes
    assert view.page.evaluate(UNKNOWN) == []
    assert set(view.page.evaluate(WRONG)) <= (LOADERS if name in NEED_FILES else set())


@pytest.mark.parametrize("name", TEMPLATES)
def test_few_widgets_are_seen_and_none_is_lost(view, name):
    view.open(name)
    nodes = template(name)["nodes"]
    ours = [node for node in nodes if node["type"].startswith("HiGFA_")]
    few = dict(view.page.evaluate(WIDGETS))
    if view.renderer == CLASSIC:  # Nodes 2.0 hides advanced widgets by itself
        assert few and {node: names for node, names in few.items() if len(names) > MOST_WIDGETS} == {}
    for (node, shown, values), stored in zip(view.page.evaluate(ALL_WIDGETS), ours, strict=True):
        linked = {slot["name"] for slot in stored["inputs"] if slot.get("link") is not None}  # the newer one hides them
        before = stored.get("widgets_values") or []
        about = view.server.get(f"/object_info/{node}")[node]["input"]
        wanted = {
            key
            for part in ("required", "optional")
            for key, (kind, *_) in about.get(part, {}).items()
            if isinstance(kind, list) or kind in WIDGET_KINDS
        }
        assert wanted - linked - set(shown) <= NEEDLESS.get(node, set())
        assert values[: len(before)] == before


@pytest.mark.parametrize("name", sorted(set(TEMPLATES) - NEED_FILES))
def test_a_template_runs_and_tells_what_came_of_it(first_view, name):
    first_view.page.set_viewport_size({"width": 1280, "height": 800})
    first_view.open(name)
    index = (
        20 + 4 * TEMPLATES.index(name) + VIEWS.index((first_view.front_end, first_view.renderer))
    )  # no run is cached
    first_view.page.evaluate(QUICKER, [index, QUICK | {"index": index}])
    first_view.page.evaluate(LISTEN)
    asked = []
    first_view.page.on("request", lambda request: asked.append(request.url))
    first_view.complete()
    first_view.shot(f"{name}-ran")
    for kind, pictures, said in first_view.page.evaluate(SHOWN):
        assert pictures or kind not in ("PreviewImage", "HiGFA_ExportDataset"), kind
        assert all(not text.startswith("Run: ") for text in said), (kind, said)
    assert [url for url in asked if not url.startswith((first_view.server.url, "data:", "blob:"))] == []
    lines = first_view.page.evaluate("window.lines")
    assert all(len(set(texts)) >= 2 for texts in lines.values()), lines
    assert lines or name == "miniature_sweep"
