"""The order of the house: no room looks upward, types are right, and docs/architecture.md is true."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("higfa_core", "nodes")


def checked(folder, *command):
    """What a checker says about the code in `folder`; ComfyUI's `nodes` is not to be found there."""
    env = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run([*command], cwd=folder, env=env, capture_output=True, text=True)


def layers(folder):
    return checked(
        folder, sys.executable, "-c", "import importlinter.cli; importlinter.cli.lint_imports_command()", "--no-cache"
    )


@pytest.fixture
def copy(tmp_path):
    """The modules of the pack and its settings, to be spoiled."""
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for package in PACKAGES:
        only_modules = shutil.ignore_patterns("__pycache__", "weights")
        shutil.copytree(ROOT / package, tmp_path / package, ignore=only_modules)
    return tmp_path


def test_no_room_looks_upward():
    found = layers(ROOT)
    assert found.returncode == 0, found.stdout + found.stderr


def test_an_upward_import_is_caught(copy):
    with (copy / "higfa_core" / "files" / "paths.py").open("a", encoding="utf-8") as file:
        file.write("\n\ndef late():\n    from ..commands import main\n\n    return main\n")
    found = layers(copy)
    assert found.returncode == 1 and "Rooms: nobody looks upward BROKEN" in found.stdout
    assert "higfa_core.files.paths -> higfa_core.commands.main" in found.stdout


@pytest.mark.slow
def test_types():
    found = checked(ROOT, sys.executable, "-m", "basedpyright")
    assert found.returncode == 0, found.stdout
