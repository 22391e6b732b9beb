"""The order of the house: no room looks upward, types are right, and docs/architecture.md is true."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import grimp
import pytest

import run
from higfa_core import __version__

ROOT = Path(__file__).resolve().parent.parent
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text("utf-8")
PACKAGES = ("higfa_core", "nodes")
NAME = "higfa_house"


@pytest.fixture
def house(tmp_path):
    """The modules of the pack as one package, as ComfyUI loads them: `nodes` finds the rooms by relative imports."""
    for package in PACKAGES:
        only_modules = shutil.ignore_patterns("__pycache__", "weights")
        shutil.copytree(ROOT / package, tmp_path / NAME / package, ignore=only_modules)
    (tmp_path / NAME / "__init__.py").touch()
    contracts = (ROOT / "pyproject.toml").read_text("utf-8").partition("[tool.importlinter]")[2]
    contracts = contracts.replace('root_packages = ["higfa_core", "nodes"]', f'root_packages = ["{NAME}"]')
    contracts = re.sub(r"\b(higfa_core\.|nodes\b(?!\]))", rf"{NAME}.\1", contracts)
    (tmp_path / "pyproject.toml").write_text(f"[tool.importlinter]{contracts}", "utf-8")
    return tmp_path


def checked(folder, *command):
    """What a checker says about the code in `folder`; ComfyUI's `nodes` is not to be found there."""
    env = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run([sys.executable, *command], cwd=folder, env=env, capture_output=True, text=True)


def layers(folder):
    program = "from importlinter.cli import lint_imports_command; lint_imports_command()"
    return checked(folder, "-c", program, "--no-cache")


def test_no_room_looks_upward(house):
    found = layers(house)
    assert found.returncode == 0, found.stdout + found.stderr


@pytest.mark.parametrize(
    ("module", "line", "other"),
    [
        ("higfa_core.files.paths", "from ..commands import main", "higfa_core.commands.main"),
        ("nodes.plot", "from ..higfa_core.batch import client", "higfa_core.batch.client"),
    ],
)
def test_a_wrong_import_is_caught(house, module, line, other):
    with (house / NAME / f"{module.replace('.', '/')}.py").open("a", encoding="utf-8") as file:
        file.write(f"\n\ndef late():\n    {line}\n")
    found = layers(house)
    assert found.returncode == 1 and "BROKEN" in found.stdout
    assert f"{NAME}.{module} -> {NAME}.{other}" in " ".join(found.stdout.split())


@pytest.mark.slow
def test_types():
    found = checked(ROOT, "-m", "basedpyright")
    assert found.returncode == 0, found.stdout


def test_the_version_is_the_projects_and_stands_nowhere_else():
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    assert f'\nversion = "{__version__}"\n' in project
    places = [path for package in PACKAGES for path in (ROOT / package).rglob("*.py")]
    assert not [path for path in places if f'"{__version__}"' in path.read_text("utf-8")]


def test_the_commit_hook_formats_as_run_py_does():
    (ruff,) = [tool.partition("==")[2] for tool in run.TOOLS if tool.startswith("ruff")]
    assert f"rev: v{ruff}\n" in (ROOT / ".pre-commit-config.yaml").read_text("utf-8")


def room(module):
    """The room of a module, None for what lies in none."""
    parts = module.split(".")[1:]
    return "nodes" if parts[:1] == ["nodes"] else parts[1] if len(parts) > 1 else None


def test_every_room_and_arrow_of_the_page_is_there(house, monkeypatch):
    monkeypatch.syspath_prepend(house)
    graph = grimp.build_graph(NAME, cache_dir=None)
    arrows = {
        (room(module), room(other))
        for module in graph.modules
        for other in graph.find_modules_directly_imported_by(module)
    }
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\|([^|]*)\|$", ARCHITECTURE, re.MULTILINE)
    assert {name for name, _ in rows} == {room(module) for module in graph.modules} - {None}
    named = {(name, other) for name, others in rows for other in re.findall(r"`(\w+)`", others)}
    assert len(named) > 30 and named <= arrows, named - arrows


def test_every_file_of_the_page_is_there():
    files = re.findall(r"`([a-z_]+/[a-z_/]+\.py)`", ARCHITECTURE)
    lost = [file for file in files if not (ROOT / file).is_file() and not (ROOT / "higfa_core" / file).is_file()]
    assert len(files) > 15 and not lost
