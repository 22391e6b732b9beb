"""A small plan that `higfa run` makes, and what must be there in the end."""

import json
from pathlib import Path

from higfa_core.plans.plan import Plan
from higfa_core.plans.plan_file import write_plan
from higfa_core.plans.workflow import EXPORT, digest, find_node
from higfa_core.sources.layouts import read_dataset

from ..batch.conftest import manifest_rows
from .world import WORKFLOW

KEPT = {"manifest.jsonl", "plan.json", "plan.jsonl", "jobs.sqlite", "lock.sqlite"}


def make_plan(folder: Path, made: Path, replicas: int) -> Path:
    """A plan in `folder`: that many jobs of each of the eight images in `made`."""
    graph = json.loads(WORKFLOW.read_text("utf-8"))
    about = {"workflow": graph, "workflow_digest": digest(graph, find_node(graph, EXPORT)), "options": {}}
    write_plan(folder, Plan(read_dataset(made / "real"), replicas), dataset_name="set", **about)
    return folder


def run_words(folder: Path, servers) -> list[str]:
    """The command that makes the plan in `folder`."""
    words = ["run", str(folder), "--poll", "0.01", "--quiet"]
    return words + [word for server in servers for word in ("--server", server.url)]


def made_by_run(folder: Path) -> tuple:
    """Rows, number of lines, and the content of each file; nothing else is there."""
    rows, lines = manifest_rows(folder)
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    images = {name: data for name, data in files.items() if name not in KEPT}
    assert images.keys() == {row["file"] for row in rows} and lines == len(rows)
    return rows, images
