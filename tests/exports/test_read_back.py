"""Each format as the library that users would use reads it."""

import json
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from higfa_core.exports.base import Options
from higfa_core.exports.export import export

CLASSES = ("F-16A/B", "鴉 crow", "001.Gull", "Empty")
COUNTS = {0: 2, 1: 4, 2: 4}  # half of class 0 was rejected, class 3 has no image


@pytest.fixture
def run(dataset, tmp_path):
    """Exports the dataset into a folder and returns that."""

    def run(format, **options):
        export([dataset], tmp_path / format, format, Options(**options))
        return tmp_path / format

    return run


def manifest(out):
    return [json.loads(line) for line in (out / "manifest.jsonl").open(encoding="utf-8")]


def pixels(path):
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_torchvision(run, rows, dataset):
    from torchvision.datasets import ImageFolder

    out = run("imagefolder")
    read = ImageFolder(out / "train")
    labels = json.loads((out / "class_to_idx.json").read_text("utf-8"))
    assert labels == {"F-16A%2FB": 0, "鴉 crow": 1, "001.Gull": 2, "Empty": 3}
    read.target_transform = lambda index: labels[read.classes[index]]  # as the card says
    assert Counter(label for _, label in read) == COUNTS
    by_hash = {row["sha256"]: (dataset / row["file"], row["label"]) for row in rows}
    written = {str(out / row["file"]): row for row in manifest(out)}
    for path, index in read.samples:
        original, label = by_hash[written[path]["sha256"]]
        assert original.read_bytes() == open(path, "rb").read()
        assert label == labels[read.classes[index]] == written[path]["label"]
    assert [row["plan_index"] for row in manifest(out)] == [row["plan_index"] for row in rows]
    masks = [row["mask"] for row in manifest(out) if row["mask"]]
    assert len(masks) == 4 and all((pixels(out / mask)[2:10, 5:17] == 255).all() for mask in masks)


def test_hugging_face(run, rows, dataset, tmp_path):
    from datasets import ClassLabel, load_dataset

    out = run("huggingface", contact_sheets=True, real=True)
    read = load_dataset(str(out), split="train", cache_dir=str(tmp_path / "cache"))
    assert read.features["label"] == ClassLabel(names=list(CLASSES))
    made = [row for row in read if row["synthetic"]]
    assert Counter(row["label"] for row in made) == COUNTS and len(read) == len(made) + 6
    assert Counter(row["label"] for row in read if not row["synthetic"]) == {0: 2, 1: 2, 2: 2}
    for row, wanted in zip(made, rows):
        assert row["class_name"] == wanted["class_name"] == CLASSES[row["label"]]
        assert (row["key"], row["seed"], row["prompt"]) == (wanted["key"], wanted["seed"], wanted["prompt"])
        assert row["source_path"] == wanted["source"] and row["confidence"] == wanted["scores"]["confidence"]
        assert row["box"] == wanted["box"] and row["judge_confidence"] is None
        assert (np.asarray(row["image"]) == pixels(dataset / wanted["file"])).all()
    plain = load_dataset("imagefolder", data_dir=str(out / "data"), split="train", cache_dir=str(tmp_path / "other"))
    assert plain["label"] == read["label"]  # also where nobody reads the README


def test_webdataset(run, rows, dataset, tmp_path):
    import webdataset
    from datasets import ClassLabel, load_dataset

    out = run("webdataset", shard_size=4, name="my planes 1.0")
    shards = [path.name for path in sorted(out.glob("*.tar"))]
    assert shards == [f"my-planes-1-0-00000{i}.tar" for i in range(3)]
    about = json.loads((out / "shards.json").read_text("utf-8"))
    assert [shard["count"] for shard in about["shards"]] == [4, 4, 2] and about["classes"] == list(CLASSES)
    urls = [str(out / name) for name in shards]
    read = list(
        webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8").to_tuple("__key__", "png", "cls", "json")
    )
    assert [(key[:16], label, about["seed"]) for key, _, label, about in read] == [
        (row["key"][:16], row["label"], row["seed"]) for row in rows
    ]
    for (_, image, _, _), row in zip(read, rows):
        assert (image == pixels(dataset / row["file"])).all()
    loaded = load_dataset(str(out), split="train", cache_dir=str(tmp_path / "cache"))
    assert loaded.features["cls"] == ClassLabel(names=list(CLASSES)) and Counter(loaded["cls"]) == COUNTS
    again = tmp_path / "again"
    export([dataset], again, "webdataset", Options(shard_size=4, name="my planes 1.0"))
    assert [(again / name).read_bytes() for name in shards] == [(out / name).read_bytes() for name in shards]


