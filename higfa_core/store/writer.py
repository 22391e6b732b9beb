"""Images in memory -> a dataset folder that torchvision's ImageFolder reads, with one manifest row per image.

Layout: `<dataset>/train/<class>/<key>-<i>.png` (accepted), `<dataset>/rejected/<class>/...`,
`<dataset>/masks/<class>/...` where a mask is given, `<dataset>/manifest.jsonl` and `<dataset>/dataset.json`
(the class list, which defines the labels).
"""

from __future__ import annotations

import functools
import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, PngImagePlugin
from torch import Tensor

from ..contour import TransformParams, fit_boxes, fit_plane, transform_boxes
from ..files.hashes import canonical_json
from ..files.names import matching_key
from ..files.opening import LEAST_SIDE
from ..files.paths import check_class_names, folder_name, inside, name_flaw
from ..plans.plan import Job
from ..plans.rules import Rules
from ..plans.workflow import image_key
from ..wording import counted
from .manifest import Manifest
from .rows import ACCEPTED, MASKS, REJECTED
from .scores import Classifier, classifier_scores, image_scores, to_bytes

SUFFIXES = {"png": ".png", "jpeg": ".jpg", "webp": ".webp", "webp lossless": ".webp"}


@dataclass(frozen=True)
class Report:
    """What one export did: the current manifest rows of its images, and the outcome of each write."""

    folder: Path
    class_name: str
    rows: tuple[dict, ...]
    outcomes: tuple[str, ...]

    @property
    def written(self) -> int:
        """How many images of this call were new or replaced older ones."""
        return sum(outcome in ("written", "replaced") for outcome in self.outcomes)

    @property
    def accepted(self) -> int:
        """How many images of this call are in the training set."""
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
    judge: Classifier | None = None,
    contour: Tensor | None = None,
    mask: Tensor | None = None,
    rules: Rules = Rules(),
    transform: Sequence[Mapping] | None = None,
    guidance: object = None,
    noise: Sequence[tuple[int, int]] | None = None,
    together: int | None = None,
    given_up: Sequence[float | None] = (),
    workflow: str = "",
    versions: Mapping[str, str] | None = None,
    image_format: str = "png",
    metadata: Mapping[str, str] | None = None,
    replace: bool = False,
    check: Callable[[], None] = lambda: None,
) -> Report:
    """Write images [B, H, W, 3] in 0..1 into the dataset `output/dataset_name`.

    The class comes from `job` or, without one, from `class_name`; without a job, an image is identified by its content
    and the dataset has no fixed labels. `contour` [1 or B, h, w, 3] and `mask` [1 or B, h, w] belong to the images;
    agreement is measured inside the mask. A mask from a file is stored, and gives the box if the job has none.
    `transform` holds one entry, or one per image; it, `guidance` and `versions` (plain values) go into the rows,
    `metadata` into PNG text chunks. `noise`: for each image the seed of its noise and its place in the batch that the
    seed draws, for the row and the text chunks. `together`: how many images were sampled in one batch. `given_up`: the
    probability of each image that the sampler did not finish, which is rejected whatever the rules; None for the
    others. `workflow`: the `..workflow.digest` of what made the images. `check` is called before each file and may
    raise to stop. All input is checked before the first write (ValueError).
    """
    if job is not None and class_name and matching_key(class_name) != matching_key(job.class_name):
        raise ValueError(f"class_name {class_name!r} is not the job's {job.class_name!r}. Leave it empty.")
    class_name = job.class_name if job else class_name
    check_class_names(job.classes if job else (class_name,))
    check_images(images, f"job {job.index} ({class_name})" if job else f"class {class_name!r}")
    count = len(images)
    transforms, contours = _per_image(transform, count, "transforms"), _per_image(contour, count, "contours")
    objects = [_fitted(one, images.shape) for one in _per_image(mask, count, "masks")]
    # Without a mask file, Dataset Job gives the box or the whole image, neither of which is a mask to train on.
    masks = objects if job is None or job.mask_file else [None] * count
    folder = dataset_folder(output, dataset_name)
    place = folder_name(class_name)
    for kind in (ACCEPTED, REJECTED, MASKS):
        inside(output, f"{dataset_name}/{kind}/{place}")
    pixels = [to_bytes(image) for image in images]
    scores = [image_scores(*parts) for parts in zip(images, contours, objects, pixels, strict=True)]
    for prefix, network in (("", classifier), ("judge_", judge)):
        if network is not None:
            for row, found in zip(scores, classifier_scores(images, class_name, network, prefix), strict=True):
                row.update(found)
    for row, chance in zip(scores, given_up or [None] * count, strict=True):
        row.update({} if chance is None else {"given_up": chance})
    verdicts = [rules.judge(row) for row in scores]
    drawn = [{"noise_seed": seed, "noise_index": index} for seed, index in noise] if noise else [{}] * count
    texts = [{**metadata, **({"higfa": canonical_json(one)} if one else {})} if metadata else None for one in drawn]
    pictures = [encode_image(part, image_format, text) for part, text in zip(pixels, texts, strict=True)]
    check()
    manifest = open_manifest(folder)
    classes = _start(manifest, class_name, job)
    rows, outcomes = [], []
    for i, (data, verdict) in enumerate(zip(pictures, verdicts, strict=True)):
        check()
        key = image_key(job.key, workflow) if job else _content_key(class_name, images[i])
        index = i if job else 0
        kinds = (ACCEPTED, REJECTED) if verdict.accepted else (REJECTED, ACCEPTED)
        file, other = (f"{kind}/{place}/{key[:16]}-{index}{SUFFIXES[image_format]}" for kind in kinds)
        row = {"key": key, "index": index, "batch": count if job else 1, "file": file, "class_name": class_name}
        row |= {"label": classes.index(class_name) if classes else None}
        row |= {"accepted": verdict.accepted, "reason": verdict.reason, "scores": scores[i], "rules": rules.given()}
        row |= {"width": images.shape[2], "height": images.shape[1], **_provenance(job), "workflow": workflow}
        row |= {"box": _box(job, transforms[i], masks[i], images.shape), "mask": None}
        row |= {"transform": transforms[i], "guidance": guidance, "versions": dict(versions or {}), **drawn[i]}
        row |= {"sampled_together": together} if together else {}
        row["created"] = datetime.now(timezone.utc).isoformat(timespec="seconds")
        extra = {}
        if (own := masks[i]) is not None:
            row["mask"] = f"{MASKS}/{place}/{key[:16]}-{index}.png"
            extra[row["mask"]] = _encode_mask(own)
        outcomes.append(manifest.write(row, data, replace, stale=(other,), extra=extra))
        rows.append(manifest.get(key, index))
    return Report(folder, class_name, tuple(rows), tuple(outcomes))


