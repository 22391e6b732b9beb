"""A classifier file chooses no code, no host and no file: whatever it says, on every route by which it may say it."""

import argparse
import json
import os
import pickle
import socket

import pytest
import safetensors.torch
import timm
import torch
import torchvision

from higfa_core.classifier import FineGrainedClassifier
from higfa_core.classifier.formats import allowed, classifier_file, transformers_models

from . import spy
from .nets import ARCH, NAMES, module, transformers_model, write_transformers

DECOY = "DECOY"  # stands for the path of a file that nobody may open
CFG = {"pretrained_cfg": {"url": "https://example.org/a.pth"}}


class Marker:
    """Pickled code that leaves a trace where it runs."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.fixture(scope="module")
def outside(tmp_path_factory):
    """A folder with a file of each kind that a library might be made to open: no classifier's neighbours."""
    folder = tmp_path_factory.mktemp("outside")
    torch.save({"state_dict": Marker(folder / "it_ran")}, folder / "decoy.pth")
    safetensors.torch.save_file(module().state_dict(), folder / "decoy.safetensors")
    (folder / "config.json").write_text(json.dumps({"architecture": ARCH, "num_classes": 5}))
    (folder / "decoy.py").write_text(f"import os; os.mkdir({str(folder / 'it_ran')!r})")
    return folder


def filled(value, outside, kind):
    """`value` with the decoy's path where it says so."""
    return json.loads(json.dumps(value).replace(DECOY, (outside / f"decoy.{kind}").as_posix()))


def attempt(path, outside):
    """What loading saw and, if it was refused, why."""
    decoys = [file for file in outside.iterdir() if file.is_file()]
    with spy.watch(decoys) as seen:
        try:
            return seen, FineGrainedClassifier.load(path)
        except ValueError as error:
            return seen, str(error)


def require_nothing_else(path, outside):
    seen, result = attempt(path, outside)
    assert (seen.hosts, seen.programs, seen.decoys) == ([], [], [])
    assert seen.others(classifier_file.beside(path)) == []
    assert not (outside / "it_ran").exists()
    return result


# The routes by which a file may name an architecture and arguments for it.


def by_metadata(folder, arch, kwargs):
    facts = {"arch": str(arch), "class_names": json.dumps(NAMES), "model_kwargs": json.dumps(kwargs)}
    safetensors.torch.save_file(module().state_dict(), folder / "birds.safetensors", facts)
    return folder / "birds.safetensors"


def by_sidecar(folder, arch, kwargs):
    safetensors.torch.save_file(module().state_dict(), folder / "birds.safetensors")
    facts = {"arch": arch, "class_names": NAMES, "model_kwargs": kwargs}
    (folder / "birds.json").write_text(json.dumps(facts))
    return folder / "birds.safetensors"


def by_training_arguments(folder, arch, kwargs):
    args = argparse.Namespace(model=arch, model_kwargs=kwargs, **kwargs)
    content = {"state_dict": module().state_dict(), "arch": arch, "args": args, "classes": list(NAMES)}
    torch.save(content, folder / "birds.pth")
    return folder / "birds.pth"


def by_lightning(folder, arch, kwargs):
    settings = {"model_name": arch, "num_classes": 5, "classes": list(NAMES), "model_kwargs": kwargs, **kwargs}
    torch.save({"state_dict": module().state_dict(), "hyper_parameters": settings}, folder / "birds.ckpt")
    return folder / "birds.ckpt"


def by_timms_config(folder, arch, kwargs):
    safetensors.torch.save_file(module().state_dict(), folder / "model.safetensors")
    cfg = kwargs.get("pretrained_cfg", {})
    config = {"architecture": arch, "label_names": NAMES, "model_args": kwargs, "pretrained_cfg": cfg, **kwargs}
    (folder / "config.json").write_text(json.dumps(config))
    return folder / "model.safetensors"


ROUTES = (by_metadata, by_sidecar, by_training_arguments, by_lightning, by_timms_config)
ARCHITECTURES = (
    "hf-hub:timm/resnet18.a1_in1k",
    "hf_hub:timm/resnet18.a1_in1k",
    f"local-dir:{DECOY}",
    DECOY,
    "timm/test_resnet",
    "test_resnet.../../decoy",
    "transformers/timm_wrapper",
    "transformers/auto",
    "torchvision/../decoy",
    "torchvision/quantized_resnet18",
)
ARGUMENTS = (
    {"checkpoint_path": DECOY},
    {"pretrained": True},
    {"pretrained": True, "pretrained_cfg": {"file": DECOY}},
    {"pretrained": True, **CFG},
    {"pretrained_cfg": {"file": DECOY, "custom_load": True}},
    {"pretrained_cfg_overlay": {"hf_hub_id": "someone/model", "file": DECOY}},
    {"cache_dir": DECOY},
    {"features_only": True, "checkpoint_path": DECOY},
    {"model_args": {"checkpoint_path": DECOY}},
    {"act_layer": DECOY},
    {"block": "os.system"},
    {"global_pool": "https://example.org"},
)


