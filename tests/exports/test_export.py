"""What is exported and what is refused; whole or not at all; images encoded again; the data card."""

import json
import os
import platform
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import yaml
from PIL import Image

from higfa_core.commands import export as export_cli
from higfa_core.exports.base import Options
from higfa_core.exports.collection import read_collection
from higfa_core.exports.export import export
from higfa_core.exports.formats import FORMATS
from higfa_core.plans.plan import Plan
from higfa_core.plans.rules import Rules
from higfa_core.sources.source import ClassInfo, SourceDataset, SourceImage

MARK = "{http://iptc.org/std/Iptc4xmpExt/2008-02-29/}DigitalSourceType"


def manifest(out):
    return [json.loads(line) for line in (out / "manifest.jsonl").open(encoding="utf-8")]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_shards_are_one_dataset_in_any_order(dataset, jobs, make, rows, tmp_path):
    for number in range(2):
        make(tmp_path / "shards" / str(number), jobs[number::2])
    shards = [tmp_path / "shards" / name for name in "10"]
    read = read_collection([*shards, shards[0]])
    assert [item.row["plan_index"] for item in read.items] == [row["plan_index"] for row in rows]
    assert read.classes == ("F-16A/B", "鴉 crow", "001.Gull", "Empty") and read.plan == {}
    assert {name: sum(found.values()) for name, found in read.rejected.items()} == {"F-16A/B": 2}
    first = read.first(per_class=1)
    assert [item.row["plan_index"] for item in first] == [0, 1, 2]
    with pytest.raises(ValueError, match="is not the image that .* has of that job"):
        read_collection([dataset, shards[0]])  # other pixels of the same jobs


def test_without_a_plan_and_without_jobs(tmp_path):
    import torch

    from higfa_core.store.writer import export_images

    for name in ("b", "a"):
        export_images(torch.rand(2, 8, 8, 3), tmp_path, "canvas", name)
    assert read_collection([tmp_path / "canvas"]).classes == ("a", "b")
    for format in set(FORMATS) - {"lists"}:
        export([tmp_path / "canvas"], tmp_path / format, format, Options(contact_sheets=True))
        assert Counter(row["label"] for row in manifest(tmp_path / format)) == {0: 2, 1: 2}
    with pytest.raises(ValueError, match="no source. Mixing lists need"):
        export([tmp_path / "canvas"], tmp_path / "lists", "lists", Options())
    with pytest.raises(ValueError, match="--source"):
        export([tmp_path / "canvas"], tmp_path / "real", "imagefolder", Options(real=True))


def test_other_classes_are_refused(dataset, root, make, tmp_path):
    sources = (SourceImage("c0/0.jpg", "Gull", 0),)
    other = Plan(SourceDataset(root, "by hand", "", (ClassInfo("Gull", "Gull"),), sources))
    make(tmp_path / "gulls", other, classifier=None, rules=Rules())
    with pytest.raises(ValueError, match="has other classes than"):
        read_collection([dataset, tmp_path / "gulls"])


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda file: file.unlink(), "is missing"),
        (lambda file: file.write_bytes(b"short"), "has 5 bytes, its manifest says"),
        (lambda file: file.write_bytes(bytes(file.stat().st_size)), "SHA-256 differs"),
    ],
)
def test_a_damaged_image_stops_the_export(dataset, rows, tmp_path, damage, message):
    damage(dataset / rows[-1]["file"])
    with pytest.raises(ValueError, match=message) as error:
        export([dataset], tmp_path / "here" / "out", "imagefolder", Options())
    assert rows[-1]["file"].split("/")[-1] in str(error.value)
    assert not (tmp_path / "here").exists() or not names(tmp_path / "here")


def test_rejected_images_may_be_gone_and_are_never_exported(dataset, rows, tmp_path):
    shutil.rmtree(dataset / "rejected")
    for format in FORMATS:
        out = tmp_path / format
        export([dataset], out, format, Options(per_class=3))
        wanted = [row["key"] for row in rows if row["label"] == 0]
        assert [row["key"] for row in manifest(out) if row["label"] == 0] == wanted and len(wanted) == 2
        assert len(manifest(out)) == 2 + 3 + 3
        text = b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file())
        assert text.count(b"\x89PNG\r\n") == 8 + 3 * (format == "imagefolder")  # its three masks


def test_a_wrong_label_in_a_manifest_is_refused(dataset):
    lines = (dataset / "manifest.jsonl").read_text("utf-8").splitlines()
    row = json.loads(lines[0])
    lines[0] = json.dumps(row | {"label": row["label"] + 1})
    (dataset / "manifest.jsonl").write_text("\n".join(lines), "utf-8")
    with pytest.raises(ValueError, match="Its dataset.json has no such class"):
        read_collection([dataset])


