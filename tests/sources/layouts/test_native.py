"""Every layout against hand-written truth and, where it reads the layout, against torchvision."""

import os
import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from higfa_core.sources.layouts import describe, read_dataset
from higfa_core.sources.source import load_source

from .miniatures import BUILDERS, CAR_NAMES, EARTHWORM, GULL, draw

ALBATROSS, LAYSAN = "001.Black_footed_Albatross", "002.Laysan_Albatross"
CHIHUAHUA, FOX_TERRIER = "n02085620-Chihuahua", "n02095314-wire-haired_fox_terrier"
BOX = (2.0, 4.0, 48.0, 36.0)  # of pixels 3..50 and 5..40, counted from 1
KAGGLE = ["AM General Hummer SUV 2000", "Delorean DMC-12 Coupe 1981", "Ram C-V Cargo Van Minivan 2012"]
# layout -> images in order as (path, label, box, mask), classes as (name, prompt, super class), held out, title
TRUTH = {
    "cub": (
        [
            (f"images/{ALBATROSS}/Black_Footed_Albatross_0002_55.jpg", 0, (3.0, 2.5, 30.0, 20.0), None),
            (f"images/{ALBATROSS}/Black_Footed_Albatross_0046_18.jpg", 0, (1.0, 2.5, 30.0, 20.0), None),
            (f"images/{LAYSAN}/Laysan_Albatross_0002_1027.jpg", 1, (4.0, 2.5, 30.0, 20.0), None),
        ],
        [(ALBATROSS, "Black footed Albatross", "bird"), (LAYSAN, "Laysan Albatross", "bird")],
        2,
        "CUB-200-2011",
    ),
    "aircraft": (
        [
            ("data/images/0034309.jpg", 0, (2.0, 4.0, 58.0, 36.0), None),
            ("data/images/1025794.jpg", 1, (2.0, 4.0, 58.0, 44.0), None),  # 5..60 ends at 48, where the banner begins
            ("data/images/0000003.jpg", 2, (2.0, 4.0, 58.0, 36.0), None),
        ],
        [("707-320", "707-320", "Boeing 707"), ("F-16A/B", "F-16A/B", "F-16"), ("F/A-18", "F/A-18", "F/A-18")],
        6,
        "FGVC-Aircraft",
    ),
    "cars_devkit": (
        [
            ("cars_train/00002.jpg", 0, BOX, None),
            ("cars_train/00004.jpg", 0, BOX, None),
            ("cars_train/00001.jpg", 1, BOX, None),
            ("cars_train/00003.jpg", 2, BOX, None),
        ],
        list(zip(CAR_NAMES, CAR_NAMES, ("AM General", "Ram", ""))),
        2,
        "Stanford Cars",
    ),
    "cars_mat": (
        [
            ("car_ims/000002.jpg", 0, BOX, None),
            ("car_ims/000001.jpg", 1, BOX, None),
            ("car_ims/000003.jpg", 2, BOX, None),
        ],
        list(zip(CAR_NAMES, CAR_NAMES, ("AM General", "Ram", ""))),
        1,
        "Stanford Cars",
    ),
    "cars_folders": (
        [
            (f"train/{KAGGLE[0]}/00000.jpg", 0, BOX, None),
            (f"train/{KAGGLE[1]}/00002.jpg", 1, None, None),
            (f"train/{KAGGLE[2]}/00001.jpg", 2, (0.0, 0.0, 64.0, 48.0), None),
        ],
        list(zip(KAGGLE, KAGGLE, ("AM General", "", "Ram"))),
        3,
        "Stanford Cars",
    ),
    "flowers": (
        [
            ("jpg/image_00002.jpg", 0, None, None),
            ("jpg/image_00005.jpg", 1, None, None),
            ("jpg/image_00001.jpg", 2, None, None),
        ],
        [
            ("pink primrose", "pink primrose", "flower"),
            ("hard-leaved pocket orchid", "hard-leaved pocket orchid", "flower"),
            ("canterbury bells", "canterbury bells", "flower"),
        ],
        3,
        "Oxford Flowers-102",
    ),
    "flowers_folders": (
        [
            ("train/1/image_01.jpg", 0, None, None),
            ("train/2/image_02.jpg", 1, None, None),
            ("train/10/image_010.jpg", 9, None, None),
        ],
        [(f"flower {n}" if n != 10 else "globe thistle",) * 2 + ("flower",) for n in range(1, 103)],
        6,
        "Oxford Flowers-102",
    ),
    "pets": (
        [
            ("images/Abyssinian_100.jpg", 0, None, "annotations/trimaps/Abyssinian_100.png"),
            ("images/Abyssinian_101.jpg", 0, None, "annotations/trimaps/Abyssinian_101.png"),
            ("images/Egyptian_Mau_14.jpg", 1, None, "annotations/trimaps/Egyptian_Mau_14.png"),
            ("images/great_pyrenees_2.jpg", 2, None, "annotations/trimaps/great_pyrenees_2.png"),
        ],
        [
            ("Abyssinian", "Abyssinian", "cat"),
            ("Egyptian Mau", "Egyptian Mau", "cat"),
            ("Great Pyrenees", "Great Pyrenees", "dog"),
        ],
        2,
        "Oxford-IIIT Pet",
    ),
    "dogs": (
        [
            (f"Images/{CHIHUAHUA}/n02085620_10074.jpg", 0, BOX, None),
            (f"Images/{CHIHUAHUA}/n02085620_7.jpg", 0, BOX, None),
            (f"Images/{FOX_TERRIER}/n02095314_3.jpg", 1, BOX, None),
        ],
        [(CHIHUAHUA, "Chihuahua", "dog"), (FOX_TERRIER, "wire-haired fox terrier", "dog")],
        2,
        "Stanford Dogs",
    ),
    "dtd": (
        [
            ("dtd/images/banded/banded_0004.jpg", 0, None, None),
            ("dtd/images/banded/banded_0005.jpg", 0, None, None),
            ("dtd/images/cracked/cracked_0004.jpg", 1, None, None),
            ("dtd/images/cracked/cracked_0005.jpg", 1, None, None),
        ],
        [("banded", "banded", "texture"), ("cracked", "cracked", "texture")],
        4,
        "DTD",
    ),
    "inaturalist": (
        [
            (f"train_mini/{EARTHWORM}/0a.jpg", 0, None, None),
            (f"train_mini/{EARTHWORM}/0b.jpg", 0, None, None),
            (f"train_mini/{GULL}/0a.jpg", 1, None, None),
            (f"train_mini/{GULL}/0b.jpg", 1, None, None),
        ],
        [(EARTHWORM, "Common Earthworm", "Animalia"), (GULL, "European Herring Gull", "Birds")],
        2,
        "iNaturalist 2021",
    ),
    "hugging_face": (
        [
            ("train/ab/1.png", 0, (1.0, 2.0, 30.0, 20.0), "train/m/ab/1.png"),
            ("train/c/3.png", 0, (1.0, 2.0, 30.0, 20.0), "train/m/c/3.png"),
            ("train/ab/2.png", 1, (1.0, 2.0, 30.0, 20.0), "train/m/ab/2.png"),
        ],
        [("Herring Gull", "Herring Gull", ""), ("F-16A/B", "F-16A/B", "")],
        1,
        "Hugging Face imagefolder",
    ),
    "table": (
        [("2.png", 0, None, "m/2.png"), ("a b/1.png", 1, (1.0, 2.0, 30.0, 20.0), None)],
        [("Café", "Café", ""), ("F/A-18", "F/A-18", "")],
        2,
        "table",
    ),
    "image_folder": (
        [
            ("train/Gull/1.jpg", 0, None, "masks/Gull/1.png"),
            ("train/Gull/2.jpg", 0, None, None),
            ("train/Tern/1.jpg", 1, None, None),
            ("train/Tern/2.jpg", 1, None, None),
        ],
        [("Gull", "Gull", ""), ("Tern", "Tern", "")],
        8,
        "image folder",
    ),
}


