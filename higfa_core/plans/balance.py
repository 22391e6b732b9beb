"""How many jobs each class gets."""

from __future__ import annotations

from collections.abc import Mapping


def job_counts(
    images: Mapping[str, int],
    replicas: int | None = None,
    per_class: int | None = None,
    fill_to: int | None = None,
    only_rare: int | None = None,
) -> dict[str, int]:
    """Class name -> number of synthetic images wanted, from the number of real `images` per class.

    Give exactly one of: `replicas`, that many from each real image (proportional); `per_class`, the same number
    for every class; `fill_to`, enough to bring real and synthetic images together to that number. `only_rare`:
    nothing for classes with at least that many real images.
    """
    ways = {"replicas": replicas, "per_class": per_class, "fill_to": fill_to}
    given = {name: value for name, value in ways.items() if value is not None}
    if len(given) != 1:
        raise ValueError(f"Give exactly one of replicas, per_class and fill_to, got {', '.join(given) or 'none'}.")
    for name, value in {**given, "only_rare": only_rare}.items():
        if value is not None and value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    counts = {}
    for name, count in images.items():
        counts[name] = count * replicas if replicas else per_class or max(0, (fill_to or 0) - count)
        if count == 0 or (only_rare is not None and count >= only_rare):
            counts[name] = 0
    if not any(counts.values()):
        raise ValueError(
            f"Nothing to make: every class has enough real images (the smallest has {min(images.values())}). "
            "Raise fill_to or only_rare."
        )
    return counts


def spread(images: Mapping[str, int], jobs: int) -> dict[str, int]:
    """Class name -> number of jobs, `jobs` in all: of as many classes as possible, evenly over their order."""
    names = [name for name, count in images.items() if count]
    counts = dict.fromkeys(images, 0)
    for number in range(jobs):
        place = number * len(names) // jobs if jobs < len(names) else number % len(names)
        counts[names[place]] += 1
    return counts
