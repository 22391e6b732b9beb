"""The help pages in the page's panel: their pictures are there, and their tables fit."""

import pytest

from ..help_tables import PAGES

OPEN = """id => {
    app.graph.clear();
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [500, 300];  // else the node's buttons may lie under the bar at the top
    const node = LiteGraph.createNode(id);
    app.graph.add(node);
    app.canvas.selectItems([node]);
}"""
PANEL = ".node-help-content"
WIDE = """panel => [...panel.querySelectorAll('table, img')].filter(one => one.scrollWidth > panel.clientWidth)
    .map(one => one.outerHTML.slice(0, 60))"""
CLIPPED = """panel => {
    const right = panel.getBoundingClientRect().right, found = [], range = document.createRange();
    const texts = document.createTreeWalker(panel, NodeFilter.SHOW_TEXT);
    while (texts.nextNode()) {
        range.selectNodeContents(texts.currentNode);
        if ([...range.getClientRects()].some(line => line.right > right + 1)) found.push(texts.currentNode.data);
    }
    return found;
}"""
LOADED = "panel => [...panel.querySelectorAll('img')].every(one => one.complete)"
PICTURES = "panel => [...panel.querySelectorAll('img')].map(one => one.naturalWidth)"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_help_page_fits_its_panel(first_view, page):
    text = page.read_text("utf-8")
    first_view.page.evaluate(OPEN, page.stem)
    first_view.page.get_by_test_id("info-button").click()
    panel = first_view.page.locator(PANEL)
    panel.get_by_role("heading", level=1, name=text.splitlines()[0].removeprefix("# "), exact=True).wait_for()
    first_view.page.wait_for_function(LOADED, arg=panel.element_handle())
    first_view.shot(f"help-{page.stem}")
    widths = panel.evaluate(PICTURES)
    assert panel.evaluate(CLIPPED) == []
    assert len(widths) == text.count("![") and all(widths) and panel.evaluate(WIDE) == []
