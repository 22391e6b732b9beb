import json
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from higfa_core.sources.layouts import describe, read_dataset
from higfa_core.training.data import Labelled, LabelledSet, read_labelled

from ..batch.fake_comfy import ROW_FIELDS
from ..sources.layouts.miniatures import aircraft, cub


def paint(path: Path, seed: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), np.uint8)).save(path)
    return path


def tree(root: Path, counts: dict[str, int], first: int = 0) -> Path:
    for name, count in counts.items():
        for i in range(count):
            paint(root / name / f"{i}.png", first + i + 100 * list(counts).index(name))
    return root


def by_class(side) -> dict[int, int]:
    return {label: sum(1 for _, y, _ in side if y == label) for _, label, _ in side}


# order and splits


def test_classes_and_files_are_those_of_torchvisions_image_folder(tmp_path):
    tree(tmp_path / "train", {"b": 2, "a": 2, "C": 1, "10": 1, "9": 1})
    tree(tmp_path / "val", {"a": 1, "C": 2}, first=50)
    tree(tmp_path / "test", {"a": 3}, first=70)
    found = read_labelled(tmp_path)
    for side, folder in ((found.train, "train"), (found.validation, "val")):
        assert [(str(path), label) for path, label, _ in side] == [
            (path, found.class_names.index(Path(path).parent.name))
            for path, *_ in ImageFolder(str(tmp_path / folder)).samples
        ]
    assert list(found.class_names) == ImageFolder(str(tmp_path / "train")).classes == ["10", "9", "C", "a", "b"]
    assert found.counts() == [1, 1, 1, 2, 2]


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Val", "Validation", "val_set", "dev"])
def test_every_name_of_a_validation_folder_is_known(tmp_path, name):
    tree(tmp_path, {"a": 3, "b": 3})
    tree(tmp_path / name, {"a": 1, "b": 2}, first=50)
    found = read_labelled(tmp_path)
    assert by_class(found.train) == {0: 3, 1: 3} and by_class(found.validation) == {0: 1, 1: 2}
    assert all(path.parent.parent.name == name for path, *_ in found.validation)


def test_the_share_is_held_out_of_each_class(tmp_path):
    tree(tmp_path, {"five": 5, "one": 1, "ten": 10, "three": 3, "two": 2})
    found = read_labelled(tmp_path)
    assert found.class_names == ("five", "one", "ten", "three", "two")
    assert by_class(found.validation) == {0: 1, 2: 2, 3: 1, 4: 1}
    assert by_class(found.train) == {0: 4, 1: 1, 2: 8, 3: 2, 4: 1}
    assert not set(found.train) & set(found.validation)
    assert by_class(read_labelled(tmp_path, 0.95).train) == {0: 1, 1: 1, 2: 1, 3: 1, 4: 1}


def test_the_split_depends_on_the_seed_and_not_on_where_the_folder_is(tmp_path):
    tree(tmp_path / "x", {"a": 20, "b": 20})
    shutil.copytree(tmp_path / "x", tmp_path / "y")

    def held(folder, seed):
        return [path.relative_to(folder) for path, *_ in read_labelled(folder, seed=seed).validation]

    assert held(tmp_path / "x", 0) == held(tmp_path / "y", 0)
    assert held(tmp_path / "x", 0) != held(tmp_path / "x", 1)


def test_one_more_image_moves_at_most_one_to_the_other_side(tmp_path):
    tree(tmp_path, {"a": 20, "b": 20})
    before = set(read_labelled(tmp_path).validation)
    paint(tmp_path / "a" / "new.png", 999)
    after = set(read_labelled(tmp_path).validation)
    assert len(before - after) <= 1 and len(after - before) <= 1


def test_a_share_of_zero_holds_out_nothing(tmp_path):
    found = read_labelled(tree(tmp_path, {"a": 3, "b": 1}), 0)
    assert len(found.train) == 4 and found.validation == ()


def test_splits_by_other_names(tmp_path):
    for first, split in enumerate(("Training", "Validation", "Testing")):
        tree(tmp_path / split, {"a": 3, "b": 3}, first=10 * first)
    shutil.copy(tmp_path / "Training/a/1.png", tmp_path / "Validation/a/copy.png")
    found = read_labelled(tmp_path)
    assert by_class(found.train) == {0: 2, 1: 3} and by_class(found.validation) == {0: 4, 1: 3}
    file = read_labelled(tmp_path / "Training", 0.5).keep_split()
    listed = {file.parent / line for line in file.read_text().splitlines()}
    assert listed and not listed & sources(tmp_path) and not listed & {x.path for x in read_labelled(tmp_path).train}


