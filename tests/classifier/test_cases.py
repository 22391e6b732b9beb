"""Files of people's own training that say what they are, in their own words."""

import json

import pytest
import safetensors.torch
import timm
import torch
import torchvision

from higfa_core.classifier import FineGrainedClassifier

from .nets import ARCH, NAMES, module, randomised, transformers_model, write, write_transformers


def same(loaded, net, size=64):
    x = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(loaded.module(x), net(x), rtol=0, atol=1e-5)


@pytest.mark.parametrize("word", ["_orig_mod.", "_fsdp_wrapped_module.", "module."])
def test_a_wrapper_around_a_part_of_the_network(tmp_path, word):
    net = module()
    state = {key.replace("layer3.", f"layer3.{word}"): tensor for key, tensor in net.state_dict().items()}
    assert any(word in key for key in state)
    same(FineGrainedClassifier.load(write(tmp_path, state=state)), net)


def test_eight_bit_floats_become_float32(tmp_path):
    state = {k: v.to(torch.float8_e4m3fn) if v.ndim == 4 else v for k, v in module().state_dict().items()}
    loaded = FineGrainedClassifier.load(write(tmp_path, state=state))
    assert {tensor.dtype for tensor in loaded.module.parameters()} == {torch.float32}
    assert torch.equal(loaded.module.conv1[0].weight, state["conv1.0.weight"].float())


def test_whole_numbers_are_no_weights(tmp_path):
    state = {k: v.to(torch.int8) if v.ndim == 4 else v for k, v in module().state_dict().items()}
    with pytest.raises(ValueError, match="weights are quantised: .*weight is int8. Choose"):
        FineGrainedClassifier.load(write(tmp_path, state=state))


def lightning(folder, net, **settings):
    state = {f"model.{key}": tensor for key, tensor in net.state_dict().items()}
    torch.save({"state_dict": state, "hyper_parameters": {"lr": 1e-3, **settings}}, folder / "best.ckpt")
    return folder / "best.ckpt"


def test_lightnings_hyper_parameters(tmp_path):
    index = {name: i for i, name in enumerate(NAMES)}
    path = lightning(tmp_path, module(), model_name=ARCH, num_classes=5, class_to_idx=index, image_size=96)
    loaded = FineGrainedClassifier.load(path)
    assert (loaded.arch, loaded.class_names, loaded.preprocessing.input_size) == (ARCH, NAMES, (96, 96))
    same(loaded, module())
    path = lightning(tmp_path, module(), model_name=ARCH, num_classes=6, class_to_idx=index)
    with pytest.raises(ValueError, match="num_classes is 6, but there are 5 class names .from the .*hyper_parameters"):
        FineGrainedClassifier.load(path)
    path = lightning(tmp_path, module(), model_name=ARCH, class_to_idx={"a": 0, "b": 2})
    with pytest.raises(ValueError, match="best.ckpt: the labels are not numbered 0 to 1"):
        FineGrainedClassifier.load(path)
    path = lightning(tmp_path, module(), model_name="MyOwnNet", class_to_idx=index)
    with pytest.raises(ValueError, match="does not say its arch. "):
        FineGrainedClassifier.load(path)


@pytest.mark.parametrize("stated", [{"multi_label": True}, {"task": "multilabel"}])
def test_several_labels_per_image_are_refused(tmp_path, stated):
    path = lightning(tmp_path, module(), model_name=ARCH, classes=list(NAMES), **stated)
    with pytest.raises(ValueError, match="best.ckpt: hyper_parameters say .* several labels per image"):
        FineGrainedClassifier.load(path)


@pytest.mark.parametrize("kind", ["multi_label_classification", "regression"])
def test_problem_types_of_transformers(tmp_path, kind):
    path = write_transformers(tmp_path, transformers_model())
    config = json.loads((tmp_path / "config.json").read_text())
    for problem, refused in ((kind, True), ("single_label_classification", False)):
        (tmp_path / "config.json").write_text(json.dumps({**config, "problem_type": problem}))
        if refused:
            with pytest.raises(ValueError, match=f"problem_type '{kind}': .*single_label_classification"):
                FineGrainedClassifier.load(path)
        else:
            assert FineGrainedClassifier.load(path).class_names == NAMES


@pytest.mark.parametrize("described", [{}, {"preprocess": {"input_size": [96, 96]}}])
def test_a_vision_transformer_of_another_size(tmp_path, described):
    net = module("test_vit", img_size=96)
    loaded = FineGrainedClassifier.load(write(tmp_path, arch="test_vit", state=net.state_dict(), **described))
    assert (loaded.model_kwargs, loaded.preprocessing.input_size) == ({"img_size": 96}, (96, 96))
    same(loaded, net, 96)