@pytest.mark.parametrize("name", BUILDERS)
def test_the_miniature_is_read_as_it_was_made(name, miniature_layout, tmp_path):
    images, classes, held_out, title = TRUTH[name]
    dataset = read_dataset(miniature_layout(name, tmp_path / "a b"))
    assert [(i.path, i.label, i.box, i.mask) for i in dataset.images] == images
    assert [(c.name, c.prompt, c.super_class) for c in dataset.classes] == classes
    assert (dataset.held_out, dataset.layout) == (held_out, title)
    assert all(load_source(dataset.root, image)[0].shape == (1, 48, 64, 3) for image in dataset.images)
    lines = describe(dataset).split("\n")
    assert title in lines[0] and dataset.evidence in lines[1]
    assert f"training images: {len(images)}, held out and never used: {held_out}" in lines
    annotated = [sum(i[k] is not None for i in images) or "none" for k in (3, 2)]
    assert "masks: {}, boxes: {}".format(*annotated) in lines


# Where in the miniature a root may be, and what leads from there to the paths of TRUTH.
ROOTS = {
    "cub": [("", "CUB_200_2011/"), ("CUB_200_2011", "")],
    "aircraft": [("", "fgvc-aircraft-2013b/"), ("fgvc-aircraft-2013b/data", None)],
    "cars_devkit": [("", "stanford_cars/")],
    "cars_mat": [("", "cars/")],
    "cars_folders": [("archive", "car_data/car_data/"), ("archive/car_data", "car_data/")],
    "flowers": [("", "flowers-102/")],
    "flowers_folders": [("", "flower_data/")],
    "pets": [("", "oxford-iiit-pet/")],
    "dogs": [("", "stanford_dogs/")],
    "dtd": [("", "dtd/"), ("dtd/dtd", None)],
    "inaturalist": [("", "inat2021/")],
}


