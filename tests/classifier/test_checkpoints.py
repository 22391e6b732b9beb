"""What training scripts leave in a torch checkpoint: weights in wrappers, class names, arguments."""

import argparse
import json

import numpy
import pytest
import timm
import timm.data
import timm.utils
import torch
import torch.nn.utils.prune
import torchvision

from higfa_core.classifier import FineGrainedClassifier

from .nets import ARCH, NAMES, module, write_transformers


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


@pytest.mark.parametrize(
    "stored",
    [
        {"class_to_idx": {name: i for i, name in reversed(list(enumerate(NAMES)))}},
        {"label_names": list(NAMES)},
        {"classes": list(NAMES)},
    ],
)
def test_class_names_in_a_training_checkpoint(tmp_path, stored, caplog):
    torch.save({"model": module().state_dict(), "arch": ARCH, **stored}, tmp_path / "birds.pt")
    assert FineGrainedClassifier.load(tmp_path / "birds.pt").class_names == NAMES
    assert caplog.text == ""
    (tmp_path / "classes.txt").write_text("a\nb\nc\nd\ne")  # of another file, perhaps
    assert FineGrainedClassifier.load(tmp_path / "birds.pt").class_names == NAMES
    assert "birds.pt or birds.json names other classes than classes.txt, which is not used" in caplog.text
    (tmp_path / "birds.json").write_text(json.dumps({"class_names": list("abcde")}))  # surely meant for this file
    assert FineGrainedClassifier.load(tmp_path / "birds.pt").class_names == tuple("abcde")


def test_class_numbers_of_numpy(tmp_path):
    index = {name: numpy.int64(i) for i, name in enumerate(NAMES)}
    content = {"state_dict": module().state_dict(), "arch": ARCH, "class_to_idx": index, "metric": numpy.float64(77.7)}
    torch.save(content, tmp_path / "birds.pt")
    assert FineGrainedClassifier.load(tmp_path / "birds.pt").class_names == NAMES


def test_a_checkpoint_beside_the_config_of_another_model(tmp_path, caplog):
    """And beside that of its own model, which then gives what is missing."""
    write_transformers(tmp_path)
    content = {"state_dict": module().state_dict(), "arch": ARCH}
    torch.save({**content, "classes": list("abcde")}, tmp_path / "birds.pt")
    loaded = FineGrainedClassifier.load(tmp_path / "birds.pt")
    assert (loaded.arch, loaded.class_names) == (ARCH, tuple("abcde"))
    torch.save(content, tmp_path / "birds.pt")
    with pytest.raises(ValueError, match="birds.pt does not say its class_names"):
        FineGrainedClassifier.load(tmp_path / "birds.pt")
    assert f"birds.pt is {ARCH}: config.json beside it, of transformers/vit, is not used" in caplog.text
    (tmp_path / "config.json").write_text(json.dumps({"architecture": f"{ARCH}.r160_in1k", "label_names": NAMES}))
    assert FineGrainedClassifier.load(tmp_path / "birds.pt").class_names == NAMES


# what the training script's arguments say

RESIZED = {"img_size": 96, "crop_pct": 1.0, "interpolation": "bilinear", "mean": [0.5], "std": [0.2, 0.3, 0.4]}


def train(folder, net, **args):
    """A checkpoint as timm's train.py saves it."""
    names = ("img_size", "input_size", "in_chans", "crop_pct", "mean", "std", "gp", "bn_eps")
    given = {**dict.fromkeys(names), "interpolation": "", "model_kwargs": {}, "class_map": "", "dataset": "", **args}
    saver = timm.utils.CheckpointSaver(
        net, torch.optim.SGD(net.parameters()), argparse.Namespace(**given), checkpoint_dir=folder
    )
    saver.save_checkpoint(1, metric=77.7)
    (folder / "classes.txt").write_text("a\nb\nc\nd\ne")
    return (folder / "last.pth.tar").rename(folder / "birds.pth")


@pytest.mark.parametrize("given", [{}, RESIZED, {"input_size": [3, 64, 80], "crop_pct": 0.8}])
def test_images_as_timm_prepared_them_in_training(tmp_path, given):
    c = FineGrainedClassifier.load(train(tmp_path, module(), model=ARCH, **given))
    theirs = timm.data.resolve_data_config(given, model=module())
    assert c.preprocessing.input_size == theirs["input_size"][1:]
    for field in ("mean", "std", "crop_pct", "interpolation"):
        assert getattr(c.preprocessing, field) == theirs[field]
    (tmp_path / "birds.json").write_text(json.dumps({"preprocess": {"crop_pct": 0.7}}))
    changed = FineGrainedClassifier.load(tmp_path / "birds.pth").preprocessing
    assert (changed.crop_pct, changed.input_size) == (0.7, c.preprocessing.input_size)


