"""Choices in place of typing: what the server offers, and what the page does with it."""

import urllib.parse

import pytest

from higfa_core.miniature import birds
from higfa_core.miniature.sources import NAME, draw_sources

from .conftest import GUIDE, MINE, ROOT

ADD = """types => {
    app.graph.clear();
    return types.map((type, place) => {
        const node = LiteGraph.createNode(type);
        node.pos = [400 * place, 50];
        app.graph.add(node);
        return String(node.id);
    });
}"""
CONNECT = """([from, slot, to]) => {
    const [origin, target] = [from, to].map(id => app.graph.getNodeById(Number(id)));
    origin.connect(slot, target, 'classifier');
}"""
SET = """([id, name, value]) => {
    const widget = app.graph.getNodeById(Number(id)).widgets.find(w => w.name === name);
    widget.value = value;
    widget.callback?.(value);
}"""
VALUE = "([id, name]) => app.graph.getNodeById(Number(id)).widgets.find(w => w.name === name)?.value"
OFFERED = """([id, name]) => app.graph.getNodeById(Number(id))?.widgets
    .find(w => w.name === 'choose ' + name)?.options.values.slice(1) ?? []"""
STORED = "id => app.graph.getNodeById(Number(id)).serialize().widgets_values"


def offers(view, node, name, wanted):
    view.until(
        f"([asked, wanted]) => JSON.stringify(({OFFERED})(asked)) === JSON.stringify(wanted)", [[node, name], wanted]
    )


def asked(server, kind, name=""):
    return server.get(f"/higfa/choices/{kind}?name={urllib.parse.quote(name)}")


@pytest.fixture
def my_dataset(server) -> str:
    (server.base / "input" / "my_set" / "train" / "a").mkdir(parents=True, exist_ok=True)
    return "my_set"


def test_the_server_offers_folders_of_input_and_plans_of_output(server, my_dataset):
    plan = server.base / "output" / "plans" / "birds"
    plan.mkdir(parents=True, exist_ok=True)
    (plan / "plan.json").write_text("{}")
    (server.base / "output" / "no_plan").mkdir(exist_ok=True)
    folders, plans = (asked(server, kind)["choices"] for kind in ("datasets", "plans"))  # other tests leave some too
    assert {NAME, my_dataset} <= set(folders) and folders == sorted(folders)
    assert "plans/birds" in plans and "no_plan" not in plans


def test_the_server_reads_only_inside_its_folders(server, my_classifier):
    assert asked(server, "classifier", my_classifier) == {"choices": MINE}
    for name in ("../" * 8 + str(GUIDE).lstrip("/"), str(GUIDE), "no_such.safetensors"):
        assert asked(server, "classifier", name) == {"choices": []}
    for name in ("..", "../output", str(ROOT)):
        refused = asked(server, "dataset", name)
        assert refused["choices"] == [] and "has to stay inside" in refused["problem"]


def test_classes_are_those_of_the_connected_classifier(view, my_classifier):
    view.page.evaluate(ADD, ["HiGFA_LoadMiniature", "HiGFA_LoadClassifier", "HiGFA_KSampler"])
    world, loader, sampler = view.page.evaluate("app.graph._nodes.map(node => String(node.id))")
    stored = view.page.evaluate(STORED, sampler)
    assert view.page.evaluate(OFFERED, [sampler, "class_name"]) == []

    view.page.evaluate(CONNECT, [world, 4, sampler])
    offers(view, sampler, "class_name", list(birds.CLASS_NAMES))
    view.page.evaluate(SET, [sampler, "choose class_name", "Dune Kite"])
    assert view.page.evaluate(VALUE, [sampler, "class_name"]) == "Dune Kite"

    view.page.evaluate(SET, [loader, "classifier_name", my_classifier])
    view.page.evaluate(CONNECT, [loader, 0, sampler])
    offers(view, sampler, "class_name", MINE)
    view.shot("classes")
    assert view.page.evaluate(VALUE, [sampler, "class_name"]) == "Dune Kite"  # free text stays
    assert view.page.evaluate(STORED, sampler) == ["Dune Kite", *stored[1:]]  # the list is not stored


def test_folders_are_offered_beside_the_text(view, my_dataset):
    view.page.evaluate(ADD, ["HiGFA_DatasetJob", "HiGFA_TrainClassifier", "HiGFA_CheckClassifier"])
    for node in view.page.evaluate("app.graph._nodes.map(node => String(node.id))"):
        offers(view, node, "dataset", sorted([NAME, my_dataset]))
        view.page.evaluate(SET, [node, "choose dataset", my_dataset])
        assert view.page.evaluate(VALUE, [node, "dataset"]) == my_dataset


def test_the_demo_offers_the_same_before_its_images_are_drawn(server):
    folder = server.base / "input" / NAME
    draw_sources(folder, 1)
    offered = [asked(server, kind, NAME) for kind in ("turns", "dataset")]
    away = folder.rename(folder.with_name("away"))
    try:
        assert [asked(server, kind, NAME) for kind in ("turns", "dataset")] == offered
    finally:
        away.rename(folder)


def test_a_class_of_the_dataset_is_its_first_job(view, server):
    draw_sources(server.base / "input" / NAME, 1)
    view.open("miniature_augment")
    (job,) = view.page.evaluate(
        "app.graph._nodes.filter(node => node.type === 'HiGFA_DatasetJob').map(node => String(node.id))"
    )
    (folder,) = asked(server, "turns", NAME).values()
    assert sorted(folder) == sorted(birds.CLASS_NAMES)
    view.until(f"([asked, count]) => ({OFFERED})(asked).length === count", [[job, "class"], len(folder)])
    for place in (5, 0):
        view.page.evaluate(SET, [job, "choose class", folder[place]])
        assert view.page.evaluate(VALUE, [job, "index"]) == place
    view.page.evaluate(SET, [job, "layout", "image_folder"])  # then another order is possible
    view.page.evaluate("app.graph._nodes.forEach(node => node.refreshChoices?.())")
    view.until(f"asked => !({OFFERED})(asked).length", [job, "class"])