def test_coco(run, rows):
    from pycocotools.coco import COCO

    out = run("coco", real=True)
    read = COCO(out / "annotations.json")
    kinds = {c["id"]: (c["name"], c["supercategory"]) for c in read.loadCats(read.getCatIds())}
    assert kinds == {0: (CLASSES[0], ""), 1: (CLASSES[1], "bird"), 2: (CLASSES[2], "bird"), 3: (CLASSES[3], "bird")}
    images = {image["id"]: image for image in read.loadImgs(read.getImgIds())}
    (by_image,) = [{a["image_id"]: a for a in read.loadAnns(read.getAnnIds())}]
    assert Counter(by_image[i]["category_id"] for i in images if images[i]["synthetic"]) == COUNTS
    masks = 0
    for number, image in images.items():
        found = by_image[number]
        assert pixels(out / "images" / image["file_name"]).shape == (image["height"], image["width"], 3)
        if image["synthetic"] and found["category_id"] == 2:
            wanted = np.zeros((16, 24), np.uint8)
            wanted[2:10, 5:17] = 1
            assert (read.annToMask(found) == wanted).all()
            assert found["bbox"] == [5, 2, 12, 8] and found["area"] == 96
            masks += 1
        elif image["synthetic"]:
            assert "bbox" not in found and "segmentation" not in found
    assert masks == 4
    real = {image["source"]: (image, by_image[number]) for number, image in images.items() if not image["synthetic"]}
    image, found = real["c0/0.jpg"]
    assert (image["height"], found["bbox"], found["area"]) == (12, [2, 3, 10, 8], 80)  # without its banner
    image, found = real["c2/1.jpg"]
    assert found["area"] == 24 and read.annToMask(found)[4:8, 3:9].all()
    assert real["c1/0.jpg"][0]["height"] == 24  # upright


@pytest.mark.parametrize("shape", [(1, 1), (5, 3), (2, 7)])
def test_run_lengths_are_those_of_pycocotools(shape):
    from pycocotools import mask as masks

    from higfa_core.exports.formats.coco import run_lengths

    for seed in range(20):
        wanted = np.random.default_rng(seed).random(shape) < 0.5
        rle = masks.frPyObjects(run_lengths(wanted), *shape)
        assert (masks.decode(rle).astype(bool) == wanted).all()
        assert rle == masks.encode(np.asfortranarray(wanted.astype(np.uint8)))


def test_boxes_are_cut_at_the_frame():
    from higfa_core.exports.formats.coco import annotated

    row = {"width": 24, "height": 16, "box": [-2.0, 3.5, 10.0, 20.0]}
    assert annotated(row, None) == {"bbox": [0, 3.5, 8, 12.5], "area": 100}
    assert annotated(row | {"box": [30, 0, 5, 5]}, None) == annotated(row | {"box": None}, None) == {}
    mask = np.zeros((16, 24), bool)
    assert annotated(row | {"box": None}, mask) == {}
    mask[2:5, 7] = True
    found = annotated(row | {"box": None}, mask)
    assert found["bbox"] == [7, 2, 1, 3] and found["area"] == 3


@pytest.mark.parametrize("format", ["imagefolder", "huggingface", "webdataset", "coco", "lists"])
def test_croissant(run, format, rows):
    import mlcroissant

    out = run(format, shard_size=4)
    read = mlcroissant.Dataset(jsonld=str(out / "croissant.json"))
    assert not read.metadata.issues.errors and not read.metadata.issues.warnings
    records = list(read.records("images"))
    assert [record["images/label"] for record in records] == [row["label"] for row in rows]
    assert [record["images/sha256"].decode() for record in records] == [row["sha256"] for row in rows]
    assert {r["classes/name"]: r["classes/label"] for r in read.records("classes")} == {
        name: label for label, name in enumerate(CLASSES)
    }
    text = json.loads((out / "croissant.json").read_text("utf-8"))
    assert "planes" in text["prov:wasDerivedFrom"]["prov:label"]
    assert "sd15.safetensors" in text["prov:wasGeneratedBy"]["prov:label"]
    assert any("research only" in licence for licence in text["license"])
    files = {d["@id"]: d["sha256"] for d in text["distribution"] if d["@type"] == "cr:FileObject"}
    assert {"manifest.jsonl", "README.md"} <= files.keys() and (format != "webdataset" or len(shards(files)) == 3)


def shards(files):
    return [name for name in files if name.endswith(".tar")]
