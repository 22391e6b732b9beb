"""Small classifiers with random weights, their files, and pictures."""

import json

import safetensors.torch
import timm
import torch

from higfa_core.classifier import FineGrainedClassifier, Preprocess

ARCH = "test_resnet"
NAMES = ("Laysan Albatross", "Sooty Albatross", "Черноногий альбатрос", "Crested_Auklet", "Least Auklet")
SETTINGS = Preprocess((64, 64), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bilinear", 0.9)


def randomised(net, seed=0):
    """Weights at which every layer counts: no zero or tiny scales, no batch norm at its initial statistics."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in net.state_dict().items():
            if not tensor.is_floating_point():
                continue
            if name.endswith("running_var") or (tensor.ndim == 1 and not name.endswith(("bias", "running_mean"))):
                tensor.uniform_(0.5, 1.5, generator=generator)
            elif tensor.ndim < 2:
                tensor.uniform_(-0.2, 0.2, generator=generator)
            else:
                tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5, generator=generator)
    return net.eval()


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


VIT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48, "image_size": 64}


def transformers_model(model_type="vit", classes=5, labels=NAMES, **config):
    """A random classifier of transformers with a config so small that it takes no time."""
    import transformers

    config = transformers.AutoConfig.for_model(model_type, **(config or {**VIT, "patch_size": 16}))
    config.num_labels = classes
    if labels:
        config.id2label, config.label2id = dict(enumerate(labels)), {name: i for i, name in enumerate(labels)}
    architectures = {"deit": "DeiTForImageClassification", "levit": "LevitForImageClassification"}
    config.architectures = [architectures[model_type]] if model_type in architectures else None
    return randomised(transformers.AutoModelForImageClassification.from_config(config))


def write_transformers(folder, model=None, size=64, **processor):
    """What save_pretrained of a model and its processor writes."""
    import transformers

    (model or transformers_model()).save_pretrained(folder)
    settings = {"size": {"height": size, "width": size}, **processor}
    transformers.ViTImageProcessor(**settings).save_pretrained(folder)
    return folder / "model.safetensors"