# copies


def test_equal_files_are_used_once(tmp_path):
    tree(tmp_path, {"a": 4, "b": 2})
    for i in range(6):
        shutil.copy(tmp_path / "a" / "0.png", tmp_path / "a" / f"copy{i}.png")
    found = read_labelled(tmp_path, 0.5)
    contents = [path.read_bytes() for path, *_ in found.train + found.validation]
    assert len(contents) == len(set(contents)) == 6
    assert by_class(found.validation) == {0: 2, 1: 1}


def test_a_copy_of_a_validation_image_is_not_trained_on(tmp_path):
    tree(tmp_path / "train", {"a": 3, "b": 3})
    (tmp_path / "val" / "a").mkdir(parents=True)
    shutil.copy(tmp_path / "train" / "a" / "1.png", tmp_path / "val" / "a" / "other_name.png")
    found = read_labelled(tmp_path)
    assert [path.name for path, *_ in found.validation] == ["other_name.png"]
    assert [path.name for path, label, _ in found.train if label == 0] == ["0.png", "2.png"]


def test_one_image_in_two_classes_is_an_error_that_names_both(tmp_path):
    tree(tmp_path, {"a": 2, "b": 2})
    shutil.copy(tmp_path / "a" / "1.png", tmp_path / "b" / "7.png")
    with pytest.raises(ValueError, match=r"two classes: .*a.1\.png \(a\) and .*b.7\.png \(b\). Keep"):
        read_labelled(tmp_path)


# names


def test_names_in_any_script(tmp_path):
    names = ("Черноногий альбатрос", "Zoë", "大白鹭", "a b (c), d's")
    found = read_labelled(tree(tmp_path, dict.fromkeys(names, 2)))
    assert found.class_names == tuple(sorted(names))


def test_two_unicode_forms_of_a_name_are_one_class(tmp_path):
    found = read_labelled(tree(tmp_path, {"Zoë": 2, unicodedata.normalize("NFD", "Zoë"): 2, "Gull": 2}), 0)
    assert found.class_names == ("Gull", "Zoë") and found.counts() == [2, 4]


@pytest.mark.parametrize("twins", [("Heron", "heron"), ("Straße", "STRASSE"), ("Gull", "Ｇｕｌｌ")])
def test_names_that_are_one_folder_elsewhere(tmp_path, twins):
    with pytest.raises(ValueError, match="one folder on Windows and macOS. Rename one"):
        read_labelled(tree(tmp_path, dict.fromkeys(twins, 2)))


# what cannot be trained on


def test_no_such_folder(tmp_path):
    with pytest.raises(ValueError, match="No dataset folder at .*missing"):
        read_labelled(tmp_path / "missing")


def test_no_class_folder(tmp_path):
    paint(tmp_path / "0.png", 0)
    with pytest.raises(ValueError, match="No class folders in"):
        read_labelled(tmp_path)


def test_one_class(tmp_path):
    with pytest.raises(ValueError, match="needs at least 2 classes, found 'only'"):
        read_labelled(tree(tmp_path, {"only": 4}))


def test_an_empty_class_folder(tmp_path):
    tree(tmp_path, {"a": 2, "b": 2})
    (tmp_path / "void").mkdir()
    (tmp_path / "void" / "notes.txt").write_text("no image")
    with pytest.raises(ValueError, match="void holds no readable image, but 1 other file such as .*notes.txt"):
        read_labelled(tmp_path)


def test_a_class_whose_images_are_all_validation_images(tmp_path):
    tree(tmp_path / "train", {"a": 1, "b": 2})
    shutil.copytree(tmp_path / "train", tmp_path / "val")
    (tmp_path / "val" / "b" / "0.png").unlink()
    with pytest.raises(ValueError, match="No training image of a. Add"):
        read_labelled(tmp_path)


def test_too_few_images_to_hold_any_out(tmp_path):
    tree(tmp_path, {"a": 1, "b": 1})
    with pytest.raises(ValueError, match="no.* be held out .*Add images, or set the validation share to 0"):
        read_labelled(tmp_path)


