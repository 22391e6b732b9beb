import argparse
import json
import os

import numpy as np
import pytest
import safetensors.torch
import timm
import timm.data
import torch
from PIL import Image

from higfa_core.classifier import FORMAT, FineGrainedClassifier, Preprocess

ARCH = "test_resnet"
NAMES = ("Laysan Albatross", "Sooty Albatross", "Черноногий альбатрос", "Crested_Auklet", "Least Auklet")
SETTINGS = Preprocess((64, 64), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bilinear", 0.9)


def module(arch=ARCH, classes=5, **kwargs):
    torch.manual_seed(0)
    net = timm.create_model(arch, num_classes=classes, **kwargs).eval()
    for layer in net.modules():  # batch norm at its initial statistics would test little
        if isinstance(layer, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(layer.weight, 0.5, 1.5)
            layer.running_mean.uniform_(-0.2, 0.2)
            layer.running_var.uniform_(0.5, 1.5)
    return net


def classifier(arch=ARCH, settings=SETTINGS, temperature=1.7, **kwargs):
    net = module(arch, **kwargs)
    return FineGrainedClassifier(net, NAMES, settings, temperature, arch, "cub200.safetensors", kwargs)


def picture(height=90, width=130, batch=1, seed=0):
    """Smooth random colours, [B, 3, H, W], on the 8-bit grid so that PIL sees the same image."""
    generator = torch.Generator().manual_seed(seed)
    noise = torch.rand(batch, 3, 12, 12, generator=generator)
    image = torch.nn.functional.interpolate(noise, (height, width), mode="bicubic").clamp(0, 1)
    return (image * 255).round() / 255


def write(folder, name="birds", arch=ARCH, names=NAMES, state=None, **extra):
    """A plain timm state dict with a sidecar."""
    state = module().state_dict() if state is None else state
    safetensors.torch.save_file(state, folder / f"{name}.safetensors")
    (folder / f"{name}.json").write_text(json.dumps({"arch": arch, "class_names": names, **extra}), encoding="utf-8")
    return folder / f"{name}.safetensors"


# preprocessing


@pytest.mark.parametrize("size", [(90, 130), (131, 77), (40, 50)])
@pytest.mark.parametrize(
    ("input_size", "interpolation", "crop_pct", "crop_mode"),
    [
        ((64, 64), "bilinear", 0.9, "center"),
        ((64, 64), "bicubic", 0.875, "center"),
        ((64, 64), "bicubic", 1.0, "center"),
        ((48, 72), "bilinear", 0.95, "center"),
        ((64, 48), "bicubic", 0.9, "squash"),
        ((64, 64), "nearest", 0.9, "center"),
    ],
)
def test_preprocess_is_timms_eval_transform(size, input_size, interpolation, crop_pct, crop_mode):
    settings = Preprocess(input_size, SETTINGS.mean, SETTINGS.std, interpolation, crop_pct, crop_mode)
    image = picture(*size)
    pil = Image.fromarray((image[0].permute(1, 2, 0) * 255).round().numpy().astype(np.uint8))
    transform = timm.data.create_transform(
        (3, *input_size),
        is_training=False,
        interpolation=interpolation,
        mean=SETTINGS.mean,
        std=SETTINGS.std,
        crop_pct=crop_pct,
        crop_mode=crop_mode,
    )
    ours = classifier(settings=settings).preprocess(image)
    assert ours.shape == (1, 3, *input_size)
    levels = (ours[0] - transform(pil)).abs() * torch.tensor(SETTINGS.std)[:, None, None] * 255
    assert levels.mean() < 0.6  # PIL rounds to 8 bits
    # ... clips bicubic overshoot after each of its passes, and breaks ties of "nearest" its own way
    assert levels.max() < {"bilinear": 1.5, "bicubic": 4, "nearest": 256}[interpolation]
    assert (levels > 1.5).float().mean() < 0.02


def test_logits_are_timms_on_pil_images():
    net = module()
    pils = [Image.fromarray((picture(seed=i)[0].permute(1, 2, 0) * 255).byte().numpy()) for i in range(3)]
    transform = timm.data.create_transform(
        (3, 64, 64),
        is_training=False,
        interpolation="bilinear",
        mean=SETTINGS.mean,
        std=SETTINGS.std,
        crop_pct=0.9,
    )
    images = torch.stack([torch.from_numpy(np.array(pil)).permute(2, 0, 1) / 255 for pil in pils])
    with torch.no_grad():
        theirs = net(torch.stack([transform(pil) for pil in pils]))
    assert theirs.std(dim=0).min() > 0.01  # else any image would do
    torch.testing.assert_close(classifier().logits(images), theirs, atol=5e-3, rtol=0)


def test_grey_model_sees_pils_luma():
    settings = Preprocess((64, 64), (0.5,), (0.5,), "bilinear", 1.0)
    image = picture(64, 64)
    pil = Image.fromarray((image[0].permute(1, 2, 0) * 255).round().byte().numpy()).convert("L")
    theirs = (torch.from_numpy(np.array(pil)) / 255 - 0.5) / 0.5
    assert (classifier(settings=settings, in_chans=1).preprocess(image)[0, 0] - theirs).abs().max() < 2 / 255


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("input_size", (64,)),
        ("input_size", (0, 64)),
        ("mean", (0.5, 0.5)),
        ("std", (0.2, 0.0, 0.2)),
        ("mean", (0.5, float("nan"), 0.5)),
        ("interpolation", "lanczos"),
        ("crop_pct", 0.0),
        ("crop_pct", 1.5),
        ("crop_mode", "border"),
    ],
)
def test_preprocess_refuses_and_names_the_value(field, value):
    fields = dict(zip(("input_size", "mean", "std", "interpolation", "crop_pct"), SETTINGS.__dict__.values()))
    with pytest.raises(ValueError, match=field):
        Preprocess(**{**fields, field: value})


