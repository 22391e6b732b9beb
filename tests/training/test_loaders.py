import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from higfa_core.classifier.preprocess import Preprocess
from higfa_core.files.images import load_image
from higfa_core.training.data import Labelled
from higfa_core.training.loaders import AUGMENT, Augmented, CachedImages, HeldOut, Stream, seeded, training_batches

SETTINGS = Preprocess((24, 24), (0.5, 0.4, 0.3), (0.2, 0.25, 0.3), "bilinear")


def gradient(width=40, height=30):
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 6, y * 8, 255 - x * 3], 2).astype(np.uint8)


@pytest.fixture
def paths(tmp_path):
    for i in range(6):
        Image.fromarray(np.roll(gradient(), 5 * i, 1)).save(tmp_path / f"{i}.png")
    return [tmp_path / f"{i}.png" for i in range(6)]


def items(paths):
    return [Labelled(path, i) for i, path in enumerate(paths)]


def nothing(done):
    pass


def augmented(paths, augment="strong", flip=True):
    pictures = CachedImages(items(paths), 48, nothing)
    return Augmented(pictures, list(range(len(paths))), SimpleNamespace(augment=augment, flip=flip), SETTINGS)


# files


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA", "CMYK", "P", "1", "LA", "I;16"])
def test_every_kind_of_image_is_read_as_the_dataset_reads_it(tmp_path, mode):
    image = Image.fromarray(gradient())
    if mode == "I;16":
        image = Image.fromarray(gradient()[..., 0].astype(np.uint16) * 200)
    path = tmp_path / ("x.tif" if mode in ("CMYK", "I;16") else "x.png")
    (image if mode == "I;16" else image.convert(mode)).save(path)
    picture = CachedImages(items([path]), 1000, nothing)[0]
    assert picture.mode == "RGB" and picture.size == (40, 30)
    np.testing.assert_array_equal(np.asarray(picture), (load_image(path)[0] * 255).round().numpy())
    assert np.asarray(picture).std() > 20


@pytest.mark.parametrize("damage", [b"", b"not an image", None])
def test_a_damaged_image_is_named(paths, damage):
    content = paths[3].read_bytes()
    paths[3].write_bytes(content[: len(content) // 2] if damage is None else damage)
    with pytest.raises(ValueError, match=r"Cannot read image .*3\.png .*Replace or remove the file"):
        CachedImages(items(paths), 48, nothing)


def test_images_beyond_the_memory_are_read_again(paths):
    kept, read = (
        CachedImages(items(paths), 48, nothing),
        CachedImages(items(paths), 48, nothing, memory=2 * gradient().nbytes),
    )
    assert len(kept.kept) == 6 and len(read.kept) == 2
    for i in range(6):
        np.testing.assert_array_equal(np.asarray(kept[i]), np.asarray(read[i]))


def test_large_images_are_kept_small(tmp_path):
    Image.fromarray(gradient().repeat(8, 0).repeat(8, 1)).save(tmp_path / "x.png")
    picture = CachedImages(items([tmp_path / "x.png"]), 48, nothing)[0]
    assert picture.size == (64, 48)
    small = Image.fromarray(gradient()).resize((64, 48), Image.Resampling.BICUBIC)
    assert np.abs(np.asarray(picture, float) - np.asarray(small, float)).mean() < 3


def test_progress_counts_every_image(paths):
    seen = []
    CachedImages(items(paths), 48, seen.append)
    assert seen == [1, 2, 3, 4, 5, 6]


# augmentation


@pytest.mark.parametrize("augment", list(AUGMENT))
def test_the_key_alone_decides_the_pixels(paths, augment):
    images = augmented(paths, augment)
    first, label = images[2, 77]
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    again, _ = images[2, 77]
    other, _ = images[2, 78]
    assert first.shape == (3, 24, 24) and label == 2
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_the_callers_generators_are_left_alone(paths):
    images = augmented(paths)

    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()

    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    expected = draw()
    random.seed(1), np.random.seed(1), torch.manual_seed(1)
    images[0, 3]
    with seeded(9):
        draw()
    assert draw() == expected


def test_values_are_normalised_as_at_guidance_time(paths):
    plain = augmented(paths, "light", flip=False)
    plain.transform.transforms = plain.transform.transforms[-2:]  # to a tensor, normalised: no augmentation
    expected = SETTINGS(load_image(paths[0]).movedim(-1, 1)[..., 3:27, 8:32])
    torch.testing.assert_close(plain.transform(plain.images[0].crop((8, 3, 32, 27)))[None], expected)


def test_flip_can_be_left_out(tmp_path):
    half = np.zeros((30, 30, 3), np.uint8)
    half[:, 15:] = 255
    Image.fromarray(half).save(tmp_path / "x.png")

    def right_is_bright(images):
        return [bool(x[..., -1].mean() > x[..., 0].mean()) for x, _ in (images[0, s] for s in range(20))]

    assert all(right_is_bright(augmented([tmp_path / "x.png"], "light", flip=False)))
    assert 2 < sum(right_is_bright(augmented([tmp_path / "x.png"], "light"))) < 18


# order


def test_every_image_comes_once_before_any_comes_again():
    keys = [key for batch in Stream(7, 3, 0, 0, 14) for key in batch]
    order = [index for index, _ in keys]
    epochs = [order[i : i + 7] for i in range(0, 42, 7)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs) and len(set(map(tuple, epochs))) > 1
    assert len({seed for _, seed in keys}) == 42


def test_a_stream_continues_where_it_was():
    whole = list(Stream(7, 3, 5, 0, 20))
    assert list(Stream(7, 3, 5, 8, 20)) == whole[8:]
    assert list(Stream(7, 3, 6, 0, 20)) != whole


def test_batches_do_not_depend_on_the_number_of_workers(paths):
    images = augmented(paths)
    alone, helped = (list(training_batches(images, Stream(6, 4, 0, 0, 4), n)) for n in (0, 2))
    for (x, y), (a, b) in zip(alone, helped, strict=True):
        assert torch.equal(x, a) and torch.equal(y, b)


# held out


def test_held_out_images_are_prepared_as_at_guidance_time(paths):
    expected = torch.cat([SETTINGS(load_image(path).movedim(-1, 1)) for path in paths])
    kept = HeldOut(items(paths), SETTINGS, 4)
    assert [len(batch) for batch in kept] == [4, 2] and kept.labels.tolist() == list(range(6))
    half, read = (HeldOut(items(paths), SETTINGS, 4, memory) for memory in (4 * expected[0].nbytes, 0))
    for held in (kept, kept, half, half, read, read):
        assert torch.equal(torch.cat(list(held)), expected)
    assert (list(kept.kept), list(half.kept), list(read.kept)) == ([0, 1], [0], [])
    list(zip(range(1), kept, half, read))  # left early
    assert all(torch.equal(torch.cat(list(held)), expected) for held in (kept, half, read))
