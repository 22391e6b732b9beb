"""From the index of a job, or its JSON, to the job and the pixels it starts from."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..files.images import load_image, load_mask
from ..files.paths import fingerprint, inside, refuse_held_out
from ..sources.layouts import read_dataset
from ..sources.options import layout_of
from ..sources.source import Box, SourceDataset, load_source
from .plan import Job, Plan
from .plan_file import PlanFile
from .prompts import Prompts
from .settings import PlanSettings


def pick_jobs(
    input_folder: str | Path,
    dataset: str,
    index: int,
    batch: int = 1,
    layout: Mapping[str, str] | None = None,
    **options,
) -> tuple[list[Job], int]:
    """The jobs of batch `index` of the plan over `input_folder/dataset`, and the number of batches.

    `batch`: jobs in each, except that the last may have fewer. `layout`: how to read the dataset, in the form that
    `..sources.layouts.read_dataset` takes. `options` are those of `PlanSettings`.
    """
    plan = _plan(input_folder, dataset, layout or {}, PlanSettings(**options))
    count = math.ceil(len(plan) / batch)
    if not 0 <= index < count:
        what = "job" if batch == 1 else f"batch of {batch} jobs with index"
        raise ValueError(f"No {what} {index} in {dataset!r}. Use 0 to {count - 1}.")
    return [plan[i] for i in range(index * batch, min(len(plan), (index + 1) * batch))], count


def pick_planned(
    input_folder: str | Path, plan_folder: str | Path, index: int, batch: int = 1
) -> tuple[list[Job], int, dict[str, str]]:
    """The jobs of batch `index` of the plan that `higfa plan` wrote into `plan_folder`, and the number of batches.

    The last value is the layout and its options with which the images were read, for `load_job`.
    """
    plan = PlanFile(plan_folder)
    root = plan.header["dataset"]["root"]
    if not Path(input_folder, plan.header["dataset"]["name"]).is_dir():
        outside = f"The plan's images are in {root}, outside ComfyUI's input folder"
        raise ValueError(f"{outside}. Move them there, or use higfa run.")
    count = math.ceil(len(plan) / batch)
    jobs = [plan.job(i) for i in range(index * batch, min(len(plan), (index + 1) * batch))]
    return jobs or [plan.job(index * batch)], count, layout_of(plan.header["options"])


def load_job(input_folder: str | Path, job: Job, **layout: str) -> tuple[Job, Tensor, Tensor | None]:
    """The job with its image's size and mask file, that image [1, H, W, 3] and the object [1, H, W]: its mask, else
    its box; None where the dataset has neither.

    `layout`: how to read the dataset, in the form that `..sources.layouts.read_dataset` takes.
    """
    if job.image_file:
        image = load_image(inside(input_folder, job.image_file))
        mask = load_mask(inside(input_folder, job.mask_file), *image.shape[1:3]) if job.mask_file else None
    else:
        root = inside(input_folder, job.dataset)
        source = _read(root, fingerprint(root), **layout).by_path.get(job.contour_source)
        if source is None:
            where = f"No training image {job.contour_source!r} in {root}"
            raise ValueError(f"{where}. Was it moved, or held out (held_out.txt) since it was planned?")
        inside(root, source.path)
        image, mask = load_source(root, source)
        job = replace(job, mask_file=f"{job.dataset}/{source.mask}" if source.mask else "")
    height, width = image.shape[1:3]
    if mask is None and job.box:
        mask = _box_mask(job.box, height, width)
    return replace(job, size=(width, height)), image, mask


def _box_mask(box: Box, height: int, width: int) -> Tensor:
    x, y, w, h = box
    mask = torch.zeros(1, height, width)
    mask[:, max(0, math.floor(y)) : math.ceil(y + h), max(0, math.floor(x)) : math.ceil(x + w)] = 1
    return mask


def _plan(input_folder: str | Path, dataset: str, layout: Mapping[str, str], settings: PlanSettings) -> Plan:
    refuse_held_out(*dataset.split("/"))
    root = inside(input_folder, dataset)
    if not root.is_dir():
        read_dataset(root)  # raises with the reason
    return _kept_plan(root, dataset, fingerprint(root), tuple(layout.items()), settings)


@functools.lru_cache(maxsize=4)
def _kept_plan(root: Path, name: str, version: str, layout: tuple[tuple[str, str], ...], s: PlanSettings) -> Plan:
    found = _read(root, version, **dict(layout))
    return Plan(found, s.replicas, Prompts((s.prompt_template,)), s.plan_seed, s.contour_from, name)


@functools.lru_cache(maxsize=4)
def _read(root: Path, version: str, **layout: Any) -> SourceDataset:
    return read_dataset(root, **layout)
