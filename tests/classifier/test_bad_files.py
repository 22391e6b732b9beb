"""Each message names the file, the fault and the remedy."""

import json
import os
import pickle

import numpy
import pytest
import safetensors.torch
import torch
import torchvision

from higfa_core.classifier import FORMAT, FineGrainedClassifier
from higfa_core.classifier.formats import weights

from .nets import NAMES, classifier, module, transformers_model, write, write_transformers


class Planted:
    def __reduce__(self):
        return os.mkdir, ("planted",)


def test_pickled_code_is_refused_and_does_not_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, content in (("birds.pth", {"state_dict": Planted()}), ("whole.pt", module())):
        torch.save(content, tmp_path / name)
        with pytest.raises(ValueError, match=rf"{name} is refused: it holds pickled Python code \((posix|timm).*Save"):
            FineGrainedClassifier.load(tmp_path / name)
    assert not (tmp_path / "planted").exists()


class Forged:
    """A float64 dtype that says of itself that it holds objects, as numpy's own unpickling believes it."""

    def __reduce__(self):
        return numpy.dtype, ("f8", False, True), (3, "<", None, None, None, -1, -1, 63)


@pytest.fixture(params=[(), (numpy.dtype, numpy.dtypes.Float64DType)], ids=["alone", "in ComfyUI"])
def allowed_by_others(request):
    """Globals that the process allows torch to unpickle already, as ComfyUI does."""
    before = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(list(request.param))
    yield set(request.param)
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(before)


def test_numpys_scalars_are_read_without_numpys_unpickling(tmp_path, allowed_by_others):
    assert pickle.loads(pickle.dumps(Forged())).hasobject
    kinds = [numpy.float64(77.7), numpy.float32(0.5), numpy.int64(-3), numpy.bool_(True), numpy.str_("Möwe")]
    content = {"metrics": kinds, "forged": Forged(), "when": numpy.datetime64("2020-01-01")}
    torch.save({"state_dict": module().state_dict(), **content}, tmp_path / "birds.pth")
    read = weights.read(tmp_path / "birds.pth")[2]
    assert read["metrics"] == [77.7, 0.5, -3, True, "Möwe"]
    assert {type(value) for value in read["metrics"]} == {float, int, bool, str}
    assert read["when"] is None and not isinstance(read["forged"], numpy.dtype)
    assert set(torch.serialization.get_safe_globals()) == allowed_by_others
    torch.save({"state_dict": module().state_dict(), "confusion": numpy.eye(2)}, tmp_path / "birds.pth")
    with pytest.raises(ValueError, match=r"is refused: it holds pickled Python code \(numpy.*_reconstruct\)"):
        weights.read(tmp_path / "birds.pth")


@pytest.mark.parametrize("name", ["birds.safetensors", "birds.pth"])
@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda _: b"<html>404</html>" * 9, lambda _: b""])
def test_damaged_files(tmp_path, name, damage):
    torch.save(module().state_dict(), tmp_path / "birds.pth")
    classifier().save(tmp_path / "birds.safetensors")
    path = tmp_path / name
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=rf"{name} is (damaged|not a complete).*Download"):
        FineGrainedClassifier.load(path)


