"""A process that is killed between two steps: the next command puts right what it left."""

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

from higfa_core.batch.states import States
from higfa_core.commands import main as cli
from higfa_core.plans.plan import Plan
from higfa_core.plans.plan_file import PlanFile, write_plan
from higfa_core.sources.layouts import read_dataset
from higfa_core.store.manifest import Manifest
from higfa_core.store.writer import export_images

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
# Runs a command of ours and dies, as by kill -9, before the N-th call that changes a file.
DIE = """
import os, sys
left = int(sys.argv.pop(1))
def dying(name):
    real = getattr(os, name)
    def call(*values, **options):
        global left
        left -= 1
        if left < 0:
            os.kill(os.getpid(), 9)
        return real(*values, **options)
    setattr(os, name, call)
for name in ("write", "replace", "rename", "unlink", "mkdir"):
    dying(name)
os.fsync = lambda descriptor: None
from higfa_core.commands import main
sys.exit(main.main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A dataset of eight images in two classes; those with odd numbers are blurred. No plan is there."""
    root = tmp_path_factory.mktemp("crash")
    for name in ("a/0", "a/1", "b/0", "b/1"):
        (root / "real" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (sum(map(ord, name)) % 200, 9, 0)).save(root / "real" / f"{name}.png")
    write_plan(
        root / "set",
        Plan(read_dataset(root / "real"), 2),
        workflow={},
        workflow_digest="",
        dataset_name="set",
        options={},
    )
    for index in range(8):
        noise = torch.rand(1, 16, 16, 3, generator=torch.Generator().manual_seed(index))
        image = torch.full_like(noise, 0.5) if index % 2 else noise
        export_images(image, root, "set", job=PlanFile(root / "set").job(index))
    return root


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made / "set", tmp_path / "set")


def die(number, *command):
    """Whether the command died before its `number`-th change; else it ended well."""
    command = [sys.executable, "-c", DIE, str(number), *map(str, command)]
    status = subprocess.run(command, cwd=ROOT, capture_output=True, timeout=120)
    assert status.returncode in (0, -9), status.stderr.decode()
    return status.returncode == -9


def images(folder):
    return {
        path.relative_to(folder).as_posix() for kind in ("train", "rejected") for path in folder.glob(f"{kind}/*/*")
    }


def state(folder):
    """(path, accepted) of each image by the manifest; what ImageFolder reads must be just that."""
    rows = Manifest(folder).rows()
    assert images(folder) == {row["file"] for row in rows} and len(rows) == 8
    return sorted((row["file"], row["accepted"], row["reason"]) for row in rows)


def test_filter_killed_at_each_step_leaves_nothing_that_training_would_read(folder, tmp_path):
    command = ["filter", "--min-sharpness", "100"]
    calm = shutil.copytree(folder, tmp_path / "calm")
    assert cli.main([*command, str(calm)]) == 0
    assert {file.partition("/")[0] for file, _, _ in state(calm)} == {"train", "rejected"}
    number, deaths = 0, 0
    while True:
        victim = shutil.copytree(folder, tmp_path / f"victim {number}")
        died = die(number, *command, victim)
        deaths += died
        state(victim)  # opening it puts it right
        assert cli.main([*command, str(victim)]) == 0 and state(victim) == state(calm)
        assert not list(victim.rglob("*.part")) and not (victim / "unlisted").exists()
        if not died:
            break
        number += 3 if number > 6 else 1  # each kind of step; all of them take a minute
    assert deaths >= 6


def test_a_driver_puts_its_own_images_right(folder):
    (row, *_) = Manifest(folder).rows()
    stray = folder / row["file"].replace("train/", "rejected/")
    stray.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy(folder / row["file"], stray)
    (folder / "train" / "a" / "mine.png").write_bytes(b"a user's")
    States(folder).close()
    assert not stray.exists() and (folder / row["file"]).is_file() and (folder / "train" / "a" / "mine.png").exists()


def test_files_that_no_row_names_are_moved_when_nobody_can_be_about_to_write_it(folder):
    young, old = (folder / "train" / "a" / f"{digit * 16}-0.png" for digit in "0f")
    users = folder / "train" / "a" / "holiday.png"
    for path in (young, old, users):
        path.write_bytes(b"pixels")
        os.utime(path, (time.time() - 7200,) * 2)
    os.utime(young)
    Manifest(folder)
    assert young.exists() and users.exists() and not old.exists()
    assert (folder / "unlisted" / "train" / "a" / old.name).read_bytes() == b"pixels"


def test_a_damaged_manifest_makes_no_image_a_leftover(folder):
    for path in folder.rglob("*.png"):
        os.utime(path, (time.time() - 7200,) * 2)
    lines = (folder / "manifest.jsonl").read_bytes().splitlines()
    (folder / "manifest.jsonl").write_bytes(b"\n".join([b"{", *lines[1:], b""]))
    before = images(folder)
    assert len(Manifest(folder)) == 7 and images(folder) == before
    (folder / "manifest.jsonl").write_bytes(b"")
    assert len(Manifest(folder)) == 0 and images(folder) == before


def test_a_copy_is_kept_where_the_image_itself_is_gone(folder):
    (row, *_) = Manifest(folder).rows()
    stray = folder / row["file"].replace("train/", "rejected/")
    stray.parent.mkdir(parents=True, exist_ok=True)
    (folder / row["file"]).rename(stray)
    Manifest(folder)
    assert stray.exists()


def test_plan_killed_at_each_step_leaves_no_part_of_a_plan(made, tmp_path):
    workflow = ROOT / "workflows" / "api" / "miniature_augment.json"
    command = ["plan", "--workflow", workflow, "--source", made / "real", "--replicas", "2"]
    assert cli.main([*map(str, command), str(tmp_path / "calm")]) == 0
    calm = [(tmp_path / "calm" / name).read_bytes() for name in ("plan.jsonl",)]
    number = 0
    while die(number, *command, tmp_path / f"victim {number}"):
        folder = tmp_path / f"victim {number}"
        assert cli.main([*map(str, command), str(folder)]) == 0
        assert [(folder / name).read_bytes() for name in ("plan.jsonl",)] == calm
        assert not list(folder.rglob("*.part"))
        assert json.loads((folder / "plan.json").read_text())["dataset_name"] == folder.name
        number += 1
    assert number >= 3
