"""The chart on the nodes that guide: it moves while a run samples, stays afterwards, and shows names as text."""

import pytest

from .conftest import VIEWS

SAMPLED = ("HiGFA_KSampler", "HiGFA_Guider", "HiGFA_GuideModel")
QUICKER = """([index, steps]) => {
    const set = (node, name, value) => node.widgets.filter(w => w.name === name).forEach(w => { w.value = value; });
    const graphs = [app.graph, ...app.graph.subgraphs.values()];
    for (const node of graphs.flatMap(graph => graph._nodes)) {
        set(node, 'index', index);
        set(node, 'steps', steps);
    }
}"""
LISTEN = """async () => {
    const { api } = await import('/scripts/api.js');
    window.told = [];
    api.addEventListener('higfa.guidance', event => window.told.push(event.detail));
}"""
LINES = """types => types.map(type => {
    const node = app.graph._nodes.find(node => node.type === type);
    return node?.widgets.find(w => w.name === 'higfa_guidance').element;
}).map(box => [box?.querySelector('[data-testid=higfa-line]')?.textContent ?? '',
               [...box?.querySelectorAll('polyline') ?? []].filter(line => line.getAttribute('points')).length])"""
FINISHED = f"types => ({LINES})(types).every(([text]) => text.startsWith('guided '))"
FAKE = """async state => {
    const { api } = await import('/scripts/api.js');
    const node = String(app.graph._nodes.find(node => node.type === 'HiGFA_KSampler').id);
    api.dispatchCustomEvent('higfa.guidance', {node, workflow: null, state});
}"""
LOAD = """async () => {  // as the page's list of finished runs does
    const entries = Object.values(await (await fetch('/history')).json());
    const last = entries.sort((one, other) => one.prompt[0] - other.prompt[0]).at(-1);
    await app.loadGraphData(last.prompt[3].extra_pnginfo.workflow, true, false);
    app.nodeOutputs = last.outputs;
}"""
NASTY = "<img src=x onerror='window.hurt = true'>"


@pytest.fixture
def job(view):
    """The index of a job for this view alone: a cached run would sample nothing."""
    return VIEWS.index((view.front_end, view.renderer))


def test_the_chart_moves_and_stays_on_every_node_that_guides(view, job):
    view.open("miniature_three_ways")
    view.page.evaluate(QUICKER, [job, 12])
    view.page.evaluate(LISTEN)
    view.run()
    view.until(FINISHED, SAMPLED)
    view.shot("guidance")
    told = view.page.evaluate("window.told")
    for node in {message["node"] for message in told}:
        lines = [message["state"]["text"] for message in told if message["node"] == node]
        assert len(set(lines)) >= 3 and lines[0].startswith("step ")
    assert len({message["node"] for message in told}) == len(SAMPLED)
    for text, lines in view.page.evaluate(LINES, SAMPLED):
        assert "probability" in text and lines >= 3


def test_the_chart_is_there_again_when_the_workflow_is_shown_again(view):
    before = view.page.evaluate(LINES, SAMPLED)
    view.open("miniature_augment")
    assert view.page.evaluate(LINES, SAMPLED[:1])[0][0] == ""
    view.page.evaluate("app.extensionManager.command.execute('Workspace.PreviousOpenedWorkflow')")
    view.until(FINISHED, SAMPLED, seconds=15)
    assert view.page.evaluate(LINES, SAMPLED) == before


def test_the_history_keeps_the_chart(view):
    outputs = [output for entry in view.server.get("/history").values() for output in entry["outputs"].values()]
    kept = [state for output in outputs for state in output.get("higfa_guidance", [])]
    shown = [text for text, _ in view.page.evaluate(LINES, SAMPLED)]
    assert set(shown) <= {state["text"] for state in kept}


def test_a_run_loaded_from_the_history_shows_its_charts(view):
    before = view.page.evaluate(LINES, SAMPLED)
    view.open("miniature_augment")
    view.page.evaluate(LOAD)
    view.until(FINISHED, SAMPLED, seconds=15)
    assert view.page.evaluate(LINES, SAMPLED) == before


def test_names_with_html_are_shown_as_text(view):
    view.open("miniature_augment")
    values = {name: [[0.5]] for name in ("probability", "w_text", "w_contour", "w_cls", "step_rms")}
    state = {"text": NASTY, "warnings": [NASTY], "steps": 4, "stage": [2, 3], "targets": [NASTY], "at": [2]}
    view.page.evaluate(FAKE, {**state, "values": values, "fixed": {"w_text": 3, "w_contour": 3}})
    box = (
        "app.graph._nodes.find(n => n.type === 'HiGFA_KSampler').widgets.find(w => w.name === 'higfa_guidance').element"
    )
    assert view.page.evaluate(f"{box}.textContent").count(NASTY) == 3
    assert view.page.evaluate(f"{box}.querySelector('img')") is None and not view.page.evaluate("window.hurt")