def is_complete(output: str | Path, dataset_name: str) -> bool:
    """Whether the dataset exists with every image of its manifest."""
    manifest = open_manifest(dataset_folder(output, dataset_name))
    manifest.refresh()
    return len(manifest) > 0 and not manifest.missing()


@functools.lru_cache(maxsize=8)
def open_manifest(folder: Path) -> Manifest:
    """The manifest of a dataset folder; cached, so that a growing file is read only once."""
    return Manifest(folder)


def dataset_folder(output: str | Path, dataset_name: str) -> Path:
    """`output/dataset_name`, possibly nested. ValueError when it leaves `output` or is not portable."""
    folder = inside(output, dataset_name)
    for part in dataset_name.split("/"):
        if flaw := name_flaw(part):
            raise ValueError(f"dataset_name {dataset_name!r} {flaw}. Choose another name.")
    return folder


def check_images(images: Tensor, name: str) -> None:
    """ValueError, naming `name`, unless images is a non-empty finite float [B, H, W, 3]."""
    if not isinstance(images, Tensor) or images.ndim != 4 or images.shape[-1] != 3 or not images.is_floating_point():
        shape = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise ValueError(f"Images of {name} must be float [batch, height, width, 3], got {shape}")
    if 0 in images.shape:
        raise ValueError(f"No images for {name}: got an empty batch {tuple(images.shape)}")
    if min(images.shape[1:3]) < LEAST_SIDE:
        size = f"{images.shape[2]} x {images.shape[1]}"
        raise ValueError(f"Images of {name} have {size} pixels. Give images of at least {LEAST_SIDE} x {LEAST_SIDE}.")
    for i, image in enumerate(images):
        # The sum is many times faster; only a sum that is not finite needs the full check.
        if not image.sum(dtype=torch.float32).isfinite() and not torch.isfinite(image).all():
            raise ValueError(f"Image {i} of {name} has NaN or infinite pixels. Nothing was written.")


