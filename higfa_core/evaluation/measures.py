"""Measures of two sets of features: fidelity, coverage, diversity, distance, memorisation. Pure functions in float64.

| measure | source |
|---|---|
| precision, recall | Kynkäänniemi et al. 2019, arXiv 1904.06991 |
| density, coverage | Naeem et al. 2020, arXiv 2002.09797 |
| Vendi score | Friedman and Dieng 2023, arXiv 2210.02410, with the cosine kernel |
| kernel distance | squared MMD, unbiased, polynomial kernel of KID (Binkowski et al. 2018, arXiv 1801.01401) |
| authenticity | Alaa et al. 2022, arXiv 2102.08921 |
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

CHUNK = 1024  # rows of a distance matrix that are held at once


@dataclass(frozen=True)
class Manifolds:
    """Shares of images that lie within the other set's neighbourhoods; `density` may exceed 1."""

    precision: float
    recall: float
    density: float
    coverage: float


def manifolds(real: Tensor, made: Tensor, neighbours: int) -> Manifolds:
    """Precision, recall, density and coverage of features `made` [M, D] against `real` [N, D].

    The neighbourhood of an image reaches to its `neighbours`-th nearest other image of its own set. ValueError
    unless both sets have more images than that.
    """
    real, made = real.double(), made.double()
    for name, features in (("real", real), ("synthetic", made)):
        if len(features) <= neighbours:
            raise ValueError(f"{len(features)} {name} images are too few for {neighbours} neighbours. Lower it.")
    reach, reach_made = radii(real, neighbours), radii(made, neighbours)
    precise, recalled, inside = 0, 0, 0
    closest = torch.full((len(real),), torch.inf, dtype=torch.float64)
    recalled_by = torch.zeros(len(real), dtype=torch.bool)
    for start in range(0, len(made), CHUNK):
        apart = distances(made[start : start + CHUNK], real)
        within = apart < reach
        precise += int(within.any(1).sum())
        inside += int(within.sum())
        recalled_by |= (apart < reach_made[start : start + CHUNK, None]).any(0)
        closest = torch.minimum(closest, apart.amin(0))
    recalled = int(recalled_by.sum())
    covered = int((closest < reach).sum())
    n, m = len(real), len(made)
    return Manifolds(precise / m, recalled / n, inside / (neighbours * m), covered / n)


def distances(first: Tensor, second: Tensor) -> Tensor:
    """Euclidean distances [N, M], exact for near features."""
    return torch.cdist(first.double(), second.double(), compute_mode="donot_use_mm_for_euclid_dist")


def radii(features: Tensor, neighbours: int) -> Tensor:
    """Distance [N] of each of features [N, D] to its `neighbours`-th nearest other one."""
    parts = (distances(part, features) for part in features.split(CHUNK))
    return torch.cat([part.kthvalue(neighbours + 1, dim=1).values for part in parts])  # itself is the first


def nearest(made: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Distance [M] of each of `made` [M, D] to the nearest of `real` [N, D], and which one that is [M]."""
    found = [distances(part, real).min(1) for part in made.split(CHUNK)]
    return torch.cat([part.values for part in found]), torch.cat([part.indices for part in found])


def authentic(made: Tensor, real: Tensor) -> Tensor:
    """Whether each of `made` [M, D] is further from the nearest of `real` [N, D] than that is from its own neighbour.

    A generator that draws new images gets about half; far fewer is memorisation. ValueError for fewer than 2 real ones.
    """
    if len(real) < 2:
        raise ValueError("Authenticity needs at least 2 real images. Give more.")
    apart, which = nearest(made, real)
    return apart >= radii(real, 1)[which]


def vendi(features: Tensor) -> float:
    """Vendi score of features [N, D]: effective number of different images, from 1 to N."""
    x = torch.nn.functional.normalize(features.double(), dim=1)
    gram = x @ x.T if len(x) <= x.shape[1] else x.T @ x  # the same eigenvalues but for zeros
    shares = torch.linalg.eigvalsh(gram / len(x)).clamp(min=0)
    return float(torch.exp(torch.special.entr(shares).sum()))


def kernel_distance(first: Tensor, second: Tensor) -> float:
    """Unbiased squared MMD of features [N, D] and [M, D] with the kernel (x.y / D + 1)^3; 0 for one distribution, and
    by chance below it. ValueError for fewer than 2 images."""
    if min(len(first), len(second)) < 2:
        raise ValueError("The kernel distance needs at least 2 images in each set. Give more.")
    first, second = first.double(), second.double()

    def mean(a: Tensor, b: Tensor) -> float:
        total = sum(float((part @ b.T / a.shape[1] + 1).pow(3).sum()) for part in a.split(CHUNK))
        if a is not b:
            return total / (len(a) * len(b))
        return (total - float(((a * a).sum(1) / a.shape[1] + 1).pow(3).sum())) / (len(a) * (len(a) - 1))

    return mean(first, first) + mean(second, second) - 2 * mean(first, second)
