"""More sets against hand-written truth."""

from collections import Counter

import pytest

from higfa_core.sources.layouts import describe, read_dataset

from .more_miniatures import MORE

BOX = (2.0, 4.0, 48.0, 36.0)  # of pixels 3..50 and 5..40, counted from 1
# layout -> title, images of each class, (name, prompt, super class) of the first class, held out, a box
TRUTH = {
    "nabirds": ("NABirds", {"Brant": 2, "American Coot": 2}, ("Brant", "Brant", "Birds"), 2, (1.0, 2.0, 30.0, 20.0)),
    "cub_2010": (
        "CUB-200 (2010)",
        {"001.Black_footed_Albatross": 2, "002.Laysan_Albatross": 2},
        ("001.Black_footed_Albatross", "Black footed Albatross", "bird"),
        2,
        None,
    ),
    "food": ("Food-101", {"apple_pie": 2, "waffles": 2}, ("apple_pie", "Apple pie", "food"), 2, None),
    "compcars": ("CompCars", {"Audi A4L": 2, "Benz C Class": 1}, ("Audi A4L", "Audi A4L", "Audi"), 2, BOX),
    "compcars_surveillance": ("CompCars", {"BWM X5": 2, "Zotye Z300": 1}, ("BWM X5", "BWM X5", "BWM"), 2, None),
    "products": ("Stanford Online Products", {"1": 2, "2": 1}, ("1", "bicycle", "bicycle"), 2, None),
    "voc": ("Pascal VOC", {"bird": 1, "train": 1}, ("bird", "bird", ""), 1, (2.0, 4.0, 28.0, 36.0)),
    "coco": ("COCO", {"cat": 1, "chair": 1}, ("cat", "cat", "animal"), 1, (2.0, 4.0, 31.0, 20.0)),
    "inaturalist_2018": (
        "iNaturalist",
        {"Larus argentatus": 2, "Sterna hirundo": 2},
        ("Larus argentatus", "Larus argentatus", "Aves"),
        2,
        (2.0, 4.0, 30.0, 20.0),
    ),
}


@pytest.mark.parametrize("name", MORE)
def test_the_miniature_is_read_as_it_was_made(name, tmp_path):
    title, counts, first, held_out, box = TRUTH[name]
    dataset = read_dataset(MORE[name](tmp_path))
    assert dataset.layout == title and Counter(image.class_name for image in dataset.images) == counts
    info = dataset.classes[0]
    assert (info.name, info.prompt, info.super_class) == first
    assert dataset.held_out == len(dataset.held_out_images) == held_out
    assert dataset.images[0].box == box
    assert all((dataset.root / image.path).is_file() for image in dataset.images)


def test_images_of_several_things_are_counted(tmp_path):
    for name in ("voc", "coco"):
        assert "left out: 1 with things of several classes, such as " in describe(read_dataset(MORE[name](tmp_path)))


def test_options_of_the_new_sets(tmp_path):
    products = MORE["products"](tmp_path)
    assert read_dataset(products, level="category").counts() == {"bicycle": 2, "coffee maker": 1}
    cars = MORE["compcars"](tmp_path)
    assert read_dataset(cars, view="front").counts() == {"Audi A4L": 1}
    voc = MORE["voc"](tmp_path)
    assert len(read_dataset(voc, split="trainval").images) == 3
    for root, options in ((products, {"level": "x"}), (cars, {"view": "above"}), (voc, {"split": "test"})):
        with pytest.raises(ValueError, match=f"must be .*{next(iter(options.values()))!r}"):
            read_dataset(root, **options)


def test_food_agrees_with_torchvision(tmp_path):
    from torchvision.datasets import Food101

    root = MORE["food"](tmp_path)
    ours, theirs = read_dataset(root), Food101(tmp_path, "train")
    expected = {str(file.relative_to(root)): label for file, label in zip(theirs._image_files, theirs._labels)}
    assert {image.path: image.label for image in ours.images} == expected
    assert list(ours.class_names) == theirs.classes
