"""The report page, read back with an HTML parser."""

import io
import re
from base64 import b64decode
from html.parser import HTMLParser

import pytest
from PIL import Image, PngImagePlugin

from higfa_core.commands import main as cli
from higfa_core.exports.report import Counts, Picture, mean_confidence, plain_png, render_report

EVIL = "<script>alert('x')</script> & \"Tern\""


def png(colour=(200, 30, 40), text=None, size=(6, 4)):
    info = PngImagePlugin.PngInfo()
    if text:
        info.add_text("prompt", text)
        info.add_itxt("workflow", text)
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


class Page(HTMLParser):
    """Tags with their attributes, and the text outside <style>."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.words, self.open = [], [], []
        self.feed(html)
        self.text = " ".join(self.words)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.words.append(data.strip())

    def images(self):
        return [attrs for tag, attrs in self.tags if tag == "img"]


def page(**changes):
    arguments = {
        "title": "Title",
        "counts": Counts(planned=12, written=9, accepted=7),
        "comparison": {"Gull": [Picture("source", png()), Picture("text only", png((1, 2, 3)), 0.25)]},
        "sheet": {"Gull": [Picture("a.png", png(), 0.875), Picture("b.png", png(), 0.125, accepted=False)]},
        "settings": {"HiGFA KSampler": {"steps": 25, "require_top1": False, "text": ""}},
        "judge_note": "The guide judges itself.",
        "next_steps": [("Serve:", "python run.py serve")],
    }
    return render_report(**{**arguments, **changes})


def test_counts_and_confidences_are_shown():
    found = Page(page())
    assert not found.open  # every tag was closed
    text = found.text
    assert re.search(r"12\s+planned\s+9\s+written\s+7\s+accepted", text)
    assert "1 of 2 accepted" in text and "25.0%" in text
    assert [a["title"] for a in found.images()][2:] == ["a.png: 87.5%", "b.png: 12.5%, rejected"]
    assert [a.get("class") for a in found.images()] == [None, None, None, "rejected"]


def test_settings_and_next_steps_are_shown():
    text = Page(page()).text
    for words in ("steps 25", "require_top1 no", "text (empty)", "The guide judges itself.", "python run.py serve"):
        assert words in text


def test_every_text_is_escaped():
    picture = Picture(EVIL, png(), 0.5)
    found = Page(
        page(
            title=EVIL,
            comparison={EVIL: [picture]},
            sheet={EVIL: [picture]},
            settings={EVIL: {EVIL: EVIL}},
            judge_note=EVIL,
            next_steps=[(EVIL, EVIL)],
        )
    )
    assert "script" not in {tag for tag, _ in found.tags}
    assert found.text.count(EVIL) >= 9
    assert found.images()[0]["alt"] == EVIL and found.images()[1]["title"] == f"{EVIL}: 50.0%"


def test_page_needs_nothing_from_outside():
    html = page()
    found = Page(html)
    assert not re.search(r"https?:|url\(|@import", html)
    assert {tag for tag, _ in found.tags}.isdisjoint({"script", "link", "iframe", "object"})
    for attrs in found.images():
        kind, _, data = attrs["src"].partition(",")
        assert kind == "data:image/png;base64"
        assert Image.open(io.BytesIO(b64decode(data))).size == (6, 4)
    assert {key for _, attrs in found.tags for key in attrs}.isdisjoint({"href", "srcset", "data"})


def test_page_fits_phones_and_dark_rooms():
    html = page()
    assert 'name="viewport"' in html and "prefers-color-scheme: dark" in html and "max-width: 40rem" in html
    assert "image-rendering: pixelated" in html


def test_picture_that_is_missing_leaves_a_gap():
    found = Page(page(comparison={"Gull": [Picture("HiGFA", None)]}, sheet={}))
    assert found.images() == [] and "none HiGFA" in found.text


def test_mean_confidence_compares_the_same_classes():
    rows = {
        "Gull": [Picture("source", None), Picture("text", None, 0.2), Picture("HiGFA", None, 0.8)],
        "Tern": [Picture("source", None), Picture("text", None, 0.4), Picture("HiGFA", None, 1.0)],
        "Auk": [Picture("text", None, 0.9), Picture("HiGFA", None)],
    }
    assert mean_confidence(rows) == pytest.approx({"text": 0.3, "HiGFA": 0.9})
    assert mean_confidence({}) == {}
    assert "text 30%, HiGFA 90%" in page(comparison=rows)


def test_plain_png_keeps_the_pixels_and_drops_the_text():
    plain = plain_png(png(text="secret workflow" * 50))
    opened = Image.open(io.BytesIO(plain))
    assert opened.text == {} and b"secret" not in plain
    assert opened.convert("RGB").getpixel((5, 3)) == (200, 30, 40)
    assert plain_png(plain) == plain
    with pytest.raises(ValueError, match="Not a PNG"):
        plain_png(b"GIF89a")


# --- the command line


def test_status_counts_each_class(tmp_path, capsys):
    from higfa_core.store.manifest import Manifest
    from higfa_core.store.rows import ROW_FIELDS

    manifest = Manifest(tmp_path)
    for i, (name, accepted) in enumerate([("Gull", True), ("Gull", False), ("Tern", True)]):
        row = dict.fromkeys(ROW_FIELDS) | {"key": f"{i:064}", "index": 0, "file": f"train/{name}/{i}.png"}
        manifest.write({**row, "class_name": name, "accepted": accepted, "reason": ""}, b"image")
    (tmp_path / "train" / "Tern" / "2.png").unlink()
    assert cli.main(["status", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert [line.split() for line in out.splitlines()[:4]] == [
        ["class", "written", "accepted"],
        ["Gull", "2", "1"],
        ["Tern", "1", "1"],
        ["total", "3", "2"],
    ]
    assert "1 of these files are missing, the first is train/Tern/2.png" in out


def test_status_of_a_folder_without_a_manifest_says_so(tmp_path, capsys):
    assert cli.main(["status", str(tmp_path)]) == 1
    assert f"No manifest.jsonl in {tmp_path}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [[], ["no-such-command"], ["status"], ["demo", "--check"]])
def test_incomplete_commands_are_refused(arguments):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2


def test_help_of_a_command_is_its_own(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["demo", "--help"])
    assert stop.value.code == 0
    assert "usage: higfa demo" in capsys.readouterr().out