@pytest.mark.parametrize("what", ["an image", "a class folder", "train"])
def test_links_that_lead_out_of_the_dataset_are_refused(dataset, rows, tmp_path, what):
    path = dataset / rows[0]["file"]
    path = {"an image": path, "a class folder": path.parent, "train": path.parent.parent}[what]
    (tmp_path / "elsewhere").mkdir()
    path.rename(tmp_path / "elsewhere" / path.name)
    path.symlink_to(tmp_path / "elsewhere" / path.name)
    with pytest.raises(ValueError, match="leads outside .*Copy the files into that folder"):
        export([dataset], tmp_path / "out", "imagefolder", Options())
    assert not (tmp_path / "out").exists()


def test_links_inside_a_dataset_are_followed(dataset, tmp_path):
    (dataset / "train").rename(dataset / "kept")
    (dataset / "train").symlink_to(dataset / "kept")
    assert sum(made for made, _ in export([dataset], tmp_path / "out", "imagefolder", Options()).counts.values()) == 10


def test_an_export_is_whole_or_not_there(dataset, tmp_path, monkeypatch):
    out = tmp_path / "x" / "out"
    with monkeypatch.context() as patch:
        patch.setattr("higfa_core.exports.export.write_croissant", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            export([dataset], out, "coco", Options())
    assert names(out.parent) == []
    export([dataset], out, "coco", Options())
    with pytest.raises(ValueError, match="exists"):
        export([dataset], out, "coco", Options())
    export([dataset], out, "imagefolder", Options(), replace=True)
    assert names(out.parent) == ["out"] and not (out / "annotations.json").exists()
    with monkeypatch.context() as patch:
        patch.setattr("higfa_core.exports.export.write_croissant", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            export([dataset], out, "coco", Options(), replace=True)
    assert names(out.parent) == ["out"] and len(manifest(out)) == 10


# An export that dies, as by kill -9, before its N-th rename: of what it replaces, and of what it made.
KILLED = """
import os, sys
from higfa_core.exports import export
left, rename = int(sys.argv[3]), os.rename
def dying(*values):
    global left
    left -= 1
    return os.kill(os.getpid(), 9) if left < 0 else rename(*values)
os.rename = dying
if left < 0:
    export.write_croissant = lambda *_: os.kill(os.getpid(), 9)
export.export([sys.argv[1]], sys.argv[2], "imagefolder", export.Options(), replace=True)
"""


def killed(step, dataset, out):
    command = [sys.executable, "-c", KILLED, str(dataset), str(out), str(step)]
    assert subprocess.run(command, cwd=Path(__file__).parents[2]).returncode == -9


@pytest.mark.parametrize("step", [-1, 0, 1])
def test_a_killed_export_leaves_the_earlier_one_and_the_next_removes_its_rest(dataset, tmp_path, step):
    out = tmp_path / "x" / "out[1]"
    export([dataset], out, "coco", Options())
    alive = out.with_name(f"{out.name}.part-{platform.node()}-{os.getppid()}")
    users = out.with_name(f"{out.name}.part-2")
    alive.mkdir(), users.mkdir()
    killed(step, dataset, out)
    assert (out / "annotations.json").is_file() == (step < 1)  # for a moment it is beside its place
    with pytest.raises(ValueError, match="exists"):
        export([dataset], out, "imagefolder", Options())
    assert names(out.parent) == sorted(["out[1]", alive.name, users.name]) and (out / "annotations.json").is_file()
    killed(step, dataset, out)
    export([dataset], out, "imagefolder", Options(), replace=True)
    assert names(out.parent) == sorted(["out[1]", alive.name, users.name]) and not (out / "annotations.json").exists()


def test_an_export_killed_in_a_container_is_cleared_by_one_with_the_same_number(dataset, tmp_path, monkeypatch):
    out = tmp_path / "x" / "out"
    earlier = out.with_name(f"out.part-{platform.node()}-{os.getpid()}")  # as earlier versions called it
    earlier.mkdir(parents=True)
    killed(-1, dataset, out)
    export([dataset], out, "imagefolder", Options())
    assert names(out.parent) == ["out"]


def test_two_exports_at_once_into_one_new_folder(dataset, tmp_path):
    out, words = tmp_path / "x" / "out", []

    def meanwhile(*_):
        with pytest.raises(ValueError, match="Another export to .* is running") as refused:
            export([dataset], out, "coco", Options())
        words.append(refused)

    export([dataset], out, "imagefolder", Options(), progress=meanwhile)
    assert words and names(out.parent) == ["out"] and not (out / "annotations.json").exists()


@pytest.mark.parametrize("replace", [False, True])
def test_what_appears_at_the_place_meanwhile_is_not_replaced(dataset, tmp_path, replace):
    out = tmp_path / "x" / "out"
    if replace:
        export([dataset], out, "coco", Options())

    def meanwhile(done, _):
        if replace and done == 1:
            shutil.rmtree(out)
        out.mkdir(parents=True, exist_ok=True)
        (out / "thesis.tex").write_text("important")

    with pytest.raises(ValueError, match="was created by another program in the meantime"):
        export([dataset], out, "imagefolder", Options(), replace=replace, progress=meanwhile)
    assert names(out.parent) == ["out"] and (out / "thesis.tex").read_text() == "important"


def test_places_that_are_refused(dataset, root, tmp_path):
    for place in (root / "out", root, dataset / "train" / "new", dataset, tmp_path):
        with pytest.raises(ValueError, match="contains the other"):
            export([dataset], place, "imagefolder", Options(), replace=True)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("important")
    with pytest.raises(ValueError, match="not an earlier export"):
        export([dataset], tmp_path / "mine", "imagefolder", Options(), replace=True)
    assert (tmp_path / "mine" / "thesis.tex").read_text() == "important"


@pytest.mark.parametrize("image_format, suffix", [("png", ".png"), ("jpeg", ".jpg"), ("webp", ".webp")])
def test_reencoded(dataset, root, rows, tmp_path, image_format, suffix):
    out = tmp_path / "out"
    export([dataset], out, "imagefolder", Options(image_format=image_format, real=True))
    by_key = {row["key"]: row for row in rows}
    assert len(manifest(out)) == 16
    for row in manifest(out):
        assert row["file"].endswith(suffix)
        data = (out / row["file"]).read_bytes()
        assert b"prompt" not in data and (b"trainedAlgorithmicMedia" in data) == row["synthetic"]
        with Image.open(out / row["file"]) as image:
            assert image.format == image_format.upper() and image.size == (row["width"], row["height"])
            marks = [ElementTree.fromstring(image.info["xmp"]).find(f".//{MARK}")] if "xmp" in image.info else []
            assert [mark.text.rsplit("/")[-1] for mark in marks] == ["trainedAlgorithmicMedia"] * row["synthetic"]
            if row["synthetic"]:
                with Image.open(dataset / by_key[row["key"]]["file"]) as original:
                    assert "prompt" in original.info and "prompt" not in image.info
                    error = np.abs(np.asarray(image, float) - np.asarray(original, float)).mean()
                assert error == 0 if image_format == "png" else error < 20  # noise is what JPEG is worst at
    export([dataset], tmp_path / "kept", "imagefolder", Options(real=True))
    kept = {
        row["source"]: tmp_path / "kept" / row["file"] for row in manifest(tmp_path / "kept") if not row["synthetic"]
    }
    assert kept["c0/1.jpg"].read_bytes() == (root / "c0/1.jpg").read_bytes()
    assert kept["c0/0.jpg"].suffix == kept["c1/0.jpg"].suffix == ".png"  # cropped, turned
    with Image.open(kept["c1/0.jpg"]) as image:
        assert image.size == (16, 24)


def test_a_webdataset_has_images_of_one_format(dataset, make, jobs, tmp_path):
    make(tmp_path / "made" / "jpeg", jobs, image_format="jpeg")  # as the real ones, but two of them become PNG
    shutil.copy(dataset / "plan.json", tmp_path / "made" / "jpeg")
    for folder in (dataset, tmp_path / "made" / "jpeg"):
        with pytest.raises(ValueError, match=".jpg and .png. Add --image-format"):
            export([folder], tmp_path / "out", "webdataset", Options(real=True))
    export([dataset], tmp_path / "out", "webdataset", Options(real=True, image_format="webp"))
    assert len(manifest(tmp_path / "out")) == 16


def test_real_images_that_moved_or_changed(dataset, root, tmp_path):
    moved = root.rename(tmp_path / "moved")
    with pytest.raises(ValueError, match="--source"):
        export([dataset], tmp_path / "out", "imagefolder", Options(real=True))
    export([dataset], tmp_path / "out", "imagefolder", Options(real=True, source=moved, contact_sheets=True))
    with pytest.raises(ValueError, match="contains the other"):
        export([dataset], moved / "out", "imagefolder", Options(source=moved))


def test_card(dataset, tmp_path):
    plan = json.loads((dataset / "plan.json").read_text("utf-8"))
    plan["left_out"] = [{"reason": ".heic", "count": 2, "example": "a/0.heic", "remedy": "pip install pillow-heif"}]
    (dataset / "plan.json").write_text(json.dumps(plan), "utf-8")
    export([dataset], tmp_path / "out", "imagefolder", Options(licence="CC BY-NC 4.0", contact_sheets=True))
    _, front, text = (tmp_path / "out" / "README.md").read_text("utf-8").split("---\n", 2)
    about = yaml.safe_load(front)
    assert about["license"] == "other" and about["license_name"] == "CC BY-NC 4.0 / OpenRAIL-M"
    assert about["annotations_creators"] == ["machine-generated"] and "synthetic" in about["tags"]
    assert "| 0 | F-16A/B | 2 | 0 | 2 | 2 |" in text and "| 3 | Empty | 0 | 0 | 0 | 0 |" in text
    assert "**Without any synthetic image**: Empty." in text
    assert "| F-16A/B | confidence is below 0.5 | 2 |" in text
    assert "| CheckpointLoaderSimple | sd15.safetensors |" in text and "| ControlNetLoader | canny.pth |" in text
    assert "a photo of a {class}" in text and "- a photo of a 鴉 crow (4)" in text
    assert "- 2 .heic (pip install pillow-heif), such as a/0.heic" in text
    assert '"min_confidence": 0.5' in text and "max_duplicate_bits" not in text and "higfa 0.1.0" in text


def test_contact_sheets(dataset, root, rows, tmp_path):
    export([dataset], tmp_path / "out", "webdataset", Options(contact_sheets=True))
    sheets = tmp_path / "out" / "contact-sheets"
    assert names(sheets) == ["001.Gull-001.jpg", "F-16A%2FB-001.jpg", "鴉 crow-001.jpg"]
    with Image.open(sheets / "001.Gull-001.jpg") as page:
        drawn = np.asarray(page.convert("RGB"), float)
    assert drawn.shape[0] < 1600 and drawn.shape[1] < 1200
    mine = [row for row in rows if row["class_name"] == "001.Gull" and row["source"] == "c2/0.jpg"]
    for number, path in enumerate([root / "c2/0.jpg", *(dataset / row["file"] for row in mine)]):
        with Image.open(path) as image:  # 24 x 16 pixels in a cell of 160: 107 high, in the middle
            wanted = np.asarray(image.convert("RGB").resize((160, 107), Image.Resampling.BICUBIC), float)
        x = 4 + number * 164
        assert np.abs(drawn[30 + 27 : 30 + 27 + 107, x : x + 160] - wanted).mean() < 12
        assert (drawn[190:220, x : x + 160] < 100).any()  # a caption


def test_a_source_with_many_images_fills_rows_and_pages(tmp_path):
    from higfa_core.exports.collection import Item
    from higfa_core.exports.contact_sheet import RESULTS, caption, sheet_rows

    items = [Item({"source": s}, tmp_path) for s in ["b"] * (RESULTS + 1) + ["a"] + ["b"] * RESULTS]
    assert [(source, len(found)) for source, found in sheet_rows(items)] == [("a", 1), ("b", 6), ("b", 6), ("b", 1)]
    assert (
        caption({"scores": {"confidence": 0.91234, "judge_confidence": 0.5}, "seed": 7})
        == "guide 0.912  judge 0.500\n7"
    )


def test_command(dataset, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = [str(dataset), "--out", str(out), "--format", "coco", "--per-class", "1", "--image-format", "jpeg"]
    assert export_cli.main([*arguments, "--contact-sheets", "--checkpoint-license", "mine"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.split() for line in printed[1:5]] == [
        ["F-16A/B", "1", "0"],
        ["鴉", "crow", "1", "0"],
        ["001.Gull", "1", "0"],
        ["Empty", "0", "0"],
    ]
    assert printed[-2] == "no accepted image: Empty" and f"{out} (coco): 3 images of 4 classes" in printed[-1]
    assert "checkpoint: mine" in (out / "README.md").read_text("utf-8")
    for extra, message in (([], "exists"), (["--probability", "2"], "in 0..1"), (["--per-class", "0"], "at least 1")):
        assert export_cli.main([*arguments, *extra]) == 1
        assert message in capsys.readouterr().err
    assert export_cli.main([str(tmp_path), "--out", str(out), "--format", "coco"]) == 1
    assert "No dataset in" in capsys.readouterr().err
