"""Lists that lie, files that are not there, and what is asked wrongly."""

import os
import shutil
from pathlib import Path

import pytest

from higfa_core.sources.layouts import describe, read_dataset
from higfa_core.sources.source import load_source

from .miniatures import BUILDERS, draw, write


def listed(dataset):
    return [(image.path, image.class_name) for image in dataset.images]


@pytest.mark.parametrize("name", ["cub", "aircraft", "pets", "dtd", "table"])
def test_windows_line_ends_blank_lines_and_a_byte_order_mark(name, miniature_layout, tmp_path):
    root = miniature_layout(name, tmp_path)
    before = listed(read_dataset(root))
    for file in [*root.rglob("*.txt"), *root.rglob("*.csv")]:
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\r\n", b"\n").replace(b"\n", b"\r\n") + b"\r\n")
    assert listed(read_dataset(root)) == before


@pytest.mark.parametrize("name", [name for name in BUILDERS if "folder" not in name and name != "inaturalist"])
def test_a_listed_file_that_is_missing_is_named(name, miniature_layout, tmp_path):
    root = miniature_layout(name, tmp_path)
    path = read_dataset(root).images[-1].path
    (root / path).unlink()
    with pytest.raises(ValueError, match=f"{path} is listed, but not in .*1 missing"):
        read_dataset(root)


def append(file, *lines):
    file.write_bytes(file.read_bytes() + "".join(f"{line}\n" for line in lines).encode())


def test_listed_twice(miniature_layout, tmp_path):
    root = miniature_layout("dtd", tmp_path)
    append(root / "dtd/labels/train1.txt", "banded/banded_0004.jpg")
    with pytest.raises(ValueError, match="banded_0004.jpg is listed twice"):
        read_dataset(root)
    root = miniature_layout("cub", tmp_path)
    append(root / "train_test_split.txt", "1 0")
    with pytest.raises(ValueError, match="1 is listed as '1' and as '0'"):
        read_dataset(root)


@pytest.mark.parametrize(
    ("name", "file", "line"),
    [
        ("cub", "images.txt", "2 001.Black_footed_Albatross//Black_Footed_Albatross_0046_18.jpg"),
        ("aircraft", "data/images_variant_test.txt", "0034309 707-320"),
        ("aircraft", "data/images_variant_val.txt", "0034309 707-320"),
        ("pets", "annotations/test.txt", "Abyssinian_100 1 1 1"),
        ("dtd", "dtd/labels/val1.txt", "banded/banded_0004.jpg"),
        ("dtd", "dtd/labels/test1.txt", "banded/./banded_0004.jpg"),
        ("table", "images.csv", "./a b/1.png,F/A-18,validation,,"),
        ("hugging_face", "test/metadata.jsonl", '{"file_name": "../train/ab/1.png", "label": 0}'),
    ],
)
def test_train_and_test_at_once(name, file, line, miniature_layout, tmp_path):
    root = miniature_layout(name, tmp_path)
    append(root / file, line)
    with pytest.raises(ValueError, match="listed both for training and for validation or test|'..'"):
        read_dataset(root)


@pytest.mark.parametrize(
    ("name", "file", "old", "new", "message"),
    [
        ("cub", "image_class_labels.txt", "3 1\n", "3 7\n", "image 3 .* has no class or no split"),
        ("cub", "train_test_split.txt", "3 1\n", "3 yes\n", "image 3 .* has no class or no split"),
        ("cub", "train_test_split.txt", " 1\n", " 0\n", "no training image .*5 are held out"),
        ("cub", "images.txt", "Laysan_Albatross_0002_1027", "Laysan_0", "Laysan_0.jpg is listed, but not in"),
        ("cub", "images.txt", "1 001.Black_footed_Albatross/", "1 ../../", "'..'"),
        ("cub", "bounding_boxes.txt", "3 3.0", "3 x", "bounding_boxes.txt: every line needs"),
        ("cub", "bounding_boxes.txt", "3 3.0", "3 nan", "not finite"),
        ("cub", "classes.txt", "2 002.Laysan", "1 002.Laysan", "classes.txt: 1 is listed as"),
        ("cub", "classes.txt", "2 002.Laysan", "b 002.Laysan", "'b' is not a class number"),
        (
            "cub",
            "classes.txt",
            "2 002.Laysan_Alb",
            "2 001.Black_footed_Alb",
            "class '001.* has two numbers",
        ),
        ("aircraft", "data/variants.txt", "F/A-18\n", "", "0000003 is 'F/A-18', which variants.txt does not list"),
        ("pets", "annotations/trainval.txt", "Abyssinian_101 1 1 1", "Abyssinian_101 1", "line 2: expected 4 columns"),
        ("pets", "annotations/trainval.txt", "Abyssinian_101 1", "Abyssinian_101 2", "class 'Abyssinian' has two"),
        ("dtd", "dtd/labels/train1.txt", "banded/", "", "expected <texture>/<image>"),
        ("flowers", "cat_to_name.json", '"1"', '"9"', "without a gap"),
        ("flowers", "cat_to_name.json", "{", "[", "must be an object"),
        ("inaturalist", "train_mini.json", '"categories"', '"kinds"', "no list of categories"),
    ],
)
def test_damaged_lists_are_named(name, file, old, new, message, miniature_layout, tmp_path):
    root = miniature_layout(name, tmp_path)
    text = (root / file).read_text()
    assert old in text
    (root / file).write_text(text.replace(old, new))
    with pytest.raises(ValueError, match=message):
        read_dataset(root)


