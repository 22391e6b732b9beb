import hashlib
import os
import re
import shutil
import signal
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image

from higfa_core.classifier import FineGrainedClassifier
from higfa_core.commands import check_classifier as check_cli
from higfa_core.commands.train_classifier import _interrupt, main
from higfa_core.plans.plan import Plan
from higfa_core.sources.layouts import read_dataset
from higfa_core.training.loop import Loop

pytestmark = pytest.mark.slow

FAST = ["--arch", "test_resnet", "--no-pretrained", "--image-size", "32", "--steps", "3", "--batch-size", "4"]
FAST += ["--device", "cpu"]


@pytest.fixture
def folder(tmp_path) -> Path:
    root = tmp_path / "birds"
    for label, name in enumerate(("003.Heron", "дрозд")):
        (root / name).mkdir(parents=True)
        for i in range(5):
            noise = np.random.default_rng([label, i]).normal(0, 30, (36, 40, 3))
            pixels = (np.array((200, 60, 60) if label else (60, 60, 200)) + noise).clip(0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{i}.png")
    return root


def call(folder, out, *options) -> int:
    return main([str(folder), "--out", str(out), *FAST, *options])


def file_hash(path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_the_same_command_gives_the_same_file(folder, tmp_path, capsys):
    one, two, other = (tmp_path / f"{name}.safetensors" for name in ("one", "two", "other"))
    assert (
        call(folder, one, "--plots") == call(folder, two, "--workers", "1") == call(folder, other, "--seed", "1") == 0
    )
    assert file_hash(one) == file_hash(two) != file_hash(other)
    text = capsys.readouterr().out
    assert "8 for training, 2 held out" in text and "temperature" in text and "ECE" in text
    assert FineGrainedClassifier.load(one).class_names == ("003.Heron", "дрозд")
    assert sorted(p.name for p in tmp_path.glob("one*")) == [
        "one.confusion.png",
        "one.curves.png",
        "one.reliability.png",
        "one.safetensors",
    ]
    assert Image.open(tmp_path / "one.curves.png").size == (1000, 800)


def test_what_was_held_out_is_never_planned(folder, tmp_path, capsys):
    assert call(folder, tmp_path / "x.safetensors", "--no-keep-split") == 0
    assert not (folder / "held_out.txt").exists() and len(Plan(read_dataset(folder), 5)) == 5 * 10
    assert call(folder, tmp_path / "y.safetensors") == 0
    held = (folder / "held_out.txt").read_text("utf-8").splitlines()
    assert sorted(Path(line).parent.name for line in held) == ["003.Heron", "дрозд"]
    jobs = Plan(read_dataset(folder), 5, contour_from="other")
    assert len(jobs) == 5 * 8 and not {x for job in jobs for x in (job.source, job.contour_source)} & set(held)
    assert file_hash(tmp_path / "x.safetensors") == file_hash(tmp_path / "y.safetensors")


def test_a_read_only_folder_is_said_before_the_training(folder, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != folder)
    assert call(folder, tmp_path / "x.safetensors") == 1
    assert "birds is read-only" in capsys.readouterr().err and [p.name for p in tmp_path.iterdir()] == ["birds"]
    assert call(folder, tmp_path / "x.safetensors", "--no-keep-split") == 0


def test_judge_is_one_flag(folder, tmp_path, capsys):
    assert call(folder, tmp_path / "x.safetensors", "--judge", "test_convnext") == 0
    assert FineGrainedClassifier.load(tmp_path / "x.judge.safetensors").arch == "test_convnext"
    assert "judge        x.judge.safetensors: test_convnext" in capsys.readouterr().out


def test_ctrl_c_keeps_the_best_and_resume_continues(folder, tmp_path, capsys, monkeypatch):
    out, whole = tmp_path / "x.safetensors", tmp_path / "whole.safetensors"
    assert call(folder, whole) == 0
    step = Loop._step

    def pressed(self, *batch):
        step(self, *batch)
        if self.step == 2:
            signal.raise_signal(signal.SIGINT)

    with monkeypatch.context() as patch:
        patch.setattr(Loop, "_step", pressed)
        assert call(folder, out) == 130
    assert "Add --resume to resume" in capsys.readouterr().err
    assert not out.exists() and (tmp_path / "x.partial.safetensors").exists()
    assert call(folder, out, "--resume") == 0
    assert file_hash(out) == file_hash(whole)
    assert not (tmp_path / "x.partial.safetensors").exists() and not (tmp_path / "x.training").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_waits_for_the_step_and_the_second_does_not(number):
    before = signal.getsignal(number)
    with _interrupt() as check:
        check()
        signal.raise_signal(number)
        with pytest.raises(KeyboardInterrupt):
            check()
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(number)
    assert signal.getsignal(number) is before


def ruin(folder: Path, how: str) -> None:
    if how == "one class":
        shutil.rmtree(folder / "003.Heron")
    elif how == "empty class":
        (folder / "void").mkdir()
    elif how == "damaged image":
        path = folder / "003.Heron" / "2.png"
        path.write_bytes(path.read_bytes()[:900])
    elif how == "single images":
        for path in folder.rglob("[1-9].png"):
            path.unlink()


@pytest.mark.parametrize(
    ("how", "options", "message"),
    [
        ("one class", [], "needs at least 2 classes, found 'дрозд'"),
        ("empty class", [], "void holds no image"),
        ("damaged image", [], r"Cannot read image .*2\.png"),
        ("single images", [], "set the validation share to 0"),
        ("", ["--arch", "test_resnett"], "no arch 'test_resnett'.*closest 'test_resnet'"),
        ("", ["--arch", "../x"], "no arch '../x'"),
        ("", ["--steps", "-5"], "Invalid steps: -5"),
        ("", ["--batch-size", "0"], "Invalid batch_size: 0"),
        ("", ["--image-size", "-1"], "Invalid image_size: -1"),
        ("", ["--validation-share", "1.5"], "Invalid validation_share: 1.5"),
        ("", ["--judge", "test_resnet"], "judge needs an architecture other"),
        ("", ["--seed", "-1"], "Invalid seed: -1"),
        ("one class", ["--device", "foo"], "Cannot train on device 'foo' .*Choose another, such as cpu"),
        ("one class", ["--device", "meta"], "Cannot train on device 'meta'"),
    ],
)
def test_bad_input_is_one_line_and_no_file(folder, tmp_path, capsys, how, options, message):
    ruin(folder, how)
    assert call(folder, tmp_path / "x.safetensors", *options) == 1
    error = capsys.readouterr().err
    assert re.search(message, error.splitlines()[-1]) and "Traceback" not in error
    assert [p.name for p in tmp_path.iterdir()] == ["birds"] and not (folder / "held_out.txt").exists()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ImportError("Classifiers need timm: pip install 'timm>=1.0'"), "pip install 'timm>=1.0'"),
        (
            torch.cuda.OutOfMemoryError("CUDA out of memory."),
            "memory. Lower --batch-size or --image-size.",
        ),
        (RuntimeError("MPS backend out of memory"), "Lower --batch-size or --image-size"),
    ],
)
def test_what_is_missing_on_this_machine_is_one_line(folder, tmp_path, capsys, monkeypatch, error, message):
    monkeypatch.setattr("torch.optim.AdamW.step", Mock(side_effect=error))
    assert call(folder, tmp_path / "x.safetensors") == 1
    assert message in capsys.readouterr().err and [p.name for p in tmp_path.iterdir()] == ["birds"]


def test_the_check_says_so_too(tmp_path, capsys, monkeypatch):
    for error, message in (
        (ImportError("pip install timm"), "error: pip install timm\n"),
        (torch.cuda.OutOfMemoryError("CUDA out of memory."), "error: CUDA out of memory. Lower --size.\n"),
    ):
        monkeypatch.setattr(check_cli, "run", Mock(side_effect=error))
        assert check_cli.main(["x.safetensors", "birds", "--miniature"]) == 1
        assert capsys.readouterr().err == message


def test_an_existing_file_is_kept(folder, tmp_path, capsys):
    out = tmp_path / "x.safetensors"
    out.write_bytes(b"mine")
    assert call(folder, out) == 1 and "exists. Choose another name" in capsys.readouterr().err
    assert out.read_bytes() == b"mine"
    assert call(folder, out, "--overwrite") == 0 and FineGrainedClassifier.load(out)


def test_the_suffix_and_the_folder(folder, tmp_path, capsys):
    assert call(folder, tmp_path / "x.pth") == 1 and "saved as .safetensors, got 'x.pth'" in capsys.readouterr().err
    assert call(tmp_path / "nowhere", tmp_path / "x.safetensors") == 1
    assert "No dataset folder at" in capsys.readouterr().err
