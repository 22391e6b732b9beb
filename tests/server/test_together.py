"""Several jobs in one prompt, on the real server: each image is the one that it is alone."""

import copy
import json

import numpy as np
import pytest
from PIL import Image

from higfa_core.batch.client import Client
from higfa_core.plans.workflow import EXPORT, JOB, find_node

from .server import quick_workflow
from .test_batch import rows

pytestmark = pytest.mark.releases

BATCH = 5


@pytest.fixture(scope="module")
def made(server, tmp_path_factory):
    """The rows of the same jobs made one by one, together, and by a sampler that cannot take them together."""
    graph = json.loads(quick_workflow(tmp_path_factory.mktemp("workflow")).read_text())
    client, found = Client(server.url), {}
    for name, batch, sampler in (
        ("alone", 1, "dpmpp_2m"),
        ("together", BATCH, "dpmpp_2m"),
        ("sde", BATCH, "dpmpp_sde"),
    ):
        for index in range(BATCH // batch if name != "sde" else 1):
            graph = copy.deepcopy(graph)
            graph[find_node(graph, JOB)]["inputs"] |= {"index": index, "batch": batch, "replicas": 2}
            graph[find_node(graph, EXPORT)]["inputs"]["dataset_name"] = name
            graph[find_node(graph, "HiGFA_KSampler")]["inputs"]["sampler_name"] = sampler
            client.wait(client.submit(graph), 120)
        found[name] = rows(server.base / "output" / name)
    return found


def test_the_rows_are_those_of_single_jobs(made):
    varying = {"bytes", "sha256", "scores", "guidance", "sampled_together", "accepted", "reason", "file"}
    plain = [
        [{k: v for k, v in row.items() if k not in varying} for row in made[name]] for name in ("alone", "together")
    ]
    assert len(plain[0]) == BATCH and plain[0] == plain[1]
    assert len({row["class_name"] for row in made["together"]}) == BATCH


def test_the_images_are_those_of_single_jobs(made, server):
    for one, other in zip(made["alone"], made["together"]):
        images = [
            np.asarray(Image.open(server.base / "output" / name / row["file"]), int)
            for name, row in (("alone", one), ("together", other))
        ]
        moved = abs(images[0] - images[1])
        # Float noise, on either side of a half. Where it flips a ReLU of the classifier, the gradient jumps, and a few
        # pixels move further; in float64 nothing does (tests/comfy/test_together.py). Other images are tens away.
        assert moved.mean() < 0.25 and (moved > 1).mean() < 0.01
        assert one["scores"]["confidence"] == pytest.approx(other["scores"]["confidence"], abs=1e-2)


def test_each_row_says_what_guided_its_own_image(made):
    for one, other in zip(made["alone"], made["together"]):
        assert other["guidance"].endswith(f"; sampled in a batch of {BATCH}")
        assert (one["sampled_together"], other["sampled_together"]) == (1, BATCH)
        assert one["guidance"].partition(", decoder")[0] == other["guidance"].partition(", decoder")[0]


def test_a_sampler_that_draws_noise_at_every_step_takes_them_one_by_one(made):
    assert len(made["sde"]) == BATCH and {row["sampled_together"] for row in made["sde"]} == {1}
