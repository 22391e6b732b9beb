"""A user's cancel on the real server: nothing half-written, and no error."""

import json
import time
import urllib.request
from pathlib import Path

import pytest

from higfa_core.miniature import birds

pytestmark = pytest.mark.releases

ROOT = Path(__file__).resolve().parents[2]


def post(server, path, body):
    request = urllib.request.Request(
        server.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
    )
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30) as answer:
        text = answer.read()
    return json.loads(text) if text else None


def wait(condition, seconds=60):
    until = time.time() + seconds
    while time.time() < until:
        value = condition()
        if value:
            return value
        time.sleep(0.1)
    raise AssertionError("timed out")


def test_cancel_while_sampling_leaves_nothing(server):
    from PIL import Image

    folder = server.base / "input" / "cancelled" / "train"
    for index in (0, 1):
        (folder / birds.CLASS_NAMES[index]).mkdir(parents=True)
        Image.fromarray(birds.render(index, 0, 128).image).save(folder / birds.CLASS_NAMES[index] / "0.png")
    graph = json.loads((ROOT / "workflows/api/miniature_augment.json").read_text())
    graph["2"]["inputs"]["dataset"] = "cancelled"
    graph["10"]["inputs"]["steps"] = 2000
    graph["12"]["inputs"]["dataset_name"] = "cancelled"
    prompt_id = post(server, "/prompt", {"prompt": graph})["prompt_id"]
    wait(lambda: server.get("/queue")["queue_running"])
    time.sleep(4)  # into the sampler; 2000 steps take minutes
    assert not server.get(f"/history/{prompt_id}")
    asked = time.time()
    post(server, "/interrupt", {})
    entry = wait(lambda: server.get(f"/history/{prompt_id}").get(prompt_id))
    assert time.time() - asked < 10
    messages = [name for name, _ in entry["status"]["messages"]]
    assert "execution_interrupted" in messages and "execution_error" not in messages
    output = server.base / "output" / "cancelled"
    assert not output.exists() or not [p for p in output.rglob("*") if p.suffix in (".png", ".tmp", ".part")]
