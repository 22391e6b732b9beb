"""A real ComfyUI for tests: main.py headless on a free port, in a temporary base directory with the pack."""

import contextlib
import json
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import run

WORKFLOWS = Path(__file__).parents[2] / "workflows" / "api"


@dataclass(frozen=True)
class Server:
    url: str
    base: Path
    log: Path

    def get(self, path: str):
        """The JSON that `path` answers; never through a proxy."""
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(self.url + path, timeout=60) as answer:
            return json.load(answer)

    def log_text(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")


@contextlib.contextmanager
def running_server(comfyui: Path, base: Path):
    run.prepare_base(base)
    port = run.free_port()
    server = Server(f"http://127.0.0.1:{port}", base, base / "server.log")
    command = run.server_command(comfyui, base, port, "test", cpu=True, python=sys.executable)
    with run.server(command, server.url, server.log, comfyui):
        yield server


def quick_workflow(folder: Path) -> Path:
    """The workflow of the README in fewer steps, written into `folder`: where the way counts, not the image."""
    graph = json.loads((WORKFLOWS / "miniature_augment.json").read_text("utf-8"))
    (sampler,) = [node for node in graph.values() if node["class_type"] == "HiGFA_KSampler"]
    sampler["inputs"]["steps"] = 10
    file = folder / "quick.json"
    file.write_text(json.dumps(graph), "utf-8")
    return file
