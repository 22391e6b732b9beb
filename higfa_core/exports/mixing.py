"""Training on real images, some replaced by synthetic ones of the same class, as in SaSPA and Diff-Mix."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch.utils.data import Dataset
from torchvision.datasets.folder import default_loader

from ..files.reading import read_bytes
from ..files.records import MixedLists, read_as

Sample = tuple[str, int]


class MixedDataset(Dataset):
    """`real_samples` (path, label), each replaced with `probability` by one of its synthetic images.

    `pairs`: real path -> paths of synthetic images; an image without any is never replaced. The draw is a function of
    (seed, epoch, index) alone, so neither workers nor the order of access change it; call `set_epoch` before each
    epoch. Random transforms draw from torch as usual.
    """

    def __init__(
        self,
        real_samples: Sequence[Sample],
        pairs: Mapping[str, Sequence[str]],
        probability: float = 0.5,
        seed: int = 0,
        transform: Callable | None = None,
        loader: Callable[[str], object] = default_loader,
    ):
        if not 0 <= probability <= 1:
            raise ValueError(f"probability must be in 0..1, got {probability}.")
        self.samples = [(str(path), label) for path, label in real_samples]
        self.pairs = {str(path): [str(other) for other in others] for path, others in pairs.items()}
        if unknown := sorted(self.pairs.keys() - {path for path, _ in self.samples}):
            raise ValueError(f"pairs has {unknown[0]}, which is not a real sample. Give the same paths in both.")
        self.probability, self.seed, self.transform, self.loader = probability, seed, transform, loader
        self.classes: tuple[str, ...] = ()
        # Shared, because persistent workers hold a copy of this object.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    @classmethod
    def from_lists(cls, mix: str | Path, root: str | Path | None = None, **options) -> MixedDataset:
        """The dataset that a `mix.json` of `higfa export --format lists` describes.

        `root`: where the real images are now, if they were moved. `options`: as above; the probability defaults to the
        file's. `classes` of the result are the names in label order.
        """
        mix = Path(mix)
        try:
            about = read_as(MixedLists, read_bytes(mix))
        except ValueError as error:
            raise ValueError(f"{mix} is damaged ({error}). Export the dataset again.") from error
        here, base = mix.parent, mix.parent / about.root if root is None else Path(root)
        pairs = {str(base / path): [str(here / other) for other in found] for path, found in about.pairs.items()}
        real = [(str(base / path), label) for path, label in about.labels.items()]
        if missing := [path for path, _ in real[:1] if not os.path.isfile(path)]:
            raise ValueError(f"Real image {missing[0]} is missing. Give root, the folder where they are now.")
        mixed = cls(real, pairs, **{"probability": about.probability, **options})
        mixed.classes = tuple(about.classes)
        return mixed

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[object, int]:
        image = self.loader(self.path(index))
        return image if self.transform is None else self.transform(image), self.samples[index][1]

    def set_epoch(self, epoch: int) -> None:
        """Draw again from now on, in running workers too."""
        self._epoch.fill_(epoch)

    def path(self, index: int) -> str:
        """The file used for sample `index` in this epoch."""
        path, _ = self.samples[index]
        draw = random.Random(f"{self.seed}/{int(self._epoch)}/{index % len(self)}")
        synthetic = self.pairs.get(path)
        return draw.choice(synthetic) if synthetic and draw.random() < self.probability else path
