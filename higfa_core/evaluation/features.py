"""What a classifier makes of images: its features (the input of its last layer) and its probabilities."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..classifier.model import CHUNK, FineGrainedClassifier

Load = Callable[[int], Tensor]  # number of an image -> [1, H, W, 3] in 0..1


@dataclass(frozen=True)
class Seen:
    """Of N images: features [N, D] and calibrated probabilities [N, K]."""

    features: Tensor
    probabilities: Tensor


def extractor(name: str) -> FineGrainedClassifier:
    """The classifier in the file `name`, else timm's pretrained model of that name."""
    if Path(name).suffix or Path(name).exists():
        return FineGrainedClassifier.load(name)
    return FineGrainedClassifier.from_timm(name)


def look(classifier: FineGrainedClassifier, load: Load, count: int, seen: Callable[[int], None]) -> Seen:
    """Show it `count` images; `seen` is called with the number of each batch's images."""
    features, probabilities = [], []
    for batch in _batches(load, count):
        found, logits = penultimate(classifier, batch.movedim(-1, 1))
        if not (found.isfinite().all() and logits.isfinite().all()):
            raise ValueError(f"{classifier.source} gives numbers that are not finite. Use another file.")
        features.append(found.double())
        probabilities.append((logits.double() / classifier.temperature).softmax(1))
        seen(len(batch))
    return Seen(torch.cat(features), torch.cat(probabilities))


@torch.no_grad()
def penultimate(classifier: FineGrainedClassifier, images: Tensor) -> tuple[Tensor, Tensor]:
    """images [B, 3, H, W] in 0..1 -> features [B, D] (the input of the layer that gives the logits) and logits [B, K].

    ValueError for a network whose logits are not the output of one linear layer.
    """
    calls: list[tuple[Tensor, Tensor]] = []

    def note(layer: nn.Module, given: tuple, out: Tensor) -> None:
        calls.append((given[0], out))

    linear = [layer for layer in classifier.module.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    hooks = [layer.register_forward_hook(note) for layer in linear]
    try:
        logits = classifier.logits(images)
    finally:
        for hook in hooks:
            hook.remove()
    for given, out in reversed(calls):
        if out.numel() == logits.numel() and torch.equal(out.flatten(1).float(), logits):
            return given.flatten(1).float(), logits
    raise ValueError(
        f"{classifier.source} ({classifier.arch}) has no single last layer, so its features are not known. Name "
        "another model with --features."
    )


def _batches(load: Load, count: int) -> Iterator[Tensor]:
    """Images of one size together, in order."""
    waiting: list[Tensor] = []
    for number in range(count):
        image = load(number)
        if waiting and (len(waiting) == CHUNK or waiting[0].shape != image.shape):
            yield torch.cat(waiting)
            waiting = []
        waiting.append(image)
    if waiting:
        yield torch.cat(waiting)
