"""docs/compatibility.md: every node of ComfyUI that changes a MODEL is on it, and what it says is measured."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "compatibility.md").read_text("utf-8")


@pytest.fixture
def cases(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("compatibility_cases")


def rows(text):
    """First cell, without the model that it was run on -> the other cells of each line of the tables."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:1] == "|"]
    return {re.sub(r" \(.*\)", "", cells[0]): cells[1:] for cells in lines}


def missing(cases, nodes):
    table = rows(PAGE)
    for name in cases.model_nodes(nodes):
        pattern = next((p for p in cases.LEFT_OUT if cases.fnmatchcase(name, p)), None)
        if not (f"- `{pattern}`:" in PAGE if pattern else name in table):
            yield name


@pytest.mark.releases
def test_every_node_that_changes_a_model_is_on_the_page(cases, core_nodes):
    found = cases.model_nodes(core_nodes)
    assert {"NAGuidance", "PerpNegGuider", "ModelMergeSimple", "FreeU_V2"} <= set(found)
    assert list(missing(cases, core_nodes)) == [], (
        "add them to benchmarks/compatibility_cases.py and run `python run.py exec -- python "
        "benchmarks/compatibility.py --write`"
    )


def test_a_node_of_a_new_release_is_missed(cases, core_nodes):
    class Brand:
        RETURN_TYPES = ("MODEL",)

        @classmethod
        def INPUT_TYPES(cls):
            return {"required": {"given": ("MODEL",), "scale": ("FLOAT", {"default": 1.0})}}

    assert list(missing(cases, {**core_nodes, "BrandNewGuidance": Brand})) == ["BrandNewGuidance"]


def test_the_page_has_no_row_that_is_not_run(cases):
    titles = {"node", "conditioning or mask", "guider", "---"}
    measured = rows(PAGE.partition("## Conditionings")[0]).keys() - titles
    assert measured == set(cases.RUN)
    assert rows(PAGE.partition("## Guiders")[2]).keys() - titles == set(cases.GUIDERS)
    assert re.findall(r"- `(.+)`:", PAGE) == list(cases.LEFT_OUT)


def test_no_row_says_no():
    assert "| NO |" not in PAGE


@pytest.mark.slow
def test_a_row_measured_again(comfyui_path):
    command = [sys.executable, "benchmarks/compatibility.py", "--only", "NAG"]
    env = {**os.environ, "COMFYUI_PATH": str(comfyui_path)}
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    now, then = rows(done.stdout)["NAGuidance"], rows(PAGE)["NAGuidance"]
    assert [float(effect) for effect in now[:4]] == pytest.approx([float(effect) for effect in then[:4]], abs=0.02)
    assert now[4:] == then[4:] and "NAGuidance has no effect" in now[-1]