def test_wrong_image_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\[B, 3, H, W\], got \[1, 4, 64, 64\]"):
        classifier().logits(torch.rand(1, 4, 64, 64))
    with pytest.raises(ValueError, match=r"got \[0, 64, 64, 3\]"):
        classifier().predict_proba(torch.rand(0, 64, 64, 3))


# gradients


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_gradient_matches_finite_differences(interpolation):
    settings = Preprocess((32, 32), SETTINGS.mean, SETTINGS.std, interpolation, 0.9)
    c = classifier("test_vit", settings, img_size=32)  # smooth, unlike a ReLU net
    x = (picture(40, 50) * 0.8 + 0.1).requires_grad_()
    grad = torch.autograd.grad(c.logits(x)[:, 2].sum(), x)[0]
    sign = grad.sign() * (torch.arange(50) < 25)  # a half at a time: the two slopes differ
    for direction in (sign, grad.sign() - sign):
        with torch.no_grad():
            plus, minus = (c.logits(x + s * 2e-3 * direction)[:, 2].double().sum() for s in (1, -1))
        slope = (plus - minus) / 4e-3
        assert slope > 0.05
        torch.testing.assert_close((grad * direction).sum().double(), slope, rtol=0.005, atol=0)


# test_vit_relpos indexes a table with a buffer that state_dict() leaves out
@pytest.mark.parametrize(("arch", "size"), [("test_resnet", 64), ("test_vit_relpos", 160)])
def test_gradient_inside_inference_mode_with_inference_weights(arch, size):
    settings = Preprocess((size, size), SETTINGS.mean, SETTINGS.std, "bicubic", 1.0)
    image = picture(size, size)
    reference = classifier(arch, settings)
    x = image.clone().requires_grad_()
    expected = torch.autograd.grad(reference.logits(x)[:, 1].sum(), x)[0]
    with torch.inference_mode():  # as ComfyUI runs every node
        loaded = classifier(arch, settings)
        born_here = picture(size, size)
        assert next(loaded.module.parameters()).is_inference()
        with torch.inference_mode(False), torch.enable_grad():
            params = loaded.clone_params("cpu")
            x = born_here.clone().requires_grad_()
            grad = torch.autograd.grad(loaded.logits(x, params)[:, 1].sum(), x)[0]
    assert expected.abs().max() > 0
    torch.testing.assert_close(grad, expected)


def test_params_are_copies_that_replace_the_weights():
    c = classifier()
    params = c.clone_params("cpu")
    before = c.logits(picture())
    params["fc.bias"] += 3
    torch.testing.assert_close(c.logits(picture(), params), before + 3)
    assert torch.equal(c.logits(picture()), before)


def test_a_samples_gradient_does_not_depend_on_its_batch():
    c = classifier()
    images = picture(batch=4)

    def gradient(x):
        x = x.clone().requires_grad_()
        return torch.autograd.grad(c.logits(x).log_softmax(dim=1)[:, 0].sum(), x)[0]

    together = gradient(images)
    alone = torch.cat([gradient(image) for image in images.split(1)])
    assert together.abs().amax(dim=(1, 2, 3)).min() > 1e-4
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-6)