def encode_image(
    image: Tensor | np.ndarray, image_format: str = "png", metadata: Mapping[str, str] | None = None
) -> bytes:
    """image [H, W, 3], in 0..1 or uint8, -> file content; `metadata` is for PNG only."""
    if image_format not in SUFFIXES:
        raise ValueError(f"image_format must be one of {', '.join(SUFFIXES)}, got {image_format!r}")
    pixels = to_bytes(image) if isinstance(image, Tensor) else image
    if image_format == "png" and not metadata:
        return _quick_png(pixels)
    if image_format == "jpeg":
        options = {"format": "JPEG", "quality": 95, "subsampling": 0}
    elif image_format == "png":
        options = {"format": "PNG", "compress_level": 4, "pnginfo": _png_text(metadata)}
    else:
        options = {"format": "WEBP", "quality": 95, "lossless": image_format == "webp lossless"}
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, **options)
    return buffer.getvalue()


def _quick_png(pixels: np.ndarray) -> bytes:
    # On photographs a quarter of the time of Pillow's level 4 at the same size: benchmarks/dataset.py.
    options = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
    if hasattr(cv2, "IMWRITE_PNG_FILTER"):  # since OpenCV 4.11
        options += [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_SUB]
    return cv2.imencode(".png", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), options)[1].tobytes()


def _start(manifest: Manifest, class_name: str, job: Job | None) -> list[str] | None:
    info = manifest.info()
    if job is None and info and info["classes"] and class_name not in info["classes"]:
        known = ", ".join(info["classes"][:10])
        raise ValueError(f"Dataset {manifest.folder.name!r} has no class {class_name!r}: it has {known}")
    return manifest.start(job.classes if job else None)["classes"]


def _provenance(job: Job | None) -> dict:
    names = ("seed", "prompt", "source", "contour_source", "replica", "dataset")
    found = {name: getattr(job, name, None) for name in names}
    return found | {"plan_index": getattr(job, "index", None), "job_key": getattr(job, "key", None)}


def _per_image(entries: Sequence | Tensor | None, count: int, name: str) -> list:
    entries = [None] if entries is None or len(entries) == 0 else list(entries)
    if len(entries) not in (1, count):
        raise ValueError(f"Got {len(entries)} {name} for {counted(count, 'image')}. Give one, or one per image.")
    return entries * count if len(entries) == 1 else entries


def _box(job: Job | None, transform: Mapping | None, mask: Tensor | None, shape: Sequence[int]) -> list | None:
    """(x, y, width, height) of the object in pixels of the image; None when it is unknown, or entirely outside."""
    if job is not None and job.box and job.size:
        x, y, w, h = job.box
        corners, size = np.array([[x, y, x + w, y + h]]), (job.size[1], job.size[0])
        if transform:
            params = TransformParams.from_dict(dict(transform))
            corners = fit_boxes(corners, size, params.source_size)
            corners, size = transform_boxes(corners, params).numpy(), (params.height, params.width)
        (corners,) = fit_boxes(corners, size, (shape[1], shape[2]))
    elif mask is not None and mask.any() and not mask.all():
        ys, xs = mask.nonzero(as_tuple=True)
        corners = xs.min(), ys.min(), xs.max() + 1, ys.max() + 1
    else:
        return None
    x0, y0, x1, y1 = (round(float(v), 2) for v in corners)
    return [x0, y0, round(x1 - x0, 2), round(y1 - y0, 2)] if x1 > x0 and y1 > y0 else None


def _fitted(mask: Tensor | None, shape: Sequence[int]) -> Tensor | None:
    """The mask [H, W] of an image, True on the object."""
    if mask is None:
        return None
    return torch.from_numpy(fit_plane(mask.detach().float().cpu().numpy(), shape[1], shape[2]) > 0.5)


def _encode_mask(mask: Tensor) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(mask.byte().numpy() * 255, "L").save(buffer, "PNG")
    return buffer.getvalue()


def _content_key(class_name: str, image: Tensor) -> str:
    digest = hashlib.sha256(canonical_json([class_name, list(image.shape)]).encode())
    digest.update(to_bytes(image).tobytes())
    return digest.hexdigest()


def _png_text(metadata: Mapping[str, str] | None) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    for name, text in (metadata or {}).items():
        info.add_text(name, text)
    return info