@pytest.mark.parametrize(("name", "root", "start"), [(n, *row) for n, rows in ROOTS.items() for row in rows])
def test_the_root_may_be_above_or_below(name, root, start, miniature_layout, tmp_path):
    miniature_layout(name, tmp_path)
    paths = [path for path, *_ in TRUTH[name][0]]
    expected = [p.split("/", 1)[1] if start is None else start + p for p in paths]
    dataset = read_dataset(tmp_path / root)
    assert [image.path for image in dataset.images] == expected
    assert dataset.layout == TRUTH[name][3]


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("cub", "images"),
        ("aircraft", "data/images"),
        ("cars_devkit", "cars_train"),
        ("cars_devkit", "cars_test"),
        ("cars_mat", "car_ims"),
        ("cars_folders", "train"),
        ("cars_folders", "test"),
        ("flowers", "jpg"),
        ("flowers_folders", "train"),
        ("flowers_folders", "valid"),
        ("pets", "images"),
        ("dogs", "Images"),
        ("dtd", "dtd/images"),
        ("inaturalist", "val"),
        ("image_folder", "test"),
        ("image_folder", "test/Gull"),
    ],
)
@pytest.mark.parametrize("layout", ["auto", "image_folder"])
def test_a_part_of_a_set_never_brings_in_its_test_images(name, part, layout, miniature_layout, tmp_path):
    root = miniature_layout(name, tmp_path)
    wanted = {(image.path, image.class_name, image.box) for image in read_dataset(root).images}
    try:
        found = read_dataset(root / part, layout)
    except ValueError as error:
        assert re.search("are those of the .* set in|validation or test split", str(error))
        assert layout != "auto" or part in ("images", "test", "valid", "val", "cars_test", "test/Gull")
    else:
        assert layout == "auto"
        assert {(f"{part}/{image.path}", image.class_name, image.box) for image in found.images} == wanted


def test_a_set_is_no_image_folder_unless_its_training_images_have_a_folder(miniature_layout, tmp_path):
    for root in (miniature_layout("cub", tmp_path / "birds"), tmp_path / "birds"):
        with pytest.raises(ValueError, match="CUB_200_2011. Give that folder and layout 'cub'"):
            read_dataset(root, "image_folder")
    dataset = read_dataset(miniature_layout("cars_folders", tmp_path / "cars"), "image_folder")
    assert (len(dataset.images), dataset.held_out, dataset.layout) == (3, 3, "image folder")


def test_own_list_beside_the_original_ones(miniature_layout, tmp_path):
    root = miniature_layout("cub", tmp_path)
    path = f"images/{LAYSAN}/Laysan_Albatross_0002_1027.jpg"
    (root / "mine.csv").write_text(f"path,label\n{path},Laysan")
    assert len(read_dataset(root).images) == 3
    assert [image.path for image in read_dataset(root, "table").images] == [path]


@pytest.mark.parametrize("name", ["cars_test", "2021_valid", "Validation"])
def test_held_out_images_on_their_own_are_no_set(name, tmp_path):
    for species in (EARTHWORM, GULL):
        draw(tmp_path / name / species / "1.jpg")
    with pytest.raises(ValueError, match=f"Folder '{name}' is a validation or test split"):
        read_dataset(tmp_path / name)