def test_a_validation_class_without_training_images(tmp_path):
    tree(tmp_path / "train", {"a": 2, "b": 2})
    tree(tmp_path / "val", {"a": 1, "B2": 1}, first=50)
    with pytest.raises(ValueError, match="Class 'B2' is in .*val, but not in the training images"):
        read_labelled(tmp_path)


def test_an_empty_validation_folder(tmp_path):
    tree(tmp_path, {"a": 2, "b": 2})
    (tmp_path / "val").mkdir()
    with pytest.raises(ValueError, match="No images in .*val: expected"):
        read_labelled(tmp_path)


@pytest.mark.parametrize("name", ["test", "Val", "validation"])
def test_a_held_out_folder_itself(tmp_path, name):
    with pytest.raises(ValueError, match="validation or test split"):
        read_labelled(tree(tmp_path / name, {"a": 2, "b": 2}))


def test_a_folder_inside_a_test_split(tmp_path):
    tree(tmp_path / "train", {"a": 1, "b": 1})
    with pytest.raises(ValueError, match="'test' is a validation or test split"):
        read_labelled(tree(tmp_path / "test" / "birds", {"a": 2, "b": 2}))


def test_a_folder_inside_one_that_happens_to_be_called_test(tmp_path):
    assert len(read_labelled(tree(tmp_path / "test" / "birds", {"a": 2, "b": 2})).train) == 2


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_a_share_out_of_range(tmp_path, share):
    with pytest.raises(ValueError, match="validation share must be .*got"):
        read_labelled(tree(tmp_path, {"a": 2, "b": 2}), share)


def test_a_set_from_elsewhere_is_checked_too():
    with pytest.raises(ValueError, match="No training image of b"):
        LabelledSet(("a", "b"), (Labelled(Path("x.png"), 0),), ())


# layouts


def test_a_benchmark_is_read_as_it_is_unpacked_and_without_its_test_images(tmp_path):
    root = cub(tmp_path)
    found = read_labelled(root, 0.5)
    listed = dict(line.split() for line in (root / "images.txt").read_text().splitlines())
    split = dict(line.split() for line in (root / "train_test_split.txt").read_text().splitlines())
    training = {root / "images" / path for number, path in listed.items() if split[number] == "1"}
    assert {path for path, *_ in (*found.train, *found.validation)} == training
    images = read_labelled(root / "images", 0.5)  # by the lists beside it
    assert {path for path, *_ in (*images.train, *images.validation)} == training


def test_banners_are_cut_off_as_they_are_in_the_sources(tmp_path):
    found = read_labelled(aircraft(tmp_path), 0)
    assert len(found.train) == 3 and all(Image.open(path).height == 68 for path, *_ in found.train)
    assert [item.load().shape for item in found.train] == [(1, 48, 64, 3)] * 3


# the split is kept


def sources(folder) -> set[Path]:
    dataset = read_dataset(folder)
    return {dataset.root / image.path for image in dataset.images}


@pytest.mark.parametrize(
    ("kept_at", "read_at"), [("", ""), ("", "train"), ("train", ""), ("train", "train"), ("..", "")]
)
def test_what_is_held_out_is_no_source_whichever_folder_is_read(tmp_path, kept_at, read_at):
    root = tree(tmp_path / "birds" / "train", {"é": 5, "b": 5}).parent
    shutil.copy(root / "train" / "b" / "0.png", root / "train" / "b" / "copy of 0.png")
    if kept_at == "..":
        files = read_labelled(root).to_list
        lines = [path.relative_to(tmp_path).as_posix() for path in files]
        text = "\n".join(unicodedata.normalize("NFD", line) for line in lines).replace("/", "\\")
        (tmp_path / "held_out.txt").write_text("\ufeff" + text + "\n\n", encoding="utf-8")
    else:
        before = read_labelled(root / kept_at)
        assert before.keep_split() == root / kept_at / "held_out.txt"
    again = read_labelled(root / read_at)
    assert by_class(again.validation) == {0: 1, 1: 1} and again.keep_split() is None
    held = {path.read_bytes() for path, *_ in again.validation}
    assert len(held) == 2 and not held & {path.read_bytes() for path in sources(root / read_at)}
    assert len(sources(root / read_at)) == 11 - sum(p.read_bytes() in held for p in root.rglob("*.png"))
    assert f"held out and never used: {11 - len(sources(root / read_at))}" in describe(read_dataset(root / read_at))


