"""Models of timm by name. Nothing here reaches the network."""

import huggingface_hub
import pytest
import safetensors.torch
import timm
import torch

from higfa_core.classifier import FineGrainedClassifier

from .nets import module, picture

NAME = "test_resnet.r160_in1k"


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """An empty cache and no network. The list that is returned holds the addresses asked for."""
    asked = []

    def unreachable(url, **_):
        asked.append(url)
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(huggingface_hub, "get_hf_file_metadata", unreachable)
    return asked


def put_into_cache(folder, net):
    """As huggingface_hub lays a downloaded file down."""
    repository = folder / "models--timm--test_resnet.r160_in1k"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("abc")
    (repository / "snapshots" / "abc").mkdir(parents=True)
    safetensors.torch.save_file(net.state_dict(), repository / "snapshots" / "abc" / "model.safetensors")


def test_weights_in_the_local_cache_need_no_network(tmp_path, offline):
    net = module(classes=1000)
    put_into_cache(tmp_path, net)
    with torch.inference_mode():
        c = FineGrainedClassifier.from_timm(f" {NAME} ")
    assert offline == []
    assert torch.equal(c.module(picture(160, 160)), net(picture(160, 160)))
    config = timm.data.resolve_data_config({}, pretrained_cfg=timm.models.get_pretrained_cfg(NAME).to_dict())
    assert (c.preprocessing.input_size, c.preprocessing.crop_pct) == (config["input_size"][1:], config["crop_pct"])
    assert c.source == NAME
    names = timm.data.ImageNetInfo().label_descriptions()
    assert c.class_names[:2] == tuple(names[:2]) == ("tench, Tinca tinca", "goldfish, Carassius auratus")
    assert (c.index("tench"), c.class_names[134], c.class_names[517]) == (0, "crane (134)", "crane (517)")
    c.save(tmp_path / "ours.safetensors")
    again = FineGrainedClassifier.load(tmp_path / "ours.safetensors")
    assert (again.class_names, again.preprocessing, again.arch) == (c.class_names, c.preprocessing, NAME)


def test_without_network_it_asks_once_and_says_what_to_do(offline):
    with pytest.raises(ValueError) as error:
        FineGrainedClassifier.from_timm(NAME)
    assert str(error.value) == (
        "'test_resnet.r160_in1k' is not on this computer and cannot be downloaded (Name or service not known). "
        "Download model.safetensors and config.json from https://huggingface.co/timm/test_resnet.r160_in1k into a "
        "folder of models/higfa_classifiers, and choose that file"
    )
    assert offline == ["https://huggingface.co/timm/test_resnet.r160_in1k/resolve/main/model.safetensors"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet5o", r"no arch 'resnet5o': closest 'resnet50'"),
        ("resnet50.a1_in2k", r"no pretrained weights 'resnet50.a1_in2k'. It has: resnet50.a1_in1k"),
        ("test_resnet2.x", r"no arch 'test_resnet2.x': closest 'test_resnet'"),
        ("hf-hub:timm/resnet50.a1_in1k", r"is a repository, not a timm name. Download .*huggingface.co/timm/resnet50"),
        ("vit_small_patch16_224.dino", r"does not know the class names .*Download .*timm/vit_small_patch16_224.dino"),
    ],
)
def test_names_that_cannot_be_loaded(offline, name, message):
    with pytest.raises(ValueError, match=message):
        FineGrainedClassifier.from_timm(name)
    assert offline == []
