import numpy as np
import pytest
import torch
from PIL import Image

from higfa_core.files import formats
from higfa_core.files.formats import readable_suffixes
from higfa_core.files.images import load_image, load_mask
from higfa_core.sources.layouts import read_dataset
from higfa_core.sources.source import prompt_name


def picture(path, size=(6, 4), color=(10, 20, 30)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, color).save(path)
    return path


def tree(root, *paths):
    for path in paths:
        picture(root / path)
    return root


def sources(root):
    return read_dataset(root).images


@pytest.mark.parametrize(
    ("folder", "spoken"),
    [
        ("003.Laysan_Albatross", "Laysan Albatross"),
        ("n02085620-Chihuahua", "Chihuahua"),
        ("F-16A_B", "F-16A B"),
        ("707-320", "707-320"),
        ("2012 BMW", "2012 BMW"),
        ("12_34", "12 34"),
        ("  Zürich__Huhn ", "Zürich Huhn"),
        ("鴉", "鴉"),
    ],
)
def test_prompt_name(folder, spoken):
    assert prompt_name(folder) == spoken


def test_classes_agree_with_torchvision(tmp_path):
    from torchvision.datasets import ImageFolder

    root = tree(tmp_path / "birds", "b/2.png", "b/1.JPG", "C/x.webp", "a/sub/1.png", "鴉/1.png", "010/z.png")
    (root / "a" / "Thumbs.db").write_bytes(b"no image")
    images = read_dataset(root, "image_folder").images
    theirs = ImageFolder(root)
    assert [(str(root / s.path), s.label) for s in images] == theirs.samples
    assert list(dict.fromkeys(s.class_name for s in images)) == theirs.classes


def test_only_train_is_used(tmp_path):
    tree(tmp_path, "train/a/1.png", "val/a/2.png", "test/a/3.png", "b/4.png", "train/test/a/5.png")
    assert [s.path for s in sources(tmp_path)] == ["train/a/1.png"]


@pytest.mark.parametrize("split", ["val", "valid", "validation", "test", "Test", "Testing", "dev", "eval", "val_set"])
def test_held_out_splits_are_never_sources(tmp_path, split):
    tree(tmp_path, "a/1.png", f"{split}/a/2.png")
    assert [s.path for s in sources(tmp_path)] == ["a/1.png"]
    with pytest.raises(ValueError, match=f"'{split}'.*never be a source"):
        sources(tmp_path / split)


@pytest.mark.parametrize(
    ("train", "test"), [("Training", "Testing"), ("Train", "Test"), ("training_set", "test_set"), ("TRAIN", "eval")]
)
def test_splits_by_any_usual_name(tmp_path, train, test):
    tree(
        tmp_path,
        *(f"{split}/{name}/1.png" for split in (train, test) for name in ("cat", "dog")),
        f"{train}/val/a/1.png",
    )
    picture(tmp_path / train / "masks" / "cat" / "1.png")
    found = read_dataset(tmp_path)
    assert [(s.path, s.class_name, s.mask) for s in found.images] == [
        (f"{train}/cat/1.png", "cat", f"{train}/masks/cat/1.png"),
        (f"{train}/dog/1.png", "dog", None),
    ]
    assert found.held_out == 2
    with pytest.raises(ValueError, match=f"'{test}'.*never be a source"):
        sources(tmp_path / test / "cat")


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        (
            "archive/train/a/1.png archive/test/a/1.png archive/README.png",
            "test is a split, .* [Gg]ive ROOT.archive as",
        ),
        ("bottle/Training/good/1.png can/Training/good/1.png", "[Gg]ive ROOT.bottle as"),
        ("a/1.png a/x/val_set/2.png b/1.png", "[Gg]ive ROOT.a.x as"),
        ("archive/a/1.png archive/b/1.png", "archive holds folders, but no image.* [Gg]ive ROOT.archive as"),
        ("x/y/a/1.png x/y/b/s/1.png masks/1.png", "[Gg]ive ROOT.x.y as"),
        (
            "seg_pred/seg_pred/1.png seg_test/seg_test/a/1.png seg_test/seg_test/b/1.png "
            "seg_train/seg_train/a/1.png seg_train/seg_train/b/1.png",
            r"seg_test and .*seg_train hold folders of the same names.*\(a, b\).*give the one with the training images",
        ),
        ("Train/a/1.png training/a/1.png", "has Train and training. Give the right one"),
    ],
)
def test_folders_of_splits_or_classes_are_no_classes(tmp_path, paths, message):
    tree(tmp_path, *paths.split())
    with pytest.raises(ValueError, match=message.replace("ROOT", str(tmp_path))):
        sources(tmp_path)


