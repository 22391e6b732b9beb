"""What each image of a batch must show: one class, or a mixture of classes with weights (soft labels).

Mixtures follow Diff-Mix (CVPR 2024), which labels an image between two classes with both.
"""

import re
from dataclasses import dataclass

import torch

EXAMPLE = "Laysan Albatross:0.7 | Sooty Albatross:0.3"


@dataclass(frozen=True)
class Targets:
    """`names[i]` is the text of the i-th target, `weights[i]` its weights over the K classes, which sum to 1."""

    names: tuple[str, ...]
    weights: tuple[tuple[float, ...], ...]

    def for_batch(self, batch: int) -> tuple[list[str], torch.Tensor]:
        """Targets cycled over a batch: names, and weights [B, K] on the CPU.

        Raises:
            ValueError: the batch is not a multiple of the number of targets.
        """
        count = len(self.names)
        if batch % count:
            below = batch // count * count
            sizes = f"{below} or {below + count}" if below else str(count)
            raise ValueError(
                f"{count} class names for a batch of {batch}: they are cycled, so set batch_size to {sizes}, "
                f"or give 1 or {batch} lines."
            )
        rows = [self.weights[i % count] for i in range(batch)]
        return [self.names[i % count] for i in range(batch)], torch.tensor(rows)


def read_targets(lines: list[str], classifier) -> Targets:
    """Class names or mixtures such as `Laysan Albatross:0.7 | Sooty Albatross:0.3`, one an image.

    Weights are scaled to sum to 1; without them the classes of a mixture share equally.

    Raises:
        ValueError: no line, a class that the classifier does not know, or a weight that is none.
    """
    if not lines:
        raise ValueError("class_name is empty. Name the class the image must show, as the classifier names it.")
    return Targets(tuple(lines), tuple(_weights(line, classifier) for line in lines))


def class_lines(text: str) -> list[str]:
    """The lines of a text box, without empty ones."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def _weights(line: str, classifier) -> tuple[float, ...]:
    shares = [0.0] * len(classifier.class_names)
    # A name of the classifier may hold a bar or a colon itself.
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
            raise ValueError(f"{number.strip()!r} in {line!r} is no weight; write it as in {EXAMPLE!r}.")
        parts.append((name.strip(), float(number)) if colon else (part, None))
    return parts
