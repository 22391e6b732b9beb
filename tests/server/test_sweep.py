"""Guidance Sweep on a server: its cells are the runs that one would make by hand, and outlive a cancel."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from higfa_core.batch.client import Client

from .server import WORKFLOWS
from .test_interrupt import wait

STEPS = 3
SAMPLED = "HiGFA: guided steps"  # once in the log for every run that has ended

pytestmark = pytest.mark.releases


@pytest.fixture
def graph() -> dict:
    made = json.loads((WORKFLOWS / "miniature_sweep.json").read_text("utf-8"))
    made["2"]["inputs"]["index"] = 11  # other tests may have drawn only thirty-two sources
    made["40"]["inputs"] |= {"steps": STEPS, "row_values": "0, 2", "column_values": "0.5"}
    made["41"] = {"class_type": "PreviewImage", "inputs": {"images": ["40", 0]}}
    made["50"] = {"class_type": "PreviewImage", "inputs": {"images": ["40", 2]}}
    return made


def run(server, graph) -> tuple[dict, int]:
    """Outputs by node, and how many runs were sampled for them."""
    before = server.log_text().count(SAMPLED)
    client = Client(server.url)
    outputs = client.wait(client.submit(graph))["outputs"]
    return outputs, server.log_text().count(SAMPLED) - before


def pictures(server, shown) -> list[np.ndarray]:
    client, entries = Client(server.url), shown["images"]
    found = [client.view(entry["filename"], entry["subfolder"], entry["type"]) for entry in entries]
    return [np.asarray(Image.open(io.BytesIO(data)).convert("RGB")) for data in found]


def test_a_value_more_costs_only_its_own_cells(server, graph):
    graph["2"]["inputs"]["index"] = 13
    outputs, sampled = run(server, graph)
    assert sampled == 2
    before = pictures(server, outputs["50"])
    graph["40"]["inputs"]["row_values"] = "0, 1, 2"
    outputs, sampled = run(server, graph)
    after = pictures(server, outputs["50"])
    assert sampled == 1 and len(after) == 3
    assert all(map(np.array_equal, before, after[::2]))


def test_cells_are_ordinary_runs(server, graph):
    outputs, sampled = run(server, graph)
    assert sampled == 2
    lines = outputs["42"]["text"][0].splitlines()[2:]
    assert [line.split(" | ")[:2] for line in lines] == [["| 0.0", "0.5"], ["| 2.0", "0.5"]]
    cells = pictures(server, outputs["50"])
    (grid,) = pictures(server, outputs["41"])
    assert len(cells) == 2 and cells[0].shape == (128, 128, 3) and grid.shape[0] > 2 * 128

    by_hand = {key: about for key, about in graph.items() if key not in ("40", "41", "42", "50")}
    inputs = graph["40"]["inputs"]
    settings = {"eta": 2.0, "start_percent": 0.5}
    by_hand["60"] = {"class_type": "HiGFA_Guidance", "inputs": {**defaults(server, "HiGFA_Guidance"), **settings}}
    kept = defaults(server, "HiGFA_KSampler").keys() | {"model", "positive", "negative", "latent_image", "vae"}
    kept |= {"classifier", "class_name"}
    chosen = {name: inputs[name] for name in kept if name in inputs}
    by_hand["61"] = {"class_type": "HiGFA_KSampler", "inputs": {**chosen, "guidance": ["60", 0]}}
    by_hand["62"] = {"class_type": "VAEDecode", "inputs": {"samples": ["61", 0], "vae": ["1", 2]}}
    by_hand["63"] = {"class_type": "PreviewImage", "inputs": {"images": ["62", 0]}}
    (alone,) = pictures(server, run(server, by_hand)[0]["63"])
    assert np.array_equal(alone, cells[1])


def defaults(server, node: str) -> dict:
    about = server.get(f"/object_info/{node}")[node]["input"]
    found = {**about["required"], **about.get("optional", {})}
    return {name: rest[0]["default"] for name, (_, *rest) in found.items() if rest and "default" in rest[0]}


def test_a_cancelled_sweep_keeps_its_cells(server, graph):
    graph["2"]["inputs"]["index"] = 12
    graph["40"]["inputs"] |= {"row_values": "0, 1, 2, 3"}
    before = server.log_text().count(SAMPLED)
    client = Client(server.url)
    prompt = client.submit(graph)
    wait(lambda: server.log_text().count(SAMPLED) >= before + 2)
    client.interrupt(prompt)
    wait(lambda: prompt in server.get("/history"))
    outputs, sampled = run(server, graph)
    assert sampled <= 2 and len(pictures(server, outputs["50"])) == 4  # two cells at least were done
