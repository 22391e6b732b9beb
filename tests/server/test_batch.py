"""Plans run on real ComfyUI servers: the canvas and the command line agree, and a killed server changes nothing."""

import contextlib
import copy
import hashlib
import json
import os
import shlex
import signal
import threading
import time
import urllib.request

import psutil
import pytest
from PIL import Image

from higfa_core.batch.client import Client
from higfa_core.commands import main as cli
from higfa_core.commands import plan as plan_cli
from higfa_core.commands import run as run_cli
from higfa_core.miniature import birds as birds_module
from higfa_core.miniature.sources import draw_sources
from higfa_core.plans.workflow import EXPORT, JOB

from .server import WORKFLOWS, quick_workflow, running_server

# The whole way of an image but the sampling: enough where the pixels are not the point.
SHORT = {
    "1": {"class_type": JOB, "inputs": {"dataset": "birds", "index": 0, "prompt_template": "a {class}", "replicas": 2,
          "plan_seed": 3, "contour_from": "other", "job": "", "plan": ""}},
    "2": {"class_type": "HiGFA_TransformContour", "inputs": {"contour": ["1", 0], "mask": ["1", 1], "variants": 1,
          "seed": ["1", 4], "flip": 0.5, "rotation": 12.0, "scale_min": 0.85, "scale_max": 1.1, "translation": 0.06,
          "perspective": 0.0, "elastic": 0.0, "outside": 0.0}},
    "3": {"class_type": EXPORT, "inputs": {"images": ["2", 0], "job": ["1", 5], "mask": ["2", 1], "contour": ["2", 0],
          "transform": ["2", 2], "class_name": "", "dataset_name": "pressed", "min_confidence": 0.0,
          "image_format": "png", "require_top1": False, "if_exists": "keep", "save_metadata": False}},
}  # fmt: skip


def rows(folder):
    """Rows by key, without what differs from run to run."""
    found = [json.loads(line) for line in (folder / "manifest.jsonl").read_bytes().splitlines()]
    assert len({row["key"] for row in found}) == len(found)
    for row in found:
        assert hashlib.sha256((folder / row["file"]).read_bytes()).hexdigest() == row["sha256"]
    return sorted(({k: v for k, v in row.items() if k != "created"} for row in found), key=lambda row: row["key"])


def plan(folder, workflow, source, *more):
    command = [folder, "--workflow", workflow, "--source", source, *more]
    assert plan_cli.main([str(part) for part in command]) == 0


def run(folder, *servers, more=()):
    urls = [part for server in servers for part in ("--server", server.url)]
    return run_cli.main([str(folder), *urls, *more])


@pytest.fixture
def birds(server):
    """Two species of the miniature, three images each, in the server's input folder."""
    folder = server.base / "input" / "birds"
    if not folder.exists():
        draw_sources(server.base / "drawn", 3)
        for part in ("train", "masks"):
            for species in sorted((server.base / "drawn" / part).iterdir())[:2]:
                (folder / part).mkdir(parents=True, exist_ok=True)
                species.rename(folder / part / species.name)
    return folder


def test_pressing_run_and_the_command_line_give_the_same_dataset(server, birds, tmp_path):
    client, output = Client(server.url), server.base / "output"
    for index in range(12):
        graph = copy.deepcopy(SHORT)
        graph["1"]["inputs"]["index"] = index
        client.wait(client.submit(graph), 60)
    (tmp_path / "short.json").write_text(json.dumps(SHORT))
    plan(output / "queued", tmp_path / "short.json", birds, "--input-dir", server.base / "input")
    assert run(output / "queued", server) == 0
    pressed, queued = rows(output / "pressed"), rows(output / "queued")
    assert len(pressed) == 12 and pressed == queued
    assert all(row["mask"] and row["box"] and row["scores"]["contour_agreement"] > 0 for row in queued)
    # A third way: the canvas taking jobs from the plan that the command line wrote.
    graph = copy.deepcopy(SHORT)
    graph["1"]["inputs"] |= {"index": 7, "plan": "queued"}
    graph["3"]["inputs"]["dataset_name"] = "planned"
    client.wait(client.submit(graph), 60)
    assert rows(output / "planned") == [row for row in queued if row["plan_index"] == 7]


def test_a_setting_of_the_workflow_makes_other_images_and_a_filter_does_not(server, birds):
    client, folder = Client(server.url), server.base / "output" / "settings"
    for change in ({}, {"min_sharpness": 1.0}, {"rotation": 90.0}):
        graph = copy.deepcopy(SHORT)
        graph["3"]["inputs"]["dataset_name"] = "settings"
        for name, value in change.items():
            graph["2" if name == "rotation" else "3"]["inputs"][name] = value
        client.wait(client.submit(graph), 60)
    assert len(rows(folder)) == 2


