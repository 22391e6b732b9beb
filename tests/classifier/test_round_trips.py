"""Logits of our loader and of timm, torchvision and transformers themselves, from the same files."""

import argparse
import copy
import itertools
import json

import pytest
import safetensors.torch
import timm
import timm.models
import torch
import torchvision
import transformers

from higfa_core.classifier import FineGrainedClassifier

from .nets import NAMES, VIT, randomised, transformers_model, write_transformers

pytestmark = pytest.mark.slow

TIMM = {
    "resnet10t": {},
    "convnext_atto": {"depths": [1, 1, 2, 1]},
    "vit_tiny_patch16_224": {"img_size": 64, "depth": 2},
    "swin_tiny_patch4_window7_224": {"img_size": 64, "window_size": 4, "embed_dim": 24, "depths": [1, 1, 2, 1]},
    "efficientnet_b0": {},
    "mobilenetv3_small_050": {},
    "deit_tiny_distilled_patch16_224": {"img_size": 64, "depth": 2},
    "regnetx_002": {},
    "densenet121": {"growth_rate": 8, "block_config": [2, 2, 2, 2]},
    "coatnet_nano_rw_224": {"img_size": 64, "depths": [1, 1, 1, 1], "embed_dim": [16, 32, 32, 32]},
}
TORCHVISION = ("resnet18", "mobilenet_v3_small", "mnasnet0_5", "shufflenet_v2_x0_5", "regnet_y_400mf")
SWIN = {"image_size": 64, "embed_dim": 16, "depths": [1, 1], "num_heads": [2, 2], "window_size": 4}
CONVNEXT = {"hidden_sizes": [16, 16, 24, 32], "depths": [1, 1, 1, 1]}
RESNET = {"hidden_sizes": [16, 16, 24, 32], "depths": [1, 1, 1, 1], "embedding_size": 16, "layer_type": "basic"}
TRANSFORMERS = {
    "vit": {**VIT, "patch_size": 16},
    "deit": {**VIT, "patch_size": 16},
    "swin": SWIN,
    "convnext": CONVNEXT,
    "resnet": RESNET,
    "regnet": {**RESNET, "layer_type": "y", "groups_width": 8},
    "beit": {**VIT, "patch_size": 16},
    "dinov2": {**VIT, "patch_size": 16},
    "mobilenet_v2": {"depth_multiplier": 0.35, "image_size": 64},
    "efficientnet": {"width_coefficient": 0.25, "depth_coefficient": 0.1, "hidden_dim": 320, "image_size": 64},
}


