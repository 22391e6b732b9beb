"""The contents of a classifier file and of the files beside it.

The weights are a `state_dict` of timm, torchvision or transformers. Everything else is looked up in the order of
`readers.READERS`:

1. the file's own metadata (`higfa-classifier-1`, what `FineGrainedClassifier.save` writes),
2. a sidecar `<stem>.json` with the same keys beside it,
3. what a training script stored in a torch checkpoint, see `.checkpoints` and `.lightning`,
4. `classes.txt` beside it, one class name per line, in the order of the outputs,
5. `config.json` beside it (what `save_pretrained` of transformers or timm's `push_to_hf_hub` writes; with
   `preprocessor_config.json`), unless it is that of another architecture,
6. the weights themselves, if only torchvision has a model with such weights.

The keys are the fields of `Facts`.
"""

from __future__ import annotations

import re
from pathlib import Path

from torch import Tensor

from . import weights
from .facts import Facts
from .readers import CLASSES, CONFIG, FORMAT, PROCESSORS, READERS, SIDECAR_EXAMPLE, Content
from .wrappers import bare

__all__ = ["FORMAT", "beside", "read"]


def read(path: Path) -> tuple[dict[str, Tensor], Facts]:
    """Weights and facts of a classifier file and the files beside it; ValueError names fault and remedy."""
    content, facts = Content(path, *weights.read(path)), Facts()
    for origin, reader in READERS:
        facts = facts.completed(reader(content, facts), origin)
    _require(content, facts)
    return content.state, facts


def beside(path: Path) -> list[Path]:
    """The file and every file that may describe it."""
    return [path, path.with_suffix(".json"), *(path.with_name(name) for name in (CONFIG, *PROCESSORS, CLASSES))]


def _require(content: Content, facts: Facts) -> None:
    name, sidecar = content.path.name, content.sidecar.name
    missing = [key for key in ("arch", "class_names") if not getattr(facts, key)]
    by_transformers = (re.match(r"\w+\.(embeddings|encoder|embedder)\.", key) for key in bare(content.state))
    if "arch" in missing and any(by_transformers):
        raise ValueError(
            f"{name} looks like a transformers model. Put its config.json and preprocessor_config.json beside "
            f"it: save_pretrained writes all three into one folder (or say its arch in {sidecar})."
        )
    if missing:
        raise ValueError(
            f"{name} does not say its {' and '.join(missing)}. Put a file '{sidecar}' beside it, "
            f"for example: {SIDECAR_EXAMPLE} (arch is the timm model name, or torchvision/<name>; class names may "
            "also stand in classes.txt, one per line, in the order of the outputs)."
        )
