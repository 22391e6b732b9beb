"""Class names and prompts that are HTML, Markdown or formulas: shown as they are, on one line."""

import csv
from html.parser import HTMLParser

import pytest
import torch
from PIL import Image

from higfa_core.exports.base import Options
from higfa_core.exports.export import export
from higfa_core.exports.markdown import inline
from higfa_core.plans.plan import Plan
from higfa_core.plans.plan_file import write_plan
from higfa_core.sources.source import ClassInfo, SourceDataset, SourceImage
from higfa_core.store.writer import export_images

markdown_it = pytest.importorskip("markdown_it", reason="markdown-it-py, which comes with rich, renders Markdown")

HOSTILE = (
    "<script>alert(1)</script>",
    "a|b | c",
    '=HYPERLINK("http://evil","x")',
    "@SUM(1+1)",
    "![x](http://evil/pixel.png)",
    "[x](javascript:alert(1))",
    "two\nlines",
    "`code` **bold** _it_ ~~gone~~",
    "https://evil.example/x www.evil.example",
    "- a list",
    "1. a list",
    "# a title",
    "&lt;b&gt;",
    "back\\slash",
    "\u202eright to left",
    "001.Black_footed_Albatross",
)


class Tags(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.text = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text.append(data)


def rendered(markdown):
    """Tags and text as a reader of Markdown with HTML, tables and links shows them."""
    parser = Tags()
    parser.feed(
        markdown_it.MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"]).render(markdown)
    )
    return parser.tags, "".join(parser.text)


@pytest.mark.parametrize("text", HOSTILE)
def test_a_reader_sees_the_very_text_and_no_markup(text):
    tags, shown = rendered(f"Prompt: {inline(text)}\n\n- {inline(text)}\n\n| a |\n|---|\n| {inline(text)} |\n")
    plain = text.replace("\n", " ").replace("\u202e", "").strip()
    assert {tag for tag, _ in tags} == {"p", "ul", "li", "table", "thead", "tbody", "tr", "th", "td"}
    assert shown.count(plain) == 3


def test_an_ordinary_name_stays_readable():
    assert inline("001.Black_footed_Albatross") == "001.Black_footed_Albatross"
    assert inline("F-16A/B (2012), 100%") == "F-16A/B (2012), 100%"


@pytest.fixture
def dataset(tmp_path):
    names = [name for name in HOSTILE if "\u202e" not in name]
    (tmp_path / "real").mkdir()
    images = []
    for label, name in enumerate(names):
        Image.new("RGB", (8, 8), (label * 9, 1, 2)).save(tmp_path / "real" / f"{label}.png")
        images.append(SourceImage(f"{label}.png", name, label))
    classes = tuple(ClassInfo(name, name) for name in names)
    plan = Plan(SourceDataset(tmp_path / "real", "by hand", "a <b>test</b>", classes, tuple(images)), 1)
    about = {"workflow": {}, "workflow_digest": "", "dataset_name": "set", "options": {}}
    write_plan(tmp_path / "set", plan, **about)
    for job in plan:
        export_images(torch.rand(1, 16, 16, 3), tmp_path, "set", job=job)
    return tmp_path / "set", names


def test_the_card_of_a_dataset_of_such_classes(dataset, tmp_path):
    folder, names = dataset
    export([folder], tmp_path / "out", "imagefolder", Options(licence="<img src=x onerror=alert(1)>"))
    tags, shown = rendered((tmp_path / "out" / "README.md").read_text("utf-8").partition("\n---\n")[2])
    allowed = {"p", "h1", "h2", "ul", "li", "table", "thead", "tbody", "tr", "th", "td", "pre", "code", "a", "strong"}
    assert {tag for tag, _ in tags} <= allowed
    assert {attrs["href"] for tag, attrs in tags if tag == "a"} == {"https://arxiv.org/abs/2511.12547"}
    assert "a <b>test</b>" in shown and all(name.replace("\n", " ") in shown for name in names)


def test_lists_for_trainers_keep_names_and_the_card_warns(dataset, tmp_path):
    folder, names = dataset
    export([folder], tmp_path / "out", "lists", Options())
    with open(tmp_path / "out" / "meta.csv", encoding="utf-8", newline="") as file:
        listed = {row["First Directory"] for row in csv.DictReader(file)}
    assert "@SUM(1+1)" in listed and len(listed) == len(names)
    assert any(name.startswith("=HYPERLINK(") for name in listed)
    assert "Do not open `meta.csv` in a spreadsheet" in (tmp_path / "out" / "README.md").read_text("utf-8")