def test_a_link_to_a_part_of_a_set_is_a_part_too(miniature_layout, tmp_path):
    (tmp_path / "link").symlink_to(miniature_layout("cub", tmp_path) / "images")
    with pytest.raises(ValueError, match="are those of the CUB"):
        read_dataset(tmp_path / "link")
    root = tmp_path / "CUB_200_2011" / "images"
    root.rename(tmp_path / "elsewhere")
    root.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="leads outside"):
        read_dataset(root)
    assert [image.label for image in read_dataset(root, follow_links=True).images] == [0, 0, 1]


def _samples(dataset, root, start):
    """Path -> class index, of torchvision's dataset."""
    files = getattr(dataset, "_image_files", None) or getattr(dataset, "_images", None)
    pairs = zip(files, dataset._labels) if files else dataset._samples
    return {Path(file).relative_to(root / start).as_posix(): int(label) for file, label in pairs}


@pytest.mark.parametrize(
    ("name", "options", "theirs", "start"),
    [
        *(
            ("aircraft", {"level": level, "split": split}, ("FGVCAircraft", split, level), "fgvc-aircraft-2013b")
            for level in ("variant", "family", "manufacturer")
            for split in ("train", "trainval")
        ),
        ("cars_devkit", {}, ("StanfordCars", "train"), "stanford_cars"),
        ("flowers", {}, ("Flowers102", "train"), "flowers-102"),
        ("pets", {}, ("OxfordIIITPet", "trainval"), "oxford-iiit-pet"),
        *(("dtd", {"partition": p}, ("DTD", "train", p), "dtd") for p in range(1, 11)),
    ],
)
def test_agreement_with_torchvision(name, options, theirs, start, miniature_layout, tmp_path, monkeypatch):
    import torchvision.datasets as known
    from torchvision.datasets import flowers102

    monkeypatch.setattr(flowers102, "check_integrity", lambda file, md5: Path(file).is_file())
    root = miniature_layout(name, tmp_path)
    ours = read_dataset(root, **options)
    oracle = getattr(known, theirs[0])(tmp_path, *theirs[1:])
    expected = _samples(oracle, tmp_path, start)
    assert {i.path: i.class_name for i in ours.images} == {p: _name(oracle, ours, n) for p, n in expected.items()}
    if name != "pets":  # with 3 of 37 breeds torchvision's numbers and classes do not agree
        assert {i.path: i.label for i in ours.images} == expected


def _name(oracle, ours, number):
    if type(oracle).__name__ == "Flowers102":  # torchvision spells some names in another way than cat_to_name.json
        return ours.class_names[number]
    if type(oracle).__name__ == "OxfordIIITPet":
        return oracle.classes[sorted(set(oracle._labels)).index(number)]
    return oracle.classes[number]


def test_agreement_with_torchvision_on_inaturalist(miniature_layout, tmp_path):
    from torchvision.datasets import INaturalist

    root = miniature_layout("inaturalist", tmp_path)
    os.rename(root / "train_mini" / GULL, root / "train_mini" / GULL.replace("03111", "00001"))
    os.rename(root / "train_mini", root / "2021_train_mini")
    oracle = INaturalist(root, "2021_train_mini")
    ours = read_dataset(root)
    theirs = [(f"2021_train_mini/{oracle.all_categories[label]}/{file}", label) for label, file in oracle.index]
    assert [(image.path, image.label) for image in ours.images] == sorted(theirs)
    assert list(ours.class_names) == oracle.all_categories


@pytest.mark.parametrize("level", ["family", "manufacturer"])
def test_aircraft_levels_above(level, miniature_layout, tmp_path):
    dataset = read_dataset(miniature_layout("aircraft", tmp_path), level=level, split="trainval")
    makes = ["Boeing", "Lockheed Martin", "McDonnell Douglas"]
    assert [c.super_class for c in dataset.classes] == (makes if level == "family" else ["", "", ""])
    assert (len(dataset.images), dataset.held_out, dataset.licence) == (6, 3, "non-commercial research only")


def test_aircraft_banner_is_cut_off(miniature_layout, tmp_path):
    root = miniature_layout("aircraft", tmp_path)
    file = root / "data" / "images" / "0034309.png"
    picture = Image.new("RGB", (64, 68), (0, 0, 255))
    picture.paste((255, 255, 255), (0, 48, 64, 68))
    picture.save(file)
    file.replace(file.with_suffix(".jpg"))  # a PNG named .jpg
    pixels, mask = load_source(root, read_dataset(root).by_path["data/images/0034309.jpg"])
    assert mask is None and torch.equal(pixels, torch.tensor([0.0, 0.0, 1.0]).expand(1, 48, 64, 3))