@pytest.mark.parametrize(
    ("kwargs", "args"),
    [
        ({"img_size": 32}, {"img_size": 32}),
        ({"img_size": (32, 64)}, {"input_size": [3, 32, 64]}),
        ({"img_size": 32}, {"input_size": 32}),  # DeiT, MAE
        ({"dynamic_img_size": True}, {"img_size": 64, "model_kwargs": {"dynamic_img_size": True}}),
        ({"global_pool": "avg", "in_chans": 1}, {"gp": "avg", "in_chans": 1, "mean": [0.5], "std": [0.2]}),
    ],
)
def test_models_as_timm_made_them_in_training(tmp_path, kwargs, args):
    net = module("test_vit", **kwargs)
    path = train(tmp_path, net, model="test_vit", **args)
    c = FineGrainedClassifier.load(path)
    x = torch.rand(2, kwargs.get("in_chans", 3), *c.preprocessing.input_size)
    torch.testing.assert_close(c.module(x), net(x))
    c.save(tmp_path / "ours.safetensors")
    assert FineGrainedClassifier.load(tmp_path / "ours.safetensors").preprocessing == c.preprocessing


def test_checkpoints_of_torchvisions_train_py(tmp_path):
    """They do not name torchvision, but their arguments do."""
    args = {"model": "shufflenet_v2_x0_5", "val_resize_size": 40, "val_crop_size": 32, "interpolation": "bicubic"}
    net = torchvision.models.shufflenet_v2_x0_5(num_classes=5)
    content = {"model": net.state_dict(), "args": argparse.Namespace(**args), "classes": list(NAMES)}
    torch.save(content, tmp_path / "birds.pth")
    c = FineGrainedClassifier.load(tmp_path / "birds.pth")
    assert c.arch == "torchvision/shufflenet_v2_x0_5"
    p = c.preprocessing
    assert (p.resize, p.input_size, p.interpolation, p.mean[0]) == (40, (32, 32), "bicubic", 0.485)


@pytest.mark.parametrize(
    ("arch", "stored", "expected"),
    [
        ("resnet18", {"best_acc1": torch.tensor(70.0)}, "torchvision/resnet18"),  # PyTorch's ImageNet example
        ("resnet18", {}, "resnet18"),
        ("mobilenet_v2", {}, "torchvision/mobilenet_v2"),  # timm has none of that name
    ],
)
def test_an_arch_that_a_checkpoint_states(tmp_path, arch, stored, expected):
    net = torchvision.models.get_model(arch, num_classes=5)
    torch.save({"arch": arch, "state_dict": net.state_dict(), "classes": list(NAMES), **stored}, tmp_path / "birds.pth")
    assert FineGrainedClassifier.load(tmp_path / "birds.pth").arch == expected


# the order of the classes


def test_a_checkpoint_whose_classes_have_gaps(tmp_path):
    torch.save({"state_dict": module().state_dict(), "class_to_idx": {"a": 0, "b": 2}}, tmp_path / "birds.pt")
    with pytest.raises(
        ValueError, match="birds.pt: class_to_idx: .*not numbered 0 to 1: 0, 2. Put the class_names into 'birds.json'"
    ):
        FineGrainedClassifier.load(tmp_path / "birds.pt")
    (tmp_path / "birds.json").write_text(json.dumps({"arch": ARCH, "class_names": NAMES}))
    assert FineGrainedClassifier.load(tmp_path / "birds.pt").class_names == NAMES


TIMMS = {"class_map": "", "dataset": ""}


@pytest.mark.parametrize(
    ("args", "lines", "message"),
    [
        (
            TIMMS,
            ["1", "10", "2", "3", "4"],
            "timm counts class folders as 2, 3, 4 from class 2 on, .* stand as 10, 2, 3",
        ),
        (TIMMS, ["Bear", "Zebra", "ape", "bee", "cat"], "timm counts class folders as ape, Bear, bee from class 1 on"),
        ({"val_crop_size": 64}, ["c1", "c2", "c10", "d", "e"], "torchvision counts class folders as c10, c2, d from"),
    ],
)
def test_class_names_in_the_order_of_the_other_library(tmp_path, caplog, args, lines, message):
    """timm's readers sort class folders naturally, torchvision's ImageFolder as sorted() does."""
    net = module() if args is TIMMS else torchvision.models.shufflenet_v2_x0_5(num_classes=5)
    arch = {"arch": ARCH} if args is TIMMS else {}
    args = argparse.Namespace(model="shufflenet_v2_x0_5", **args)
    torch.save({"model": net.state_dict(), "args": args, **arch}, tmp_path / "birds.pth")
    (tmp_path / "classes.txt").write_text("\n".join(lines))
    with pytest.raises(ValueError, match=rf"birds.pth: {message}.*into 'birds.json' as class_names"):
        FineGrainedClassifier.load(tmp_path / "birds.pth")
    (tmp_path / "birds.json").write_text(json.dumps({"class_names": lines}))  # stated names win, with a warning
    assert list(FineGrainedClassifier.load(tmp_path / "birds.pth").class_names) == lines
    assert "counts class folders" in caplog.text


