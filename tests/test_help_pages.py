"""The help pages say what the nodes have."""

import re

import pytest
from PIL import Image

from .conftest import ROOT
from .help_tables import LIST, PAGES, updated


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_lists_are_those_of_the_declared_settings(page):
    text = page.read_text("utf-8")
    assert updated(text) == text, "run `python run.py exec -- python -m tests.help_tables` and commit what it wrote"


def test_a_changed_list_is_seen():
    page = next(text for page in PAGES if LIST.search(text := page.read_text("utf-8")))
    line = LIST.search(page).group().splitlines()[2]
    assert line.startswith("- **") and updated(page.replace(line, line + "!")) == page


def test_pages_name_every_input(pack):
    for node_id, node in pack.nodes.items():
        (text,) = (page.read_text("utf-8") for page in PAGES if page.stem == node_id)
        lacking = [item.id for item in node.GET_SCHEMA().inputs if not re.search(rf"\b{item.id}\b", text)]
        assert not lacking, f"web/docs/{node_id}.md does not name {lacking}"


LINK = re.compile(r"(!?)\[[^\]]*\]\(([^)\s]+)\)")
OURS = "https://github.com/higfa/ComfyUI-HiGFA/blob/main/"
PICTURES = ROOT / "web" / "docs" / "pictures"
SMALL, SMALL_TOGETHER = 100_000, 400_000  # bytes


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page):
    """The page completes addresses of pictures only: any other link must be whole."""
    for picture, target in LINK.findall(page.read_text("utf-8")):
        if picture:
            assert (page.parent / target).is_file(), target
        else:
            assert target.startswith("https://"), target
            assert not target.startswith(OURS) or (ROOT / target.removeprefix(OURS).split("#")[0]).is_file(), target


def test_pictures_are_shown_small_and_whole():
    shown = {target for page in PAGES for picture, target in LINK.findall(page.read_text("utf-8")) if picture}
    files = sorted(PICTURES.iterdir())
    assert {f"pictures/{file.name}" for file in files} == shown
    assert all(file.stat().st_size < SMALL for file in files)
    assert sum(file.stat().st_size for file in files) < SMALL_TOGETHER
    for file in files:
        with Image.open(file) as image:
            image.load()