def test_copies_of_an_image_held_out_are_no_sources_either(tmp_path):
    tree(tmp_path, {"a": 2, "b": 2})
    for i in range(5):
        for name in "ab":
            shutil.copy(tmp_path / name / "0.png", tmp_path / name / f"copy {i}.png")
            shutil.copy(tmp_path / name / "1.png", tmp_path / name / f"another {i}.png")
    first = read_labelled(tmp_path, 0.5)
    first.keep_split()
    assert len((tmp_path / "held_out.txt").read_text().splitlines()) == 12 == len(sources(tmp_path))
    again = read_labelled(tmp_path, 0.9, seed=7)
    assert (again.train, again.validation) == (first.train, first.validation)


def test_a_list_of_one_copy_holds_out_the_image(tmp_path):
    tree(tmp_path, {"a": 3, "b": 3})
    shutil.copy(tmp_path / "a" / "0.png", tmp_path / "a" / "later.png")
    paint(tmp_path / "test" / "a" / "9.png", 99)
    (tmp_path / "held_out.txt").write_text("a/later.png\nb/1.png\ntest/a/9.png\n")
    found = read_labelled(tmp_path)
    assert [path.name for path, *_ in found.validation] == ["0.png", "1.png"] and len(found.train) == 4
    found.keep_split()
    assert (tmp_path / "held_out.txt").read_text() == "a/0.png\na/later.png\nb/1.png\ntest/a/9.png\n"
    assert read_labelled(tmp_path).keep_split() is None


def test_a_training_file_that_is_in_the_validation_folder_too_is_listed(tmp_path):
    tree(tmp_path / "train", {"a": 3, "b": 3})
    tree(tmp_path / "val", {"a": 1}, first=50)
    assert read_labelled(tmp_path).keep_split() is None
    shutil.copy(tmp_path / "train" / "a" / "1.png", tmp_path / "val" / "a" / "other_name.png")
    read_labelled(tmp_path).keep_split()
    assert (tmp_path / "held_out.txt").read_text() == "train/a/1.png\n"
    assert tmp_path / "train" / "a" / "1.png" not in sources(tmp_path)
    assert len(read_labelled(tmp_path).validation) == 2


@pytest.mark.parametrize("read_at", ["birds", "birds/CUB_200_2011"])
@pytest.mark.parametrize("kept_at", ["birds", "birds/CUB_200_2011"])
def test_the_split_of_a_benchmark_is_kept_too(tmp_path, kept_at, read_at):
    cub(tmp_path / "birds")
    first = read_labelled(tmp_path / kept_at, 0.5)
    first.keep_split()
    held = set(first.to_list)
    assert held and not held & sources(tmp_path / read_at)
    assert sources(tmp_path / read_at) == {path for path, *_ in first.train}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"a/9.png\n", "names 'a/9.png', which does not exist. Correct"),
        (b"../x.png\n", r"'../x.png' must be relative and without '\.\.'"),
        (b"/x.png\n", "'/x.png' must be relative"),
        (b"\xff\xfe\n", "not UTF-8"),
        (b"a/0.png\na/1.png\nb/0.png\nb/1.png\n", "holds out all images"),
    ],
)
def test_a_list_that_cannot_be_followed(tmp_path, text, message):
    tree(tmp_path, {"a": 2, "b": 2})
    (tmp_path / "held_out.txt").write_bytes(text)
    with pytest.raises(ValueError, match=message):
        read_dataset(tmp_path)


def test_nothing_is_drawn_from_synthetic_images(tmp_path):
    tree(tmp_path / "train", {"a": 3, "b": 3})
    row = {"key": "0" * 64, "index": 0, "batch": 1, "file": "train/a/0.png", "class_name": "a", "label": 0}
    row |= {"batch": 1, "scores": {}}
    (tmp_path / "manifest.jsonl").write_text(json.dumps(dict.fromkeys(ROW_FIELDS) | row | {"accepted": True}) + "\n")
    with pytest.raises(ValueError, match="holds synthetic images .*Add val/<class>/ with real images"):
        read_labelled(tmp_path)
    assert len(read_labelled(tmp_path, 0).train) == 6
    tree(tmp_path / "val", {"a": 1, "b": 1}, first=50)
    assert len(read_labelled(tmp_path).validation) == 2
