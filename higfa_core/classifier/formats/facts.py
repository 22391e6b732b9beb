"""What is known about a classifier besides its weights, and where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

NOTHING = (None, "", [], {}, ())


@dataclass(frozen=True)
class Facts:
    """A classifier's facts; None for what is still unknown.

    Args:
        arch: timm name, "torchvision/<name>" or "transformers/<model_type>".
        class_names: one per output, in the order of the outputs.
        num_classes: as stated, to be compared with the names.
        preprocess: fields of `Preprocess`.
        temperature: divides the logits.
        model_kwargs: arguments of the architecture's builder; the config of a transformers model.
        timm: the release of timm that made the network, where it is timm's.
        args: arguments of the training script, which complete `model_kwargs` and `preprocess`.
        origins: the origin of each of them, for messages.
    """

    arch: str | None = None
    class_names: list[str] | None = None
    num_classes: object = None
    preprocess: dict | None = None
    temperature: object = None
    model_kwargs: dict | None = None
    timm: object = None
    args: dict | None = None
    origins: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    def completed(self, found: Mapping, origin: str) -> Facts:
        """These facts, with the unknown ones taken from `found`, by `origin`. Keys that are not facts are ignored."""
        new = {key: found[key] for key in KEYS if found.get(key) not in NOTHING and getattr(self, key) is None}
        return replace(self, **new, origins={**self.origins, **dict.fromkeys(new, origin)})

    def number(self, key: str, default: float) -> float:
        """The fact as a number; ValueError for anything else."""
        value = getattr(self, key)
        try:
            return default if value is None else float(value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{key} must be a number, got {value!r} ({self.origins[key]}). Correct it.") from error


KEYS = tuple(name for name in Facts.__dataclass_fields__ if name != "origins")
