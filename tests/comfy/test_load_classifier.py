"""Load Fine-Grained Classifier on files as people have them."""

import json
import os
from pathlib import Path

import pytest
import safetensors.torch
import timm
import torch

pytestmark = pytest.mark.releases

NAMES = ["Laysan Albatross", "Черноногий альбатрос", "gown/dress"]


@pytest.fixture
def node(pack):
    return pack.nodes["HiGFA_LoadClassifier"]


@pytest.fixture
def folder(node):
    """models/higfa_classifiers, emptied before, since other tests leave files there, and afterwards."""
    import shutil

    import folder_paths

    path = Path(folder_paths.get_folder_paths("higfa_classifiers")[-1])
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    yield path
    shutil.rmtree(path)


def net():
    torch.manual_seed(0)
    return timm.create_model("test_resnet", num_classes=3).eval()


def write(path, names=NAMES):
    path.parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(net().state_dict(), path)
    facts = {"arch": "test_resnet", "class_names": names, "preprocess": {"input_size": [64, 64]}}
    path.with_suffix(".json").write_text(json.dumps(facts), encoding="utf-8")


def write_transformers(path):
    import transformers

    path.mkdir()
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32
    )
    config.id2label, config.label2id = dict(enumerate(NAMES)), {name: i for i, name in enumerate(NAMES)}
    model = transformers.ViTForImageClassification(config).eval()
    model.save_pretrained(path)
    transformers.ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(path)
    return model


def run(node, name, **inputs):
    with torch.inference_mode():  # as ComfyUI runs every node
        classifier, names = node.execute(classifier_name=name, temperature=0.0, **inputs).args
    return classifier, names


def gradient(classifier, images):
    """As guidance takes it: inside inference mode, on copies of weights that ComfyUI has moved."""
    import comfy.model_management

    with torch.inference_mode():
        comfy.model_management.load_models_gpu([classifier.patcher])
        with torch.inference_mode(False), torch.enable_grad():
            params = classifier.clone_params(classifier.patcher.load_device)
            x = images.clone().requires_grad_()
            return torch.autograd.grad(classifier.logits(x, params)[:, 1].sum(), x)[0]


def test_files_of_sub_folders_are_listed_and_load(node, folder):
    write(folder / "mine" / "birds.safetensors")
    model = write_transformers(folder / "my_vit")
    options = node.define_schema().inputs[0].options
    assert options == [os.path.join("mine", "birds.safetensors"), os.path.join("my_vit", "model.safetensors")]
    for name in options:
        assert node.validate_inputs(classifier_name=name) is True
        classifier, names = run(node, name)
        assert names == "\n".join(NAMES)
        assert gradient(classifier, torch.rand(2, 3, 40, 40)).abs().max() > 0
    x = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    with torch.inference_mode():
        torch.testing.assert_close(classifier.module.double()(x), model.double()(x).logits)


@pytest.mark.parametrize("name", ["../secret.safetensors", "a/../../secret.safetensors", "/secret.safetensors"])
def test_no_way_out_of_the_models_folder(node, folder, name):
    write(folder.parent / "secret.safetensors")
    try:
        message = node.validate_inputs(classifier_name=name)
        assert isinstance(message, str) and "No classifier" in message
        with pytest.raises(FileNotFoundError, match="No classifier"):
            run(node, name)
        absolute = str(folder.parent / "secret.safetensors")
        assert node.validate_inputs(classifier_name=absolute) is not True
    finally:
        (folder.parent / "secret.safetensors").unlink()
        (folder.parent / "secret.json").unlink()


def test_a_missing_file_names_the_ones_that_are_there(node, folder):
    message = node.validate_inputs(classifier_name="gone.safetensors")
    assert message.startswith("No classifier found. Put one of timm, torchvision or transformers")
    write(folder / "birds.safetensors")
    there = node.validate_inputs(classifier_name="gone.safetensors")
    assert "There is: birds.safetensors. Press R" in there
    for words in (message, there):
        assert "models/higfa_classifiers" in words and str(folder.parents[1]) not in words


def test_a_bad_file_is_refused_with_the_remedy(node, folder):
    write(folder / "birds.safetensors", NAMES[:2])
    with pytest.raises(ValueError, match="birds.safetensors: the head has 3 outputs, but there are 2 class names"):
        run(node, "birds.safetensors")


@pytest.mark.parametrize("beside", ["birds.json", "classes.txt", "config.json", "preprocessor_config.json"])
def test_a_change_beside_the_file_is_noticed(node, folder, beside):
    write(folder / "birds.safetensors")
    before = node.fingerprint_inputs(classifier_name="birds.safetensors", temperature=0.0)
    assert node.fingerprint_inputs(classifier_name="birds.safetensors", temperature=0.0) == before
    (folder / beside).write_text("{}        ")
    assert node.fingerprint_inputs(classifier_name="birds.safetensors", temperature=0.0) != before


def test_smooth_relu_and_temperature(node, folder):
    write(folder / "birds.safetensors")
    sharp, _ = run(node, "birds.safetensors")
    smooth, _ = run(node, "birds.safetensors", smooth_relu=3.0)
    images = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert (sharp.smooth_relu, smooth.smooth_relu) == (0, 3)
    assert (sharp.logits(images) - smooth.logits(images)).abs().max() > 1e-3
    assert gradient(smooth, images).abs().max() > 0
    assert smooth.patcher.model is smooth.module
    write_transformers(folder / "my_vit")
    with pytest.raises(ValueError, match="0 ReLU replaced: model.safetensors .transformers/vit. has none"):
        run(node, os.path.join("my_vit", "model.safetensors"), smooth_relu=3.0)


def test_a_timm_name_needs_no_file(node, folder, monkeypatch, tmp_path):
    import huggingface_hub

    def unreachable(url, **_):
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", unreachable)
    assert node.validate_inputs(classifier_name="(put a classifier here)", timm_name="test_resnet") is True
    assert node.validate_inputs(classifier_name="(put a classifier here)", timm_name=" ") is not True
    with pytest.raises(ValueError, match="'test_resnet' is not on this computer and cannot be downloaded .no network"):
        run(node, "(put a classifier here)", timm_name="test_resnet")


def test_the_inputs_that_are_new_are_advanced_and_optional(node):
    """Workflows made before them still run."""
    inputs = {entry.id: entry for entry in node.define_schema().inputs}
    assert list(inputs) == ["classifier_name", "temperature", "timm_name", "smooth_relu"]
    assert all(inputs[name].optional and inputs[name].advanced for name in ("timm_name", "smooth_relu"))
