"""Folders as they come from mirrors, Kaggle, Macs and network disks: planned as the clean set, or refused with why."""

import json
import os
import unicodedata
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from higfa_core.commands import plan as plan_command
from higfa_core.files.images import load_image
from higfa_core.sources.layouts import describe, read_dataset

from .layouts.miniatures import draw, write

WORKFLOW = Path(__file__).parents[2] / "workflows" / "api" / "miniature_augment.json"
CARS = ["AM General Hummer SUV 2000", "Acura RL Sedan 2012"]


def images(root, *paths):
    for path in paths:
        draw(root / path, seed=zlib.crc32(path.encode("utf-8", "surrogateescape")))
    return root


def classes(dataset):
    return {name: count for name, count in dataset.counts().items() if count}


def listed(dataset):
    return [(image.path, image.class_name) for image in dataset.images]


@pytest.fixture
def dry_run(capsys, tmp_path):
    """Exit code and what `higfa plan --dry-run` says about a folder."""

    def run(root, *options):
        words = [str(tmp_path / "out"), "--workflow", str(WORKFLOW), "--source", str(root), "--dry-run", *options]
        code = plan_command.main(words)
        said = capsys.readouterr()
        return code, said.out + said.err

    return run


@pytest.mark.parametrize(
    ("train", "test", "kit"),
    [
        ("cars_train/cars_train", "cars_test/cars_test", "devkit"),
        ("cars_train/cars_train", "cars_test/cars_test", "car_devkit/devkit"),
        ("train/cars_train", "test/cars_test", "extra/devkit"),
        ("cars_train", "cars_test", "."),
        ("a/b/cars_train", "a/b/cars_test", "a/b/devkit"),
    ],
)
def test_stanford_cars_from_mirrors(train, test, kit, tmp_path):
    images(tmp_path, *(f"{part}/{n:05d}.jpg" for part in (train, test) for n in range(1, 5)))
    (tmp_path / kit).mkdir(parents=True, exist_ok=True)
    kinds = [(f"bbox_{corner}", "O") for corner in ("x1", "y1", "x2", "y2")] + [("class", "O"), ("fname", "O")]
    rows = np.array([(3, 3, 40, 40, 1 + n % 2, f"{n + 1:05d}.jpg") for n in range(4)], dtype=kinds)
    savemat(tmp_path / kit / "cars_meta.mat", {"class_names": np.array(CARS, dtype=object)})
    savemat(tmp_path / kit / "cars_train_annos.mat", {"annotations": rows})
    dataset = read_dataset(tmp_path)
    assert classes(dataset) == dict.fromkeys(CARS, 2) and dataset.held_out == 4 and dataset.layout == "Stanford Cars"
    assert all(image.path.startswith(f"{train}/") and image.box for image in dataset.images)


def test_classes_called_as_splits_are(dry_run, tmp_path):
    voc = images(tmp_path / "voc", *(f"{name}/{n}.jpg" for name in ("bus", "car", "train", "tv") for n in range(2)))
    assert classes(read_dataset(voc)) == dict.fromkeys(("bus", "car", "train", "tv"), 2)
    lab = images(tmp_path / "lab", *(f"{name}/{n}.jpg" for name in ("blank", "control", "test") for n in range(2)))
    code, said = dry_run(lab)
    assert code == 1 and "is a class beside blank, control: --layout image_folder --layout-option classes=test" in said
    assert "if it is a test split: move it out" in said.lower()
    code, said = dry_run(lab, "--layout", "image_folder", "--layout-option", "classes=test")
    assert code == 0 and "classes: 3" in said and "training images: 6" in said


def test_a_planned_job_may_be_of_a_class_called_test(tmp_path):
    from higfa_core.plans.plan import Job, Plan

    lab = images(tmp_path / "lab", *(f"{name}/{n}.jpg" for name in ("blank", "test") for n in range(2)))
    jobs = list(Plan(read_dataset(lab, "image_folder", classes="test")))
    assert {job.source for job in jobs} == {f"{name}/{n}.jpg" for name in ("blank", "test") for n in range(2)}
    assert [Job.from_json(job.to_json()) for job in jobs] == jobs


