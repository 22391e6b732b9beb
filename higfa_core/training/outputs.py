"""From a labelled set to classifier files: the guide, optionally the judge, their calibration and plots."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ..files.held import remove_left_parts
from ..sources import held_out
from ..wording import counted
from . import backbone, init, plots
from .data import LabelledSet
from .judge import GUIDE, JUDGE, judge_settings
from .settings import TrainOptions, TrainSettings
from .trainer import Progress, TrainResult, train

log = logging.getLogger(__name__)
SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Trained:
    """A run, its role and the file it was saved as."""

    role: str
    path: Path
    result: TrainResult

    def plots(self) -> dict[str, Tensor]:
        """Images [1, H, W, 3] of one size by name; see `.plots`."""
        return plots.plots(self.result, f"{self.role}: {self.result.settings.arch}")


def train_files(
    labelled: LabelledSet,
    settings: TrainSettings,
    out: Path,
    options: TrainOptions = TrainOptions(resume=False),
    progress: Progress | None = None,
    check: Callable[[], None] | None = None,
    device: torch.device | str = "cpu",
) -> list[Trained]:
    """Train and save `out`, and with `options.judge` `<stem>.judge.safetensors` on the same images.

    With `options.keep_split`, images held out by share are listed in their folder when a classifier is saved, so that
    none becomes a source.
    `check` raises to interrupt. If all images have been read by then, the best classifier so far is saved as
    `<stem>.partial.safetensors`, `options.resume` can continue the run, and the exception propagates.
    Settings and names are checked before the first image is read. See `train` for the rest.
    """

    def save(result: TrainResult, path: Path, role: str) -> None:
        _save(result, path, role)
        if options.keep_split and (listed := labelled.keep_split()):
            log.info("listed the held-out images in %s: they will not become sources", listed)

    settings = init.resolved(settings)
    plan = [(GUIDE, out, settings)]
    if options.judge:
        plan.append((JUDGE, _sibling(out, JUDGE), judge_settings(settings, options.judge_arch)))
    for folder in (out.parent, labelled.root):  # a training that was killed may have been writing there
        remove_left_parts(folder)
    _refuse_names(out, [path for _, path, _ in plan], options.overwrite, options.resume)
    for _, _, wanted in plan:
        if not wanted.init:
            backbone.check(wanted.arch, len(labelled.class_names), wanted.pretrained, wanted.image_size)
    if options.keep_split and labelled.to_list:
        held_out.refuse_read_only(labelled.root)
    done = []
    for role, path, wanted in plan:
        log.info("training the %s %s: %s", role, path.name, wanted.arch)
        partial = _sibling(path, "partial")
        result = train(
            labelled,
            wanted,
            progress=progress,
            check=check,
            checkpoint=_fresh(checkpoint_of(path), options.resume),
            keep=lambda best, role=role, partial=partial: save(best, partial, f"partial {role}"),
            device=device,
            workers=options.workers,
        )
        save(result, path, role)
        partial.unlink(missing_ok=True)
        done.append(Trained(role, path, result))
    for _, path, _ in plan:
        checkpoint_of(path).unlink(missing_ok=True)
    return done


def checkpoint_of(path: Path) -> Path:
    """Where an unfinished run for `path` is kept, with a suffix that ComfyUI does not list as a model."""
    return path.with_suffix(".training")


def summary(trained: list[Trained]) -> str:
    """What was trained, as aligned text."""
    return "\n".join(line for one in trained for line in _lines(one))


def _lines(one: Trained) -> list[str]:
    r = one.result
    steps = f"step {r.best_step} of {r.settings.steps}" + (f" ({r.stopped})" if r.stopped else "")
    lines = [f"{one.role:<13}{one.path.name}: {r.settings.arch}, {counted(len(r.classifier.class_names), 'class')}"]
    if r.calibration:  # what one looks for first
        right = int((r.logits.argmax(1) == r.labels).sum())
        lines.append(f"{'accuracy':<13}{r.accuracy:.1%} of the held-out images ({right} of {len(r.labels)})")
    lines += [
        f"{'images':<13}{r.train_images} for training, {len(r.held_out)} held out",
        f"{'weights':<13}{steps}",
    ]
    if start := init.words(r.settings, r.classifier.class_names):
        lines.append(f"{'started from':<13}{start}")
    if not r.calibration:
        return [*lines, f"{'calibration':<13}none: no image was held out, so the temperature stays 1"]
    return [*lines, f"{'calibration':<13}{r.calibration.summary()}"]


def _refuse_names(out: Path, paths: list[Path], overwrite: bool, resume: bool) -> None:
    if out.suffix != SUFFIX:
        raise ValueError(f"Classifiers are saved as {SUFFIX}, got '{out.name}'. Choose a name with that suffix.")
    for path in paths:
        finished = resume and checkpoint_of(path).is_file()  # the guide is done, its judge is not
        if path.exists() and not (overwrite or finished):
            raise FileExistsError(f"{path} exists. Choose another name, or allow overwriting.")


def _sibling(path: Path, word: str) -> Path:
    return path.with_name(f"{path.stem}.{word}{SUFFIX}")


def _fresh(checkpoint: Path, resume: bool) -> Path:
    if not resume:
        checkpoint.unlink(missing_ok=True)
    return checkpoint


def _save(result: TrainResult, path: Path, role: str) -> None:
    result.classifier.source = path.name
    result.classifier.save(path, extra={**result.metadata(), "role": role})
    log.info("saved %s", path)
