"""The report page, read back with an HTML parser."""

import io
import json
import re
from base64 import b64decode
from html.parser import HTMLParser

import pytest
from PIL import Image, PngImagePlugin

from higfa_core.commands import main as cli
from higfa_core.exports.report import SIDE, Dataset, write_report
from higfa_core.store.manifest import Manifest

from ..batch.fake_comfy import ROW_FIELDS
from .conftest import CLASSES

EVIL = "<script>alert('x')</script> & \"Tern\""


def png(colour=(200, 30, 40), text="", size=(6, 4)):
    info = PngImagePlugin.PngInfo()
    info.add_text("prompt", text)
    buffer = io.BytesIO()
    Image.new("RGB", size, colour).save(buffer, "PNG", pnginfo=info)
    return buffer.getvalue()


class Page(HTMLParser):
    """Tags with their attributes, and the text outside <style>."""

    def __init__(self, path):
        super().__init__()
        self.html = path.read_text("utf-8")
        self.tags, self.words, self.open = [], [], []
        self.feed(self.html)
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

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


def write(folder, *images, content=b"", **more):
    """A dataset as the canvas makes it: no plan. An image is (class, source, accepted, the guide's confidence)."""
    manifest = Manifest(folder)
    for i, (name, source, accepted, confidence) in enumerate(images):
        row = dict.fromkeys(ROW_FIELDS) | {"key": f"{i:064}", "index": 0, "class_name": name, "source": source}
        row |= {"file": f"{'train' if accepted else 'rejected'}/c/{i}.png", "accepted": accepted, "seed": i, "batch": 1}
        row |= {"reason": f"confidence {confidence} is below 0.5", "scores": {"confidence": confidence}, **more}
        manifest.write(row, content or png((i, 0, 0), "secret workflow"))
    return folder


@pytest.fixture
def canvas(tmp_path):
    return write(
        tmp_path / "canvas", ("Gull", "a.png", True, 0.875), ("Gull", "a.png", False, 0.125), ("Tern", "b.png", True, 1)
    )


def page(folder, **options):
    return Page(write_report(Dataset(folder, options.pop("source", None)), **options))


def test_counts_scores_and_reasons_are_shown(canvas):
    found = page(canvas)
    assert not found.open  # every tag was closed
    assert "3 written 2 accepted" in found.text and "planned" not in found.text
    assert "Gull 2 written, 1 accepted; guide 50.0% on average" in found.text
    assert "1 confidence is below 0.5" in found.text
    titles = ["0.png: guide 87.5%; ", "1.png: guide 12.5%; ", "2.png: guide 100.0%; "]
    assert [image["title"].startswith(title) for image, title in zip(found.images(), titles, strict=True)] == [True] * 3
    assert [image.get("class") for image in found.images()] == ["accepted", "rejected", "accepted"]
    assert "flatters its own work" in found.text


def test_real_images_stand_before_those_made_from_them(canvas, tmp_path):
    for name, colour in (("a.png", (0, 99, 0)), ("b.png", (0, 0, 99))):
        (tmp_path / name).write_bytes(png(colour))
    found = page(canvas, source=tmp_path)
    assert [image["title"].partition(":")[0] for image in found.images()] == [
        "a.png",
        "0.png",
        "1.png",
        "b.png",
        "2.png",
    ]
    assert [image["class"] == "real" for image in found.images()] == [True, False, False, True, False]


def test_a_plan_gives_counts_settings_and_the_folder_of_the_real_images(dataset, root):
    plan = json.loads((dataset / "plan.json").read_text("utf-8")) | {"counts": {name: 5 for name in CLASSES}}
    (dataset / "plan.json").write_text(json.dumps(plan), "utf-8")
    found = page(dataset)
    assert "20 planned 12 written 10 accepted" in found.text
    assert str(root) in found.text and "ckpt_name sd15.safetensors" in found.text
    assert 'class="none"' not in found.html and len(found.images()) == 12 + 6
    assert "Empty" in found.text and "0 written" in found.text


def test_a_judge_is_shown_beside_the_guide(tmp_path):
    scores = {"confidence": 0.9, "judge_confidence": 0.4}
    found = page(write(tmp_path / "judged", ("Gull", "", True, 0.9), scores=scores))
    assert "guide 90.0% on average; judge 40.0% on average" in found.text and "the judge is independent" in found.text


def test_every_text_is_escaped(tmp_path):
    folder = tmp_path / "a <b> & c"
    write(folder, (EVIL, EVIL, False, 0.5), reason=EVIL, rules={EVIL: EVIL}, versions={EVIL: EVIL})
    found = page(folder, compare=[Dataset(folder)], higfa=EVIL)
    assert "script" not in {tag for tag, _ in found.tags} and "b" not in found.open
    assert found.text.count(EVIL) >= 7 and EVIL in found.images()[0]["title"]
    assert "<title>a &lt;b&gt; &amp; c</title>" in found.html


