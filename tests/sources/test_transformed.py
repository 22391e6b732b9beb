"""Every layout nested, renamed, re-encoded and littered: planned as the clean set is, or refused with evidence."""

import hashlib
import os
import random
import re
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from higfa_core.sources.layouts import read_dataset

from .layouts.miniatures import BUILDERS, draw, write
from .layouts.more_miniatures import MORE

pytestmark = pytest.mark.slow

LAYOUTS = BUILDERS | MORE
IMAGES = (".jpg", ".jpeg", ".png")
LISTS = (".txt", ".csv", ".jsonl")


def sha(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def seen(root, **options):
    """What a plan would be made from, whatever the paths: each image's content with its class, box and mask."""
    dataset = read_dataset(root, follow_links=True, **options)
    held_out = {sha(dataset.root / path) for path in dataset.held_out_images}
    rows = [
        (sha(dataset.root / i.path), i.class_name, i.label, i.box, i.mask and sha(dataset.root / i.mask))
        for i in dataset.images
    ]
    assert not held_out & {row[0] for row in rows}, "a held-out image is a source"
    return sorted(rows, key=str), [(c.name, c.prompt, c.super_class) for c in dataset.classes]


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    """Layout -> its miniature with an image of its own in every file, where the root is, and what is read from it."""
    made = {}

    def build(name):
        if name not in made:
            base = tmp_path_factory.mktemp(name)
            root = LAYOUTS[name](base)
            for number, path in enumerate(sorted(p for p in base.rglob("*") if p.suffix.lower() in IMAGES)):
                with Image.open(path) as image:
                    (width, height), grey = image.size, image.mode == "L"
                pixels = np.random.default_rng(number).integers(
                    *((1, 4) if grey else (0, 256)), (height, width) if grey else (height, width, 3), dtype=np.uint8
                )
                Image.fromarray(pixels).save(path)
            top = Path(root.relative_to(base).parts[0])
            made[name] = base, top, seen(base / top)
        return made[name]

    return build


# Each takes the folder above the set and the set's folder, changes them, and returns the folder to plan from.


def image_folders(root):
    return sorted({path.parent for path in root.rglob("*") if path.suffix.lower() in IMAGES})


def lists(root):
    return sorted(path for path in root.rglob("*") if path.suffix.lower() in LISTS)


def images(root):
    return sorted(path for path in root.rglob("*") if path.suffix.lower() in IMAGES)


def nested(base, root):
    return _wrap(base, root, "x/y")


def deeper(base, root):
    return _wrap(base, root, "Kaggle download/archive (1)/v2")


def _wrap(base, root, above):
    (base / above).mkdir(parents=True)
    os.rename(root, base / above / root.name)
    return base / above.split("/")[0]


def in_its_own_name(base, root):
    os.rename(root, base / "moved")
    root.mkdir()
    os.rename(base / "moved", root / root.name)
    return root


def each_folder_in_its_own_name(base, root):
    for folder in [path for path in root.iterdir() if path.is_dir()]:
        os.rename(folder, base / "moved")
        folder.mkdir()
        os.rename(base / "moved", folder / folder.name)
    return root


def image_folders_in_their_own_name(base, root):
    for folder in sorted(image_folders(root), key=lambda path: -len(path.parts)):
        if any(child.is_dir() for child in folder.iterdir()):
            continue
        os.rename(folder, base / "moved")
        folder.mkdir()
        os.rename(base / "moved", folder / folder.name)
    return root


def renamed(base, root):
    os.rename(root, base / "download-main")
    return base / "download-main"


def renamed_with_accents(base, root):
    os.rename(root, base / unicodedata.normalize("NFD", "Évêques à Zürich"))
    return base / unicodedata.normalize("NFD", "Évêques à Zürich")


def synology(base, root):
    for path in images(root):
        draw(path.parent / "@eaDir" / path.name / "SYNOPHOTO_THUMB_XL.jpg", seed=1)
    return root


def macintosh(base, root):
    for path in images(root):
        write(base / "__MACOSX" / path.relative_to(base).parent / f"._{path.name}", "x")
        write(path.parent / f"._{path.name}", "x")
        write(path.parent / ".DS_Store", "x")
    os.rename(base / "__MACOSX", root / "__MACOSX")
    return root


def windows(base, root):
    for name in ("$RECYCLE.BIN/S-1-5/$R1.jpg", "System Volume Information/x.txt", "Thumbs.db", "desktop.ini"):
        draw(root / name) if name.endswith("jpg") else write(root / name, "x")
    for folder in image_folders(root):
        write(folder / "Thumbs.db", "x")
        write(folder / "desktop.ini", "[.ShellClassInfo]")
    return root


def notebooks(base, root):
    for path in images(root):
        shutil.copy(path, _made(path.parent / ".ipynb_checkpoints") / f"{path.stem}-checkpoint{path.suffix}")
    return root


def _made(folder):
    folder.mkdir(exist_ok=True)
    return folder


def papers(base, root):
    write(root / "LICENSE", "Only for you.")
    write(root / "NOTES.txt", "Downloaded on a rainy day.", "See the paper.")
    write(root / "requirements.txt", "torch", "timm")
    write(root / "train.py", "print('train/0001.jpg')")
    write(root / "paper.bib", "@article{x}")
    return root


def a_picture_about_the_set(base, root):
    draw(root / "overview.jpg", seed=99)
    return root


def empty_folders(base, root):
    (root / "empty").mkdir()
    (root / "logs" / "run1").mkdir(parents=True)
    return root


def rewrite(root, change, files=None):
    for path in files or lists(root):
        path.write_bytes(change(path.read_bytes()))
    return root


def windows_lines(base, root):
    return rewrite(root, lambda data: data.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n"))


def byte_order_mark(base, root):
    return rewrite(root, lambda data: b"\xef\xbb\xbf" + data)


def utf16(base, root):
    return rewrite(root, lambda data: data.decode().encode("utf-16"))


def utf16_without_mark(base, root):
    return rewrite(root, lambda data: data.decode().encode("utf-16-le"))


def blank_lines(base, root):
    return rewrite(root, lambda data: data + b"\n\n   \n")


def spaces_at_ends(base, root):
    return rewrite(root, lambda data: data.replace(b"\r\n", b"\n").replace(b"\n", b"  \n"))


def semicolons(base, root):
    return rewrite(root, lambda data: data.replace(b",", b";"), list(root.rglob("*.csv")))


def tabs(base, root):
    return rewrite(root, lambda data: data.replace(b",", b"\t"), list(root.rglob("*.csv")))


def spaces_after_commas(base, root):
    return rewrite(root, lambda data: data.replace(b",", b", "), list(root.rglob("*.csv")))


def other_columns(base, root):
    names = {b"path,": b"File Name,", b"label,": b"Class,", b",label": b",Class"}
    for path in root.rglob("*.csv"):
        head, _, rest = path.read_bytes().partition(b"\n")
        for old, new in names.items():
            head = head.replace(old, new)
        path.write_bytes(head + b"\n" + rest)
    return root


def backslashes(base, root):
    return rewrite(root, lambda data: re.sub(rb"(?<=\w)/(?=[\w ]+[/.])", rb"\\", data))


def backslashes_in_json(base, root):
    files = [*root.rglob("*.jsonl"), *root.rglob("*.json")]
    return rewrite(root, lambda data: re.sub(rb"(?<=\w)/(?=\w+[/.])", rb"\\\\", data), files) if files else root


def no_suffixes_in_lists(base, root):
    return rewrite(root, lambda data: re.sub(rb"\.(jpg|jpeg|png|JPG)\b", b"", data))


def no_suffixes_on_disk(base, root):
    for path in images(root):
        os.rename(path, path.with_suffix(""))
    return root


def loud_suffixes(base, root):
    for path in images(root):
        os.rename(path, path.with_suffix(path.suffix.swapcase()))
    return root


def jpeg(base, root):
    for path in images(root):
        if path.suffix == ".jpg":
            os.rename(path, path.with_suffix(".jpeg"))
    return root


def other_case(base, root):
    for folder in sorted((p for p in root.rglob("*") if p.is_dir()), key=lambda path: -len(path.parts)):
        if folder.name.islower() and folder not in image_folders(root):
            os.rename(folder, folder.with_name(folder.name.title()))
    return root


def photos(base, root):
    """The one folder below which all images are, under another name."""
    places = {path.relative_to(root).parts[0] for path in images(root)}
    if len(places) == 1 and (root / next(iter(places))).is_dir():
        os.rename(root / places.pop(), root / "photos")
    return root


def _pictured(root):
    """A folder below the root that holds images, and no masks."""
    found = [folder for folder in image_folders(root) if not {"masks", "trimaps", "m"} & set(folder.parts)]
    return next((folder for folder in found if folder != root), found[0])


def moved_up(base, root):
    """All images of one class folder, one level up."""
    folder = _pictured(root)
    for path in images(folder):
        if path.parent == folder and not (folder.parent / path.name).exists():
            os.rename(path, folder.parent / path.name)
    return root


def moved_down(base, root):
    """All images of one folder, one level down."""
    folder = _pictured(root)
    for path in [path for path in images(folder) if path.parent == folder]:
        os.rename(path, _made(folder / "more") / path.name)
    return root


def flat(base, root):
    """All images in one folder, if no name is there twice."""
    paths = images(root)
    if len({path.name for path in paths}) == len(paths):
        for path in paths:
            os.rename(path, _made(root / "all") / path.name)
    return root


def parts(base, root):
    """Images in folders of their first two letters."""
    for path in images(root):
        os.rename(path, _made(path.parent / path.name[:2]) / path.name)
    return root


def in_splits(base, root):
    """The folders of the splits under names that speak of them in another way."""
    for folder in sorted((p for p in root.rglob("*") if p.is_dir()), key=lambda path: -len(path.parts)):
        if folder.name in ("train", "val", "valid", "test"):
            os.rename(folder, folder.with_name(f"{folder.name}_images"))
    return root


def training(base, root):
    for old, new in (("train", "Training"), ("test", "Testing"), ("val", "validation")):
        for folder in [path for path in root.rglob(old) if path.is_dir()]:
            os.rename(folder, folder.with_name(new))
    return root


def copies_of_lists(base, root):
    for path in lists(root):
        shutil.copy(path, path.with_name(f"Copy of {path.name}"))
    return root


def linked(base, root):
    (base / "link").symlink_to(root)
    return base / "link"


def linked_files(base, root):
    for path in images(root):
        target = base / "store" / path.relative_to(base)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.rename(path, target)
        path.symlink_to(target)
    return root


def twice(base, root):
    shutil.copytree(root, base / "backup" / root.name)
    return base


CHANGES = [
    *(nested, deeper, in_its_own_name, each_folder_in_its_own_name, image_folders_in_their_own_name, renamed),
    *(renamed_with_accents, synology, macintosh, windows, notebooks, papers, a_picture_about_the_set, empty_folders),
    *(windows_lines, byte_order_mark, utf16, utf16_without_mark, blank_lines, spaces_at_ends, semicolons, tabs),
    *(spaces_after_commas, other_columns, backslashes, backslashes_in_json, no_suffixes_in_lists, no_suffixes_on_disk),
    *(loud_suffixes, jpeg, other_case, photos, moved_up, moved_down, flat, parts, in_splits, training),
    *(copies_of_lists, linked, linked_files, twice),
]
# These change nothing that anybody would see, so that refusing them would be wrong.
HARMLESS = {
    *(nested, deeper, renamed, renamed_with_accents, synology, macintosh, windows, notebooks, papers, windows_lines),
    *(byte_order_mark, utf16, blank_lines, loud_suffixes, linked, linked_files, in_its_own_name),
}
WRAPPED = {nested, deeper, in_its_own_name}  # a folder a class, wrapped twice, could be anything


def outcome(root, expected):
    """ "equal", or the refusal; anything else fails."""
    try:
        found = seen(root)
    except ValueError as error:
        return str(error)
    assert found[0] == expected[0], "other sources, classes, boxes or masks"
    assert found[1] == expected[1], "other classes"
    return "equal"


@pytest.mark.parametrize("name", LAYOUTS)
def test_transformed_sets_are_read_as_the_clean_ones_or_refused(name, clean, tmp_path):
    base, inner, expected = clean(name)
    wrong, refused = [], []
    for number, change in enumerate(CHANGES):
        copy = tmp_path / str(number)
        shutil.copytree(base, copy)
        root = change(copy, copy / inner)
        try:
            said = outcome(root, expected)
        except AssertionError as error:
            wrong.append(f"{change.__name__}: {str(error).splitlines()[0]}")
            continue
        if said != "equal":
            assert str(tmp_path) in said or "/" in said or "'" in said, f"{change.__name__}: no evidence in {said}"
            refused.append(change)
    assert not wrong, "\n".join(wrong)
    needless = [c.__name__ for c in refused if c in HARMLESS and not (c in WRAPPED and name == "image_folder")]
    assert not needless, needless


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_set_without_one_of_its_lists_gives_no_other_images(name, clean, tmp_path):
    base, inner, expected = clean(name)
    wanted = {(content, label) for content, label, *_ in expected[0]}
    for number, file in enumerate(sorted(p for p in base.rglob("*") if p.is_file() and p.suffix.lower() not in IMAGES)):
        if file.suffix in (".xml", "") or "label/" in file.as_posix():
            continue
        copy = tmp_path / str(number)
        shutil.copytree(base, copy)
        (copy / file.relative_to(base)).unlink()
        try:
            rows, _ = seen(copy / inner)
        except ValueError as error:
            assert "/" in str(error) or "'" in str(error)
        else:
            found = {(content, label) for content, label, *_ in rows}
            assert found == wanted or {c for c, _ in found} == {c for c, _ in wanted}, f"without {file.name}"


@pytest.mark.parametrize("name", LAYOUTS)
def test_no_folder_of_a_set_gives_other_images(name, clean):
    base, inner, expected = clean(name)
    wanted = {(content, label) for content, label, *_ in expected[0]}
    for folder in sorted(path for path in (base / inner).rglob("*") if path.is_dir()):
        try:
            rows, _ = seen(folder)
        except ValueError:
            continue
        found = {(content, label) for content, label, *_ in rows}
        assert found <= wanted, f"{folder.relative_to(base)} gives others"


@pytest.mark.parametrize("seed", range(6))
def test_several_changes_at_once(seed, clean, tmp_path):
    chance = random.Random(seed)
    for name in chance.sample(sorted(LAYOUTS), 6):
        base, inner, expected = clean(name)
        copy = tmp_path / name
        shutil.copytree(base, copy)
        root = copy / inner
        changes = [change for change in CHANGES if change not in (twice, linked, linked_files)]
        for change in chance.sample(changes, 3):
            root = change(root.parent, root)
        try:
            said = outcome(root, expected)
        except AssertionError as error:
            raise AssertionError(f"{name}: {error}") from error
        assert said