def test_missing_file_and_no_weights(tmp_path):
    with pytest.raises(FileNotFoundError, match="No classifier file .*birds.pth"):
        FineGrainedClassifier.load(tmp_path / "birds.pth")
    torch.save({"epoch": 3}, tmp_path / "birds.pth")
    with pytest.raises(ValueError, match="birds.pth holds no weights as state_dict, .*only epoch. Save only"):
        FineGrainedClassifier.load(tmp_path / "birds.pth")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arch": None}, r"does not say its arch\. Put a file 'birds.json'.*\"resnet50\""),
        ({"arch": None, "names": None}, r"its arch and class_names\. Put a file"),
        ({"names": []}, r"does not say its class_names"),
        ({"arch": "torchvision/resnet5"}, r"no arch 'resnet5': closest 'torchvision/resnet50'"),
        ({"arch": "vit_b_16"}, r"no arch 'vit_b_16'.*a model of torchvision is 'torchvision/"),
        ({"arch": ["test_resnet"]}, r"no arch '\['test_resnet'\]'"),
        ({"arch": "torchvision/resnet18", "model_kwargs": {"weights": "DEFAULT"}}, r"may not hold weights"),
        (
            {"arch": "torchvision/resnet18", "model_kwargs": {"colour": 1}},
            r"may not hold colour. Remove them: resnet18 takes .*groups",
        ),
        ({"arch": "torchvision/resnet18"}, r"not those of torchvision/resnet18: missing .*Correct arch"),
        ({"arch": "transformers/vitt"}, r"no model_type 'vitt': closest 'vit'"),
        ({"arch": "test_resnt"}, r"no arch 'test_resnt': closest 'test_resnet'"),
        ({"arch": "hf-hub:timm/resnet18.a1_in1k"}, r"no arch 'hf-hub:timm/resnet18.a1_in1k'"),
        ({"arch": "test_vit"}, r"not those of test_vit: missing .*unexpected .*Correct arch"),
        ({"names": NAMES[:4]}, r"head has 5 outputs, but there are 4 class names\. Give one name"),
        ({"names": NAMES[:4] + NAMES[:1]}, r"unique, repeated: Laysan Albatross\. Rename"),
        ({"names": [*NAMES[:4], " "]}, r"class name 5 of 5 is empty"),
        ({"names": [*NAMES[:4], "a\nb"]}, r"class name 5 of 5 .*line break"),
        ({"names": NAMES[:1]}, r"at least 2 classes, got 1"),
        ({"names": [1, 2, 3, 4, 5]}, r"list of strings, got \[1, 2"),
        ({"names": "a, b"}, r"class_names is not valid JSON"),
        ({"num_classes": 6}, r"num_classes is 6, but there are 5 class names"),
        ({"temperature": 0}, r"temperature must be above 0, got 0"),
        ({"temperature": "warm"}, r"temperature must be a number, got 'warm'"),
        ({"preprocess": {"crop": 1}}, r"preprocess has no crop\. It has input_size, mean"),
        ({"preprocess": {"crop_pct": 2}}, r"crop_pct must be above 0 and at most 1, got 2"),
        ({"preprocess": [224]}, r"preprocess must be a JSON object"),
        ({"model_kwargs": {"pretrained": True}}, r"may not hold pretrained\. Remove"),
        ({"model_kwargs": {"colour": 1}}, r"may not hold colour. Remove them: test_resnet takes .*block_args"),
        ({"model_kwargs": {"in_chans": 4}}, r"in_chans must be 3 .* got 4"),
        ({"preprocess": {"input_size": "big"}}, r"input_size must be channels, height and width, got 'big'"),
        ({"preprocess": {"input_size": [1e999, 64]}}, r"JSON|input_size must be a list of numbers, got"),
        ({"preprocess": {"mean": [[0.5], 0.5, 0.5]}}, r"mean must be a list of numbers, got"),
        ({"preprocess": {"crop_pct": "a"}}, r"crop_pct must be above 0 .*, got 'a'"),
        ({"preprocess": {"crop_pct": 1e-9}}, r"input_size .160, 160. / crop_pct 1e-09 is above 4096 pixels"),
        ({"preprocess": {"resize": 10**6}}, r"resize must be .* at most 4096, got 1000000"),
        ({"preprocess": {"mean": [0.5]}}, r"mean and std need 3 values each"),
        (
            {"arch": "test_vit", "state": "test_vit", "preprocess": {"input_size": [9, 9]}},
            r"not take images of 3 x 9 x 9",
        ),
        ({"model_kwargs": {"in_chans": 1}}, r"conv1.*Correct arch or model_kwargs"),
    ],
)
def test_bad_description(tmp_path, changes, message):
    if "state" in changes:
        changes = {**changes, "state": module(changes["state"]).state_dict()}
    path = write(tmp_path, **changes)
    with pytest.raises(ValueError, match=message) as error:
        FineGrainedClassifier.load(path)
    assert str(error.value).startswith("birds.safetensors")


def test_bad_weights(tmp_path):
    state = module().state_dict()
    state["fc.bias"][0] = float("nan")
    with pytest.raises(ValueError, match=r"birds.safetensors: weights are not finite in fc.bias\. Train"):
        FineGrainedClassifier.load(write(tmp_path, state=state))
    both = {f"{prefix}.{k}": v.clone() for k, v in module().state_dict().items() for prefix in ("model", "module")}
    with pytest.raises(ValueError, match="two sets of weights, in 'model.' and in 'module.'"):
        FineGrainedClassifier.load(write(tmp_path, state=both))
    for prefix in ("", "model."):  # a deeper net holds all the weights of a shallow one
        deeper = {f"{prefix}{k}": v for k, v in {**module().state_dict(), "layer9.weight": torch.zeros(3)}.items()}
        with pytest.raises(ValueError, match="not those of test_resnet: unexpected layer9.weight"):
            FineGrainedClassifier.load(write(tmp_path, state=deeper))


