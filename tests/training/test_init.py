"""Training that starts from a file."""

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

from higfa_core.classifier import FineGrainedClassifier, Preprocess
from higfa_core.training import init
from higfa_core.training.data import read_labelled
from higfa_core.training.judge import judge_settings
from higfa_core.training.settings import TrainSettings
from higfa_core.training.trainer import train, training_key

LOOK = Preprocess((32, 32), (0.1, 0.2, 0.3), (0.5,) * 3, "bilinear", 0.9)
CLASSES = ("blue", "red")


def saved(path, arch="test_resnet", classes=CLASSES, **kwargs):
    torch.manual_seed(5)
    net = timm.create_model(arch, num_classes=len(classes), **kwargs)
    FineGrainedClassifier(net, classes, LOOK, arch=arch, model_kwargs=kwargs).save(path)
    return FineGrainedClassifier.load(path)


@pytest.fixture
def folder(tmp_path) -> Path:
    for label, name in enumerate(CLASSES):
        (tmp_path / "birds" / name).mkdir(parents=True)
        for i in range(4):
            noise = np.random.default_rng([label, i]).normal(0, 30, (32, 32, 3))
            pixels = (np.array((60, 60, 200) if label else (200, 60, 60)) + noise).clip(0, 255)
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "birds" / name / f"{i}.png")
    return tmp_path / "birds"


def test_the_same_classes_keep_every_weight_and_others_all_but_the_last_layer(tmp_path, caplog):
    caplog.set_level("INFO")
    before = saved(tmp_path / "a.safetensors")
    settings = init.resolved(TrainSettings(init=str(tmp_path / "a.safetensors")))
    assert settings.arch == "test_resnet"
    module, kwargs, look = init.build(settings, CLASSES)
    state = before.module.state_dict()
    assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
    assert (look.input_size, look.mean, look.crop_pct) == ((32, 32), LOOK.mean, 1.0)
    assert "all weights of a.safetensors" in caplog.text
    module, _, _ = init.build(settings, ("red", "blue", "green"))
    changed = [k for k, v in module.state_dict().items() if v.shape != state[k].shape or not torch.equal(v, state[k])]
    assert changed == ["fc.weight", "fc.bias"] and module.fc.out_features == 3
    assert "but for its last layer: it has other classes (2)" in caplog.text


@pytest.mark.parametrize("arch", ["test_resnet", "test_vit", "test_efficientnet"])
def test_the_same_classes_in_another_order_keep_their_meaning(tmp_path, arch):
    names = ("a", "b", "c")
    kwargs = {"img_size": (32, 32)} if arch == "test_vit" else {}
    before = saved(tmp_path / "a.safetensors", arch, names, **kwargs)
    settings = init.resolved(TrainSettings(init=str(tmp_path / "a.safetensors")))
    module, _, _ = init.build(settings, ("c", "a", "b"))
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        found, old = module.eval()(images), before.module(images)
    torch.testing.assert_close(found, old[:, [2, 0, 1]])
    assert "all weights" in init.words(settings, ("c", "a", "b"))


def test_what_does_not_fit_is_refused(tmp_path):
    saved(tmp_path / "a.safetensors")
    saved(tmp_path / "vit.safetensors", "test_vit", img_size=(32, 32))
    with pytest.raises(ValueError, match="holds test_resnet, not resnet18"):
        init.resolved(TrainSettings(init=str(tmp_path / "a.safetensors"), arch="resnet18"))
    vit = init.resolved(TrainSettings(init=str(tmp_path / "vit.safetensors"), image_size=64))
    with pytest.raises(ValueError, match="do not fit test_vit at this size: pos_embed"):
        init.build(vit, CLASSES)
    with pytest.raises(ValueError, match="Cannot read source file"):
        init.resolved(TrainSettings(init=str(tmp_path / "none.safetensors")))
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 2))
    other = FineGrainedClassifier(net, CLASSES, LOOK, arch="torchvision/resnet18")
    init._kept.cache_clear()
    with pytest.MonkeyPatch.context() as patch:  # a file of torchvision's, without its 45 MB
        patch.setattr(FineGrainedClassifier, "load", lambda path: other)
        with pytest.raises(ValueError, match="only timm's are trained"):
            init.resolved(TrainSettings(init=str(tmp_path / "a.safetensors")))
    init._kept.cache_clear()


def test_a_run_starts_there_and_its_key_knows_the_file(tmp_path, folder):
    start = saved(tmp_path / "a.safetensors")
    labelled = read_labelled(folder, 0.25)
    settings = TrainSettings(init=str(tmp_path / "a.safetensors"), steps=1, batch_size=2, learning_rate=1e-9)
    result = train(labelled, settings)
    same = result.classifier.module.state_dict()
    for name, value in start.module.named_parameters():
        torch.testing.assert_close(same[name], value, atol=1e-6, rtol=1e-4)
    assert result.metadata()["training"].count("a.safetensors") == 1
    key = training_key(labelled, result.settings)
    saved(tmp_path / "a.safetensors", classes=("x", "y"))
    assert training_key(labelled, result.settings) != key


def test_files_and_keys_of_a_training_without_it_are_as_before():
    assert "init" not in TrainSettings().facts() and len(TrainSettings().facts()) == 15
    assert judge_settings(TrainSettings(init="a.safetensors")).init == ""
    warm, cold = TrainSettings(pretrained=False, init="a").resolved(100), TrainSettings(pretrained=False).resolved(100)
    assert (warm.steps, warm.learning_rate) == (TrainSettings().resolved(100).steps, 2e-4) != (cold.steps, 2e-3)
