"""Thirty bad inputs: each ends in one message that names the file, the evidence and the remedy."""

import json
import os
import zipfile

import pytest

from higfa_core.sources.layouts import read_dataset

from .layouts.miniatures import draw, write
from .layouts.more_miniatures import MORE, images

FOUR = [f"im/{n}.jpg" for n in range(4)]


def tree(root, *paths):
    images(root, *paths)


def table(root, header, *rows, name="list.csv", encoding="utf-8"):
    images(root, *FOUR)
    (root / name).write_bytes("".join(f"{line}\n" for line in (header, *rows)).encode(encoding))


def rows(*labels):
    return [f"{path},{label}" for path, label in zip(FOUR, labels)]


def voc_without_annotation(root):
    (MORE["voc"](root) / "VOC2012/Annotations/2008_1.xml").unlink()


def coco(root, **changes):
    file = MORE["coco"](root) / "annotations/instances_train2017.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def zipped(root):
    with zipfile.ZipFile(root / "images.zip", "w") as packed:
        packed.writestr("a/0.jpg", "x")


def pickled(root):
    tree(root, "a/cat1.jpg", "b/dog1.jpg")
    (root / "split.pkl").write_bytes(b"\x80\x04cat1.jpg\x94dog1.jpg\x94.")


def outside(root):
    draw(root.parent / "away" / "0.jpg")
    tree(root, "a/0.jpg")
    os.symlink(root.parent / "away", root / "b")