@pytest.mark.parametrize(
    "paths",
    ["a/x/1.png a/y/2.png b/x/1.png b/z/2.png", "a/1.png a/x/2.png a/y/3.png b/x/1.png b/y/1.png", "a/1.png a/x/2.png"],
)
def test_a_class_has_folders_only_where_somebody_says_so(tmp_path, paths):
    tree(tmp_path, *paths.split())
    found = read_dataset(tmp_path, "image_folder").images
    assert [(s.path, s.class_name) for s in found] == [(path, path[0]) for path in paths.split()]
    with pytest.raises(ValueError, match=r"hold folders of images, such as a/x/\d.png.*--layout image_folder"):
        sources(tmp_path)


def test_hidden_files_are_ignored_and_an_empty_class_is_named(tmp_path):
    tree(tmp_path, "a/1.png", "a/.2.png", ".cache/3.png", "a/.thumbs/4.png")
    assert [s.path for s in sources(tmp_path)] == ["a/1.png"]
    (tmp_path / "lonely").mkdir()
    with pytest.raises(ValueError, match="lonely holds no image"):
        sources(tmp_path)


def test_no_folder_and_no_classes(tmp_path):
    with pytest.raises(ValueError, match="No dataset folder"):
        sources(tmp_path / "absent")
    picture(tmp_path / "1.png")
    with pytest.raises(ValueError, match="No class folders"):
        sources(tmp_path)


@pytest.mark.parametrize(
    ("image", "mask", "other"),
    [
        ("a/1.jpg", "masks/a/1.png", "masks/a/11.png"),
        ("a/s/1.png", "masks/a/s/1.png", "masks/a/1.png"),
        ("train/a/1.jpg", "masks/train/a/1.png", "masks/b/1.png"),
        ("train/a/1.jpg", "masks/a/1.png", "masks/a/2.png"),
        ("train/a/1.jpg", "train/masks/a/1.png", "train/masks/1.png"),
    ],
)
def test_masks(tmp_path, image, mask, other):
    tree(tmp_path, image, other)
    assert [s.mask for s in read_dataset(tmp_path, "image_folder").images] == [None]
    picture(tmp_path / mask)
    (source,) = read_dataset(tmp_path, "image_folder").images
    assert (source.path, source.class_name, source.mask) == (image, "a", mask)


def test_load_image_is_upright_and_scaled(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # rotate by 90 degrees
    Image.new("RGB", (12, 8), (255, 0, 51)).save(tmp_path / "r.png", exif=exif)
    image = load_image(tmp_path / "r.png")
    assert image.shape == (1, 12, 8, 3) and image.dtype == torch.float32
    torch.testing.assert_close(image[0, 0, 0], torch.tensor([1.0, 0.0, 0.2]))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_all_modes_become_rgb(tmp_path, mode):
    path = tmp_path / ("x.tif" if mode == "CMYK" else "x.png")
    Image.new(mode, (15, 9)).save(path)
    assert load_image(path).shape == (1, 9, 15, 3)


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    Image.fromarray(np.full((9, 15), 32768, dtype=np.uint16)).save(tmp_path / "x.png")
    assert load_image(tmp_path / "x.png").mean() == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize("damage", ["empty", "text", "cut"])
def test_unreadable_image_is_named(tmp_path, damage):
    path = picture(tmp_path / "bad.png", size=(200, 200))
    whole = path.read_bytes()
    path.write_bytes({"empty": b"", "text": b"hello", "cut": whole[: len(whole) // 2]}[damage])
    with pytest.raises(ValueError, match="bad.png"):
        load_image(path)


def test_mask_values_and_size(tmp_path):
    Image.new("L", (6, 4), 255).save(tmp_path / "m.png")
    assert torch.equal(load_mask(tmp_path / "m.png", 4, 6), torch.ones(1, 4, 6))
    with pytest.raises(ValueError, match="6x4 pixels, its image 4x6"):
        load_mask(tmp_path / "m.png", 6, 4)


def test_image_suffixes_are_torchvisions():
    from torchvision.datasets.folder import IMG_EXTENSIONS

    assert formats.IMG_EXTENSIONS == IMG_EXTENSIONS and readable_suffixes() > set(IMG_EXTENSIONS)
