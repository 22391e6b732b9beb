"""The three ways in, as graphs on the real server: the same engine, the same image, a plot that waits for the run."""

import io
import json

import numpy as np
import pytest
import torch
from PIL import Image

from higfa_core.batch.client import Client, PromptFailed
from higfa_core.miniature import birds

pytestmark = pytest.mark.releases

SAMPLER = {"seed": 7, "steps": 10, "cfg": 3.0, "sampler_name": "euler", "scheduler": "karras", "denoise": 1.0}


def node(class_type, **inputs):
    return {"class_type": class_type, "inputs": inputs}


def base():
    return {
        "world": node("HiGFA_LoadMiniature"),
        "text": node("CLIPTextEncode", clip=["world", 1], text="a photo of a Cinder Finch"),
        "empty": node("CLIPTextEncode", clip=["world", 1], text=""),
        "latent": node("EmptyLatentImage", width=128, height=128, batch_size=2),
    }


GUIDE = {"vae": ["world", 2], "classifier": ["world", 4], "class_name": "\n".join(birds.CLASS_NAMES[2:4])}


def finish(latent, trace):
    return {
        "decode": node("VAEDecode", samples=latent, vae=["world", 2]),
        "save": node("PreviewImage", images=["decode", 0]),
        "plot": node("HiGFA_PlotGuidance", trace=trace, latent=latent),
        "json": node("PreviewAny", source=["plot", 1]),
    }


def ksampler_graph():
    sampler = node(
        "HiGFA_KSampler", model=["world", 0], positive=["text", 0], negative=["empty", 0], latent_image=["latent", 0],
        **GUIDE, **SAMPLER,
    )  # fmt: skip
    return {**base(), "sampler": sampler, **finish(["sampler", 0], ["sampler", 1])}


def guider_graph():
    return {
        **base(),
        "guider": node(
            "HiGFA_Guider", model=["world", 0], positive=["text", 0], negative=["empty", 0], cfg=3.0, **GUIDE
        ),
        "noise": node("RandomNoise", noise_seed=7),
        "select": node("KSamplerSelect", sampler_name="euler"),
        "sigmas": node("BasicScheduler", model=["world", 0], scheduler="karras", steps=10, denoise=1.0),
        "sampler": node(
            "SamplerCustomAdvanced", noise=["noise", 0], guider=["guider", 0], sampler=["select", 0],
            sigmas=["sigmas", 0], latent_image=["latent", 0],
        ),
        **finish(["sampler", 0], ["guider", 1]),
    }  # fmt: skip


def model_graph():
    return {
        **base(),
        "guided": node("HiGFA_GuideModel", model=["world", 0], **GUIDE),
        "sampler": node(
            "KSampler", model=["guided", 0], positive=["text", 0], negative=["empty", 0], latent_image=["latent", 0],
            **SAMPLER,
        ),
        **finish(["sampler", 0], ["guided", 1]),
    }  # fmt: skip


@pytest.fixture(scope="module")
def results(server, pack):
    client = Client(server.url)
    done = {}
    for name, graph in (("ksampler", ksampler_graph), ("guider", guider_graph), ("model", model_graph)):
        outputs = client.wait(client.submit(graph()))["outputs"]

        def pixels(key, index=0, outputs=outputs):
            image = outputs[key]["images"][index]
            return np.asarray(Image.open(io.BytesIO(client.view(**image))))

        done[name] = {
            "images": [pixels("save", 0), pixels("save", 1)],
            "plot": pixels("plot"),
            "json": "".join(outputs["json"]["text"]),
        }
    return done


def test_guider_gives_what_the_ksampler_gives(results):
    for mine, theirs in zip(results["guider"]["images"], results["ksampler"]["images"]):
        assert np.array_equal(mine, theirs)


