"""Image classifiers of Hugging Face transformers, as `save_pretrained` writes them. Nothing is fetched, and no
code that comes with a model is run."""

from __future__ import annotations

import difflib
import logging
import tempfile
from pathlib import Path

import safetensors.torch
from torch import Tensor, nn

from .. import names
from .processors import preprocess_settings
from .weights import bare, require_fit

log = logging.getLogger(__name__)

# What a config says about other things than the network, or what would make transformers fetch something.
DROPPED = {"id2label", "label2id", "num_labels", "dtype", "torch_dtype", "transformers_version", "use_kernels"}
DROPPED |= {
    "attn_implementation",
    "use_pretrained_backbone",
    "output_attentions",
    "output_hidden_states",
    "return_dict",
}


class Logits(nn.Module):
    """A transformers classifier that returns plain logits [B, K]."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(pixel_values=x).logits


def facts(folder: Path, config: dict, processor: dict, with_preprocess: bool) -> dict:
    """What config.json, and preprocessor_config.json beside it (`processor`), say of a classifier."""
    for name, content in (("config.json", config), ("preprocessor_config.json", processor)):
        if content.get("auto_map"):
            raise ValueError(f"{name} asks for code that comes with the model (auto_map): it is refused. {OTHER_FILE}")
    if config.get("quantization_config"):
        raise ValueError(f"the weights are quantized (quantization_config): no gradients from them. {OTHER_FILE}")
    _model_class(config)
    given = {"arch": f"transformers/{config['model_type']}", "model_kwargs": _network(config)}
    if labels := names.listed(config.get("id2label")):
        given["class_names"] = labels
    if with_preprocess and processor:
        given["preprocess"] = preprocess_settings(folder)
    return given


def load(model_type: str, state: dict[str, Tensor], num_classes: int, config: dict) -> Logits:
    """The classifier with its weights; ValueError where they are not those of `config`.

    transformers itself puts the weights in: the names in its files are not those of its modules.
    """
    config = {**config, "model_type": model_type}
    model_class = _model_class(config)
    try:
        settings = model_class.config_class.from_dict(config)
        settings.num_labels = num_classes
        model, report = model_class.from_pretrained(
            None,
            config=settings,
            state_dict=bare(state, ("module.", "_orig_mod.", "model.", "net.")),
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    except (TypeError, ValueError, KeyError, RuntimeError, AttributeError) as error:
        raise ValueError(f"transformers cannot build {model_type}: {error}. Correct config.json") from error
    missing = sorted(key for key in report["missing_keys"] if not key.endswith("num_batches_tracked"))
    unexpected = sorted(report["unexpected_keys"])
    mismatched = sorted(report["mismatched_keys"])
    require_fit(f"transformers/{model_type}", num_classes, missing, unexpected if missing else [], mismatched)
    if unexpected:  # old files hold buffers that the model now computes
        log.warning("HiGFA: %s does not use %s", model_class.__name__, ", ".join(unexpected[:5]))
    return Logits(model)


def file_state(module: Logits) -> dict[str, Tensor]:
    """Weights under the names that transformers gives them in files: those do not change with its version."""
    with tempfile.TemporaryDirectory() as folder:
        module.model.save_pretrained(folder, max_shard_size="50GB")
        return safetensors.torch.load_file(Path(folder) / "model.safetensors")


def _model_class(config: dict):
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
    found = MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING.get(CONFIG_MAPPING[model_type], ())
    found = {each.__name__: each for each in (found if isinstance(found, (tuple, list)) else [found])}
    stated = (config.get("architectures") or list(found) or [model_type])[0]
    if stated not in found:
        raise ValueError(f"config.json is that of {stated}, which is no image classifier. {OTHER_FILE}")
    return found[stated]


def _network(config: dict) -> dict:
    """The config without what does not describe the network."""
    kept = {key: value for key, value in config.items() if key not in DROPPED and not key.startswith("_")}
    return {key: _network(value) if isinstance(value, dict) else value for key, value in kept.items()}


OTHER_FILE = "Choose a model that transformers' own AutoModelForImageClassification saved with save_pretrained"
