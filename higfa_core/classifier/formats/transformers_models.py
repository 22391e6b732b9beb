"""Image classifiers of Hugging Face transformers, as `save_pretrained` writes them. Nothing is fetched, and no
code that comes with a model is run."""

from __future__ import annotations

import difflib
import inspect
import logging
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor, nn

from .. import names
from . import allowed, weights
from .processors import preprocess_settings
from .skeletons import skeleton
from .wrappers import bare

log = logging.getLogger(__name__)

# Networks that are transformers' own, take pixel values and return one logit per class. timm_wrapper is not among them:
# it builds any timm model with any argument, so the timm name is used instead.
MODEL_TYPES = set(
    """
    beit bit clip convnext convnextv2 cvt data2vec-vision deit dinov2 dinov2_with_registers donut-swin
    efficientformer efficientnet focalnet hgnet_v2 hiera ijepa levit metaclip_2 mobilenet_v1 mobilenet_v2
    mobilevit mobilevitv2 perceiver poolformer pp_lcnet pvt pvt_v2 regnet resnet segformer siglip swiftformer
    swin swinv2 textnet van vit vit_msn
    """.split()
)
# Arguments of these that would fetch another model, or name another class to build.
NOT_NETWORK = {"self", "kwargs", "backbone", "backbone_config", "backbone_kwargs", "use_timm_backbone"}
NOT_NETWORK |= {"use_pretrained_backbone", "num_labels"}


class Logits(nn.Module):
    """A transformers classifier that returns plain logits [B, K]."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model: Any = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(pixel_values=x).logits


def facts(config: dict, processor: dict, with_preprocess: bool) -> dict:
    """The facts in config.json, and in preprocessor_config.json beside it (`processor`)."""
    if config.get("auto_map"):
        raise ValueError(f"config.json needs code that comes with the model (auto_map), which is refused. {OTHER_FILE}")
    if config.get("quantization_config"):
        raise ValueError(f"the weights are quantised (quantization_config): no gradients from them. {OTHER_FILE}")
    problem = config.get("problem_type")
    if problem not in (None, "single_label_classification"):
        raise ValueError(
            f"config.json says problem_type {problem!r}: the outputs are not probabilities of mutually exclusive "
            "classes, which guidance needs. Choose a model of single_label_classification."
        )
    model_class = _model_class(config)
    given = {"arch": f"transformers/{config['model_type']}", "model_kwargs": _network(model_class.config_class, config)}
    given["model_kwargs"]["architectures"] = [model_class.__name__]
    if labels := names.listed(config.get("id2label")):
        given["class_names"] = labels
    if with_preprocess and processor:
        given["preprocess"] = preprocess_settings(processor, config["model_type"])
    return given


def load(model_type: str, state: dict[str, Tensor], num_classes: int, config: dict) -> Logits:
    """The classifier with its weights; ValueError if they are not those of `config`.

    transformers itself loads the weights: the names in its files differ from those of its modules.
    """
    model_class = _model_class({**config, "model_type": model_type})
    config = _network(model_class.config_class, config)
    allowed.require_plain(config)
    try:
        settings = model_class.config_class.from_dict(config)
        settings.num_labels = num_classes
        weights.refuse_larger(skeleton(lambda: model_class(settings)), state, "config.json")
        model, report = model_class.from_pretrained(
            None,
            config=settings,
            state_dict=bare(state, ("module.", "model.", "net.")),
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    except Exception as error:  # whatever a network makes of the wrong values
        raise ValueError(f"transformers cannot build {model_type}: {error}. Correct config.json.") from error
    missing = sorted(key for key in report["missing_keys"] if not key.endswith("num_batches_tracked"))
    unexpected = sorted(report["unexpected_keys"])
    mismatched = sorted(report["mismatched_keys"])
    weights.require_fit(f"transformers/{model_type}", num_classes, missing, unexpected if missing else [], mismatched)
    if unexpected:  # old files contain buffers that the model now computes
        log.warning("HiGFA: %s does not use %s", model_class.__name__, ", ".join(unexpected[:5]))
    return Logits(model)


def file_state(module: Logits) -> dict[str, Tensor]:
    """Weights under the names that transformers uses in files, which do not change with its version."""
    with tempfile.TemporaryDirectory() as folder:
        module.model.save_pretrained(folder, max_shard_size="50GB")
        return safetensors.torch.load_file(Path(folder) / "model.safetensors")


def _model_class(config: dict) -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ImportError("This classifier needs transformers: pip install transformers") from error
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING

    model_type = str(config.get("model_type"))
    if model_type not in CONFIG_MAPPING:
        closest = difflib.get_close_matches(model_type, CONFIG_MAPPING.keys(), n=1, cutoff=0.6)
        hint = f": closest '{closest[0]}'" if closest else ""
        raise ValueError(
            f"transformers {transformers.__version__} has no model_type '{model_type}'{hint}. "
            "Correct config.json or update transformers"
        )
    if model_type == "timm_wrapper":
        raise ValueError("transformers/timm_wrapper is a timm model. Give its timm name as arch, such as resnet50.")
    found: Any = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING.get(CONFIG_MAPPING[model_type], ())
    found = {each.__name__: each for each in (found if isinstance(found, (tuple, list)) else [found])}
    stated = config.get("architectures")
    stated = str((stated if stated and isinstance(stated, list) else [*found, model_type])[0])
    if stated not in found or model_type not in MODEL_TYPES:
        raise ValueError(f"config.json is that of {stated}, which is not an image classifier. {OTHER_FILE}")
    return found[stated]


def _network(kind: type, config: Mapping) -> dict:
    """The arguments in a config that its class itself declares: those that describe the network, and nothing else.

    What all configs share (labels, types, kernels to fetch) is not included.
    """
    from transformers import PretrainedConfig

    own, shared = (inspect.signature(each.__init__).parameters for each in (kind, PretrainedConfig))
    kept = {key: config[key] for key in own if key in config and key not in {*shared, *NOT_NETWORK} and key[0] != "_"}
    parts = getattr(kind, "sub_configs", {})
    return {k: _network(parts[k], v) if k in parts and isinstance(v, Mapping) else v for k, v in kept.items()}


OTHER_FILE = "Choose a model that transformers' own AutoModelForImageClassification saved with save_pretrained"
