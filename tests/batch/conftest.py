"""A small labelled set, a plan over it, and fake servers to run it on."""

import json
import threading
import time
from pathlib import Path

import pytest
from PIL import Image

from higfa_core.batch import health, worker
from higfa_core.plans.plan import Plan
from higfa_core.plans.plan_file import write_plan
from higfa_core.plans.rules import Rules
from higfa_core.plans.workflow import EXPORT, digest, find_node
from higfa_core.sources.layouts import read_dataset

from .fake_comfy import FakeComfy

WORKFLOW = json.loads((Path(__file__).parents[2] / "workflows" / "api" / "miniature_augment.json").read_text("utf-8"))
CLASSES = ("F-16A", "F-16B", "Ünal 鴉", "x")


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """Nobody pulls the plug here, and thousands of fsyncs take a minute."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.fixture
def sources(tmp_path):
    """4 classes, 5 images each."""
    for label, name in enumerate(CLASSES):
        for i in range(5):
            path = tmp_path / "real planes" / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (label * 60, i * 40, 9)).save(path)
    return tmp_path / "real planes"


@pytest.fixture
def make_plan(sources):
    def make(folder, counts=2, quota=None, rules=Rules(), name="planes", **options):
        plan = Plan(read_dataset(sources), counts, **options)
        shared = {"workflow": WORKFLOW, "workflow_digest": digest(WORKFLOW, find_node(WORKFLOW, EXPORT))}
        write_plan(folder, plan, dataset_name=name, options={}, quota=quota, rules=rules, **shared)
        return plan

    return make


@pytest.fixture
def make_server(tmp_path):
    servers = []

    def make(output=None, **options):
        servers.append(FakeComfy(output or tmp_path / f"output {len(servers)}", **options))
        return servers[-1]

    yield make
    for server in servers:
        server.close()


class Clock:
    """`time` as the workers see it: while their server hangs, 1000 s pass from look to look."""

    def __init__(self):
        self.ahead, self._flies = {}, {}

    def fly(self, server, when=lambda server: server.hung):
        self.ahead[f"higfa {server.url}"], self._flies[f"higfa {server.url}"] = 0.0, lambda: when(server)

    def monotonic(self):
        name = threading.current_thread().name
        if name in self.ahead and self._flies[name]():
            self.ahead[name] += 1000.0
        return time.monotonic() + self.ahead.get(name, 0.0)

    def skip(self, seconds):
        for name in self.ahead:
            self.ahead[name] += seconds


@pytest.fixture
def clock(monkeypatch):
    """Hours of the servers that it is told to fly for take no time."""
    clock = Clock()
    for module in (health, worker):
        monkeypatch.setattr(module, "time", clock)
    return clock


def manifest_rows(folder):
    """The rows that count, sorted, without what differs from run to run; and how many lines there are."""
    lines = [json.loads(line) for line in (folder / "manifest.jsonl").read_bytes().splitlines() if line.strip()]
    last = {(row["key"], row["index"]): {k: v for k, v in row.items() if k != "created"} for row in lines}
    return [last[key] for key in sorted(last)], len(lines)
