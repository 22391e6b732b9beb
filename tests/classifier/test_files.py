import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import timm.data
import timm.utils
import torch
import torchvision

from higfa_core.classifier import FineGrainedClassifier, Preprocess
from higfa_core.classifier.formats import torchvision_models

from .nets import ARCH, NAMES, classifier, module, picture, transformers_model, write, write_transformers


@pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 0), (torch.float16, 1e-3)])
def test_save_then_load(tmp_path, dtype, atol):
    saved = classifier("test_vit", Preprocess((96, 96), (0.5,), (0.25,), "bicubic", 0.95), img_size=96, in_chans=1)
    saved.save(tmp_path / "a" / "birds.safetensors", dtype=dtype)
    loaded = FineGrainedClassifier.load(tmp_path / "a" / "birds.safetensors")
    for field in ("class_names", "preprocessing", "temperature", "arch", "model_kwargs"):
        assert getattr(loaded, field) == getattr(saved, field)
    assert loaded.source == "birds.safetensors"
    assert loaded.patcher is None
    assert not loaded.module.training
    assert {p.dtype for p in loaded.module.parameters()} == {torch.float32}
    assert not any(p.requires_grad for p in loaded.module.parameters())
    torch.testing.assert_close(loaded.logits(picture()), saved.logits(picture()), rtol=0, atol=atol)
    assert os.listdir(tmp_path / "a") == ["birds.safetensors"]


def test_same_classifier_same_bytes_and_readable_by_safetensors(tmp_path):
    for name in ("a.safetensors", "b.safetensors"):
        classifier().save(tmp_path / name)
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    weights = safetensors.torch.load_file(tmp_path / "a.safetensors")
    assert all(torch.equal(weights[key], value) for key, value in module().state_dict().items())
    with safetensors.safe_open(tmp_path / "a.safetensors", "pt") as file:
        keys = list(file.metadata())
    assert sorted(keys) == sorted(
        ["format", "arch", "num_classes", "class_names", "preprocess", "temperature", "model_kwargs"]
    )