def require_equal(loaded: FineGrainedClassifier, theirs, seed=1):
    """Both nets on the same input, in float64 since their attention may differ; ours also as guidance calls it."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(3, 3, *loaded.preprocessing.input_size, generator=generator, dtype=torch.float64)
    mine, theirs = copy.deepcopy(loaded.module).double(), copy.deepcopy(theirs).double().eval()
    params = {k: w.double() if w.is_floating_point() else w for k, w in loaded.clone_params("cpu").items()}
    with torch.no_grad():
        expected = theirs(x)
        expected = getattr(expected, "logits", expected)
        got, cloned = mine(x), torch.func.functional_call(mine, params, (x,))
    assert expected.std(dim=0).max() > 1e-3  # the image matters
    assert expected.std(dim=1).min() > 1e-3  # and the class
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(cloned, expected)
    assert loaded.class_names == NAMES


def prefixed(state, prefix="module."):
    return {prefix + key: tensor for key, tensor in state.items()}


def zeros(state):
    return {key: tensor * 0 for key, tensor in state.items()}


def safetensors_file(path, state):
    safetensors.torch.save_file(state, path.with_suffix(".safetensors"))
    return path.with_suffix(".safetensors")


def torch_file(content):
    def save(path, state):
        torch.save(content(state), path)
        return path

    return save


# What people's training leaves behind. Weights that are not to be used are zeros.
FORMS = {
    "safetensors": safetensors_file,
    "state_dict": torch_file(lambda state: state),
    "timm's train.py": torch_file(
        lambda state: {
            "epoch": 3,
            "args": argparse.Namespace(lr=0.1),
            "state_dict": zeros(state),
            "state_dict_ema": state,
            "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
        }
    ),
    "DistributedDataParallel": torch_file(lambda state: {"state_dict": prefixed(state), "best_acc1": 0.8}),
    "torchvision's train.py": torch_file(
        lambda state: {
            "model": zeros(state),
            "model_ema": {"n_averaged": torch.tensor(4), **prefixed(state)},
            "epoch": 3,
        }
    ),
    "Lightning": torch_file(lambda state: {"state_dict": prefixed(state, "model."), "hyper_parameters": {"lr": 0.1}}),
    "Lightning, another name": torch_file(
        lambda state: {"state_dict": {**prefixed(state, "_orig_mod.backbone."), "criterion.weight": torch.ones(5)}}
    ),
    "PyTorch's tutorial": torch_file(lambda state: {"model_state_dict": state, "epoch": 3, "loss": torch.tensor(0.3)}),
    "torch.compile": torch_file(lambda state: prefixed(state, "_orig_mod.")),
}


def describe(path, arch, **facts):
    text = json.dumps({"arch": arch, "class_names": NAMES, **facts}, ensure_ascii=False)
    path.with_suffix(".json").write_text(text, encoding="utf-8")


@pytest.mark.parametrize(("arch", "form"), list(zip(TIMM, itertools.cycle(FORMS))))
def test_timm(tmp_path, arch, form):
    kwargs = TIMM[arch]
    net = randomised(timm.create_model(arch, num_classes=5, **kwargs))
    plain = FORMS["safetensors"](tmp_path / "plain.pth", net.state_dict())
    theirs = timm.create_model(arch, num_classes=5, **kwargs).eval()
    timm.models.load_checkpoint(theirs, str(plain))
    path = FORMS[form](tmp_path / "net.pth", net.state_dict())
    describe(path, arch, model_kwargs=kwargs, preprocess={"input_size": [64, 64]})
    loaded = FineGrainedClassifier.load(path)
    require_equal(loaded, theirs)
    loaded.save(tmp_path / "ours.safetensors")
    require_equal(FineGrainedClassifier.load(tmp_path / "ours.safetensors"), theirs)


@pytest.mark.parametrize("arch", TORCHVISION)
def test_torchvision(tmp_path, arch):
    """No description but the class names: the architecture is recognised."""
    net = randomised(torchvision.models.get_model(arch, weights=None, num_classes=5))
    torch.save(net.state_dict(), tmp_path / "net.pth")
    (tmp_path / "classes.txt").write_text("\n".join(NAMES), encoding="utf-8")
    if arch == "resnet18":  # timm has the same one
        (tmp_path / "net.json").write_text('{"arch": "torchvision/resnet18"}')
    theirs = torchvision.models.get_model(arch, weights=None, num_classes=5).eval()
    theirs.load_state_dict(torch.load(tmp_path / "net.pth", weights_only=True))
    loaded = FineGrainedClassifier.load(tmp_path / "net.pth")
    assert loaded.arch == f"torchvision/{arch}"
    require_equal(loaded, theirs)
    loaded.save(tmp_path / "ours.safetensors")
    require_equal(FineGrainedClassifier.load(tmp_path / "ours.safetensors"), theirs)


@pytest.mark.parametrize("form", FORMS)
def test_torchvision_in_every_form(tmp_path, form):
    net = randomised(torchvision.models.shufflenet_v2_x0_5(num_classes=5))
    path = FORMS[form](tmp_path / "net.pth", net.state_dict())
    describe(path, "torchvision/shufflenet_v2_x0_5")
    require_equal(FineGrainedClassifier.load(path), net)


@pytest.mark.parametrize("model_type", TRANSFORMERS)
def test_transformers(tmp_path, model_type):
    path = write_transformers(tmp_path, transformers_model(model_type, **TRANSFORMERS[model_type]))
    theirs = transformers.AutoModelForImageClassification.from_pretrained(tmp_path)
    with torch.inference_mode():  # as ComfyUI runs every node
        loaded = FineGrainedClassifier.load(path)
    assert loaded.arch == f"transformers/{model_type}"
    require_equal(loaded, theirs)
    loaded.save(tmp_path / "ours" / "ours.safetensors")
    require_equal(FineGrainedClassifier.load(tmp_path / "ours" / "ours.safetensors"), theirs)


@pytest.mark.parametrize("form", ["state_dict", "DistributedDataParallel", "Lightning", "torch.compile"])
def test_transformers_in_torch_files(tmp_path, form):
    """pytorch_model.bin, as transformers wrote it before safetensors, and what training with it leaves behind."""
    path = write_transformers(tmp_path)
    theirs = transformers.AutoModelForImageClassification.from_pretrained(tmp_path)
    state = safetensors.torch.load_file(path)
    path.unlink()
    require_equal(FineGrainedClassifier.load(FORMS[form](tmp_path / "pytorch_model.bin", state)), theirs)


def test_half_precision_files_load_as_float32(tmp_path):
    model = transformers_model().half()
    path = write_transformers(tmp_path, model)
    loaded = FineGrainedClassifier.load(path)
    assert {tensor.dtype for tensor in loaded.module.parameters()} == {torch.float32}
    require_equal(loaded, model.float())


def test_timm_on_the_hub(tmp_path):
    """The folder that timm's save_for_hf and push_to_hf_hub write: its config.json says everything."""
    net = randomised(timm.create_model("vit_tiny_patch16_224", num_classes=5, img_size=64, depth=2))
    timm.models.save_for_hf(
        net,
        str(tmp_path),
        model_config={"label_names": ["a", "b", "c", "d", "e"], "label_descriptions": dict(zip("abcde", NAMES))},
        model_args={"img_size": 64, "depth": 2},
        safe_serialization=True,
    )
    theirs = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    loaded = FineGrainedClassifier.load(tmp_path / "model.safetensors")
    require_equal(loaded, theirs)
    config = timm.data.resolve_model_data_config(theirs)
    assert loaded.preprocessing.input_size == config["input_size"][1:] == (64, 64)
    assert loaded.preprocessing.mean == tuple(config["mean"])


def test_transformers_wrapper_of_timm(tmp_path):
    config = transformers.TimmWrapperConfig(architecture="test_vit", num_labels=5)
    config.id2label, config.label2id = dict(enumerate(NAMES)), {name: i for i, name in enumerate(NAMES)}
    model = randomised(transformers.AutoModelForImageClassification.from_config(config))
    model.save_pretrained(tmp_path)
    loaded = FineGrainedClassifier.load(tmp_path / "model.safetensors")
    assert loaded.arch == "test_vit"
    require_equal(loaded, model)
