"""What the miniature's networks are trained on: renders as arrays and tensors."""

from concurrent.futures import ProcessPoolExecutor

import numpy as np
import torch
from torch.nn import functional as F

from . import birds, networks

SIZE = 128  # of the images
LOOK = 64  # of what the classifiers see
SPECIES = len(birds.SPECIES)


def _render_chunk(args):
    seed, start, count = args
    views = [birds.render((start + i) % SPECIES, seed + start + i, SIZE) for i in range(count)]
    rng = np.random.default_rng([seed, start])
    texts = [birds.noisy_caption((start + i) % SPECIES, v, rng) for i, v in enumerate(views)]
    ids = np.array([networks.pad_ids(networks.word_ids(t)) for t in texts], np.int64)
    return np.stack([v.image for v in views]), np.stack([v.mask for v in views]), ids


def render_set(seed: int, count: int):
    """Images uint8 [N, 128, 128, 3], masks uint8 [N, 128, 128], noisy captions [N, L]; species = index mod 32."""
    chunks = [(seed, s, min(320, count - s)) for s in range(0, count, 320)]
    with ProcessPoolExecutor() as pool:
        parts = list(pool.map(_render_chunk, chunks))
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


def to_pixels(images: np.ndarray, size: int = SIZE) -> torch.Tensor:
    """uint8 [N, H, W, 3] -> float [N, 3, size, size] in -1..1, reduced by area."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    return F.interpolate(x, size=(size, size), mode="area") if x.shape[-1] != size else x


def to_look(x: torch.Tensor) -> torch.Tensor:
    """[N, 3, 128, 128] -> [N, 3, 64, 64], as the classifiers see it."""
    return F.interpolate(x, size=(LOOK, LOOK), mode="area")


def augment(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Flip, small affine, brightness, contrast, noise on [B, 3, H, W] in -1..1."""
    n = len(x)

    def uniform(low, high, *shape):
        return torch.rand(n, *shape, generator=generator) * (high - low) + low

    angle, scale = uniform(-0.25, 0.25), uniform(0.85, 1.2)
    flip = (uniform(0, 1) < 0.5).float() * 2 - 1
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    theta = torch.stack([cos * flip, -sin, uniform(-0.1, 0.1), sin * flip, cos, uniform(-0.1, 0.1)], 1).view(n, 2, 3)
    x = F.grid_sample(
        x, F.affine_grid(theta, list(x.shape), align_corners=False), padding_mode="reflection", align_corners=False
    )
    x = x * uniform(0.8, 1.2, 1, 1, 1) + uniform(-0.15, 0.15, 1, 1, 1)
    return (x + uniform(0, 0.08, 1, 1, 1) * torch.randn(x.shape, generator=generator)).clamp(-1, 1)