def test_every_way_is_plotted_with_its_own_trace(results):
    for name, result in results.items():
        assert result["plot"].shape[2] in (3, 4) and result["plot"].std() > 10
        trace = json.loads(result["json"])
        assert trace["calls"] and len(trace["calls"][0]["probability"]) == 2
        assert (trace["w_text"] is None) == (name == "model")


def test_plot_that_does_not_wait_says_what_to_connect(server, pack):
    client = Client(server.url)
    fresh = {**GUIDE, "class_name": birds.CLASS_NAMES[5]}  # not the cached model of another test
    graph = {
        **base(),
        "guided": node("HiGFA_GuideModel", model=["world", 0], **fresh),
        "plot": node("HiGFA_PlotGuidance", trace=["guided", 1]),
    }
    with pytest.raises(PromptFailed, match="Connect the sampler's latent"):
        client.wait(client.submit(graph))


def test_a_second_prompt_without_the_latent_draws_no_earlier_run(server):
    client, graph = Client(server.url), model_graph()
    client.wait(client.submit(graph))
    graph["sampler"]["inputs"]["seed"] += 1
    del graph["plot"]["inputs"]["latent"]
    with pytest.raises(PromptFailed, match="Connect the sampler's latent"):
        client.wait(client.submit(graph))


def test_two_samplers_of_one_model_are_plotted_each(server):
    """As a hires fix wires them; in a second prompt the first sampler is cached, under another id."""
    client, graph = Client(server.url), model_graph()
    again = {"model": ["guided", 0], "latent_image": ["sampler", 0], "steps": 4, "denoise": 0.5}
    graph["again"] = node("KSampler", **{**graph["sampler"]["inputs"], **again})
    for name, sampler in (("plot", "sampler"), ("plot again", "again")):
        graph[name] = node("HiGFA_PlotGuidance", trace=["guided", 1], latent=[sampler, 0])
        graph[f"{name} json"] = node("PreviewAny", source=[name, 1])

    def steps(name):
        outputs = client.wait(client.submit(graph))["outputs"]
        return len(json.loads("".join(outputs[f"{name} json"]["text"]))["sigmas"]) - 1

    assert (steps("plot"), steps("plot again")) == (10, 4)
    graph["renamed"] = graph.pop("sampler")
    graph["again"]["inputs"] |= {"latent_image": ["renamed", 0], "seed": 8}
    graph["plot"]["inputs"]["latent"] = graph["decode"]["inputs"]["samples"] = ["renamed", 0]
    assert (steps("plot"), steps("plot again")) == (10, 4)


def test_the_latent_is_of_the_type_that_comfyui_passes_on(pack, core_nodes, monkeypatch):
    """--fp16-intermediates, --gpu-only: as the stock KSampler's."""
    import comfy.model_management as mm

    with torch.inference_mode():
        model, clip, vae, _, classifier, *_ = pack.nodes["HiGFA_LoadMiniature"].execute().args
        prompt = clip.encode_from_tokens_scheduled(clip.tokenize(""))
        common = {"seed": 1, "steps": 3, "cfg": 2.0, "sampler_name": "euler", "scheduler": "karras", "denoise": 1.0}
        latent = {"samples": torch.zeros(1, 8, 16, 16)}
        monkeypatch.setattr(mm, "intermediate_dtype", lambda: torch.float16)
        monkeypatch.setattr(mm, "intermediate_device", lambda: torch.device("meta"))
        stock = core_nodes["KSampler"]().sample(
            model=model, positive=prompt, negative=prompt, latent_image=latent, **common
        )[0]["samples"]
        inputs = {"model": model, "positive": prompt, "negative": prompt, "latent_image": latent, "vae": vae}
        inputs |= {"classifier": classifier, "class_name": birds.CLASS_NAMES[0], **common}
        lists = {name: [value] for name, value in inputs.items()}  # as ComfyUI calls it
        ours = pack.nodes["HiGFA_KSampler"].execute(**lists).args[0][0]["samples"]
    assert (ours.dtype, ours.device) == (stock.dtype, stock.device) == (torch.float16, torch.device("meta"))
