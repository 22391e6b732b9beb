"""Labels and images as each library reads them by the code of the data card, whatever the classes are called.

Keras, fastai, Ultralytics and FiftyOne are too heavy for this environment: `benchmarks/readers.py` runs them in their
own. Here is what their code rests on: which folders there are, and what the side files say about them.
"""

import importlib.util
import json
import os
from pathlib import Path

import pytest
from PIL import Image

from higfa_core.commands import export as export_cli
from higfa_core.exports.base import Options
from higfa_core.exports.export import export
from higfa_core.files.paths import class_of_folder
from higfa_core.sources.source import SourceImage

spec = importlib.util.spec_from_file_location("readers", Path(__file__).parents[2] / "benchmarks" / "readers.py")
readers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(readers)
HERE = [reader for reader in readers.READERS if reader[0] not in readers.INSTALLED]
ELSEWHERE = [reader for reader in readers.READERS if reader[0] in readers.INSTALLED]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A dataset of classes with names that are traps, and its exports."""
    folder = tmp_path_factory.mktemp("readers")
    readers.make_dataset(folder / "made")
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """`datasets` keeps what it reads here; the working folder is as before after each test."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("cache")))
    monkeypatch.chdir(os.getcwd())


def read(reader, out):
    return readers.seen("/".join(reader), out)[1:]


@pytest.mark.parametrize("reader", HERE, ids="/".join)
def test_every_reader_sees_all_images_with_the_datasets_labels(folder, reader):
    found = read(reader, readers.export_as(reader[1], folder))
    assert len(found) == 32 and readers.errors(found) == (0, 0)


def test_the_names_are_traps(folder):
    from timm.data import create_dataset
    from torchvision.datasets import ImageFolder

    out = readers.export_as("imagefolder", folder)
    for train in (ImageFolder(out / "train"), create_dataset("", str(out), split="train")):
        found = [(*pixel, label) for pixel, label in readers.samples({"train": train})]
        wrong, lost = readers.errors(found)
        assert wrong >= 20 and lost == 0


@pytest.mark.parametrize("reader", ELSEWHERE, ids="/".join)
def test_the_other_cards_are_code_and_their_side_files_name_every_folder_in_label_order(folder, reader):
    out = readers.export_as(reader[1], folder)
    compile(readers.card_code(out)[reader[0]], "card", "exec")
    labels = json.loads((out / "class_to_idx.json").read_text("utf-8"))
    assert list(labels.values()) == list(range(len(readers.CLASSES)))
    assert (out / "class_map.txt").read_text("utf-8").splitlines() == list(labels)
    names = [class_of_folder(name) for name in labels]
    assert names == [name.replace("e\u0301", "é") for name in readers.CLASSES]  # as the folders are, composed
    folders = sorted(path.name for path in (out / "train").iterdir())
    assert set(folders) == set(labels) - {"Absent"}  # Keras and FiftyOne take every folder for a class
    for name in folders:
        for path in (out / "train" / name).iterdir():
            with Image.open(path) as image:
                assert readers.pixel(image)[0] == labels[name]


@pytest.mark.parametrize(
    "form, reader", [("imagefolder", "datasets"), ("huggingface", "timm"), ("webdataset", "datasets")]
)
def test_a_second_export_to_the_same_place_is_what_readers_see(folder, tmp_path, form, reader):
    out = tmp_path / "out"
    export([folder / "made"], out, form, Options(per_class=1))
    assert len(read((reader, form), out)) == 8
    export([folder / "made"], out, form, Options(), replace=True)
    found = read((reader, form), out)
    assert len(found) == 32 and readers.errors(found) == (0, 0)


@pytest.fixture
def held_out(folder):
    """Two real images that no plan knows."""
    for number in range(2):
        readers.write_png(folder / "real" / f"held-{number}.png", number, 77)
    return tuple(SourceImage(f"held-{n}.png", readers.CLASSES[n], n) for n in range(2))


