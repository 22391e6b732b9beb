"""Faults of disk and permissions: one line that says what failed, where, what is safe and what to do."""

import os
import shutil

import pytest
import torch

from higfa_core.commands import main as cli
from higfa_core.files.faults import in_words, naming, users_path
from higfa_core.files.paths import inside, name_flaw
from higfa_core.store.manifest import Manifest
from higfa_core.store.writer import export_images

from .disks import file_size_limit, fill, read_only, small_disk
from .world import COMMANDS, check_order, command, result

FAST = [name for name in COMMANDS if name != "train-classifier"]
SAFE = {
    "plan": "An earlier plan is as it was",
    "filter": "Every image is whole",
    "export": "No export was written",
    "report": "An earlier report is as it was",
    "train-classifier": "what is trained so far continues with --resume",
}


@pytest.fixture
def calm(made, tmp_path):
    """What a command makes when nothing disturbs it."""

    def run(name):
        place = tmp_path / "calm"
        place.mkdir()
        for part in ("set", "real"):
            shutil.copytree(made / part, place / part)
        assert cli.main(command(name, place, made)) == 0
        return result(name, place)

    return run


@pytest.mark.parametrize("name", [*FAST, pytest.param("train-classifier", marks=pytest.mark.slow)])
def test_a_full_disk_is_named_and_the_next_start_makes_all(made, tmp_path, refused, calm, name):
    whole = calm(name)
    with small_disk(tmp_path / "disk", 48 << 20) as place:
        for part in ("set", "real"):
            shutil.copytree(made / part, place / part)
        ballast = fill(place, leave=0 if name == "filter" else 12_288)
        line = refused(*command(name, place, made))
        assert line.startswith(f"error: The disk is full, so that {place}") and ".part" not in line
        assert SAFE[name] in line and line.endswith("Free some space and run this again.")
        ballast.unlink()
        assert cli.main(command(name, place, made)) == 0
        assert result(name, place) == whole
        check_order(place)


@pytest.mark.parametrize("name", FAST)
def test_a_read_only_folder_is_named(made, tmp_path, refused, name):
    for part in ("set", "real"):
        shutil.copytree(made / part, tmp_path / part)
    with read_only(tmp_path):
        line = refused(*command(name, tmp_path, made))
    what = line.removeprefix("error: ").removeprefix("This user may not read or write ")
    assert what.startswith(str(tmp_path)) and "hoose another folder." in line and ".part" not in line
    check_order(tmp_path)


@pytest.mark.parametrize("name", ["plan", "export", "report"])
def test_a_limit_to_the_size_of_files_is_named(made, tmp_path, refused, name):
    for part in ("set", "real"):
        shutil.copytree(made / part, tmp_path / part)
    with file_size_limit(600):
        line = refused(*command(name, tmp_path, made))
    assert line.startswith(f"error: {tmp_path}") and "larger than a file may be here" in line and "ulimit -f" in line
    check_order(tmp_path)


def test_a_disk_that_fills_while_images_are_stored(made, tmp_path):
    with small_disk(tmp_path / "disk", 1 << 20) as place:
        image, count = torch.rand(1, 64, 64, 3), 0
        with pytest.raises(OSError) as error:
            for count in range(1000):
                export_images(image.roll(count, 1), place, "set", "a class")
        words = in_words(error.value, "What manifest.jsonl names is whole.")
        assert words.startswith(f"The disk is full, so that {place / 'set'}") and ".part" not in words
        rows = Manifest(place / "set").rows()
        assert len(rows) == count and all(Manifest(place / "set").is_intact(row) for row in rows)
        assert not list(place.rglob("*.part"))


def test_a_row_cut_short_by_a_full_disk_is_written_again(folder, tmp_path):
    before = (folder / "manifest.jsonl").stat().st_size
    (row, *_) = Manifest(folder).rows()
    with file_size_limit(before + 50), pytest.raises(OSError) as error:
        Manifest(folder).append(row)
    assert "manifest.jsonl" in in_words(error.value)
    Manifest(folder).append(row)
    assert len(Manifest(folder).rows()) == 8


def test_a_path_that_is_too_long(made, tmp_path, refused):
    line = refused("plan", tmp_path / ("x" * 300), *command("plan", tmp_path, made)[2:])
    assert line.startswith("error: The path is too long: ") and "Choose a shorter name" in line and len(line) < 500


def test_what_is_not_there(tmp_path, refused):
    assert refused("report", tmp_path / "none").startswith("error: No images in")
    line = refused("export", tmp_path / "none", "--out", tmp_path / "o", "--format", "coco")
    assert line.startswith(f"error: No dataset in {tmp_path / 'none'}")


@pytest.mark.skipif(os.name != "posix", reason="names are text on this system")
def test_names_that_are_no_text(made, tmp_path, refused):
    line = refused("plan", tmp_path / os.fsdecode(b"caf\xe9"), *command("plan", tmp_path, made)[2:])
    assert "bytes that are not UTF-8" in line and "caf\\udce9" in line and line.endswith("Rename it.")
    for name, words in (("\ud800", "half a character"), ("a\udc80", "half a character")):
        assert words in name_flaw(name)
    with pytest.raises(ValueError, match="has half a character"):
        inside(tmp_path, "\ud800/x")
    with pytest.raises(ValueError, match="half a character"):
        export_images(torch.rand(1, 16, 16, 3), tmp_path, "\ud800", "a class")
    with pytest.raises(ValueError, match="half a character"):
        export_images(torch.rand(1, 16, 16, 3), tmp_path, "set", "\ud800")


def test_paths_are_those_that_a_person_knows(tmp_path):
    assert users_path("/a/.plan.jsonl.123.0a1b2c3d.part") == "/a/plan.jsonl"
    assert users_path(f"/a/out.part-{'0' * 16}/train/x.png") == "/a/out/train/x.png"
    assert users_path(f"/a/out.part-{'0' * 16}.old/x") == "/a/out/x"
    assert users_path("/a/my.part/x.1.part") == "/a/my.part/x.1.part"
    with pytest.raises(OSError) as error, naming(tmp_path):
        os.write(os.open(os.devnull, os.O_RDONLY), b"x")
    assert error.value.filename == str(tmp_path)
