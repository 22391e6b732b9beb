"""Training images: decoded once, augmented by timm's transforms, identical for any number of workers."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from ..classifier.formats import timm_models
from ..classifier.preprocess import Preprocess
from .data import Labelled

MEMORY = 2 * 2**30  # bytes for decoded images; the rest are read again each time
THREADS = 4
# Share of the image that the crop keeps, jitter of brightness, contrast and saturation (not hue: colour is a mark),
# timm's policy, and the probability of erasing a random patch. Fine-grained marks are small: even "strong" crops
# less than ImageNet recipes (0.08), which would often leave no mark in view.
AUGMENT = {
    "light": {"scale": (0.7, 1.0), "color_jitter": 0.2},
    "standard": {"scale": (0.5, 1.0), "color_jitter": 0.3, "auto_augment": "rand-m6-n2-mstd0.5-tweights"},
    "strong": {
        "scale": (0.35, 1.0),
        "color_jitter": 0.4,
        "auto_augment": "rand-m9-n2-mstd0.5-tweights",
        "re_prob": 0.25,
        "re_mode": "pixel",
    },
}


@contextmanager
def seeded(seed: int, device: torch.device | None = None):
    """Seed Python's, numpy's and torch's generators (CPU and device), and restore them afterwards."""
    python, array = random.getstate(), np.random.get_state()
    gpu = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpu):
        random.seed(seed)
        np.random.seed(seed)
        torch.default_generator.manual_seed(seed)
        for one in gpu:
            with torch.cuda.device(one):
                torch.cuda.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(array)


def mixed_seed(*parts: int) -> int:
    """One 32-bit seed from several numbers."""
    return int(np.random.SeedSequence(parts).generate_state(1)[0])


class CachedImages:
    """Decoded images, the shorter side at most `side`, kept in memory up to `memory` bytes.

    All files are decoded once at construction, so that a damaged one is found before training starts.
    """

    def __init__(self, items: Sequence[Labelled], side: int, progress: Callable[[int], None], memory: int = MEMORY):
        self.items, self.side, self.kept = list(items), side, {}
        for i, pixels in enumerate(_ahead(self._read, self.items)):
            memory -= pixels.nbytes
            if memory >= 0:
                self.kept[i] = pixels
            progress(i + 1)

    def __getitem__(self, index: int) -> Image.Image:
        pixels = self.kept.get(index)
        return Image.fromarray(self._read(self.items[index]) if pixels is None else pixels)

    def _read(self, item: Labelled) -> np.ndarray:
        image = Image.fromarray((item.load()[0] * 255).round().byte().numpy())
        scale = self.side / min(image.size)
        if scale < 1:
            size = [max(1, round(length * scale)) for length in image.size]
            image = image.resize(size, Image.Resampling.BICUBIC, reducing_gap=2)
        return np.asarray(image)


class Augmented(Dataset):
    """Training images as the network sees them; the key (index, seed) alone decides the pixels."""

    def __init__(self, images: CachedImages, labels: Sequence[int], settings, preprocess: Preprocess):
        self.images, self.labels = images, labels
        self.transform: Any = timm_models.import_timm().data.transforms_factory.transforms_imagenet_train(
            preprocess.input_size,
            force_color_jitter=True,  # timm drops it when there is a policy
            hflip=0.5 if settings.flip else 0.0,
            interpolation=preprocess.interpolation,
            mean=preprocess.mean,
            std=preprocess.std,
            **AUGMENT[settings.augment],
        )

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, int]:
        index, seed = key
        with seeded(seed):  # timm draws from all three global generators
            return self.transform(self.images[index]), self.labels[index]


class Stream:
    """Batches of (index, seed) from step `start` on: epoch after epoch, each in a random order.

    Position `p` of the stream depends on `seed` and `p` alone, so a resumed run sees the same images.
    """

    def __init__(self, images: int, batch_size: int, seed: int, start: int, stop: int):
        self.images, self.batch_size, self.seed, self.start, self.stop = images, batch_size, seed, start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        epoch, order = -1, np.arange(0)
        for step in range(self.start, self.stop):
            batch = []
            for position in range(step * self.batch_size, (step + 1) * self.batch_size):
                if position // self.images != epoch:
                    epoch = position // self.images
                    order = np.random.default_rng([self.seed, epoch]).permutation(self.images)
                batch.append((int(order[position % self.images]), mixed_seed(self.seed, position)))
            yield batch


def training_batches(dataset: Augmented, stream: Stream, workers: int) -> DataLoader:
    """Batches ([B, 3, h, w], [B])."""
    # Inside ComfyUI a fresh process could not import the pack's modules by name; a forked one has them already.
    context = "fork" if workers and sys.platform == "linux" else None
    # Its own generator: a loader draws from the global one otherwise.
    generator = torch.Generator()
    return DataLoader(
        dataset, batch_sampler=stream, num_workers=workers, generator=generator, multiprocessing_context=context
    )


class HeldOut:
    """Validation images, preprocessed as at guidance time, in batches [B, 3, h, w]; kept in memory up to `memory`
    bytes."""

    def __init__(self, items: Sequence[Labelled], preprocess: Preprocess, batch_size: int, memory: int = MEMORY):
        self.chunks = [items[i : i + batch_size] for i in range(0, len(items), batch_size)]
        self.labels = torch.tensor([item.label for item in items], dtype=torch.long)
        self.preprocess, self.memory = preprocess, memory
        self.kept: dict[int, Tensor] = {}

    def __iter__(self) -> Iterator[Tensor]:
        missing = [item for i, chunk in enumerate(self.chunks) if i not in self.kept for item in chunk]
        images = _ahead(self._read, missing)
        for i, chunk in enumerate(self.chunks):
            batch = self.kept.get(i)
            if batch is None:
                batch = torch.cat([next(images) for _ in chunk])
                if batch.nbytes <= self.memory:
                    self.kept[i] = batch
                    self.memory -= batch.nbytes
            yield batch

    def _read(self, item: Labelled) -> Tensor:
        return self.preprocess(item.load().movedim(-1, 1))


def _ahead(function, items: list) -> Iterator:
    """`map` in threads, only a few items ahead, so that results do not pile up."""
    pool, waiting = ThreadPoolExecutor(THREADS), []
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 2 * THREADS:
                yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()
    finally:
        pool.shutdown(cancel_futures=True)