def test_a_validation_split_has_real_images_only(folder, held_out, tmp_path):
    import json

    from datasets import load_dataset
    from pycocotools.coco import COCO
    from timm.data import create_dataset

    for form in ("imagefolder", "huggingface", "webdataset", "coco"):
        export([folder / "made"], tmp_path / form, form, Options(source=folder / "real", validation=held_out))
        lines = [json.loads(line) for line in (tmp_path / form / "manifest.jsonl").open(encoding="utf-8")]
        assert [line["synthetic"] for line in lines if line.get("split") == "validation"] == [False, False]
        assert len(lines) == 34 and "has 2 more real images" in (tmp_path / form / "README.md").read_text("utf-8")
    wanted = [(0, 77, 0), (1, 77, 1)]
    place = {form: str(tmp_path / form) for form in ("imagefolder", "huggingface", "webdataset")}
    timm = [
        create_dataset("", place["imagefolder"], split="validation", class_map=f"{place['imagefolder']}/class_map.txt"),
        create_dataset(f"hfds/{place['huggingface']}", split="validation"),
        create_dataset("wds/", place["webdataset"], split="validation"),
    ]
    for split in timm:
        assert sorted((*pixel, label) for pixel, label in readers.samples({"train": split})) == wanted
    for form, (image, label) in {"imagefolder": ("image", "label"), "webdataset": ("png", "cls")}.items():
        split = load_dataset(place[form], split="validation")
        assert sorted((*readers.pixel(row[image]), row[label]) for row in split) == wanted
        assert len(load_dataset(place[form], split="train")) == 32
    coco = COCO(tmp_path / "coco" / "annotations_val.json")
    assert sorted(note["category_id"] for note in coco.loadAnns(coco.getAnnIds())) == [0, 1]
    Image.new("RGB", (16, 16)).save(folder / "real" / "held.jpg")
    other = (SourceImage("held.jpg", readers.CLASSES[0], 0),)
    with pytest.raises(ValueError, match=".jpg and .png. Add --image-format"):
        export([folder / "made"], tmp_path / "w", "webdataset", Options(source=folder / "real", validation=other))
    with pytest.raises(ValueError, match="Lists have no validation split"):
        export([folder / "made"], tmp_path / "l", "lists", Options(source=folder / "real", validation=held_out))


def plan_of(birds, tmp_path, workflow):
    from higfa_core.commands import plan as plan_cli

    assert plan_cli.main([str(tmp_path / "made"), "--workflow", str(workflow), "--source", str(birds)]) == 0


def test_with_val_takes_what_is_held_out_and_nothing_that_was_a_source(tmp_path, make, capsys):
    from higfa_core.plans.plan import Plan
    from higfa_core.plans.rules import Rules
    from higfa_core.sources.layouts import read_dataset

    birds = tmp_path / "birds"
    for label, name in enumerate(("auk", "tern")):
        for number in range(4):
            (birds / "train" / name).mkdir(parents=True, exist_ok=True)
            readers.write_png(birds / "train" / name / f"{number}.png", label, number)
    (birds / "held_out.txt").write_text("train/auk/3.png\ntrain/tern/3.png\n")
    workflow = Path(__file__).parents[2] / "workflows" / "api" / "miniature_augment.json"
    plan_of(birds, tmp_path, workflow)
    make(tmp_path / "made", Plan(read_dataset(birds)), classifier=None, rules=Rules())
    arguments = [str(tmp_path / "made"), "--format", "imagefolder", "--all-images", "--with-val", "--out"]
    assert export_cli.main([*arguments, str(tmp_path / "out")]) == 0
    assert "validation split: 2 real images" in capsys.readouterr().out
    assert sorted(path.parent.name for path in (tmp_path / "out" / "val").rglob("*.png")) == ["auk", "tern"]
    (birds / "held_out.txt").write_text("train/auk/0.png\n")
    assert export_cli.main([*arguments, str(tmp_path / "other")]) == 1
    assert "Sources of the plan are held out for validation: 1 image, such as train/auk/" in capsys.readouterr().err
    (birds / "held_out.txt").unlink()
    assert export_cli.main([*arguments, str(tmp_path / "other")]) == 1
    assert "no val folder and no held_out.txt" in capsys.readouterr().err
