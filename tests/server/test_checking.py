"""Check Classifier for Guidance in a graph, on a dataset that the server made itself."""

from higfa_core.batch.client import Client


def test_in_a_graph_with_the_embedded_dataset(server):
    node = lambda kind, **inputs: {"class_type": kind, "inputs": inputs}  # noqa: E731
    widgets = {
        "dataset": "higfa_demo", "images_from": "validation", "per_class": 1, "image_size": 128, "start_percent": 0.7,
        "cfg": 3.0, "noise_levels": 1,
    }  # fmt: skip
    graph = {
        "world": node("HiGFA_LoadMiniature"),
        "prompt": node("CLIPTextEncode", clip=["world", 1], text="a photo of a bird"),
        "check": node("HiGFA_CheckClassifier", classifier=["world", 4], vae=["world", 2], model=["world", 0],
                      positive=["prompt", 0], negative=["prompt", 0], **widgets),
        "words": node("PreviewAny", source=["check", 0]),
        "plot": node("SaveImage", images=["check", 1], filename_prefix="check"),
    }  # fmt: skip
    client = Client(server.url)
    outputs = client.wait(client.submit(graph), timeout=120)["outputs"]
    assert "n=32" in outputs["words"]["text"][0] and "sigma 0.8" in outputs["check"]["text"][0]
    assert len(outputs["plot"]["images"]) == len(outputs["check"]["images"]) == 1