def test_floats_are_scaled_by_their_range(tmp_path):
    grey = np.linspace(0, 1, 64 * 48, dtype=np.float32).reshape(48, 64)
    for name, top in (("one", 1), ("byte", 255), ("two", 65535)):
        Image.fromarray(grey * np.float32(top)).save(tmp_path / f"{name}.tif")
        assert np.allclose(load_image(tmp_path / f"{name}.tif")[0, :, :, 0], grey, atol=0.003), name
    Image.fromarray(grey - np.float32(0.5)).save(tmp_path / "signed.tif")
    Image.fromarray(grey * np.float32("nan")).save(tmp_path / "nan.tif")
    for name in ("signed", "nan"):
        with pytest.raises(ValueError, match=f"Cannot read image .*{name}.tif .its floats are in"):
            load_image(tmp_path / f"{name}.tif")


@pytest.mark.parametrize("where", ["folder", "file"])
def test_names_that_are_no_utf8_are_named(where, dry_run, tmp_path):
    root = images(tmp_path / "birds", "a/0.jpg", "b/0.jpg")
    old = root / "a" if where == "folder" else root / "a" / "0.jpg"
    os.rename(old, os.fsencode(str(old.parent)) + b"/\xc4\xe3" + (b".jpg" if where == "file" else b""))
    code, said = dry_run(root)
    assert code == 1 and "\\udcc4\\udce3" in said and "has a name that is not UTF-8. Rename it" in said


@pytest.mark.parametrize("kind", ["txt", "json", "both"])
def test_food_101(kind, tmp_path):
    root = images(tmp_path / "food-101", *(f"images/{c}/{n}.jpg" for c in ("apple_pie", "waffles") for n in (1, 2, 3)))
    for part, numbers in (("train", (1, 2)), ("test", (3,))):
        entries = {name: [f"{name}/{number}" for number in numbers] for name in ("apple_pie", "waffles")}
        if kind != "json":
            write(root / "meta" / f"{part}.txt", *(entry for found in entries.values() for entry in found))
        if kind != "txt":
            write(root / "meta" / f"{part}.json", json.dumps(entries))
    write(root / "meta" / "classes.txt", "apple_pie", "waffles")
    write(root / "meta" / "labels.txt", "Apple pie", "Waffles")
    dataset = read_dataset(root)
    training = [(f"{name}/{number}.jpg", name) for name in ("apple_pie", "waffles") for number in (1, 2)]
    assert listed(dataset) == [(f"images/{path}", name) for path, name in training]
    assert dataset.held_out == 2 and [info.prompt for info in dataset.classes] == ["Apple pie", "Waffles"]
    inner = read_dataset(root / "images")
    assert listed(inner) == training and inner.held_out == 2


def test_a_clone_with_backslashes(tmp_path):
    images(tmp_path, *(f"train/{n}.jpg" for n in range(4)))
    write(tmp_path / "metadata.csv", "file_name,label", *(f"train\\{n}.jpg,{'ab'[n % 2]}" for n in range(4)))
    assert listed(read_dataset(tmp_path)) == [(f"train/{n}.jpg", "ab"[n % 2]) for n in (0, 2, 1, 3)]