def test_failed_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "birds.safetensors"
    path.write_bytes(b"old")

    def no_space(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        classifier().save(path)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["birds.safetensors"]


def test_save_refuses_overflow_and_other_formats(tmp_path):
    c = classifier()
    c.module.fc.weight.data[0, 0] = 1e6
    with pytest.raises(ValueError, match=r"not finite in fc.weight. Save birds.safetensors as float32"):
        c.save(tmp_path / "birds.safetensors", dtype=torch.float16)
    with pytest.raises(ValueError, match=r"as .safetensors, got 'birds.pt'"):
        c.save(tmp_path / "birds.pt")
    c.arch = ""
    with pytest.raises(ValueError, match=r"birds.safetensors could not be loaded without its arch. Make .* arch="):
        c.save(tmp_path / "birds.safetensors")
    assert os.listdir(tmp_path) == []


def test_sidecar_fills_what_the_file_lacks_and_timm_knows_the_rest(tmp_path):
    c = FineGrainedClassifier.load(write(tmp_path, preprocess={"input_size": [3, 72, 80]}, temperature=2))
    config = timm.data.resolve_model_data_config(module())
    assert c.preprocessing.input_size == (72, 80)
    assert (c.preprocessing.mean, c.preprocessing.crop_pct) == (config["mean"], config["crop_pct"])
    assert c.temperature == 2
    classifier().save(tmp_path / "birds.safetensors")  # the file's own metadata come first
    assert FineGrainedClassifier.load(tmp_path / "birds.safetensors").temperature == 1.7


def test_classes_txt(tmp_path):
    write(tmp_path, names=None)
    (tmp_path / "classes.txt").write_text("\ufeff" + "\r\n".join(NAMES) + "\n", encoding="utf-8")
    assert FineGrainedClassifier.load(tmp_path / "birds.safetensors").class_names == NAMES


def test_cubs_own_classes_txt(tmp_path):
    lines = ("1 001.Black_footed_Albatross", "2 002.Laysan_Albatross", "3 003.Sooty_Albatross", "4 004.Ani", "5 005.X")
    write(tmp_path, names=None)
    (tmp_path / "classes.txt").write_text("\n".join(lines))
    loaded = FineGrainedClassifier.load(tmp_path / "birds.safetensors")
    assert loaded.class_names[1] == "002.Laysan_Albatross"
    assert loaded.index("Laysan Albatross") == 1


def test_class_names_in_safetensors_metadata(tmp_path):
    metadata = {"arch": ARCH, "label_names": json.dumps(NAMES)}
    safetensors.torch.save_file(module().state_dict(), tmp_path / "birds.safetensors", metadata)
    assert FineGrainedClassifier.load(tmp_path / "birds.safetensors").class_names == NAMES


# torchvision


@pytest.mark.parametrize(
    "arch", ["resnet50", "convnext_tiny", "vit_b_16", "swin_t", "densenet121", "maxvit_t", "vgg11"]
)
def test_torchvision_weights_are_recognised(arch):
    with torch.device("meta"):
        net = torchvision.models.get_model(arch, weights=None, num_classes=7)
    state = net.state_dict()
    assert torchvision_models.detect(state) == f"torchvision/{arch}"
    assert torchvision_models.detect({f"module.{key}": tensor for key, tensor in state.items()}) is not None
    state["extra.weight"] = torch.empty(3, device="meta")
    assert torchvision_models.detect(state) is None


@pytest.mark.parametrize("arch", ["mobilenetv2_100", "efficientnet_b0", "vit_base_patch16_224", "regnety_004"])
def test_weights_of_timm_are_not_torchvisions_because_they_are_as_many(arch):
    with torch.device("meta"):
        state = timm.create_model(arch, num_classes=7).state_dict()
    assert torchvision_models.detect(state) is None


def test_torchvision_image_size():
    settings = torchvision_models.preprocess("vit_b_32", None, {"image_size": 384})
    assert (settings["input_size"], settings["resize"]) == ((384, 384), 384)


def test_a_crop_in_the_sidecar_replaces_torchvisions_resize(tmp_path):
    state = torchvision.models.squeezenet1_1(num_classes=5).state_dict()
    arch = "torchvision/squeezenet1_1"
    default = FineGrainedClassifier.load(write(tmp_path, state=state, arch=arch)).preprocessing
    assert (default.input_size, default.resize) == ((224, 224), 256)
    given = {"crop_pct": 0.5, "input_size": [96, 96]}
    changed = FineGrainedClassifier.load(write(tmp_path, state=state, arch=arch, preprocess=given)).preprocessing
    assert (changed.resize, changed.resized(300, 200)) == (None, (288, 192))


# transformers


def test_a_folder_of_transformers_needs_nothing_else(tmp_path):
    loaded = FineGrainedClassifier.load(write_transformers(tmp_path, image_mean=[0.4, 0.5, 0.6], resample=3))
    assert loaded.class_names == NAMES
    p = loaded.preprocessing
    assert (p.input_size, p.mean, p.interpolation, p.resize) == ((64, 64), (0.4, 0.5, 0.6), "bicubic", (64, 64))
    assert loaded.source == "model.safetensors"


def test_a_sidecar_completes_and_overrules_a_transformers_folder(tmp_path):
    path = write_transformers(tmp_path, transformers_model(labels=None))
    (tmp_path / "model.json").write_text(json.dumps({"class_names": NAMES, "temperature": 3}), encoding="utf-8")
    loaded = FineGrainedClassifier.load(path)
    assert (loaded.class_names, loaded.temperature) == (NAMES, 3)
    facts = {
        "class_names": ["a", "b", "c", "d", "e"],
        "preprocess": {"input_size": [64, 64], "mean": [0.5] * 3, "std": [0.2] * 3, "interpolation": "bilinear"},
    }
    (tmp_path / "model.json").write_text(json.dumps(facts))
    (tmp_path / "preprocessor_config.json").unlink()
    assert FineGrainedClassifier.load(path).preprocessing.std == (0.2, 0.2, 0.2)


def test_a_config_does_not_describe_a_file_that_describes_itself(tmp_path):
    write_transformers(tmp_path)
    classifier().save(tmp_path / "cub200.safetensors")
    assert FineGrainedClassifier.load(tmp_path / "cub200.safetensors").arch == ARCH


def test_saved_transformers_weights_have_the_names_of_its_own_files(tmp_path):
    """Those names outlive the names of its modules, which change with its versions."""
    path = write_transformers(tmp_path)
    FineGrainedClassifier.load(path).save(tmp_path / "ours.safetensors")
    theirs, ours = (safetensors.torch.load_file(p) for p in (path, tmp_path / "ours.safetensors"))
    assert set(theirs) == set(ours)
    assert all(torch.equal(theirs[key], ours[key]) for key in theirs)


def test_settings_that_would_fetch_something_are_dropped(tmp_path, monkeypatch):
    path = write_transformers(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    config |= {"_attn_implementation": "someone/kernel", "attn_implementation": "someone/kernel", "dtype": "float16"}
    config |= {"use_pretrained_backbone": True, "_name_or_path": "someone/model"}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    loaded = FineGrainedClassifier.load(path)
    assert "someone" not in json.dumps(loaded.model_kwargs)
    assert loaded.logits(picture(64, 64)).dtype == torch.float32


def test_timm_config_with_imagenets_names(tmp_path):
    net = timm.create_model("test_resnet", num_classes=1000)
    safetensors.torch.save_file(net.state_dict(), tmp_path / "model.safetensors")
    config = {"architecture": "test_resnet", "num_classes": 1000, "pretrained_cfg": {"tag": "r160_in1k"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    loaded = FineGrainedClassifier.load(tmp_path / "model.safetensors")
    assert loaded.index("goldfish") == 1
    assert len(loaded.class_names) == 1000


@pytest.mark.slow
def test_the_libraries_are_imported_when_a_file_needs_them():
    code = "import sys, higfa_core.classifier as c; print({'timm', 'torchvision', 'transformers'} & set(sys.modules))"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True)
    assert done.stdout == "set()\n"
