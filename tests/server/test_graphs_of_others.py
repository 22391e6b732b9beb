"""Graphs as people wire them around the pack, as reported in public: they run, or say what they cannot do."""

import io

import numpy as np
import pytest
from PIL import Image, ImageDraw

from higfa_core.batch.client import Client

from .test_sampling_nodes import GUIDE, SAMPLER, base, node

pytestmark = pytest.mark.releases


@pytest.fixture(scope="module")
def client(server):
    return Client(server.url)


@pytest.fixture(scope="module")
def opaque(server):
    """The name of a picture without alpha, for which Load Image gives a 64 x 64 mask of zeros."""
    picture = Image.new("RGB", (128, 96), (20, 120, 30))
    ImageDraw.Draw(picture).ellipse((34, 18, 94, 78), fill=(200, 40, 40))
    picture.save(server.base / "input" / "opaque.png")
    return "opaque.png"


@pytest.fixture(scope="module")
def filled(server):
    """A node of ours whose widgets are at their defaults, as a person drops it on the canvas."""

    def make(class_type, **inputs):
        declared = server.get(f"/object_info/{class_type}")[class_type]["input"]["required"]
        defaults = {name: item[1]["default"] for name, item in declared.items() if "default" in item[1]}
        return node(class_type, **{**defaults, **inputs})

    return make


def outputs(client, graph):
    return client.wait(client.submit(graph))["outputs"]


def contour(client, filled, graph, **mask):
    graph = {
        **graph,
        "contour": filled("HiGFA_ExtractContour", image=["image", 0], **mask),
        "save": node("PreviewImage", images=["contour", 0]),
    }
    (image,) = outputs(client, graph)["save"]["images"]
    return np.asarray(Image.open(io.BytesIO(client.view(**image))))


def test_load_images_mask_inverted_keeps_all_of_an_opaque_picture(client, filled, opaque):
    """As the tooltip of mask asks; Comfy-Org/ComfyUI#7301 and #8667, kijai/ComfyUI-KJNodes#702."""
    graph = {"image": node("LoadImage", image=opaque), "invert": node("InvertMask", mask=["image", 1])}
    whole = contour(client, filled, graph)
    assert whole.any()
    for mask in (["invert", 0], ["image", 1]):
        assert np.array_equal(contour(client, filled, graph, mask=mask), whole)


@pytest.mark.parametrize("composition", ["nested", "joint"])
def test_normalized_attention_guidance_acts_or_the_summary_says_that_it_cannot(client, filled, opaque, composition):
    """Comfy-Org/ComfyUI#12707."""
    graph = {
        **base(),
        "image": node("LoadImage", image=opaque),
        "lines": filled("HiGFA_ExtractContour", image=["image", 0]),
        "control": node(
            "ControlNetApplyAdvanced", positive=["text", 0], negative=["empty", 0], control_net=["world", 3],
            image=["lines", 0], strength=1.0, start_percent=0.0, end_percent=1.0,
        ),
        "nag": node("NAGuidance", model=["world", 0], nag_scale=5.0, nag_alpha=0.5, nag_tau=1.5),
        "guidance": filled("HiGFA_Guidance", composition=composition),
        "sampler": node(
            "HiGFA_KSampler", model=["nag", 0], positive=["control", 0], negative=["control", 1],
            latent_image=["latent", 0], guidance=["guidance", 0], **GUIDE, **{**SAMPLER, "steps": 4},
        ),
        "summary": node("PreviewAny", source=["sampler", 2]),
    }  # fmt: skip
    summary = "".join(outputs(client, graph)["summary"]["text"])
    assert ("NAGuidance has no effect" in summary) == (composition == "nested"), summary