def test_a_clone_whose_images_are_packed(dry_run, tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    picture = draw(tmp_path / "x.jpg").read_bytes()
    (tmp_path / "zip").mkdir()
    with zipfile.ZipFile(tmp_path / "zip" / "images.zip", "w") as packed:
        packed.writestr("0.jpg", picture)
    write(tmp_path / "zip" / "metadata.jsonl", '{"file_name": "0.jpg", "label": "a"}')
    code, said = dry_run(tmp_path / "zip")
    assert code == 1 and "images.zip may contain them: unpack it there" in said
    (tmp_path / "hub" / "data").mkdir(parents=True)
    rows = {"image": [{"bytes": picture, "path": "0.jpg"}], "label": [0]}
    parquet.write_table(pyarrow.table(rows), tmp_path / "hub" / "data" / "train-00000-of-00001.parquet")
    code, said = dry_run(tmp_path / "hub")
    assert code == 1 and f"higfa unpack {tmp_path / 'hub'} FOLDER" in said and "train-00000-of-00001.parquet" in said
    write(tmp_path / "hub" / "data" / "train-00000-of-00001.parquet", "version https://git-lfs.github.com/spec/v1")
    code, said = dry_run(tmp_path / "hub")
    assert code == 1 and "is a pointer of Git LFS, not the file itself. Run git lfs pull" in said


def test_a_clone_unpacked_is_the_set(dry_run, tmp_path, capsys):
    datasets = pytest.importorskip("datasets")
    from higfa_core.commands import main as cli

    files = [str(draw(tmp_path / "x" / f"{n}.png", seed=n)) for n in range(6)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["Gull", "Café"])})
    rows = datasets.Dataset.from_dict({"image": files, "label": [0, 1, 0, 1, 0, 1]}, features)
    (tmp_path / "hub" / "data").mkdir(parents=True)
    for split, part in (("train", range(4)), ("test", range(4, 6))):
        table = datasets.table.embed_table_storage(rows.select(part).with_format("arrow")[:])
        from pyarrow import parquet

        parquet.write_table(table, tmp_path / "hub" / "data" / f"{split}-00000-of-00001.parquet")
    assert cli.main(["unpack", str(tmp_path / "hub"), str(tmp_path / "out")]) == 0
    assert "2 test images, 4 train images" in capsys.readouterr().out
    dataset = read_dataset(tmp_path / "out")
    assert classes(dataset) == {"Café": 2, "Gull": 2} and dataset.held_out == 2
    content = {(tmp_path / "out" / image.path).read_bytes(): image.class_name for image in dataset.images}
    assert content == {Path(file).read_bytes(): name for file, name in zip(files, ("Gull", "Café") * 2)}
    assert cli.main(["unpack", str(tmp_path / "hub"), str(tmp_path / "out")]) == 1
    assert "is not empty. Name a new folder" in capsys.readouterr().err


