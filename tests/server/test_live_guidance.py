"""Who is told how a guided run goes: the page that queued it, nobody else."""

import asyncio
import json

import aiohttp
import pytest

from higfa_core.batch.client import Client

from .server import WORKFLOWS, quick_workflow

pytestmark = pytest.mark.releases


async def told(url: str, graph: dict, queued_by: str | None) -> dict[str, list[dict]]:
    """Client -> the messages of the guidance that it got while a run was made that `queued_by` had asked for."""
    got = {"one": [], "other": []}
    async with aiohttp.ClientSession() as session:

        async def listen(client: str):
            async with session.ws_connect(f"{url}/ws?clientId={client}") as socket:
                async for message in socket:
                    event = json.loads(message.data) if message.type is aiohttp.WSMsgType.TEXT else {}
                    if event.get("type") == "higfa.guidance":
                        got[client].append(event["data"])

        listeners = [asyncio.create_task(listen(client)) for client in got]
        await asyncio.sleep(0.5)
        body = {"prompt": graph, "extra_data": {"extra_pnginfo": {"workflow": {"id": "the page's workflow"}}}}
        body |= {"client_id": queued_by} if queued_by else {}
        async with session.post(f"{url}/prompt", json=body) as answer:
            prompt = (await answer.json())["prompt_id"]
        while True:
            async with session.get(f"{url}/history/{prompt}") as answer:
                if history := await answer.json():
                    break
            await asyncio.sleep(0.2)
        for listener in listeners:
            listener.cancel()
    assert history[prompt]["status"]["status_str"] == "success"
    got["history"] = history[prompt]["outputs"]
    return got


@pytest.fixture
def graph(tmp_path, request) -> dict:
    made = json.loads(quick_workflow(tmp_path).read_text("utf-8"))
    made["2"]["inputs"] |= {"index": 30, "batch": request.param}
    del made["12"], made["15"]
    return made | {"90": {"class_type": "PreviewImage", "inputs": {"images": ["11", 0]}}}


@pytest.mark.parametrize(("graph", "queued_by", "images"), [(1, "one", 1), (2, None, 2)], indirect=["graph"])
def test_only_the_client_that_queued_a_run_is_told(server, graph, queued_by, images):
    got = asyncio.run(told(server.url, graph, queued_by))
    assert got["other"] == []
    assert bool(got["one"]) == (queued_by == "one")
    (kept,) = got["history"]["10"]["higfa_guidance"]
    assert kept["text"].startswith("guided ") and len(kept["at"]) == len(kept["values"]["probability"][0])
    assert len(kept["targets"]) == len(kept["values"]["w_cls"]) == images
    for message in got["one"]:
        assert message["node"] == "10" and message["workflow"] == "the page's workflow"
    if queued_by:
        assert got["one"][0]["state"]["text"].startswith("step ") and got["one"][-1]["state"] == kept


GUIDERS = ("20", "30")  # done before their samplers, 24 and 31, begin


def test_every_run_keeps_the_charts_of_its_guiders_although_they_are_cached(server):
    graph = json.loads((WORKFLOWS / "miniature_three_ways.json").read_text("utf-8"))
    graph["9"]["inputs"]["start_percent"] = 0.5
    graph["23"]["inputs"]["steps"] = graph["31"]["inputs"]["steps"] = graph["10"]["inputs"]["steps"] = 6
    client, kept = Client(server.url), []
    for seed in (1, 2):
        graph["21"]["inputs"]["noise_seed"] = graph["31"]["inputs"]["seed"] = seed
        prompt = client.submit(graph)
        client.wait(prompt)
        kept.append((prompt, charts(server, prompt)))
    (first, before), (_, after) = kept
    assert before.keys() == set(GUIDERS) and charts(server, first) == before
    if server.get("/object_info/HiGFA_Guider")["HiGFA_Guider"].get("has_intermediate_output"):
        assert all(before[node]["values"] != after[node]["values"] for node in GUIDERS)


def charts(server, prompt: str) -> dict[str, dict]:
    """Guider -> the chart that the history has of it."""
    outputs = server.get(f"/history/{prompt}")[prompt]["outputs"]
    found = {node: output["higfa_guidance"] for node, output in outputs.items() if "higfa_guidance" in output}
    assert all(len(charts) == 1 and charts[0]["text"].startswith("guided ") for charts in found.values())
    return {node: chart for node, (chart,) in found.items() if node in GUIDERS}
