"""Images in two splits or two classes: found as files and as pictures, reported with paths, left out of the sources."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from higfa_core.commands import plan as plan_command
from higfa_core.sources.image_hashes import ImageHashes
from higfa_core.sources.layouts import describe, read_dataset
from higfa_core.sources.leaks import inspect, without_leaks

WORKFLOW = Path(__file__).parents[2] / "workflows" / "api" / "miniature_augment.json"


def photo(seed, size=(160, 120)):
    """Noise over many scales, as photographs have it."""
    random = np.random.default_rng(seed)
    layers = [random.normal(size=(2**k, 2**k, 3)) / 2**k for k in range(1, 7)]
    scaled = [
        np.stack([np.asarray(Image.fromarray(layer[..., c].astype(np.float32)).resize(size)) for c in range(3)], -1)
        for layer in layers
    ]
    total = sum(scaled)
    return Image.fromarray((255 * (total - total.min()) / np.ptp(total)).astype(np.uint8))


@pytest.fixture
def birds(tmp_path):
    """Two classes in two splits, four photographs in each."""
    root = tmp_path / "birds"
    for number, place in enumerate(("train/a", "train/b", "test/a", "test/b")):
        (root / place).mkdir(parents=True)
        for n in range(4):
            photo(10 * number + n).save(root / place / f"{n}.png")
    return root


def leaks(root, kept=None):
    return [str(leak) for leak in inspect(read_dataset(root), ImageHashes(kept)).leaks]


@pytest.fixture
def plan(tmp_path, capsys):
    """Exit code, what is said, and the header of a plan."""

    def run(root, *options):
        folder = tmp_path / "out"
        words = [str(folder), "--workflow", str(WORKFLOW), "--source", str(root), "--replace", *options]
        code = plan_command.main(words)
        said = capsys.readouterr()
        header = json.loads((folder / "plan.json").read_text("utf-8")) if (folder / "plan.json").is_file() else {}
        return code, said.out + said.err, header

    return run


def test_nothing_is_found_where_nothing_is(birds):
    assert leaks(birds) == []


CHANGES = {
    "copied": lambda image, path: image.save(path),
    "as JPEG": lambda image, path: image.save(path.with_suffix(".jpg"), quality=60),
    "smaller": lambda image, path: image.resize((80, 60)).save(path),
    "larger and as JPEG": lambda image, path: image.resize((320, 240)).save(path.with_suffix(".jpg"), quality=80),
    "lighter": lambda image, path: image.point(lambda value: min(255, value + 8)).save(path),
    "as WebP": lambda image, path: image.save(path.with_suffix(".webp"), quality=70),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_test_image_is_found_in_whatever_form(change, birds):
    CHANGES[change](Image.open(birds / "test" / "a" / "2.png"), birds / "train" / "a" / "copy.png")
    (found,) = leaks(birds)
    kind = "identical" if change == "copied" else "nearly identical"
    assert found.startswith("train/a/copy.") and found.endswith(f"(class 'a') and test/a/2.png (held out) are {kind}")


def test_an_image_turned_by_its_tag_is_the_same(birds):
    turned = Image.open(birds / "test" / "a" / "2.png").transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown rotated by 90 degrees to the right
    turned.save(birds / "train" / "a" / "copy.jpg", exif=exif, quality=90)
    assert len(leaks(birds)) == 1


def test_both_of_two_classes_are_left_out(birds, plan):
    shutil.copy(birds / "train" / "a" / "0.png", birds / "train" / "b" / "copy.png")
    shutil.copy(birds / "test" / "b" / "1.png", birds / "train" / "b" / "1.png")
    (birds / "train" / "b" / "torn.jpg").write_bytes(b"\xff\xd8\xff\xe0 torn")
    code, said, header = plan(birds)
    assert code == 0 and "leaks: 3 images in two splits or two classes, left out of the sources" in said
    assert "train/a/0.png (class 'a') and train/b/copy.png (class 'b') are identical" in said
    assert "train/b/1.png (class 'b') and test/b/1.png (held out) are identical" in said
    for line in ("2 in two classes, such as train/a/0.png", "1 held out as well", "1 unreadable"):
        assert f"left out: {line}" in said
    assert sorted(header["sources"]) == sorted(
        f"train/{name}/{n}.png" for name, numbers in (("a", (1, 2, 3)), ("b", (0, 2, 3))) for n in numbers
    )
    assert {leak["path"] for leak in header["leaks"]} == {"train/a/0.png", "train/b/copy.png", "train/b/1.png"}
    assert {"reason": "unreadable", "count": 1, "example": "train/b/torn.jpg", "remedy": ""} in header["left_out"]
    code, said, header = plan(birds, "--leaks", "report")
    assert code == 0 and "two classes, kept" in said and len(header["sources"]) == 9
    code, said, header = plan(birds, "--leaks", "off")
    assert code == 0 and "leaks" not in said and len(header["sources"]) == 10 and header["leaks"] == []


def test_flat_pictures_are_alike_only_as_files(tmp_path):
    for number, name in enumerate("abc"):
        (tmp_path / name).mkdir()
        for n in range(3):
            Image.new("RGB", (64, 48), (number * 40, n, 0)).save(tmp_path / name / f"{n}.png")
    assert leaks(tmp_path) == []
    shutil.copy(tmp_path / "a" / "0.png", tmp_path / "b" / "9.png")
    assert len(leaks(tmp_path)) == 2


def test_copies_in_one_class_and_split_are_no_leak(birds):
    shutil.copy(birds / "train" / "a" / "0.png", birds / "train" / "a" / "9.png")
    shutil.copy(birds / "test" / "a" / "0.png", birds / "test" / "b" / "9.png")
    assert leaks(birds) == []


def test_a_class_that_would_be_emptied_stops_the_plan(birds, plan):
    for n in range(4):
        shutil.copy(birds / "test" / "a" / f"{n}.png", birds / "train" / "a" / f"{n}.png")
    code, said, _ = plan(birds)
    assert code == 1 and "No image of class 'a'" in said and "train/a/0.png (class 'a') and test/a/0.png" in said
    assert "--leaks report" in said


def test_hashes_are_kept_beside_the_plan_and_used_by_content(birds, plan, tmp_path, monkeypatch):
    kept = tmp_path / "out" / plan_command.HASHES
    assert plan(birds, "--dry-run")[0] == 0 and not kept.exists()
    assert plan(birds)[0] == 0 and len(kept.read_text().splitlines()) == 16
    before = (tmp_path / "out" / "plan.jsonl").read_bytes()
    monkeypatch.setattr(Image, "open", None)  # no image is decoded again
    (birds / "train" / "a").rename(birds / "train" / "moved")
    (birds / "train" / "moved").rename(birds / "train" / "a")
    assert plan(birds)[0] == 0 and (tmp_path / "out" / "plan.jsonl").read_bytes() == before


@pytest.mark.parametrize("damage", [b"", b"\xff\xfe\x00", b"nonsense\n" * 3, b"a" * 64 + b" zz\n"])
def test_a_damaged_file_of_hashes_is_made_again(damage, birds, plan, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / plan_command.HASHES).write_bytes(damage)
    shutil.copy(birds / "test" / "a" / "0.png", birds / "train" / "a" / "9.png")
    code, said, _ = plan(birds)
    assert code == 0 and "leaks: 1 image in two splits" in said


def test_many_alike_are_compared_with_their_neighbours_only(birds):
    """Sixty frames of one scene, in two classes: found, in reasonable time and memory."""
    base = np.asarray(photo(999, (64, 48)), dtype=np.int16)
    for number in range(60):
        noise = np.random.default_rng(number).integers(-2, 3, base.shape)
        place = birds / "train" / "ab"[number % 2] / f"frame{number}.png"
        Image.fromarray((base + noise).clip(0, 255).astype(np.uint8)).save(place)
    seen = inspect(read_dataset(birds), ImageHashes())
    assert len(seen.leaks) == 60 and all("frame" in leak.path for leak in seen.leaks)
    for name in "ab":
        for n in range(4):
            (birds / "train" / name / f"{n}.png").unlink()
    dataset = read_dataset(birds)
    with pytest.raises(ValueError, match="No image of class 'a' .* are nearly identical"):
        without_leaks(dataset, inspect(dataset, ImageHashes()))


def test_leaks_do_not_change_what_is_read(birds):
    before = describe(read_dataset(birds))
    inspect(read_dataset(birds), ImageHashes())
    assert describe(read_dataset(birds)) == before