# probabilities


def test_predict_proba_is_calibrated_and_chunked():
    c = classifier()
    images = picture(70, 70, batch=35)
    proba = c.predict_proba(images.movedim(1, -1))
    expected = torch.softmax(c.logits(images) / 1.7, dim=1)
    assert proba.shape == (35, 5)
    assert not proba.requires_grad
    torch.testing.assert_close(proba, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("temperature", [0, -1, float("nan"), float("inf")])
def test_temperature_must_be_positive(temperature):
    with pytest.raises(ValueError, match="temperature must be above 0"):
        classifier(temperature=temperature)


# class names


@pytest.mark.parametrize(
    ("asked", "index"),
    [
        ("Sooty Albatross", 1),
        ("sooty_albatross", 1),
        ("черноногий альбатрос", 2),
        ("Crested_Auklet", 3),
        ("crested  auklet", 3),
    ],
)
def test_index(asked, index):
    assert classifier().index(asked) == index


def test_exact_name_wins_and_ambiguity_is_an_error():
    c = classifier()
    c.class_names = ("Blue Jay", "blue_jay", "Robin")
    assert c.index("blue_jay") == 1
    with pytest.raises(ValueError, match="No class 'BLUE JAY'"):
        c.index("BLUE JAY")


def test_numbering_of_a_dataset_is_forgiven():
    assert classifier().index("001.Laysan_Albatross") == 0


def test_unknown_class_names_the_closest():
    with pytest.raises(ValueError) as error:
        classifier().index("Laysan Albatros")
    assert str(error.value) == (
        "No class 'Laysan Albatros' in cub200.safetensors: closest 'Laysan Albatross'. It has 5 classes: "
        "Laysan Albatross, Sooty Albatross, Черноногий альбатрос, Crested_Auklet, Least Auklet"
    )
    with pytest.raises(ValueError, match=r"No class 'zzz' in cub200.safetensors\. It has"):
        classifier().index("zzz")


# files


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


def namespace(state):
    return {"epoch": 3, "arch": ARCH, "args": argparse.Namespace(lr=0.1), "state_dict": state}


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {f"module.{k}": v for k, v in state.items()},
        lambda state: {"state_dict": {f"model.{k}": v for k, v in state.items()}, "epoch": 3},
        lambda state: {"model": {f"_orig_mod.module.{k}": v for k, v in state.items()}},
        lambda state: {"n_averaged": torch.tensor(4), **{f"module.{k}": v for k, v in state.items()}},
        lambda state: {"state_dict": {k: v * 0 for k, v in state.items()}, "state_dict_ema": state},
        namespace,  # what timm's train.py writes
    ],
)
def test_torch_checkpoints(tmp_path, wrap):
    state = {k: v for k, v in module().state_dict().items() if "num_batches" not in k}
    torch.save(wrap(state), tmp_path / "birds.pth")
    sidecar = {"class_names": NAMES} if wrap is namespace else {"class_names": NAMES, "arch": ARCH}
    (tmp_path / "birds.json").write_text(json.dumps(sidecar), encoding="utf-8")
    loaded = FineGrainedClassifier.load(tmp_path / "birds.pth").module
    assert torch.equal(loaded(torch.ones(1, 3, 64, 64)), module()(torch.ones(1, 3, 64, 64)))


# bad files: each message names the file and the remedy


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
    with pytest.raises(ValueError, match="birds.pth holds no weights. Save only"):
        FineGrainedClassifier.load(tmp_path / "birds.pth")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arch": None}, r"does not say its arch\. Put a file 'birds.json'.*\"resnet50\""),
        ({"arch": None, "names": None}, r"its arch and class_names\. Put a file"),
        ({"names": []}, r"does not say its class_names"),
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
        ({"model_kwargs": {"colour": 1}}, r"cannot build test_resnet.*colour.*Correct model_kwargs"),
        ({"model_kwargs": {"in_chans": 4}}, r"in_chans must be 3 .* got 4"),
        ({"model_kwargs": {"in_chans": 1}}, r"conv1.*Correct arch or model_kwargs"),
    ],
)
def test_bad_description(tmp_path, changes, message):
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
    with pytest.raises(ValueError, match="two sets of weights"):
        FineGrainedClassifier.load(write(tmp_path, state=both))


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
    with pytest.raises(ImportError, match=r"pip install 'timm>=1.0'"):
        FineGrainedClassifier.load(path)