@pytest.mark.parametrize("route", ROUTES)
def test_an_honest_file_loads_on_this_route(tmp_path, outside, route):
    loaded = require_nothing_else(route(tmp_path, ARCH, {"drop_rate": 0.1}), outside)
    assert (loaded.arch, loaded.class_names) == (ARCH, NAMES)


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
@pytest.mark.parametrize("route", ROUTES)
def test_architectures_that_lead_elsewhere(tmp_path, outside, route, kind):
    for arch in ARCHITECTURES:
        result = require_nothing_else(route(tmp_path, filled(arch, outside, kind), {}), outside)
        assert isinstance(result, str)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["pth", "safetensors"])
@pytest.mark.parametrize("route", ROUTES)
def test_arguments_that_lead_elsewhere(tmp_path, outside, route, kind):
    for kwargs in ARGUMENTS:
        require_nothing_else(route(tmp_path, ARCH, filled(kwargs, outside, kind)), outside)


@pytest.mark.parametrize("kind", ["pth", "safetensors"])
@pytest.mark.parametrize(
    "kwargs",
    [
        {"architecture": "resnet18", "model_args": {"checkpoint_path": DECOY}},
        {"architecture": "hf-hub:timm/resnet18.a1_in1k"},
        {"architecture": f"local-dir:{DECOY}"},
        {"architecture": ARCH, "model_args": {"pretrained": True, "pretrained_cfg": {"file": DECOY}}},
    ],
)
@pytest.mark.parametrize("route", [by_metadata, by_sidecar])
def test_transformers_wrapper_around_timm(tmp_path, outside, route, kwargs, kind):
    path = route(tmp_path, "transformers/timm_wrapper", filled(kwargs, outside, kind))
    assert "timm_wrapper is a timm model" in require_nothing_else(path, outside)


@pytest.mark.parametrize("kwargs", [{"weights": "DEFAULT"}, {"weights": DECOY}, {"progress": True}, {"block": DECOY}])
def test_arguments_of_torchvision(tmp_path, outside, kwargs):
    torch.save(torchvision.models.shufflenet_v2_x0_5(num_classes=5).state_dict(), tmp_path / "birds.pth")
    facts = {"arch": "torchvision/shufflenet_v2_x0_5", "class_names": NAMES}
    (tmp_path / "birds.json").write_text(json.dumps({**facts, "model_kwargs": filled(kwargs, outside, "pth")}))
    assert "model_kwargs may not hold" in require_nothing_else(tmp_path / "birds.pth", outside)


# Folders of transformers


def rewrite(file, outside, **changes):
    config = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    file.write_text(json.dumps(filled({**config, **changes}, outside, "py")), encoding="utf-8")