def test_the_page_needs_nothing_from_outside_and_shows_no_workflow_of_an_image(canvas):
    found = page(canvas)
    assert not re.search(r"https?:|url\(|@import", found.html)
    assert {tag for tag, _ in found.tags}.isdisjoint({"script", "link", "iframe", "object"})
    assert {key for _, attrs in found.tags for key in attrs}.isdisjoint({"href", "srcset", "data"})
    for i, attrs in enumerate(found.images()):
        kind, _, data = attrs["src"].partition(",")
        image = Image.open(io.BytesIO(b64decode(data)))
        assert kind == "data:image/png;base64" and image.size == (6, 4) and image.getpixel((5, 3)) == (i, 0, 0)
        assert not image.text and b"secret" not in b64decode(data)


def test_it_fits_phones_and_dark_rooms(canvas):
    html = page(canvas).html
    assert 'name="viewport"' in html and "prefers-color-scheme: dark" in html and "max-width: 40rem" in html


def test_large_images_are_made_small_and_only_so_many_are_shown(tmp_path):
    images = [("Gull", "", True, 0.5)] * 5
    found = page(write(tmp_path / "large", *images, content=png(size=(800, 400))), per_class=3)
    assert len(found.images()) == 3 and "and 2 more" in found.text and "5 written" in found.text
    kind, _, data = found.images()[0]["src"].partition(",")
    assert kind == "data:image/jpeg;base64" and Image.open(io.BytesIO(b64decode(data))).size == (SIDE, SIDE // 2)


def test_an_image_that_is_gone_or_damaged_leaves_a_gap(canvas):
    (canvas / "train" / "c" / "0.png").unlink()
    (canvas / "rejected" / "c" / "1.png").write_bytes(b"GIF89a")
    found = page(canvas)
    assert len(found.images()) == 1 and found.html.count('class="none" title="0.png') == 1


def test_datasets_are_compared_job_by_job_on_the_classes_that_all_have(tmp_path):
    one = write(tmp_path / "higfa", ("Auk", "a", True, 0.2), ("Gull", "g", True, 1.0), ("Tern", "t", True, 0.8))
    other = write(tmp_path / "text_only", ("Auk", "x", True, 0.0), ("Gull", "g", True, 0.5), ("Tern", "t", False, 0.1))
    found = page(one, compare=[Dataset(other)])
    assert "text only 30%, this dataset 90%." in found.text
    assert found.html.count("<figure>") == 2 * 3 and "text only guide 50.0%" in found.text
    assert "none real" in found.text  # no plan tells where the real images are


# --- the command line


def test_report_of_any_dataset_and_where_it_goes(canvas, tmp_path, capsys):
    assert cli.main(["report", str(canvas)]) == 0
    assert capsys.readouterr().out.strip() == f"Report: {canvas / 'report.html'}  written 3, accepted 2"
    out = tmp_path / "elsewhere" / "page.html"
    assert cli.main(["report", str(canvas), "--out", str(out), "--compare", str(canvas), "--per-class", "1"]) == 0
    assert "side by side" in Page(out).text


def test_a_folder_without_images_is_refused(tmp_path, capsys):
    assert cli.main(["report", str(tmp_path)]) == 1
    assert f"No images in {tmp_path}. Give a folder that" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_status_counts_each_class(tmp_path, capsys):
    write(tmp_path, ("Gull", "", True, 1), ("Gull", "", False, 0), ("Tern", "", True, 1))
    (tmp_path / "train" / "c" / "2.png").unlink()
    assert cli.main(["status", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert [line.split() for line in out.splitlines()[:4]] == [
        ["class", "written", "accepted"],
        ["Gull", "2", "1"],
        ["Tern", "1", "1"],
        ["total", "3", "2"],
    ]
    assert "missing: 1 file, such as train/c/2.png" in out


def test_status_of_a_folder_without_a_manifest_says_so(tmp_path, capsys):
    assert cli.main(["status", str(tmp_path)]) == 1
    assert f"No plan.json or manifest.jsonl in {tmp_path}. Give" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [[], ["no-such-command"], ["status"], ["report"], ["demo", "--check"]])
def test_incomplete_commands_are_refused(arguments):
    with pytest.raises(SystemExit) as stop:
        cli.main(arguments)
    assert stop.value.code == 2


def test_help_of_a_command_is_its_own(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["demo", "--help"])
    assert stop.value.code == 0
    assert "usage: higfa demo" in capsys.readouterr().out
