"""What the README tells people to type exists and starts; what it shows is there."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
COMMANDS = sorted(set(re.findall(r"python run\.py (?:exec -- )?[^\n`#]+", README)))


def test_the_two_commands_are_there():
    assert "python run.py demo" in README and "python run.py test" in README


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_start(command):
    words = command.split()[2:]
    if words[0] == "exec":
        program = words[words.index("-m") :][:2] if "-m" in words else [w for w in words if w.endswith(".py")]
    if words[0] == "higfa":
        program = ["-m", "higfa_core.commands.main", words[1]]
    if words[0] in ("exec", "higfa"):
        # The arguments that the README gives must be ones that the program knows.
        shown = subprocess.run(
            [sys.executable, *program, "--help"], capture_output=True, text=True, check=True, cwd=ROOT
        ).stdout
        for option in (w for w in words if w.startswith("--") and w != "--"):
            assert option in shown
    else:
        usage = subprocess.run([sys.executable, ROOT / "run.py", "--help"], capture_output=True, text=True, check=True)
        assert words[0] in usage.stdout


@pytest.mark.parametrize("name", sorted(set(re.findall(r"\]\((?!https?:)([^)#]+)\)", README))))
def test_links_and_pictures_exist(name):
    assert (ROOT / name).exists()


@pytest.mark.parametrize("name", sorted(set(re.findall(r"^\| `(\w+_augment)` ", README, re.M))))
def test_workflows_exist_in_both_formats(name):
    assert (ROOT / "workflows" / f"{name}.json").exists() and (ROOT / "workflows" / "api" / f"{name}.json").exists()


def test_every_node_is_described(pack):
    """Display names of all nodes stand in the README's table, and each has a help page."""
    for node_id, node in pack.nodes.items():
        assert node.define_schema().display_name in README
        assert (ROOT / "web" / "docs" / f"{node_id}.md").exists()