@pytest.mark.parametrize(
    ("args", "lines"),
    [
        (TIMMS, ["1", "2", "3", "4", "10"]),
        (TIMMS, ["e", "1", "10", "2", "3"]),
        (TIMMS | {"class_map": "mine.txt"}, ["1", "10", "2", "3", "4"]),
        (TIMMS | {"dataset": "torch/image_folder"}, ["1", "10", "2", "3", "4"]),
    ],
)
def test_class_names_that_may_be_in_the_order_of_the_training(tmp_path, args, lines):
    content = {"state_dict": module().state_dict(), "arch": ARCH, "args": argparse.Namespace(**args)}
    torch.save(content, tmp_path / "birds.pth")
    (tmp_path / "classes.txt").write_text("\n".join(lines))
    assert list(FineGrainedClassifier.load(tmp_path / "birds.pth").class_names) == lines


def test_training_arguments_that_cannot_be_followed(tmp_path):
    args = argparse.Namespace(img_size=(64, 64), mean="imagenet")
    torch.save({"state_dict": module().state_dict(), "arch": ARCH, "args": args, "classes": NAMES}, tmp_path / "a.pth")
    with pytest.raises(ValueError, match=r"a.pth: the training arguments .*'img_size': \(64, 64\).*Save only"):
        FineGrainedClassifier.load(tmp_path / "a.pth")


@pytest.mark.parametrize(
    "part",
    [
        lambda net: torch.nn.utils.weight_norm(net.fc),
        lambda net: torch.nn.utils.parametrizations.weight_norm(net.layer1[0].conv1),
        lambda net: torch.nn.utils.prune.l1_unstructured(net.fc, "weight", 0.3),
    ],
    ids=["weight_norm", "parametrizations", "prune"],
)
def test_weights_that_training_kept_in_two_parts(tmp_path, part):
    net = module()
    part(net)
    torch.save({"arch": ARCH, "class_names": NAMES, "state_dict": net.state_dict()}, tmp_path / "birds.pth")
    loaded, x = FineGrainedClassifier.load(tmp_path / "birds.pth").module, torch.ones(1, 3, 64, 64)
    torch.testing.assert_close(loaded(x), net(x))


@pytest.mark.parametrize("prefixes", [("module.", "ema.module."), ("online_model.", "ema_model."), ("model.", "ema_")])
def test_averaged_weights_beside_the_last_ones_come_first(tmp_path, prefixes):
    last, averaged = prefixes[0], prefixes[1] + ("" if prefixes[1].endswith(".") else "model.")
    state = module().state_dict()
    both = {f"{last}{k}": v * 0 for k, v in state.items()} | {f"{averaged}{k}": v for k, v in state.items()}
    torch.save({"arch": ARCH, "class_names": NAMES, "state_dict": both}, tmp_path / "birds.pth")
    loaded, x = FineGrainedClassifier.load(tmp_path / "birds.pth").module, torch.ones(1, 3, 64, 64)
    assert torch.equal(loaded(x), module()(x))


@pytest.mark.parametrize(
    "content",
    [
        {"hyper_parameters": {"model": {"name": ARCH}, "data": {"class_names": list(NAMES)}}},
        {"hyper_parameters": {"cfg": {"net": {"model_name": ARCH}}, "id2label": dict(enumerate(NAMES))}},
        {"hyper_parameters": {"arch": ARCH}, "datamodule_hyper_parameters": {"classes": list(NAMES)}},
        {"arch": ARCH, "idx_to_class": dict(enumerate(NAMES))},
    ],
)
def test_facts_in_tables_within_tables(tmp_path, content):
    torch.save(
        {**content, "state_dict": {f"model.{k}": v for k, v in module().state_dict().items()}}, tmp_path / "b.ckpt"
    )
    loaded = FineGrainedClassifier.load(tmp_path / "b.ckpt")
    assert (loaded.arch, loaded.class_names) == (ARCH, tuple(NAMES))


def test_several_labels_said_within_a_table(tmp_path):
    given = {"model": {"name": ARCH, "task": "multilabel"}, "classes": list(NAMES)}
    torch.save({"hyper_parameters": given, "state_dict": module().state_dict()}, tmp_path / "birds.ckpt")
    with pytest.raises(ValueError, match="task = 'multilabel': it was trained for several labels"):
        FineGrainedClassifier.load(tmp_path / "birds.ckpt")


def test_a_deepspeed_checkpoint(tmp_path):
    content = {"module": module().state_dict(), "ds_version": "0.14", "arch": ARCH, "class_names": NAMES}
    torch.save(content, tmp_path / "mp_rank_00_model_states.pt")
    assert FineGrainedClassifier.load(tmp_path / "mp_rank_00_model_states.pt").class_names == tuple(NAMES)