def test_the_stated_size_of_an_image_that_is_no_square(tmp_path):
    net = module("test_vit", img_size=(64, 96))
    described = {"preprocess": {"input_size": [64, 96]}}
    loaded = FineGrainedClassifier.load(write(tmp_path, arch="test_vit", state=net.state_dict(), **described))
    assert tuple(loaded.model_kwargs["img_size"]) == (64, 96)


def test_a_vision_transformer_of_torchvision_of_another_size():
    from higfa_core.classifier.formats import torchvision_models

    state = {"encoder.pos_embedding": torch.zeros(1, 50, 768)}
    assert torchvision_models.sized("vit_b_16", {}, state, None) == {"image_size": 112}
    state = {"encoder.pos_embedding": torch.zeros(1, 197, 768)}
    assert torchvision_models.sized("vit_b_16", {}, state, None) == {}


# Files of other kinds


def test_torchscript(tmp_path):
    torch.jit.save(torch.jit.trace(module(), torch.rand(1, 3, 64, 64)), str(tmp_path / "script.pt"))
    with pytest.raises(ValueError, match="script.pt is TorchScript .*torch.jit.load.*state_dict"):
        FineGrainedClassifier.load(tmp_path / "script.pt")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("birds.h5", b"\x89HDF\r\n\x1a\n" + bytes(64), "an HDF5 file, as Keras saves"),
        ("birds.onnx", b"\x08\x08\x12\x07pytorch" + bytes(64), "an ONNX model"),
        ("birds.gguf", b"GGUF" + bytes(64), "a GGUF file"),
    ],
)
def test_files_of_other_kinds(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=f"{name} is {message}.*(Choose a model|Load it)"):
        FineGrainedClassifier.load(tmp_path / name)


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        (("conv2d/kernel:0", "conv2d/bias:0"), "a model of Keras, TensorFlow or Flax"),
        (("params.Dense_0.kernel", "params.Dense_0.bias"), "a model of Keras, TensorFlow or Flax"),
        (("0.0.weight", "1.2.weight", "1.4.weight", "1.8.weight"), "a model of fastai .learn.save."),
    ],
)
def test_weights_of_other_libraries(tmp_path, keys, message):
    state = dict.fromkeys(keys, torch.zeros(2, 2))
    torch.save({"model": {key: tensor.clone() for key, tensor in state.items()}, "opt": {}}, tmp_path / "birds.pth")
    with pytest.raises(ValueError, match=f"birds.pth is {message}"):
        FineGrainedClassifier.load(tmp_path / "birds.pth")


# Names of earlier releases of timm, in wrappers; see test_old_timm.py


def swin_of_2021(state):
    """Until 0.8: a stage ended with the downsampling that now begins the next one; the head was plain."""
    old = {}
    for key, tensor in state.items():
        if ".downsample." in key:
            stage = int(key.split(".")[1])
            key = key.replace(f"layers.{stage}.", f"layers.{stage - 1}.")
        old[key.replace("head.fc.", "head.")] = tensor
    return {**old, "layers.0.blocks.1.attn_mask": torch.zeros(1, 4, 4)}


@pytest.mark.parametrize("wrap", ["", "model.", "_orig_mod.backbone."])
def test_names_of_an_earlier_timm(tmp_path, wrap):
    kwargs = {"img_size": 64, "window_size": 4, "embed_dim": 24, "depths": [1, 1, 2, 1]}
    net = randomised(timm.create_model("swin_tiny_patch4_window7_224", num_classes=5, **kwargs))
    state = {wrap + key: tensor for key, tensor in swin_of_2021(net.state_dict()).items()}
    if "backbone" in wrap:
        state["criterion.weight"] = torch.ones(5)
    path = write(tmp_path, arch="swin_tiny_patch4_window7_224", state=state, model_kwargs=kwargs)
    same(FineGrainedClassifier.load(path), net)


def test_what_timm_would_resample_does_not_fit(tmp_path):
    state = module("test_vit", img_size=96).state_dict()
    path = write(tmp_path, arch="test_vit", state=state, model_kwargs={"img_size": 64})
    with pytest.raises(ValueError, match=r"pos_embed is .*images of another size.*img_size"):
        FineGrainedClassifier.load(path)


def test_a_json_file_too_deep_to_read(tmp_path):
    safetensors.torch.save_file(torchvision.models.shufflenet_v2_x0_5().state_dict(), tmp_path / "birds.safetensors")
    (tmp_path / "birds.json").write_text("[" * 100_000)
    with pytest.raises(ValueError, match="birds.json is not valid JSON"):
        FineGrainedClassifier.load(tmp_path / "birds.safetensors")
