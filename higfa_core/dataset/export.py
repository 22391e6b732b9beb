"""Images in memory -> a dataset folder that torchvision's ImageFolder reads, with one manifest row an image.

Layout: ``<dataset>/train/<class>/<key>-<i>.png`` (accepted), ``<dataset>/rejected/<class>/...``,
``<dataset>/manifest.jsonl`` and ``<dataset>/dataset.json`` (the class list, and with it the labels).
"""

from __future__ import annotations

import functools
import hashlib
import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image, PngImagePlugin
from torch import Tensor

from .layouts import check_class_names, inside, name_flaw
from .plan import Job, canonical_json
from .store import Manifest

ACCEPTED, REJECTED = "train", "rejected"
SUFFIXES = {"png": ".png", "jpeg": ".jpg", "webp": ".webp", "webp lossless": ".webp"}


class Classifier(Protocol):
    """What the accept rule needs of :class:`higfa_core.classifier.FineGrainedClassifier`."""

    class_names: tuple[str, ...]

    def index(self, name: str) -> int: ...

    def predict_proba(self, images: Tensor) -> Tensor: ...


@dataclass(frozen=True)
class Verdict:
    """A filter's decision, its reason in words, and the probability of the class (None: not judged)."""

    accepted: bool
    reason: str
    confidence: float | None


@dataclass(frozen=True)
class AcceptRule:
    """Accept when the class has at least ``min_confidence`` and, if asked, the highest probability."""

    min_confidence: float = 0.0
    require_top1: bool = False

    def __post_init__(self):
        if not 0 <= self.min_confidence <= 1:
            raise ValueError(f"min_confidence must be in 0..1, got {self.min_confidence}")

    def judge(self, images: Tensor, class_name: str, classifier: Classifier | None) -> list[Verdict]:
        """One verdict for each of images [B, H, W, 3]. ValueError when the rule lacks a classifier."""
        if classifier is None:
            if self.min_confidence > 0 or self.require_top1:
                raise ValueError("min_confidence and require_top1 need a classifier: connect one or set them to 0")
            return [Verdict(True, "no classifier given", None)] * len(images)
        target = classifier.index(class_name)
        return [self.decide(row, target, classifier.class_names) for row in classifier.predict_proba(images)]

    def decide(self, probabilities: Tensor, target: int, class_names: Sequence[str]) -> Verdict:
        """The verdict for one image; probabilities [K], ``target`` the index of the intended class."""
        values = [float(p) for p in probabilities]
        if not all(math.isfinite(p) for p in values):
            return Verdict(False, "the classifier gave probabilities that are not finite", None)
        confidence, best = values[target], max(range(len(values)), key=values.__getitem__)
        if self.require_top1 and best != target:
            words = f"the classifier sees {class_names[best]!r} ({values[best]:.3f})"
            return Verdict(False, words, confidence)
        if confidence < self.min_confidence:
            words = f"confidence {confidence:.3f} is below {self.min_confidence:g}"
            return Verdict(False, words, confidence)
        return Verdict(True, f"confidence {confidence:.3f}", confidence)


@dataclass(frozen=True)
class Report:
    """What one export did: the manifest rows of its images as they are now, and the outcome of each write."""

    folder: Path
    class_name: str
    rows: tuple[dict, ...]
    outcomes: tuple[str, ...]

    @property
    def written(self) -> int:
        """Images of this call that were new, or replaced older ones."""
        return sum(outcome in ("written", "replaced") for outcome in self.outcomes)

    @property
    def accepted(self) -> int:
        """Images of this call that are in the training set."""
        return sum(row["accepted"] for row in self.rows)

    def __str__(self) -> str:
        lines = [f"{self.folder.name} / {self.class_name}: {self.written} written, {self.accepted} accepted"]
        if same := self.outcomes.count("same"):
            lines.append(f"{same} already there, nothing to do")
        if kept := self.outcomes.count("kept"):
            advice = "set if_exists to 'replace' or choose another dataset_name"
            lines.append(f"{kept} not written: another image of this job is there; {advice}")
        lines += [f"rejected: {row['reason']}" for row in self.rows if not row["accepted"]]
        return "\n".join(lines)


