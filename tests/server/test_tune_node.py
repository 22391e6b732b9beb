"""Tune Guidance on a server: its images are the runs that one would make by hand, and its choice follows from them."""

import json

import numpy as np
import pytest

from higfa_core.batch.client import Client

from .server import WORKFLOWS
from .test_sweep import SAMPLED, defaults, pictures, run

STEPS, JOBS = 3, 2

pytestmark = pytest.mark.releases


@pytest.fixture
def graph(server) -> dict:
    """The sweep's template with Tune Guidance in its place, for two jobs at once."""
    made = json.loads((WORKFLOWS / "miniature_sweep.json").read_text("utf-8"))
    made["2"]["inputs"] |= {"index": 11, "batch": JOBS}
    kept = defaults(server, "HiGFA_TuneGuidance").keys() | {"model", "positive", "negative", "latent_image", "vae"}
    kept |= {"classifier", "class_name", "judge"}
    inputs = {name: value for name, value in made["40"]["inputs"].items() if name in kept}
    inputs = {**defaults(server, "HiGFA_TuneGuidance"), **inputs, "steps": STEPS, "etas": "2"}
    early = {**defaults(server, "HiGFA_Guidance"), "start_percent": 0.5}  # of three steps one is in the final stage
    made["44"] = {"class_type": "HiGFA_Guidance", "inputs": early}
    made["40"] = {"class_type": "HiGFA_TuneGuidance", "inputs": {**inputs, "guidance": ["44", 0]}}
    made["41"] = {"class_type": "PreviewImage", "inputs": {"images": ["40", 0]}}
    made["43"] = {"class_type": "PreviewAny", "inputs": {"source": ["40", 2]}}
    return made


def by_hand(graph, server, eta):
    """The same jobs with HiGFA KSampler."""
    made = {key: about for key, about in graph.items() if key not in ("40", "41", "42", "43", "44")}
    made["60"] = {"class_type": "HiGFA_Guidance", "inputs": {**graph["44"]["inputs"], "eta": eta}}
    left_out = ("judge", "etas", "target", "max_broken")
    inputs = {name: value for name, value in graph["40"]["inputs"].items() if name not in left_out}
    made["61"] = {"class_type": "HiGFA_KSampler", "inputs": {**inputs, "guidance": ["60", 0]}}
    made["62"] = {"class_type": "VAEDecode", "inputs": {"samples": ["61", 0], "vae": ["1", 2]}}
    made["63"] = {"class_type": "PreviewImage", "inputs": {"images": ["62", 0]}}
    asked = {"classifier": ["1", 6], "class_name": ["2", 2], "top_k": 1, "min_confidence": 0.0, "images": ["62", 0]}
    made["64"] = {"class_type": "HiGFA_ClassifyImages", "inputs": asked}
    made["65"] = {"class_type": "PreviewAny", "inputs": {"source": ["64", 3]}}
    return made


def test_the_ladder_is_of_ordinary_runs_and_the_choice_follows(server, graph):
    outputs, sampled = run(server, graph)
    table, chosen = outputs["42"]["text"][0], float(outputs["43"]["text"][0])
    lines = {float(line.split("eta")[1].split()[0]): line for line in table.splitlines()[1:3]}
    assert lines.keys() == {0.0, 2.0} and sampled == 2
    (picture,) = pictures(server, outputs["41"])
    assert picture.shape[0] > JOBS * 128 and picture.shape[1] > 2 * 128
    images, means = {}, {}
    for eta in lines:
        found, _ = run(server, by_hand(graph, server, eta))
        images[eta] = pictures(server, found["63"])
        means[eta] = np.mean(list(map(float, found["65"]["text"])))
        assert f"{means[eta]:.1%}" in lines[eta]
    moved = np.abs(np.subtract(images[2.0], images[0.0], dtype=float)).mean()
    assert f"{moved:.1f}" == lines[2.0].split()[-1]
    assert f"Take eta {chosen:g}: " in table and "Only the guide judged" not in table

    # Below what eta 0 reaches, 0 is enough; without a judge the guide judges, and it is said.
    graph["40"]["inputs"]["target"] = 0.01
    del graph["40"]["inputs"]["judge"]
    outputs, _ = run(server, graph)
    words, chosen = outputs["42"]["text"][0], float(outputs["43"]["text"][0])
    assert chosen == 0 and "Take eta 0: it moves the least" in words
    assert "Only the guide judged, and it flatters its own images" in words


def test_what_cannot_be_tried_is_marked_before_the_run(server, graph):
    client = Client(server.url)
    for etas, words in (("lots", "Give numbers"), ("0", "at least one value above 0"), ("11", "Invalid eta")):
        graph["40"]["inputs"]["etas"] = etas
        with pytest.raises(Exception, match=words):
            client.submit(graph)
    assert SAMPLED  # nothing was sampled: a refused prompt never runs
