"""The page in other languages."""

import os

import pytest

from ..locale_files import read
from .conftest import NEWER, View, new_page, set_up

TEXTS = """id => {
    const node = LiteGraph.createNode(id);
    const shown = slot => slot.label ?? slot.localized_name ?? slot.name;
    const {description} = node.constructor.nodeData;
    const widgets = (node.widgets ?? []).map(widget => [widget.name, widget.label]);
    const inputs = node.inputs.map(slot => [slot.name, shown(slot)]);
    const names = Object.fromEntries([...inputs, ...widgets]);
    return {title: node.title, description, names, outputs: node.outputs.map(shown)};
}"""
PLACE = """() => {
    const [node] = app.graph._nodes, widget = node.widgets.find(one => one.name === 'eta');
    return app.canvasPosToClientPos([node.pos[0] + 90, node.pos[1] + widget.y + 10]);
}"""
TOOLTIP = ".node-tooltip"


@pytest.fixture(params=["zh", "ja", "ko"])
def foreign(request, browser, server, first_view):
    """A page in another language, and that language."""
    set_up(server, {"Comfy.Locale": request.param, "Comfy.VueNodes.Enabled": False})
    page = new_page(browser, server, os.environ["HIGFA_FRONT_END"] if first_view.front_end == NEWER else None)
    yield page, request.param
    page.close()
    set_up(server, {"Comfy.Locale": "en"})


def test_nodes_speak_the_language_of_the_page(foreign, first_view):
    page, language = foreign
    for node_id, expected in read(language).items():
        said = page.evaluate(TEXTS, node_id)
        assert said["title"] == expected["display_name"] and said["description"] == expected["description"]
        names = {name: item["name"] for name, item in expected["inputs"].items()}
        assert {name: said["names"][name] for name in names} == names
        outputs = [item["name"] for item in expected["outputs"].values()]
        assert node_id == "HiGFA_LoadMiniature" or said["outputs"] == outputs  # its are named as their types are
    page.evaluate("app.graph.clear()")
    page.evaluate(
        "() => { const node = LiteGraph.createNode('HiGFA_Guidance'); node.pos = [100, 100]; app.graph.add(node);"
        " app.canvas.ds.reset(); app.canvas.setDirty(true, true); }"
    )
    for turn in range(20):  # a tooltip comes where the pointer rests on a node that has been drawn
        x, y = page.evaluate(PLACE)
        page.mouse.move(x + turn % 2, y)
        page.wait_for_timeout(800)
        if page.locator(TOOLTIP).is_visible():
            break
    assert page.locator(TOOLTIP).inner_text() == read(language)["HiGFA_Guidance"]["inputs"]["eta"]["tooltip"]
    View(page, first_view.server, first_view.front_end, first_view.renderer).shot(f"locale-{language}")