@pytest.fixture(scope="module")
def vit(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vit")
    write_transformers(folder, transformers_model())
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture
def folder_of_vit(tmp_path, vit):
    for name, content in vit.items():
        (tmp_path / name).write_bytes(content)
    return tmp_path


@pytest.mark.parametrize(
    ("changes", "refused"),
    [
        ({}, False),
        ({"auto_map": {"AutoConfig": "decoy.Config", "AutoModelForImageClassification": f"{DECOY}--Model"}}, True),
        ({"_attn_implementation": "someone/kernel", "attn_implementation": "someone/kernel"}, False),
        ({"_name_or_path": "someone/model", "use_kernels": True, "kernel_config": {"a": DECOY}}, False),
        ({"backbone": "someone/model", "use_timm_backbone": True, "use_pretrained_backbone": True}, False),
        ({"backbone_config": {"model_type": "timm_backbone", "backbone": f"local-dir:{DECOY}"}}, False),
        ({"custom_pipelines": {"x": {"impl": DECOY}}, "custom_generate": DECOY}, False),
        ({"model_type": "timm_wrapper", "architectures": None}, True),
        ({"model_type": "timm_wrapper", "model_args": {"checkpoint_path": DECOY}}, True),
        ({"model_type": "upernet", "architectures": None, "backbone": "someone/model"}, True),
        ({"model_type": "shieldgemma2", "architectures": None}, True),
        ({"model_type": DECOY, "architectures": [DECOY]}, True),
        ({"architecture": f"local-dir:{DECOY}"}, True),
        ({"hidden_act": DECOY}, True),
        ({"pooler_act": "os.system"}, False),
        ({"quantization_config": {"quant_method": "gguf", "file": DECOY}}, True),
        ({"peft_config": DECOY, "adapter_kwargs": {"path": DECOY}}, False),
    ],
)
def test_configs_of_transformers(folder_of_vit, outside, changes, refused):
    rewrite(folder_of_vit / "config.json", outside, **changes)
    result = require_nothing_else(folder_of_vit / "model.safetensors", outside)
    assert isinstance(result, str) == refused


@pytest.mark.parametrize("file", ["preprocessor_config.json", "processor_config.json"])
@pytest.mark.parametrize(
    "changes",
    [
        {"auto_map": {"AutoImageProcessor": "decoy.Processor"}},
        {"auto_map": {"AutoFeatureExtractor": f"{DECOY}--Processor"}, "image_processor_type": None},
        {"image_processor_type": "LayoutLMv2ImageProcessor", "apply_ocr": True, "tesseract_config": DECOY},
        {"image_processor_type": f"{DECOY}.Processor"},
        {"image_processor_type": "TimmWrapperImageProcessor", "pretrained_cfg": {"file": DECOY}},
        {"size": {"height": 10**6, "width": 10**6}},
        {"resample": DECOY},
    ],
)
def test_image_processors_of_transformers(folder_of_vit, outside, file, changes):
    (folder_of_vit / "decoy.py").write_text("raise SystemExit('it ran')")
    if file == "processor_config.json":  # where transformers looks first
        known = json.loads((folder_of_vit / "preprocessor_config.json").read_text())
        changes = {"image_processor": {**known, **changes}}
    rewrite(folder_of_vit / file, outside, **changes)
    result = require_nothing_else(folder_of_vit / "model.safetensors", outside)
    assert "preprocessor_config.json" in result


def test_all_networks_on_the_list_are_image_classifiers_of_transformers_own():
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES as theirs

    retired = {"efficientformer", "van"}  # of transformers 4
    assert transformers_models.MODEL_TYPES - retired <= set(theirs)
    assert not {"timm_wrapper", "shieldgemma2"} & transformers_models.MODEL_TYPES


# Tensors that claim more than their file holds


class Storage:
    """A storage as torch's pickles describe it, of which the number of elements is a claim."""

    def __init__(self, claim):
        self.claim = claim


class Tensor:
    def __init__(self, claim, size, stride):
        self.args = Storage(claim), 0, size, stride, False, {}

    def __reduce__(self):
        return torch._utils._rebuild_tensor_v2, self.args


class Pickler(pickle.Pickler):
    def persistent_id(self, thing):
        return ("storage", torch.FloatStorage, "0", "cpu", thing.claim) if isinstance(thing, Storage) else None


def forge(path, tensor, old_format=False):
    """A torch file of one storage with 16 bytes, and of a tensor that says it is more."""
    import io
    import zipfile

    text = io.BytesIO()
    Pickler(text, 2).dump({"state_dict": {"fc.weight": tensor}})
    honest = path.with_suffix(".honest")
    torch.save({"state_dict": {"fc.weight": torch.rand(4)}}, honest)
    with zipfile.ZipFile(honest) as source, zipfile.ZipFile(path, "w") as target:
        for name in source.namelist():
            target.writestr(name, text.getvalue() if name.endswith("data.pkl") else source.read(name))
    return path


@pytest.mark.parametrize(
    ("claim", "size", "stride"),
    [
        (4, (10**12,), (0,)),
        (4, (10**6, 10**6), (0, 0)),
        (4, (2, 3), (1, 1)),
        (10**12, (10**12,), (1,)),
        (10**6, (2, 2), (2, 1)),
        (5, (5,), (1,)),
        (4, (5,), (1,)),
    ],
)
def test_torch_tensors_that_claim_more_than_their_storage(tmp_path, claim, size, stride):
    with pytest.raises(ValueError, match=r"birds.pth is (refused|damaged): .* claims .* Download or save it again"):
        FineGrainedClassifier.load(forge(tmp_path / "birds.pth", Tensor(claim, size, stride)))


@pytest.mark.parametrize(
    "tensor",
    [
        {"dtype": "F32", "shape": [10**6, 10**6], "data_offsets": [0, 16]},
        {"dtype": "F32", "shape": [4], "data_offsets": [0, 4 * 10**12]},
        {"dtype": "F32", "shape": [2**62, 2**62], "data_offsets": [0, 16]},
        {"dtype": "F32", "shape": [4], "data_offsets": [8, 24]},
        {"dtype": "F4", "shape": [32], "data_offsets": [0, 16]},
    ],
)
def test_safetensors_headers_that_claim_more_than_the_file(tmp_path, tensor):
    header = json.dumps({"fc.weight": tensor}).encode()
    (tmp_path / "birds.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
    with pytest.raises(ValueError, match="birds.safetensors"):
        FineGrainedClassifier.load(tmp_path / "birds.safetensors")
    (tmp_path / "birds.safetensors").write_bytes((10**12).to_bytes(8, "little") + header)
    with pytest.raises(ValueError, match="birds.safetensors is not a complete safetensors file"):
        FineGrainedClassifier.load(tmp_path / "birds.safetensors")


@pytest.mark.parametrize(
    "kwargs", [{"img_size": 100_000}, {"embed_dim": 90_000}, {"embed_dim": 10**9}, {"num_heads": [[[[[1]]]]]}]
)
def test_arguments_of_networks_that_no_memory_holds(tmp_path, kwargs):
    """They are compared with the weights before any memory is taken."""
    safetensors.torch.save_file(module("test_vit").state_dict(), tmp_path / "birds.safetensors")
    facts = {"arch": "test_vit", "class_names": NAMES, "model_kwargs": kwargs}
    (tmp_path / "birds.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match="birds.safetensors: (weights are not those of|model_kwargs may not hold)"):
        FineGrainedClassifier.load(tmp_path / "birds.safetensors")


@pytest.mark.parametrize(
    ("arch", "kwargs"),
    [
        ("test_resnet", {"layers": [10**6, 1, 1, 1]}),
        ("test_vit", {"depth": 10**6}),
        ("test_convnext", {"depths": [1, 10**6, 1, 1]}),
    ],
)
def test_arguments_of_networks_that_take_hours_to_build(tmp_path, arch, kwargs):
    safetensors.torch.save_file(module(arch).state_dict(), tmp_path / "birds.safetensors")
    (tmp_path / "birds.json").write_text(json.dumps({"arch": arch, "class_names": NAMES, "model_kwargs": kwargs}))
    with pytest.raises(ValueError, match="is more than the [0-9]+ tensors of the file"):
        FineGrainedClassifier.load(tmp_path / "birds.safetensors")


def test_configs_of_networks_that_no_memory_holds(folder_of_vit, outside):
    rewrite(folder_of_vit / "config.json", outside, hidden_size=80_000, intermediate_size=90_000)
    with pytest.raises(ValueError, match=r"config.json describes a network of [\d,]+ elements, the file holds"):
        FineGrainedClassifier.load(folder_of_vit / "model.safetensors")


# The spy itself


def test_the_spy_sees_what_timm_would_do(outside):
    for kind in ("safetensors", "pth"):
        with spy.watch([outside / f"decoy.{kind}"]) as seen, pytest.raises(Exception, match="."):
            timm.create_model(ARCH, checkpoint_path=str(outside / f"decoy.{kind}"), num_classes=7)
        assert seen.decoys == [str(outside / f"decoy.{kind}")]
    with spy.watch() as seen:
        (outside / "config.json").read_text()
        with pytest.raises(OSError, match="."):
            socket.getaddrinfo("host.invalid", 80)
    assert seen.others([]) == [os.path.realpath(outside / "config.json")]
    assert seen.others([outside / "config.json"]) == []
    assert "host.invalid" in seen.hosts[0]


@pytest.mark.parametrize("value", [1, 0.5, "gelu", None, True, [1, [2, 3]], {"a": "b"}, "vit_b-16.v2+x"])
def test_plain_values(value):
    assert allowed.is_plain(value)


@pytest.mark.parametrize(
    "value", ["a/b", "a:b", "a\\b", "~", "a b", float("nan"), float("inf"), 10**9, b"a", torch.zeros(1), {"a": "/etc"}]
)
def test_values_that_are_not_plain(value):
    assert not allowed.is_plain(value)
    assert not allowed.is_plain([value])