TABLES = {  # case -> header, separator, encoding
    "semicolon": ("path;label", ";", "utf-8-sig"),
    "utf16": ("path,label", ",", "utf-16"),
    "capital": ("Path,Label", ",", "utf-8"),
    "space": ("path, label", ", ", "utf-8"),
    "filename": ("filename,class", ",", "utf-8"),
    "tab": ("image_name\tspecies", "\t", "utf-8"),
    "pipe": ("File Name|Category", "|", "utf-16-le"),
    "quoted": ('"img_path","target"', ",", "utf-8"),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_in_any_dialect(name, tmp_path):
    header, separator, encoding = TABLES[name]
    images(tmp_path, *(f"im/{n}.jpg" for n in range(4)))
    rows = [header, *(f"im/{n}.jpg{separator}{'ab'[n % 2]}" for n in range(4))]
    (tmp_path / "list.csv").write_bytes(("\r\n".join(rows) + "\r\n").encode(encoding))
    assert listed(read_dataset(tmp_path)) == [(f"im/{n}.jpg", "ab"[n % 2]) for n in (0, 2, 1, 3)]


def test_tables_of_ids_and_one_hot(tmp_path):
    ids = [f"{n:012x}" for n in range(4)]
    root = images(tmp_path / "ids", *(f"train_images/{name}.png" for name in ids), "test_images/ff.png")
    write(root / "train.csv", "id_code,diagnosis", *(f"{name},{n % 2}" for n, name in enumerate(ids)))
    dataset = read_dataset(root)
    assert classes(dataset) == {"0": 2, "1": 2} and {i.path.split("/")[0] for i in dataset.images} == {"train_images"}
    assert [str(entry) for entry in dataset.left_out] == ["1 in no list or class, such as test_images/ff.png"]
    root = images(tmp_path / "breed", *(f"train/{name}.jpg" for name in ids), "test/aa.jpg")
    write(root / "labels.csv", "id,breed", *(f"{name},{'ab'[n % 2]}" for n, name in enumerate(ids)))
    assert classes(read_dataset(root)) == {"a": 2, "b": 2}
    root = images(tmp_path / "hot", *(f"images/Train_{n}.jpg" for n in range(4)), "images/Test_0.jpg")
    write(root / "train.csv", "image_id,healthy,rust", *(f"Train_{n},{n % 2},{1 - n % 2}" for n in range(4)))
    assert classes(read_dataset(root)) == {"healthy": 2, "rust": 2}


def test_nabirds(tmp_path):
    ids = [f"0000139e-21dc-4d0c-bfe1-4cae3c85c8{n:02x}" for n in range(6)]
    folders = ["0455" if n % 2 else "0501" for n in range(6)]
    files = [f"{folder}/{name.replace('-', '')}.jpg" for folder, name in zip(folders, ids)]
    images(tmp_path, *(f"images/{file}" for file in files))
    write(tmp_path / "classes.txt", "0 Birds", "42 Brant", "162 American Coot", "455 Brant", "501 American Coot")
    write(tmp_path / "images.txt", *map("{} {}".format, ids, files))
    write(tmp_path / "image_class_labels.txt", *(f"{name} {int(folder)}" for name, folder in zip(ids, folders)))
    write(tmp_path / "train_test_split.txt", *(f"{name} {int(n < 4)}" for n, name in enumerate(ids)))
    write(tmp_path / "bounding_boxes.txt", *(f"{name} 1 2 30 20" for name in ids))
    write(tmp_path / "hierarchy.txt", "42 0", "162 0", "455 42", "501 162")
    dataset = read_dataset(tmp_path)
    assert (dataset.layout, dataset.held_out, classes(dataset)) == ("NABirds", 2, {"Brant": 2, "American Coot": 2})
    assert [info.super_class for info in dataset.classes] == ["Birds", "Birds"]
    assert {image.box for image in dataset.images} == {(1.0, 2.0, 30.0, 20.0)}


@pytest.mark.parametrize("in_list", ["NFC", "NFD"])
def test_names_that_are_composed_in_one_place_and_not_in_the_other(in_list, tmp_path):
    on_disk = "NFD" if in_list == "NFC" else "NFC"
    there, written = (lambda text, form=form: unicodedata.normalize(form, text) for form in (on_disk, in_list))
    root = images(tmp_path / "csv", *(there(f"im/é{n}.jpg") for n in range(4)))
    write(root / "list.csv", "path,label", *(f"{written(f'im/é{n}.jpg')},{'ab'[n % 2]}" for n in range(4)))
    assert listed(read_dataset(root)) == [(there(f"im/é{n}.jpg"), "ab"[n % 2]) for n in (0, 2, 1, 3)]
    root = images(tmp_path / "hf", *(there(f"train/é{n}.jpg") for n in range(4)))
    write(root / "metadata.csv", "file_name,label", *(f"{written(f'train/é{n}.jpg')},{'ab'[n % 2]}" for n in range(4)))
    assert classes(read_dataset(root)) == {"a": 2, "b": 2}
    root = images(tmp_path / "label", *(f"im/{n}.jpg" for n in range(4)))
    write(root / "list.csv", "path,label", *(f"im/{n}.jpg,{(there, written)[n % 2]('Évêque')}" for n in range(4)))
    assert classes(read_dataset(root)) == {"Évêque": 4}


def test_pets_nested_twice(tmp_path):
    stems = ["Abyssinian_1", "Abyssinian_2", "beagle_1", "beagle_2"]
    images(tmp_path, *(f"images/images/{stem}.jpg" for stem in stems))
    for stem in stems:
        draw(tmp_path / "annotations" / "annotations" / "trimaps" / f"{stem}.png")
    write(tmp_path / "annotations/annotations/trainval.txt", "Abyssinian_1 1 1 1", "beagle_1 2 2 1")
    write(tmp_path / "annotations/annotations/test.txt", "Abyssinian_2 1 1 1", "beagle_2 2 2 1")
    dataset = read_dataset(tmp_path)
    assert [(image.path, image.class_name, image.mask) for image in dataset.images] == [
        (f"images/images/{stem}.jpg", name, f"annotations/annotations/trimaps/{stem}.png")
        for stem, name in (("Abyssinian_1", "Abyssinian"), ("beagle_1", "Beagle"))
    ]
    assert dataset.held_out == 2 and dataset.held_out_images == tuple(
        f"images/images/{stem}.jpg" for stem in ("Abyssinian_2", "beagle_2")
    )


def test_all_that_pillow_reads_is_read_and_the_rest_is_counted(dry_run, tmp_path):
    images(tmp_path, *(f"{name}/{n}.jpg" for name in "ab" for n in range(2)))
    for n in range(5):
        picture = Image.effect_noise((64, 48), 80).convert("RGB")
        picture.save(tmp_path / "a" / f"{n}.jfif", "JPEG")
        picture.transpose(Image.Transpose.ROTATE_180).save(tmp_path / "b" / f"{n}.gif")
    for n in range(2):
        write(tmp_path / "b" / f"{n}.HEIC", "....ftypheic")
        write(tmp_path / "b" / f"{n}.psd", "8BPS")
    code, said = dry_run(tmp_path)
    assert code == 0 and "training images: 14" in said
    assert "left out: 2 .psd (convert to PNG or JPEG), such as b/0.psd" in said
    heic = "left out: 2 .heic (pip install pillow-heif), such as b/0.HEIC"
    assert heic in said or "unreadable" in said  # where the plugin is installed


def test_links_are_followed_on_the_command_line_only(dry_run, tmp_path):
    for name in "ab":
        images(tmp_path, *(f"store/{name}/{n}.jpg" for n in range(2)))
        (tmp_path / "files" / name).mkdir(parents=True)
        (tmp_path / "classes").mkdir(exist_ok=True)
        (tmp_path / "classes" / name).symlink_to(f"../store/{name}")
        for n in range(2):
            (tmp_path / "files" / name / f"{n}.jpg").symlink_to(f"../../store/{name}/{n}.jpg")
    for part in ("classes", "files"):
        code, said = dry_run(tmp_path / part)
        assert code == 0 and "training images: 4" in said
        with pytest.raises(ValueError, match="leads outside"):
            read_dataset(tmp_path / part)


def test_links_into_a_test_split_and_in_circles(dry_run, tmp_path):
    images(tmp_path, "store/train/a/0.jpg", "store/train/b/0.jpg", "store/test/a/1.jpg")
    (tmp_path / "few").mkdir()
    (tmp_path / "few" / "b").symlink_to("../store/train/b")
    (tmp_path / "few" / "a").symlink_to("../store/test/a")
    code, said = dry_run(tmp_path / "few")
    assert code == 1 and "few/a leads into 'test', a validation or test split. Remove the link" in said
    (tmp_path / "few" / "a").unlink()
    (tmp_path / "few" / "a").symlink_to("../store/train/a")
    (tmp_path / "few" / "again").symlink_to(".")
    code, said = dry_run(tmp_path / "few")
    assert code == 0 and "training images: 2" in said


@pytest.mark.parametrize(
    ("litter", "left_out"),
    [
        ([f"{c}/@eaDir/{n}.jpg/SYNOPHOTO_THUMB_{z}.jpg" for c in "ab" for n in "01" for z in "SM"], "8 in @eaDir"),
        (["__MACOSX/a/._0.jpg", "a/._0.jpg"], "1 in __MACOSX"),
        (["$RECYCLE.BIN/a.jpg", "System Volume Information/x", "a/Thumbs.db", "a/desktop.ini"], "1 in $RECYCLE.BIN"),
        (["a/.ipynb_checkpoints/0-checkpoint.jpg", ".thumbs/0.jpg"], "1 in .ipynb_checkpoints"),
    ],
)
def test_what_systems_leave_behind_is_skipped_and_said(litter, left_out, dry_run, tmp_path):
    images(tmp_path, *(f"{name}/{n}.jpg" for name in "ab" for n in range(2)))
    for path in litter:
        write(tmp_path / path, "x")
    code, said = dry_run(tmp_path)
    assert code == 0 and "training images: 4" in said and f"left out: {left_out}" in said
    assert listed(read_dataset(tmp_path)) == [(f"{name}/{n}.jpg", name) for name in "ab" for n in range(2)]
    assert "classes: 2" in describe(read_dataset(tmp_path))