def test_weights_that_timm_and_torchvision_call_alike(tmp_path):
    """They prepare images differently, so it is asked who trained them."""
    torch.save(torchvision.models.resnet18(num_classes=5).state_dict(), tmp_path / "birds.pth")
    (tmp_path / "classes.txt").write_text("\n".join(NAMES), encoding="utf-8")
    with pytest.raises(ValueError, match=r"birds.pth holds a resnet18. timm and torchvision both .*'birds.json'"):
        FineGrainedClassifier.load(tmp_path / "birds.pth")
    for arch, interpolation in (("resnet18", "bicubic"), ("torchvision/resnet18", "bilinear")):
        (tmp_path / "birds.json").write_text(json.dumps({"arch": arch}))
        assert FineGrainedClassifier.load(tmp_path / "birds.pth").preprocessing.interpolation == interpolation


def test_bad_sidecar_text(tmp_path):
    path = write(tmp_path, names=None)
    (tmp_path / "classes.txt").write_bytes("Möwe\nEnte\n".encode("latin-1"))
    with pytest.raises(ValueError, match="classes.txt is not UTF-8 .*Save it as UTF-8"):
        FineGrainedClassifier.load(path)
    (tmp_path / "classes.txt").write_text("a\nb\n\nc\nd\n")
    with pytest.raises(ValueError, match="class name 3 of 5 is empty"):
        FineGrainedClassifier.load(path)
    (tmp_path / "birds.json").write_text("{arch: resnet50}")
    with pytest.raises(ValueError, match="birds.json is not valid JSON .*Example"):
        FineGrainedClassifier.load(path)
    (tmp_path / "birds.json").write_text("[]")
    with pytest.raises(ValueError, match="birds.json must hold a JSON object"):
        FineGrainedClassifier.load(path)


def test_a_newer_format_is_named(tmp_path):
    metadata = {"format": "higfa-classifier-2"}
    safetensors.torch.save_file(module().state_dict(), tmp_path / "birds.safetensors", metadata)
    with pytest.raises(ValueError, match=f"birds.safetensors has the format higfa-classifier-2, .*{FORMAT}. Update"):
        FineGrainedClassifier.load(tmp_path / "birds.safetensors")


def test_without_timm_the_message_says_what_to_install(tmp_path, monkeypatch):
    path = write(tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "timm", None)
    with pytest.raises(ImportError, match=r"pip install 'timm>=1.0.26'"):
        FineGrainedClassifier.load(path)


# other models, and models of transformers


@pytest.mark.parametrize("name", ["other.safetensors", "other.ckpt"])
@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("lora_unet_down_blocks_0.lora_down.weight", "is a LoRA: it belongs in models/loras"),
        ("base_model.model.blocks.0.attn.qkv.lora_A.weight", "is a LoRA"),
        ("model.diffusion_model.input_blocks.0.0.weight", "is a diffusion model: it belongs in models/checkpoints"),
        ("double_blocks.0.img_attn.qkv.weight", "is a diffusion model"),
    ],
)
def test_other_models(tmp_path, name, key, message):
    state = {"fc.weight": torch.zeros(2, 2), key: torch.zeros(4, 4)}
    if name.endswith("ckpt"):
        torch.save({"state_dict": state}, tmp_path / name)
    else:
        safetensors.torch.save_file(state, tmp_path / name)
    with pytest.raises(ValueError, match=f"{name} {message}.*Choose an image classifier .it holds {key}"):
        FineGrainedClassifier.load(tmp_path / name)


