"""What is known to fail is said before a run, at the input that is wrong."""

import json
import urllib.error
import urllib.request

import pytest

from .conftest import WORKFLOWS

MISSING = "No folder 'no_birds' in ComfyUI's input folder. There is: higfa_demo"
CHANGE = """([type, name, value]) => {
    app.graph._nodes.find(node => node.type === type).widgets.find(widget => widget.name === name).value = value;
}"""
INDEX = """() => app.graph._nodes.find(node => node.type === 'HiGFA_DatasetJob').widgets
    .find(widget => widget.name === 'index').value"""
ERRORS = """() => Object.values(app.lastNodeErrors ?? {}).flatMap(
    node => node.errors.map(error => [node.class_type, error.extra_info.input_name, error.details]))"""


@pytest.fixture
def graph() -> dict:
    return json.loads((WORKFLOWS / "api" / "miniature_augment.json").read_text("utf-8"))


def errors(server, graph) -> list[tuple[str, str]]:
    """(input, sentence) for everything that the server refuses in a prompt; it may still run other outputs of it."""
    request = urllib.request.Request(f"{server.url}/prompt", json.dumps({"prompt": graph}).encode())
    try:
        answer = urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30)
    except urllib.error.HTTPError as refused:
        answer = refused
    found = [error for node in json.load(answer)["node_errors"].values() for error in node["errors"]]
    return [tuple(error["details"].split(" - ", 1)) for error in found]


@pytest.mark.parametrize(
    ("node", "changed", "wrong", "sentence"),
    [
        ("2", {"dataset": "no_birds"}, "dataset", "No folder 'no_birds' in ComfyUI's input folder. There is: "),
        ("2", {"dataset": " "}, "dataset", "No dataset is given. Choose one"),
        ("2", {"dataset": "../output"}, "dataset", "has to stay inside input"),
        ("2", {"plan": "no_plan"}, "plan", "No plan 'no_plan' in ComfyUI's output folder. There is: "),
        ("10", {"class_name": " \n"}, "class_name", "class_name is empty. Name the class"),
        (
            "10",
            {"class_name": "Alder Fink"},
            "class_name",
            "No class 'Alder Fink' in the miniature: closest 'Alder Finch'",
        ),
        (
            "10",
            {"class_name": "Alder Finch:x | Kite"},
            "class_name",
            "'x' in 'Alder Finch:x | Kite' is not a",
        ),
        (
            "10",
            {"class_name": "Alder Finch\nDune Kite"},
            "class_name",
            "2 class names for a batch of 1: an image",
        ),
    ],
)
def test_the_server_refuses_with_our_sentence(server, graph, node, changed, wrong, sentence):
    graph[node]["inputs"] |= changed
    assert sentence in dict(errors(server, graph))[wrong]


@pytest.mark.parametrize("changed", [{"class_name": ["2", 2]}, {"class_name": "alder_finch"}])
def test_the_server_takes_a_class_that_is_known_or_linked(server, graph, changed):
    graph["10"]["inputs"] |= changed
    graph["8"]["inputs"]["batch_size"] = 0  # refused by ComfyUI itself, so that nothing runs
    assert [wrong for wrong, *_ in errors(server, graph)] == ["batch_size"]


def test_classes_of_a_file_that_has_not_been_loaded_yet(server, graph, my_classifier):
    graph["30"] = {"class_type": "HiGFA_LoadClassifier", "inputs": {"classifier_name": my_classifier, "temperature": 0}}
    graph["10"]["inputs"] |= {"classifier": ["30", 0], "class_name": "Bird <b>99</b>"}
    ((wrong, sentence),) = errors(server, graph)
    assert wrong == "class_name" and sentence.startswith(f"No class 'Bird <b>99</b>' in {my_classifier}: closest")


def test_an_export_without_job_and_class_is_refused_at_the_class(server, graph):
    del graph["12"]["inputs"]["job"]
    ((wrong, sentence),) = errors(server, graph)
    assert wrong == "class_name" and sentence.startswith("No job is connected and class_name is empty")


def test_a_wrong_folder_marks_its_input_and_uses_up_no_index(view):
    view.open("miniature_augment")
    view.page.evaluate(CHANGE, ["HiGFA_DatasetJob", "dataset", "no_birds"])
    index = view.page.evaluate(INDEX)
    view.run()
    view.until(f"() => ({ERRORS})().length > 0", seconds=20)
    view.page.get_by_text(MISSING).first.wait_for()
    view.shot("wrong-folder")
    found = {name: details for _, name, details in view.page.evaluate(ERRORS)}
    assert MISSING in found["dataset"]
    assert view.page.evaluate("app.graph._nodes.filter(node => node.has_errors).map(node => node.type)") == [
        "HiGFA_DatasetJob"
    ]
    assert view.page.evaluate(INDEX) == index


def test_a_run_that_fails_says_why_and_uses_up_no_index(view):
    view.open("miniature_augment")
    index = view.page.evaluate(INDEX)
    view.page.evaluate(CHANGE, ["HiGFA_DatasetJob", "layout", "table labels=nothing.csv"])  # known once it runs
    view.run()
    view.until("() => app.lastExecutionError", seconds=60)
    view.page.get_by_text("nothing.csv").first.wait_for()
    view.shot("failed-run")
    view.until(f"index => ({INDEX})() === index", index, seconds=20)