def test_aircraft_variant_of_two_families_has_no_super_class(miniature_layout, tmp_path):
    root = miniature_layout("aircraft", tmp_path)
    file = root / "data" / "images_variant_train.txt"
    file.write_text(file.read_text().replace("1025794 F-16A/B", "1025794 707-320"))
    assert [c.super_class for c in read_dataset(root).classes] == ["", "", "F/A-18"]


@pytest.mark.parametrize("where", ["CUB_200_2011", "."])
def test_cub_segmentations_are_masks(where, miniature_layout, tmp_path):
    root = miniature_layout("cub", tmp_path)
    for image in read_dataset(root).images:
        mask = Path(tmp_path, where, "segmentations", image.path.removeprefix("images/")).with_suffix(".png")
        mask.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (64, 48), 255).save(mask)
    dataset = read_dataset(tmp_path)
    assert {image.mask for image in dataset.images} == {
        image.path.replace("CUB_200_2011/images", f"{where}/segmentations").removeprefix("./")[:-3] + "png"
        for image in dataset.images
    }


def test_pet_masks_take_the_outline_in(miniature_layout, tmp_path):
    root = miniature_layout("pets", tmp_path)
    pixels, mask = load_source(root, read_dataset(root).images[0])
    expected = torch.zeros(1, 48, 64)
    expected[:, 10:30, 10:40] = 1
    assert torch.equal(mask, expected) and pixels.shape == (1, 48, 64, 3)


def test_flowers_need_names(miniature_layout, tmp_path, monkeypatch):
    from torchvision.datasets import Flowers102

    root = miniature_layout("flowers", tmp_path)
    (root / "cat_to_name.json").rename(tmp_path / "cat_to_name.json")
    assert read_dataset(root).class_names[1] == "hard-leaved pocket orchid"
    (tmp_path / "cat_to_name.json").unlink()
    (root / "names.txt").write_text("rose\r\ntulip\r\nlily\r\n\r\n")
    assert read_dataset(root).class_names == ("rose", "tulip", "lily")
    (root / "names.txt").write_text("rose\ntulip\n")
    with pytest.raises(ValueError, match=r"image_00001.jpg has number 3, but names.txt has 2 names"):
        read_dataset(root)
    (root / "names.txt").unlink()
    monkeypatch.delattr(Flowers102, "classes", raising=False)
    with pytest.raises(ValueError, match="put cat_to_name.json .* or names.txt"):
        read_dataset(root)


def test_inaturalist_without_names_and_with_two_training_folders(miniature_layout, tmp_path):
    root = miniature_layout("inaturalist", tmp_path)
    (root / "train_mini.json").unlink()
    assert [(c.prompt, c.super_class) for c in read_dataset(root).classes] == [
        ("Lumbricus terrestris", ""),
        ("Larus argentatus", ""),
    ]
    os.renames(root / "train_mini" / GULL, root / "train" / GULL)
    with pytest.raises(ValueError, match="Choose with split=train_mini or split=train"):
        read_dataset(root)
    assert read_dataset(root, split="train").class_names == (GULL,)
    (root / "train" / "extra").mkdir()
    with pytest.raises(ValueError, match="'extra' .* is not a species folder"):
        read_dataset(root, split="train")


def test_older_inaturalist_is_refused(miniature_layout, tmp_path):
    os.rename(miniature_layout("image_folder", tmp_path) / "train", tmp_path / "birds" / "train_val2018")
    with pytest.raises(ValueError, match="older iNaturalist and holds training and validation images"):
        read_dataset(tmp_path / "birds")


def test_stanford_dogs_without_boxes(miniature_layout, tmp_path):
    root = miniature_layout("dogs", tmp_path)
    (root / "Annotation" / CHIHUAHUA / "n02085620_7").write_text("<annotation>")
    with pytest.raises(ValueError, match="n02085620_7 is not a VOC annotation"):
        read_dataset(root)
    (root / "Annotation" / CHIHUAHUA / "n02085620_7").unlink()
    with pytest.raises(ValueError, match="n02085620_7 is missing"):
        read_dataset(root)
    (root / "Annotation").rename(root / "xml")
    assert {image.box for image in read_dataset(root).images} == {None}