def test_images_come_over_the_network_when_the_folder_is_elsewhere(server, birds, tmp_path):
    (tmp_path / "short.json").write_text(json.dumps(SHORT))
    far = tmp_path / "far"
    birds.rename(tmp_path / "real")  # nor does the server see the sources
    try:
        plan(far, tmp_path / "short.json", tmp_path / "real")
        assert run(far, server) == 0
    finally:
        (tmp_path / "real").rename(birds)
    made = rows(far)
    assert len(made) == 12 and all((far / row["mask"]).is_file() for row in made)
    assert {Image.open(far / row["file"]).size for row in made} == {(128, 128)}
    theirs = rows(server.base / "output" / "far")
    assert theirs == made


def test_the_names_of_many_classes_go_to_the_server_as_a_file(server, tmp_path):
    names = [f"{number:03} {'of the long-named and wide-ranging ' * 4}gulls" for number in range(110)]
    for name in names:
        (tmp_path / "gulls" / name).mkdir(parents=True)
        Image.new("RGB", (64, 64), (200, 90, 40)).save(tmp_path / "gulls" / name / "0.png")
    (tmp_path / "short.json").write_text(json.dumps({**SHORT, "1": {**SHORT["1"], "inputs": {**SHORT["1"]["inputs"],
                                                     "contour_from": "same"}}}))  # fmt: skip
    plan(tmp_path / "many", tmp_path / "short.json", tmp_path / "gulls", "--leaks", "off")
    assert run(tmp_path / "many", server, more=["--limit", "3", "--batch", "2"]) == 0
    made = rows(tmp_path / "many")
    assert sorted((row["class_name"], row["label"]) for row in made) == list(zip(names, range(3)))
    (file,) = (server.base / "input" / "higfa_sources").glob("classes-*.json")
    assert json.loads(file.read_text("utf-8")) == names


def children(server):
    port = int(server.url.rpartition(":")[2])
    return [c.pid for c in psutil.net_connections("tcp") if c.laddr.port == port and c.status == "LISTEN"]


def is_running(server) -> bool:
    with urllib.request.urlopen(f"{server.url}/queue") as answer:
        return bool(json.load(answer)["queue_running"])


def test_two_servers_one_killed_in_the_middle_of_a_job_give_the_same_bytes(server, comfyui_path, tmp_path):
    draw_sources(tmp_path / "drawn", 1)
    calm, wild = server.base / "output" / "calm", tmp_path / "wild"
    options = [quick_workflow(tmp_path), tmp_path / "drawn", "--per-class", "1"]
    plan(calm, *options)
    assert run(calm, server, more=["--limit", "4"]) == 0
    plan(wild, *options)
    # The killed one is expected to leave an error behind.
    with contextlib.suppress(ChildProcessError), running_server(comfyui_path, tmp_path / "second") as second:
        victim, state = children(second), {}

        def kill_when_busy():
            while not is_running(second):
                time.sleep(0.01)
            time.sleep(0.3)
            state["running"] = is_running(second)
            for pid in victim:
                os.kill(pid, signal.SIGKILL)

        killer = threading.Thread(target=kill_when_busy)
        killer.start()
        assert run(wild, second, server, more=["--limit", "4", "--patience", "1", "--poll", "0.05"]) == 0
        killer.join()
        assert state["running"] and len(victim) == 1
    first = {row["plan_index"]: row for row in rows(calm)}
    again = {row["plan_index"]: row for row in rows(wild)}
    assert len(first) == 4 and len(again) >= 4
    both = first.keys() & again.keys()
    assert len(both) == 4 and all(first[i]["sha256"] == again[i]["sha256"] for i in both)


def test_the_readmes_way_from_a_folder_to_a_dataset(server, tmp_path):
    """Its commands, word for word, but for the address of the server, the steps, and one image per species."""
    from torchvision.datasets import ImageFolder

    readme = (WORKFLOWS.parents[1] / "README.md").read_text("utf-8")
    section = readme.partition("## From a folder to a dataset")[2].partition("\n## ")[0]
    commands = section.split("```")[1].strip().splitlines()
    assert len(commands) <= 6
    here = {".higfa/base": str(server.base), "http://127.0.0.1:8188": server.url, "--per-class 20": "--per-class 1"}
    here["workflows/api/miniature_augment.json"] = str(quick_workflow(tmp_path))
    for command in commands:
        for shown, used in here.items():
            command = command.replace(shown, used)
        words = shlex.split(command)
        assert words[:3] == ["python", "run.py", "higfa"] and cli.main(words[3:]) == 0, command
    made = rows_now(server.base / "output" / "birds")
    exported = ImageFolder(server.base / "output" / "birds_imagefolder" / "train")
    assert len(made) == 32 and len(exported) == sum(row["accepted"] for row in made) > 24
    assert set(exported.classes) <= set(birds_module.CLASS_NAMES)


def rows_now(folder):
    found = {row["key"]: row for row in map(json.loads, (folder / "manifest.jsonl").read_bytes().splitlines())}
    return list(found.values())
