"""What each image of a batch should show: one class, or a mixture of classes with weights (soft labels).

Mixtures follow Diff-Mix (CVPR 2024), which labels an image between two classes with both.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..wording import counted

EMPTY = "class_name is empty. Name the class the image must show, as the classifier names it."
EXAMPLE = "Laysan Albatross:0.7 | Sooty Albatross:0.3"


@dataclass(frozen=True)
class Targets:
    """`names[i]` is the text of the i-th target, `weights[i]` its weights over the K classes, which sum to 1."""

    names: tuple[str, ...]
    weights: tuple[tuple[float, ...], ...]

    def for_batch(self, batch: int, images: Sequence[int] | None = None) -> tuple[list[str], torch.Tensor]:
        """Targets cycled over a batch: names, and weights [B, K] on the CPU.

        Args:
            images: the place of each image in the batch that it was taken from, as the `batch_index` of a latent tells
                it: each keeps the target it had there. None for a whole batch.

        Raises:
            ValueError: the batch is not a multiple of the number of targets, or `images` is of another batch.
        """
        count = len(self.names)
        if images is None and batch % count:
            raise ValueError(_misfit(count, batch))
        if images is not None and len(images) != batch:
            raise ValueError(
                f"The batch_index of the latent lists {counted(len(images), 'image')}, but {batch} are sampled. "
                "Connect the latent that goes into the sampler."
            )
        places = [place % count for place in (range(batch) if images is None else images)]
        return [self.names[place] for place in places], torch.tensor([self.weights[place] for place in places])


def read_targets(lines: list[str], classifier) -> Targets:
    """Class names or mixtures such as `Laysan Albatross:0.7 | Sooty Albatross:0.3`, one per image.

    Weights are scaled to sum to 1; without weights the classes of a mixture share equally.

    Raises:
        ValueError: no line, a class that the classifier does not know, or an invalid weight.
    """
    if not lines:
        raise ValueError(EMPTY)
    return Targets(tuple(lines), tuple(_weights(line, classifier) for line in lines))


def _misfit(count: int, batch: int) -> str:
    if batch == 1:
        return (
            f"{count} class names for a batch of 1: an image shows one class, so give 1 line (a mixture stands on one "
            f"line, as in {EXAMPLE!r}), or set batch_size to {count}."
        )
    below = batch // count * count
    sizes = f"{below} or {below + count}" if below else str(count)
    return (
        f"{count} class names for a batch of {batch}: they are cycled, so set batch_size to {sizes}, or give 1 or "
        f"{batch} lines."
    )


def class_lines(text: str) -> list[str]:
    """The lines of a text box, without empty ones."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def _weights(line: str, classifier) -> tuple[float, ...]:
    shares = [0.0] * len(classifier.class_names)
    # A class name may itself contain a bar or a colon.
    parts = [(line, None)] if "|" not in line or line in classifier.class_names else _parts(line)
    for name, share in parts:
        shares[classifier.index(name)] += 1.0 if share is None else share
    total = sum(shares)
    if not total > 0:
        raise ValueError(f"The weights of {line!r} sum to {total:g}; at least one must be above 0, as in {EXAMPLE!r}.")
    return tuple(share / total for share in shares)


def _parts(line: str) -> list[tuple[str, float | None]]:
    parts = []
    for part in (part.strip() for part in line.split("|")):
        name, colon, number = part.rpartition(":")
        if colon and not re.fullmatch(r"\d*\.?\d+|\d+\.", number.strip()):
            raise ValueError(f"{number.strip()!r} in {line!r} is not a weight. Write it as in {EXAMPLE!r}.")
        parts.append((name.strip(), float(number)) if colon else (part, None))
    return parts
