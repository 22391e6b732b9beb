"""The timm model to train: from pretrained weights or from scratch, at a chosen image size."""

from __future__ import annotations

from torch import nn

from ..classifier.formats import architectures, timm_models
from ..classifier.preprocess import Preprocess


def build(arch: str, classes: int, pretrained: bool, image_size: int = 0) -> tuple[nn.Module, dict, Preprocess]:
    """(module, its `model_kwargs`, its preprocessing); `image_size` 0 is the architecture's own.

    The whole image is seen (crop_pct 1): guidance should not lose the marks at the border. ValueError for an unknown
    architecture, for one that cannot take the size, and for weights that are unavailable.
    """
    module, kwargs, preprocess = check(arch, classes, pretrained, image_size)
    if pretrained:
        config = timm_models.import_timm().get_pretrained_cfg(arch)
        # timm would ask the network even for a cached file
        file = timm_models.cached_file(config) if config and config.hf_hub_id else None
        overlay = {"file": file, "custom_load": False} if file else {}
        module = timm_models.import_timm().create_model(
            arch, pretrained=True, num_classes=classes, pretrained_cfg_overlay=overlay, **kwargs
        )
    return module, kwargs, preprocess


def check(arch: str, classes: int, pretrained: bool, image_size: int = 0) -> tuple[nn.Module, dict, Preprocess]:
    """As `build`, but without loading the pretrained weights: it only checks that they are available."""
    kwargs = timm_models.size_kwargs(arch, (image_size, image_size)) if image_size else {}
    module = timm_models.build(arch, classes, kwargs)
    preprocess = _preprocess(module, image_size)
    try:
        architectures.require_outputs(module.eval(), preprocess, classes)
    except ValueError as error:
        raise ValueError(f"{arch} at {preprocess.input_size[0]} pixels: {error}") from error
    if pretrained:
        _refuse_unreachable(arch)
    return module, kwargs, preprocess


def _preprocess(module: nn.Module, image_size: int) -> Preprocess:
    config = timm_models.import_timm().data.resolve_data_config({}, pretrained_cfg=module.pretrained_cfg)
    size = (image_size, image_size) if image_size else config["input_size"][-2:]
    interpolation = config["interpolation"] if config["interpolation"] in ("bilinear", "bicubic") else "bicubic"
    return Preprocess(size, config["mean"], config["std"], interpolation, crop_pct=1.0)


def _refuse_unreachable(arch: str) -> None:
    """ValueError within seconds, where timm itself would keep trying for a minute."""
    timm = timm_models.import_timm()
    if not timm.is_model_pretrained(arch):
        tags = timm.list_models(f"{arch.split('.')[0]}.*", pretrained=True)
        hint = f" (available: {', '.join(tags[:5])})" if tags else ""
        raise ValueError(f"timm has no pretrained weights for {arch}{hint}. Turn pretrained off to train from scratch.")
    config = timm.get_pretrained_cfg(arch)
    if config and config.hf_hub_id and not timm_models.cached_file(config):
        timm_models.check_reachable(config, f"The pretrained weights of {arch}", _remedy)


def _remedy(repository: str) -> str:
    return (
        f"They are at huggingface.co/{repository}: go online once (they are kept after that), "
        "or turn pretrained off to train from scratch."
    )