@pytest.mark.parametrize(
    ("name", "file", "damage"),
    [
        ("flowers", "setid.mat", b""),
        ("flowers", "imagelabels.mat", b"MATLAB 5.0 MAT-file" * 20),
        ("dogs", "train_list.mat", b"text"),
        ("cars_mat", "cars_annos.mat", None),
        ("cub", "classes.txt", b"1 caf\xe9"),
    ],
)
def test_unreadable_annotations_are_named(name, file, damage, miniature_layout, tmp_path):
    root = miniature_layout(name, tmp_path)
    whole = (root / file).read_bytes()
    (root / file).write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    with pytest.raises(ValueError, match=f"{file}.* (Replace|Correct)"):
        read_dataset(root)


def test_missing_annotations_are_named(miniature_layout, tmp_path):
    root = miniature_layout("dtd", tmp_path)
    (root / "dtd/labels/val3.txt").unlink()
    with pytest.raises(ValueError, match="val3.txt is missing"):
        read_dataset(root, partition=3)
    root = miniature_layout("flowers", tmp_path)
    shutil.copy(root / "setid.mat", root / "imagelabels.mat")
    with pytest.raises(ValueError, match="imagelabels.mat has no variable 'labels'"):
        read_dataset(root)


def test_damaged_images_are_noticed_when_they_are_loaded(miniature_layout, tmp_path):
    root = miniature_layout("aircraft", tmp_path)
    (root / "data/images/0034309.jpg").write_bytes(b"")
    image = read_dataset(root).by_path["data/images/0034309.jpg"]
    with pytest.raises(ValueError, match="Cannot read image .*0034309.jpg"):
        load_source(root, image)


def test_links(miniature_layout, tmp_path):
    root = miniature_layout("cub", tmp_path / "set")
    path = read_dataset(root).images[0].path
    os.rename(root / path, root / "real.jpg")
    (root / path).symlink_to(root / "real.jpg")
    assert read_dataset(root).images[0].path == path
    os.rename(root / "real.jpg", tmp_path / "away.jpg")
    with pytest.raises(ValueError, match="is listed, but not in"):  # a link to nothing
        read_dataset(root)
    (root / path).unlink()
    (root / path).symlink_to(tmp_path / "away.jpg")
    with pytest.raises(ValueError, match="leads outside"):
        read_dataset(root)
    (tmp_path / "link").symlink_to(root)
    os.replace(tmp_path / "away.jpg", root / path)
    assert read_dataset(tmp_path / "link").images[0].path == path


def test_options_and_layouts_by_name(miniature_layout, tmp_path):
    root = miniature_layout("aircraft", tmp_path)
    with pytest.raises(ValueError, match="aircraft has no option 'levle'. It has level, split"):
        read_dataset(root, levle="family")
    with pytest.raises(ValueError, match="level must be one of variant, family, manufacturer, got 'model'"):
        read_dataset(root, level="model")
    for split in ("val", "test"):
        with pytest.raises(ValueError, match=f"split must be train or trainval, got '{split}'"):
            read_dataset(root, split=split)
    with pytest.raises(ValueError, match="No layout 'cups'. Choose auto, .*cub, "):
        read_dataset(root, "cups")
    with pytest.raises(ValueError, match="No CUB-200-2011 set in .*: expected images.txt"):
        read_dataset(root, "cub")
    assert listed(read_dataset(root, "aircraft")) == listed(read_dataset(root))
    root = miniature_layout("dtd", tmp_path)
    assert listed(read_dataset(root, partition="7")) == listed(read_dataset(root, partition=7))
    for partition in (0, 11, "", "01", 1.0, True):
        with pytest.raises(ValueError, match="partition must be a number from 1 to 10"):
            read_dataset(root, partition=partition)
    with pytest.raises(ValueError, match="image_folder has no option 'split'. It has classes"):
        read_dataset(miniature_layout("image_folder", tmp_path), split="train")


def test_several_sets_in_one_folder(miniature_layout, tmp_path):
    miniature_layout("cub", tmp_path / "cub")
    miniature_layout("dtd", tmp_path)
    with pytest.raises(ValueError, match="several labelled sets. Choose one of CUB-200-2011 in .*cub/CUB.*, DTD in"):
        read_dataset(tmp_path)
    assert read_dataset(tmp_path, "dtd").layout == "DTD"


def test_folders_that_may_not_be_looked_into(miniature_layout, tmp_path, monkeypatch):
    root = miniature_layout("image_folder", tmp_path)
    (root / "lost").mkdir()
    scandir = os.scandir

    def refuse(path):
        if Path(path).name == "lost":
            raise PermissionError(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    dataset = read_dataset(root)
    assert len(dataset.images) == 4 and "1 folder that may not be read" in describe(dataset)


def test_names_that_are_equal_for_prompts_stay_apart_as_labels(tmp_path):
    for name in ("001.Herring_Gull", "002.Herring_Gull"):
        draw(tmp_path / "train" / name / "1.png")
    dataset = read_dataset(tmp_path)
    assert [(c.name, c.prompt) for c in dataset.classes] == [
        ("001.Herring_Gull", "Herring Gull"),
        ("002.Herring_Gull", "Herring Gull"),
    ]


def test_no_image_is_opened(tmp_path, monkeypatch):
    from PIL import Image

    write(tmp_path / "t.csv", "path,label", *(f"{i % 50}/{i}.png,{i % 50}" for i in range(2000)))
    for i in range(2000):
        write(tmp_path / f"{i % 50}/{i}.png")
    monkeypatch.setattr(Image, "open", None)
    scans = []
    scandir = os.scandir
    monkeypatch.setattr(os, "scandir", lambda path: scans.append(path) or scandir(path))
    dataset = read_dataset(tmp_path)
    assert len(dataset.images) == 2000 and dataset.class_names[:3] == ("0", "1", "2")
    assert len([path for path in scans if Path(path).is_relative_to(tmp_path)]) <= 52
