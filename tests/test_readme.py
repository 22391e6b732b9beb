"""What the README tells people to type exists and starts; what it shows is there."""

import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from higfa_core.plans.templates import TITLES

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
RAW = "https://raw.githubusercontent.com/higfa/ComfyUI-HiGFA/main"
COMMANDS = sorted(set(re.findall(r"python run\.py (?:exec -- )?[^\n`#]+", README)))


def test_the_two_commands_are_there():
    assert "python run.py demo" in README and "python run.py test" in README


@functools.cache
def usage(*program):
    """What a program of ours says to --help; each is started once."""
    return subprocess.check_output([sys.executable, *program, "--help"], text=True, cwd=ROOT)


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_commands_start(command):
    words = command.split()[2:]
    if words[0] not in ("exec", "higfa"):
        assert words[0] in usage("run.py")
        return
    if words[0] == "higfa":
        program = ["-m", "higfa_core.commands.main", words[1]]
    else:
        program = words[words.index("-m") :][:2] if "-m" in words else [w for w in words if w.endswith(".py")]
    # The arguments that the README gives must be ones that the program knows.
    for option in (w for w in words if w.startswith("--") and w != "--"):
        assert option in usage(*program)


@pytest.mark.parametrize("name", sorted(set(re.findall(r"\]\((?!https?:)([^)#]+)\)", README))))
def test_links_and_pictures_exist(name):
    assert (ROOT / name).exists()


def test_every_template_is_described():
    assert dict(re.findall(r"^\| \*(.+)\* `(\w+)` \|", README, re.M)) == {title: name for name, title in TITLES.items()}
    for folder, names in (("workflows", TITLES.values()), ("workflows/api", TITLES)):
        assert {path.stem for path in (ROOT / folder).glob("*.json")} == set(names)


def test_every_node_is_described(pack):
    """Display names of all nodes stand in the README's table, and each has a help page."""
    for node_id, node in pack.nodes.items():
        assert node.define_schema().display_name in README
        assert (ROOT / "web" / "docs" / f"{node_id}.md").exists()


def test_icon_and_banner_are_what_the_registry_asks_for():
    places = re.findall(rf'^(?:Icon|Banner) = "{re.escape(RAW)}/(.+)"$', PYPROJECT, re.M)
    icon, banner = (Image.open(ROOT / place).size for place in places)
    assert icon[0] == icon[1] <= 400 and 9 * banner[0] == 21 * banner[1]
