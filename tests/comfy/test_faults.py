"""Errors on the canvas: faults of the disk in words, and no absolute path of the server."""

import errno
import importlib
import os
import sys

import pytest
import torch

from ..crashes.disks import fill, small_disk


@pytest.fixture
def faults(pack):
    return importlib.import_module(f"{pack.module.__name__}.nodes.faults")


@pytest.fixture
def folders(pack):
    return sys.modules["folder_paths"]


def test_paths_begin_at_comfyuis_folders(faults, folders, tmp_path):
    inside = os.path.join(folders.get_input_directory(), "birds", "a b.png")
    made = os.path.join(folders.get_output_directory(), "higfa", "train")
    assert faults.shown(f"Cannot read image {inside} (broken). Replace it.") == (
        "Cannot read image input/birds/a b.png (broken). Replace it."
    )
    assert faults.shown(f"{made} and '{folders.models_dir}/x'") == "output/higfa/train and 'models/x'"
    assert faults.shown(f"it is outside: {tmp_path}/secret/plan") == "it is outside: .../plan"
    for text in ("train/<class>/x.png", "http://127.0.0.1:8188/view", "a/b", "F-16A/B", "/", "n/a", "48 x 64 / 2"):
        assert faults.shown(text) == text


def test_a_node_says_where_in_the_input_folder(pack, folders, tmp_path):
    (tmp_path / "x").mkdir()
    place = os.path.join(folders.get_input_directory(), "broken", "a")
    os.makedirs(place, exist_ok=True)
    with open(os.path.join(place, "1.png"), "wb") as file:
        file.write(b"not a picture")
    job = pack.nodes["HiGFA_DatasetJob"]
    with pytest.raises(ValueError) as error:
        job.execute("broken", 0, "a photo of a {class}", 1, 0, "same")
    words = str(error.value)
    assert "input/broken/a/1.png" in words and folders.base_path not in words and str(tmp_path) not in words
    with pytest.raises(ValueError, match="No dataset folder at input/none"):
        job.execute("none", 0, "a photo of a {class}", 1, 0, "same")


@pytest.mark.parametrize("name", ["..", "/etc", "a\0b", "\ud800", "x" * 300, "x/" * 3000, "out", "round", "*", " a\n"])
def test_names_of_folders_are_refused_before_a_run_and_tell_no_place(pack, faults, folders, name):
    roots = [folders.get_input_directory(), folders.get_output_directory()]
    for root in roots:
        for link, target in (("out", "/etc"), ("round", "round")):
            if not os.path.islink(os.path.join(root, link)):
                os.symlink(target, os.path.join(root, link))
    job = pack.nodes["HiGFA_DatasetJob"]
    found = [job.validate_inputs("", plan=name), pack.nodes["HiGFA_LoadClassifier"].validate_inputs(name)]
    found += [pack.nodes[f"HiGFA_{node}"].validate_inputs(name) for node in ("DatasetJob", "TrainClassifier")]
    for words in found:
        assert isinstance(words, str) and not any(root in words for root in (*roots, folders.base_path)), words
    choices = importlib.import_module(f"{pack.module.__name__}.nodes.choices")
    for read in choices.CHOICES.values():
        try:
            read(name)
        except (OSError, ValueError) as error:
            assert not any(root in faults.shown_error(error) for root in (*roots, folders.base_path))


def test_a_full_disk_under_export_dataset(pack, folders, tmp_path, monkeypatch):
    with small_disk(tmp_path / "disk", 1 << 20) as place:
        monkeypatch.setattr(folders, "output_directory", str(place))
        ballast = fill(place, leave=8192)
        node = pack.nodes["HiGFA_ExportDataset"]
        node.hidden = type("Hidden", (), {"prompt": None, "unique_id": "1", "extra_pnginfo": None})
        images = torch.rand(1, 64, 64, 3)
        with pytest.raises(ValueError) as error:
            node.execute(images, "a class", "set", "png")
        words = str(error.value)
        assert words.startswith("The disk is full, so that output/set/") and "Free some space" in words
        assert "Every image that manifest.jsonl names is whole." in words and str(place) not in words
        ballast.unlink()
        assert node.execute(images, "a class", "set", "png").args[1] == 1


def test_other_errors_keep_their_class_and_node(pack, faults):
    class Interrupted(Exception):
        pass

    class Node:
        @classmethod
        def execute(cls, kind):
            raise kind

    guarded = faults.guarded(Node)
    for kind in (Interrupted(), KeyError("x"), RuntimeError("out of memory"), torch.OutOfMemoryError("CUDA")):
        with pytest.raises(type(kind)) as error:
            guarded.execute(kind)
        assert error.value is kind
    with pytest.raises(ValueError, match="This user may not read or write .../x. Every image"):
        guarded.execute(PermissionError(errno.EACCES, "Permission denied", "/usr/lib/x"))


def test_every_node_is_guarded(pack):
    for node in pack.nodes.values():
        assert node.execute.__func__.__wrapped__, node