BAD = {  # name -> what to make, what the message says (file, evidence, remedy)
    "only trimaps beside images": (
        lambda root: tree(root, "images/x.jpg", "trimaps/x.png"),
        r"images is a usual name for a folder of all images.*--labels FILE",
    ),
    "annotations as a class": (
        lambda root: tree(root, "a/1.jpg", "annotations/1.jpg"),
        r"annotations usually holds masks or lists, not a class.*--layout image_folder",
    ),
    "masks inside a class": (
        lambda root: tree(root, "a/1.jpg", "b/2.jpg", "b/masks/2.png"),
        r"masks usually holds masks or lists",
    ),
    "splits by their pair": (
        lambda root: tree(root, "birds_train/1.jpg", "birds_test/2.jpg"),
        r"birds_test and birds_train look like splits; give the one with the training images",
    ),
    "a split by a word": (
        lambda root: tree(root, "a/1.jpg", "b/2.jpg", "val2017/3.jpg"),
        r"val2017 looks like a split",
    ),
    "the only folder is a split": (lambda root: tree(root, "birds_train/1.jpg"), r"birds_train looks like a split"),
    "a test folder of images": (
        lambda root: tree(root, "a/1.jpg", "b/2.jpg", "test/3.jpg"),
        r"test holds 1 image and no class folders.*classes=test.*move it out",
    ),
    "make, model and year": (
        lambda root: tree(root, "78/1/2014/a.jpg", "79/2/2013/b.jpg"),
        r"hold folders of images, such as 78/1/2014/a.jpg.*give the folder that holds them",
    ),
    "images beside classes": (
        lambda root: tree(root, "a/1.jpg", "b/2.jpg", "3.jpg"),
        r"beside them, in none: 1 image such as 3.jpg",
    ),
    "one class in folders": (
        lambda root: tree(root, "a/1.jpg", "b/x/2.jpg"),
        r"1 of 2 hold folders of images, such as b/x/2.jpg",
    ),
    "a folder of lists": (
        lambda root: (tree(root, "a/1.jpg"), write(root / "splits/one.txt", "train")),
        r"splits holds no readable image, but 1 other file such as splits/one.txt.*move it away",
    ),
    "a list of names": (
        lambda root: (tree(root, "a/cat1.jpg", "b/dog1.jpg"), write(root / "heldout.txt", "cat1.jpg")),
        r"heldout.txt names 1 of the images by column 1, so the folders alone may not tell.*--labels heldout.txt",
    ),
    "an XML file of names": (
        lambda root: (tree(root, "a/cat1.jpg", "b/dog1.jpg"), write(root / "a.xml", "<f>cat1.jpg</f>")),
        r"a.xml names 1 of the images",
    ),
    "a pickle of names": (pickled, r"split.pkl names 2 of the images"),
    "a JSON file of names": (
        lambda root: (tree(root, "a/cat1.jpg", "b/dog1.jpg"), write(root / "s.json", '{"x": ["cat1.jpg"]}')),
        r"s.json names 1 of the images",
    ),
    "labels that cannot be told": (
        lambda root: table(root, "file,age,sex", *(f"{row},f" for row in rows(1, 2, 1, 2))),
        r"list.csv lists 4 images by column 'file'.*--path-column file --label-column NAME.*file, age, sex",
    ),
    "two kinds of labels": (
        lambda root: table(root, "file,species,breed", *map("{},{}".format, rows("a", "a", "b", "b"), "wxyw")),
        r"'species' and 'breed' could both hold the labels",
    ),
    "folds": (
        lambda root: table(root, "path,label,fold", *map("{},{}".format, rows("a", "a", "b", "b"), (0, 1, 0, 1))),
        r"column 'fold', which may say what is held out.*--split-column none",
    ),
    "labels in eight bits": (
        lambda root: table(root, "path,label", *rows("Café", "b", "Café", "b"), encoding="cp1252"),
        r"list.csv is not UTF-8, and read as .* it has the label .*. Save it as UTF-8",
    ),
    "a row too short": (
        lambda root: table(root, "path,label", *rows("a", "b", "a"), "im/3.jpg"),
        r"list.csv, row 5: it has more or fewer fields than the header. Correct it",
    ),
    "an empty label": (
        lambda root: table(root, "path,label", *rows("a", "", "a", "b")),
        r"list.csv, row 3: '' is not a label. Give a name or a whole number",
    ),
    "only a table of test images": (
        lambda root: table(root, "file,class", *rows(*"abab"), name="test.csv"),
        r"no table of training images, only test.csv. Add one",
    ),
    "two tables": (
        lambda root: [table(root, "file,class", *rows(*"abab"), name=f"{n}.csv") for n in "xy"],
        r"found x.csv, y.csv. Choose one with --labels",
    ),
    "a table against the folders": (
        lambda root: (
            tree(root, "gull/a.jpg", "tern/b.jpg", "tern/c.jpg"),
            write(root / "t.csv", "file,class", "gull/a.jpg,x", "tern/b.jpg,x", "tern/c.jpg,y"),
        ),
        r"t.csv and the folders of .* give the images different labels. .*add --labels t.csv",
    ),
    "an image listed and not there": (
        lambda root: table(root, "path,label", *rows(*"abab"), "im/9.jpg,a"),
        r"im/9.jpg is listed, but not in .*. Copy it there or remove it from the list",
    ),
    "which of two files": (
        lambda root: (tree(root, "x/1.jpg", "y/1.jpg"), write(root / "t.csv", "path,label", "img/1.jpg,a")),
        r"img/1.jpg is listed, but not in .*, where x/1.jpg and y/1.jpg could both be it. Move",
    ),
    "an archive": (zipped, r"holds no images, but images.zip with 1 image. Unpack it first"),
    "shards": (
        lambda root: write(root / "birds.tfrecord-00000-of-00002", "x"),
        r"birds.tfrecord-00000-of-00002. Extract its images with tensorflow_datasets first",
    ),
    "an annotation missing": (voc_without_annotation, r"2008_1.xml is missing. Copy all annotations"),
    "a damaged COCO file": (
        lambda root: coco(root, images=[{"id": 1}]),
        r"instances_train2017.json is not a COCO file .*file_name.*Copy the original",
    ),
    "a category without a name": (
        lambda root: coco(root, categories=[{"id": 17}]),
        r"a category in .* lacks id or name .*Copy the list",
    ),
    "a header that is not the set's": (
        lambda root: write(MORE["products"](root) / "Ebay_train.txt", "id path", "1 a.jpg"),
        r"Ebay_train.txt, line 1: expected 4 columns",
    ),
    "a car model that has no name": (
        lambda root: write(MORE["compcars"](root) / "train_test_split/classification/train.txt", "1/9/2014/a1.jpg"),
        r"'9' of '1/9/2014/a1.jpg' is not a number in 1 to 3",
    ),
    "two spellings of a class": (
        lambda root: table(root, "path,label", *rows("Gull", "ＧＵＬＬ", "Tern", "Tern")),
        r"'Gull' and .* are one folder on Windows and macOS. Rename one, or give both the same name",
    ),
    "a link that leads outside": (outside, r"Path 'b' leads outside .*. Copy the files into that folder"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_input_is_refused_with_evidence_and_remedy(name, tmp_path):
    make, message = BAD[name]
    root = tmp_path / "set"
    root.mkdir()
    make(root)
    with pytest.raises(ValueError, match=message) as caught:
        read_dataset(root)
    assert len(str(caught.value).splitlines()) == 1