def export_images(
    images: Tensor,
    output: str | Path,
    dataset_name: str,
    class_name: str = "",
    *,
    job: Job | None = None,
    classifier: Classifier | None = None,
    rule: AcceptRule = AcceptRule(),
    transform: Sequence[Mapping] | None = None,
    guidance: object = None,
    image_format: str = "png",
    metadata: Mapping[str, str] | None = None,
    replace: bool = False,
    check: Callable[[], None] = lambda: None,
) -> Report:
    """Write images [B, H, W, 3] in 0..1 into the dataset ``output/dataset_name``.

    The class comes from ``job`` or, without one, from ``class_name``; without a job an image is known by its
    content and the dataset has no fixed labels. ``transform`` holds one entry, or one an image; it and
    ``guidance`` (any plain value) go into the rows, ``metadata`` into PNG text chunks. ``check`` is called
    before each file and may raise to stop. All input is checked before the first write (ValueError).
    """
    if job is not None and class_name not in ("", job.class_name):
        raise ValueError(f"class_name {class_name!r} is not the job's {job.class_name!r}: leave it empty")
    class_name = job.class_name if job else class_name
    check_class_names(job.classes if job else (class_name,))
    check_images(images, f"job {job.index} ({class_name})" if job else f"class {class_name!r}")
    transforms = _per_image(transform, len(images))
    folder = dataset_folder(output, dataset_name)
    for kind in (ACCEPTED, REJECTED):
        inside(output, f"{dataset_name}/{kind}/{class_name}")
    verdicts = rule.judge(images, class_name, classifier)
    pictures = [encode_image(image, image_format, metadata) for image in images]
    check()
    manifest = open_manifest(folder)
    classes = _start(manifest, class_name, job)
    rows, outcomes = [], []
    for i, (data, verdict) in enumerate(zip(pictures, verdicts, strict=True)):
        check()
        key, index = (job.key, i) if job else (_content_key(class_name, images[i]), 0)
        kinds = (ACCEPTED, REJECTED) if verdict.accepted else (REJECTED, ACCEPTED)
        file, other = (f"{kind}/{class_name}/{key[:16]}-{index}{SUFFIXES[image_format]}" for kind in kinds)
        row = {"key": key, "index": index, "file": file, "class_name": class_name}
        row |= {"label": classes.index(class_name) if classes else None, **asdict(verdict)}
        row |= {**_provenance(job), "transform": transforms[i], "guidance": guidance}
        row["created"] = datetime.now(timezone.utc).isoformat(timespec="seconds")
        outcomes.append(manifest.write(row, data, replace, stale=(other,)))
        rows.append(manifest.get(key, index))
    return Report(folder, class_name, tuple(rows), tuple(outcomes))


def is_complete(output: str | Path, dataset_name: str) -> bool:
    """Whether the dataset exists and every image of its manifest is there."""
    manifest = open_manifest(dataset_folder(output, dataset_name))
    manifest.refresh()
    return bool(manifest.rows()) and not manifest.missing()


@functools.lru_cache(maxsize=8)
def open_manifest(folder: Path) -> Manifest:
    """The manifest of a dataset folder; kept, so that a growing file is read only once."""
    return Manifest(folder)


def dataset_folder(output: str | Path, dataset_name: str) -> Path:
    """``output/dataset_name``, may be nested. ValueError when it leads out or is no portable name."""
    folder = inside(output, dataset_name)
    for part in dataset_name.split("/"):
        if flaw := name_flaw(part):
            raise ValueError(f"dataset_name {dataset_name!r} {flaw}: choose another name")
    return folder


def check_images(images: Tensor, name: str) -> None:
    """ValueError, naming ``name``, unless images is a non-empty finite float [B, H, W, 3]."""
    if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[-1] != 3 or not images.is_floating_point():
        shape = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(f"Images of {name} must be float [batch, height, width, 3], got {shape}")
    if 0 in images.shape:
        raise ValueError(f"No images for {name}: got an empty batch {tuple(images.shape)}")
    for i, image in enumerate(images):
        if not torch.isfinite(image).all():
            raise ValueError(f"Image {i} of {name} has NaN or infinite pixels: nothing was written")


def encode_image(image: Tensor, image_format: str = "png", metadata: Mapping[str, str] | None = None) -> bytes:
    """image [H, W, 3] in 0..1 -> file content; ``metadata`` is for PNG only."""
    if image_format not in SUFFIXES:
        raise ValueError(f"image_format must be one of {', '.join(SUFFIXES)}, got {image_format!r}")
    picture = Image.fromarray(_bytes(image))
    if image_format == "jpeg":
        options = {"format": "JPEG", "quality": 95, "subsampling": 0}
    elif image_format == "png":
        options = {"format": "PNG", "compress_level": 4, "pnginfo": _png_text(metadata)}
    else:
        options = {"format": "WEBP", "quality": 95, "lossless": image_format == "webp lossless"}
    buffer = io.BytesIO()
    picture.save(buffer, **options)
    return buffer.getvalue()


def _start(manifest: Manifest, class_name: str, job: Job | None) -> list[str] | None:
    info = manifest.info()
    if job is None and info and info["classes"] and class_name not in info["classes"]:
        known = ", ".join(info["classes"][:10])
        raise ValueError(f"Dataset {manifest.folder.name!r} has no class {class_name!r}: it has {known}")
    return manifest.start(job.classes if job else None)["classes"]


def _provenance(job: Job | None) -> dict:
    names = ("seed", "prompt", "source", "contour_source", "replica")
    return {name: getattr(job, name, None) for name in names} | {"plan_index": getattr(job, "index", None)}


def _per_image(transform: Sequence[Mapping] | None, count: int) -> list[object]:
    entries = list(transform or [None])
    if len(entries) not in (1, count):
        raise ValueError(f"Got {len(entries)} transforms for {count} images: give one, or one for each image")
    return entries * count if len(entries) == 1 else entries


def _bytes(image: Tensor) -> np.ndarray:
    return (image.detach().float().clamp(0, 1) * 255).round().to("cpu", torch.uint8).numpy()


def _content_key(class_name: str, image: Tensor) -> str:
    digest = hashlib.sha256(canonical_json([class_name, list(image.shape)]).encode())
    digest.update(_bytes(image).tobytes())
    return digest.hexdigest()


def _png_text(metadata: Mapping[str, str] | None) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    for name, text in (metadata or {}).items():
        info.add_text(name, text)
    return info
