"""What the fuzzer found, one of each kind: it stays refused, with the place and what is wrong."""

import json
import re
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
from scipy.io import savemat

from higfa_core.classifier import FineGrainedClassifier
from higfa_core.contour import ContourTransform, TransformParams
from higfa_core.plans.workflow import check_workflow
from higfa_core.sources.layouts import read_dataset
from higfa_core.sources.layouts.matlab import load_mat

from ..classifier.nets import ARCH, NAMES, module

WORKFLOW = Path(__file__).parents[2] / "workflows" / "api" / "miniature_augment.json"
DEEP = "[" * 100_000


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"matrix": None}, "Expected `array`, got `null`"),
        ({"matrix": [[1, 0], [0, 1]]}, "matrix must be 3 x 3"),
        ({"matrix": [[0, 0, 0], [0, 1, 0], [0, 0, 1]]}, "finite and invertible"),
        ({"matrix": [[1, 0, 0], [0, 1, 0], [-1, 0, 1]]}, "behind its horizon"),
        ({"height": 10**9}, "sides must be 1 to 16384 pixels"),
        ({"width": "wide"}, "Expected `int`, got `str`"),
        ({"smoothness": 0.0, "elastic": 0.1}, "smoothness in 0.01..1"),
        ({"elastic_seed": -1}, "elastic_seed not negative"),
        ({"elastic": float("nan")}, "elastic must be in 0..1"),
        ({"\ud800": 1, "flipped": "\ud800"}, "Expected `bool`|surrogates not allowed"),
    ],
)
def test_parameters_of_no_warp(changes, words):
    whole = ContourTransform(elastic=0.02).sample(3, 0, 24, 32).to_dict()
    with pytest.raises(ValueError, match=f"No parameters of a transform.*({words})"):
        TransformParams.from_dict(whole | changes)


@pytest.mark.parametrize(
    ("node", "changes", "words"),
    [
        ("", {"image": ["99", 0]}, "a link to node '99', which it lacks"),
        ("HiGFA_DatasetJob", None, "not a workflow in API format"),
    ],
)
def test_workflows_whose_links_lead_nowhere(node, changes, words):
    graph = json.loads(WORKFLOW.read_text("utf-8"))
    key = next((key for key, about in graph.items() if about["class_type"] == node), None) or _above_images(graph)
    graph[key]["inputs"] = None if changes is None else {**graph[key]["inputs"], **changes}
    with pytest.raises(ValueError, match=words):
        check_workflow(graph)


def test_a_workflow_in_a_circle():
    graph = json.loads(WORKFLOW.read_text("utf-8"))
    key = _above_images(graph)
    graph[key]["inputs"]["round"] = [key, 0]
    with pytest.raises(ValueError, match="form a circle"):
        check_workflow(graph)


def _above_images(graph):
    (export,) = [about for about in graph.values() if about["class_type"] == "HiGFA_ExportDataset"]
    return export["inputs"]["images"][0]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_args": [1]}, "model_args in config.json must be a JSON object"),
        ({"pretrained_cfg": "x"}, "pretrained_cfg in config.json must be a JSON object"),
        ({"label_names": 5}, "the labels must be a list or an object, got '5'"),
        ({"label_descriptions": [5]}, "label_descriptions in config.json must be a JSON object"),
        ({"pretrained_cfg": {"mean": [0.5] * 3, "input_size": 5}}, "input_size must be channels, height and width"),
        ({"mean": [0.5] * 3, "input_size": "big"}, "input_size must be channels, height and width, got 'big'"),
        ({"mean": [0.5] * 3, "input_size": {"a": 1}}, "input_size must be channels, height and width"),
        ({"mean": [0.5] * 3, "input_size": [3, "a", 32]}, "input_size must be a list of numbers"),
        ({"mean": [0.5] * 3, "input_size": [3, 10**9, 10**9]}, "input_size must be (height, width), 1 to 4096"),
    ],
)
def test_configs_of_timm_with_other_types(tmp_path, changes, words):
    safetensors.torch.save_file(module().state_dict(), tmp_path / "model.safetensors")
    config = {"architecture": ARCH, "num_classes": 5, "label_names": NAMES, **changes}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=f"model.safetensors: {re.escape(words)}"):
        FineGrainedClassifier.load(tmp_path / "model.safetensors")


@pytest.mark.parametrize(
    ("name", "file", "content", "words"),
    [
        ("flowers", "cat_to_name.json", DEEP, "cat_to_name.json must be an object of numbers"),
        ("table", "images.csv", "A" * 70_000, "may not be the classes"),
        ("pets", "annotations/trainval.txt", "A" * 70_000, "may not tell classes and splits"),
        ("hugging_face", "train/metadata.jsonl", DEEP, "metadata.jsonl"),
    ],
)
def test_lists_that_are_deep_or_one_long_word(miniature_layout, tmp_path, name, file, content, words):
    root = miniature_layout(name, tmp_path)
    (root / file).write_text(content)
    with pytest.raises(ValueError, match=words):
        read_dataset(root)


@pytest.mark.parametrize(("name", "file"), [("flowers", "setid.mat"), ("cars_mat", "cars_annos.mat")])
def test_matlab_files_that_would_crash_scipy(miniature_layout, tmp_path, name, file):
    """It follows types and sizes that do not exist: what comes back is an error, not a signal."""
    file = miniature_layout(name, tmp_path) / file
    whole, refused = file.read_bytes(), 0
    for at in range(128, len(whole), 3):
        file.write_bytes(whole[:at] + b"\xff\xff\xff\x7f" + whole[at + 4 :])
        try:
            load_mat(file)
        except ValueError as error:
            refused += 1
            assert str(error).startswith(f"Cannot read {file} (")
    assert refused > 20


@pytest.mark.parametrize("compressed", [False, True])
def test_matlab_files_that_are_whole(tmp_path, compressed):
    cells = np.array([["a"], [np.arange(3)], [np.array(["b", "c"], dtype=object)]], dtype=object)
    held = {"cells": cells, "numbers": np.eye(3), "complex": np.array([1 + 2j]), "text": "Käfer", "yes": True}
    held |= {"structs": np.array([(1, "x.jpg")], dtype=[("class", "O"), ("file", "O")]), "none": np.zeros((0, 0))}
    savemat(tmp_path / "x.mat", held, do_compression=compressed)
    assert {name for name in load_mat(tmp_path / "x.mat") if name[:2] != "__"} == held.keys()


def test_a_matlab_file_that_grows_when_it_is_unpacked(tmp_path):
    bomb = zlib.compress(bytes(300 << 20), 1)
    head = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"
    (tmp_path / "x.mat").write_bytes(head + struct.pack("<II", 15, len(bomb)) + bomb)
    with pytest.raises(ValueError, match="larger than 256 MB"):
        load_mat(tmp_path / "x.mat")