def test_one_part_of_several(tmp_path):
    (tmp_path / "model-00001-of-00003.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="is one of several parts. Save the model in one file.*max_shard_size"):
        FineGrainedClassifier.load(tmp_path / "model-00001-of-00003.safetensors")


def rewrite(file, **changes):
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**config, **changes}), encoding="utf-8")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"auto_map": {"AutoModel": "code.MyModel"}},
            r"config.json needs code that comes with the model \(auto_map\)",
        ),
        ({"quantization_config": {"bits": 4}}, r"the weights are quantised"),
        ({"model_type": "vitt"}, r"no model_type 'vitt': closest 'vit'\. Correct config.json"),
        (
            {"architectures": ["ViTForMaskedImageModeling"]},
            r"that of ViTForMaskedImageModeling, which is not an image class",
        ),
        ({"model_type": "bert", "architectures": None}, r"that of bert, which is not an image classifier"),
        (
            {"id2label": {str(i): f"LABEL_{i}" for i in range(5)}},
            r"does not say its class_names\. Put a file 'model.json'",
        ),
        ({"id2label": {"0": "a", "7": "b"}}, r"labels are not numbered 0 to 1: 0, 7"),
        ({"id2label": dict(enumerate("abcd"))}, r"the head has 5 outputs, but there are 4 class names"),
        ({"num_hidden_layers": 3}, r"not those of transformers/vit: missing .*Correct config.json"),
        ({"intermediate_size": 64}, r"not those of transformers/vit: .* is \[.*48.*needs \[.*64"),
        ({"hidden_act": "gelu_fastest"}, r"transformers cannot build vit: .*gelu_fastest.*Correct config.json"),
        ({"image_size": 32}, r"not those of transformers/vit: .*position_embeddings"),
    ],
)
def test_bad_config_of_transformers(tmp_path, changes, message):
    path = write_transformers(tmp_path)
    rewrite(tmp_path / "config.json", **changes)
    with pytest.raises(ValueError, match=message) as error:
        FineGrainedClassifier.load(path)
    assert str(error.value).startswith("model.safetensors")


def test_files_missing_beside_a_transformers_model(tmp_path):
    path = write_transformers(tmp_path)
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(
        ValueError, match="preprocess lacks input_size, mean, std, interpolation.*preprocessor_config.json"
    ):
        FineGrainedClassifier.load(path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(
        ValueError, match="looks like a transformers model. Put its config.json and preprocessor_config"
    ):
        FineGrainedClassifier.load(path)


def test_bad_text_beside_a_transformers_model(tmp_path):
    path = write_transformers(tmp_path)
    rewrite(tmp_path / "preprocessor_config.json", auto_map={"AutoImageProcessor": "code.Mine"})
    with pytest.raises(ValueError, match=r"preprocessor_config.json needs code .*\(auto_map\), which is refused"):
        FineGrainedClassifier.load(path)
    for name in ("preprocessor_config.json", "config.json"):
        (tmp_path / name).write_text("{", encoding="utf-8")
        with pytest.raises(ValueError, match=f"{name} is not valid JSON .*Save the model again with save_pretrained"):
            FineGrainedClassifier.load(path)
        (tmp_path / name).write_text("[]", encoding="utf-8")
        with pytest.raises(ValueError, match=f"{name} must hold a JSON object. Save the model again"):
            FineGrainedClassifier.load(path)
        (tmp_path / name).write_bytes('{"a": "Möwe"}'.encode("latin-1"))
        with pytest.raises(ValueError, match=f"{name} is not UTF-8"):
            FineGrainedClassifier.load(path)


def test_an_image_processor_that_transformers_does_not_have(tmp_path):
    path = write_transformers(tmp_path)
    rewrite(tmp_path / "preprocessor_config.json", image_processor_type="NoSuchProcessor")
    with pytest.raises(ValueError, match="preprocessor_config.json cannot be followed: .*preprocess"):
        FineGrainedClassifier.load(path)


def test_a_timm_config_with_an_unknown_architecture(tmp_path):
    classifier().save(tmp_path / "other.safetensors")
    safetensors.torch.save_file(module().state_dict(), tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps({"architecture": "test_resnt", "label_names": NAMES}))
    with pytest.raises(ValueError, match="model.safetensors: .*no arch 'test_resnt': closest 'test_resnet'"):
        FineGrainedClassifier.load(tmp_path / "model.safetensors")


def test_not_finite_weights_of_transformers(tmp_path):
    model = transformers_model()
    model.classifier.bias.data[0] = float("inf")
    with pytest.raises(ValueError, match="model.safetensors: weights are not finite in classifier.bias. Train"):
        FineGrainedClassifier.load(write_transformers(tmp_path, model))
