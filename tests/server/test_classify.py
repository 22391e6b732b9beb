"""Classify Images in graphs that a real server runs."""

import pytest
from PIL import Image

from higfa_core.batch.client import Client
from higfa_core.miniature import birds

pytestmark = pytest.mark.releases


@pytest.fixture
def run_graph(server):
    """Classify two birds in a graph with all that can follow; -> what each node showed."""
    for i, species in enumerate((0, 5)):
        Image.fromarray(birds.render(species, 20 + i).image).save(server.base / "input" / f"bird{i}.png")

    def run(**widgets):
        client = Client(server.url)
        node = lambda kind, **inputs: {"class_type": kind, "inputs": inputs}  # noqa: E731
        graph = {
            "world": node("HiGFA_LoadMiniature"),
            "a": node("LoadImage", image="bird0.png"),
            "b": node("LoadImage", image="bird1.png"),
            "batch": node("ImageBatch", image1=["a", 0], image2=["b", 0]),
            "classify": node("HiGFA_ClassifyImages", images=["batch", 0], classifier=["world", 6], **widgets),
            "confidences": node("PreviewAny", source=["classify", 3]),
            "passed": node("SaveImage", images=["classify", 4], filename_prefix="passed"),
            "rejected": node("SaveImage", images=["classify", 5], filename_prefix="rejected"),
            "rebatched": node("RebatchImages", images=["classify", 4], batch_size=8),
            "one batch": node("SaveImage", images=["rebatched", 0], filename_prefix="batch"),
            "invert": node("ImageInvert", image=["classify", 5]),
            "inverted": node("SaveImage", images=["invert", 0], filename_prefix="inverted"),
        }
        return client.wait(client.submit(graph), timeout=120)["outputs"]

    return run


def saved(outputs, node):
    return len(outputs.get(node, {"images": []})["images"])


def test_some_pass(run_graph):
    outputs = run_graph(class_name="Marsh Finch", min_confidence=0.5)
    assert [saved(outputs, node) for node in ("passed", "rejected", "one batch", "inverted")] == [1, 1, 1, 1]
    assert outputs["classify"]["text"][0].endswith("%") and saved(outputs, "classify") == 1
    first, second = (float(text) for text in outputs["confidences"]["text"])
    assert first > 0.5 > second


def test_none_passes_and_nothing_after_it_runs(run_graph):
    outputs = run_graph(class_name="Dune Kite", min_confidence=0.5)
    assert [saved(outputs, node) for node in ("passed", "rejected", "one batch", "inverted")] == [0, 2, 0, 2]


def test_all_pass_with_the_inputs_of_an_older_prompt(run_graph):
    outputs = run_graph()
    assert [saved(outputs, node) for node in ("passed", "rejected", "one batch", "inverted")] == [2, 0, 2, 0]
