"""Train a classifier on labelled images with timm, and calibrate it.

One recipe serves 5 images per class as well as 5,000: its length follows from the number of images, the weights are
averaged over the run, and the best of about forty evaluations on held-out images decides which are kept.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..classifier.calibrate import Calibration, calibrate
from ..classifier.model import FineGrainedClassifier
from ..wording import counted
from . import init
from .data import LabelledSet
from .loaders import Augmented, CachedImages, HeldOut, Stream, mixed_seed, seeded, training_batches
from .loop import Evaluation, Loop
from .settings import TrainSettings

log = logging.getLogger(__name__)
Progress = Callable[[int, int], None]  # done, total


@dataclass(frozen=True)
class TrainResult:
    """The outcome of a run.

    `settings` are resolved; `logits` [N, K] and `labels` [N] are those of the held-out images, `confusion` [K, K]
    counts them (rows are the true classes). `calibration` is None and `accuracy` NaN when none was held out, or
    none has been evaluated yet. `stopped` says why the run ended before its last step, else "".
    """

    classifier: FineGrainedClassifier
    settings: TrainSettings
    history: tuple[Evaluation, ...]
    best_step: int
    logits: Tensor
    labels: Tensor
    calibration: Calibration | None
    train_images: int
    held_out: tuple[Path, ...]
    stopped: str = ""

    @property
    def accuracy(self) -> float:
        return float((self.logits.argmax(1) == self.labels).double().mean())

    @property
    def confusion(self) -> Tensor:
        k = len(self.classifier.class_names)
        return torch.bincount(self.labels * k + self.logits.argmax(1), minlength=k * k).view(k, k)

    def metadata(self) -> dict[str, str]:
        """Facts for the classifier's file, the same for the same run."""
        training = {**self.settings.facts(), "train_images": self.train_images, "best_step": self.best_step}
        facts = {"training": json.dumps(training)}
        if self.calibration:
            facts["validation_size"] = str(self.calibration.images)
            facts["validation_accuracy"] = repr(self.accuracy)
            facts["ece_before"] = repr(self.calibration.ece_before)
            facts["ece_after"] = repr(self.calibration.ece_after)
        return facts


def train(
    labelled: LabelledSet,
    settings: TrainSettings,
    progress: Progress | None = None,
    check: Callable[[], None] | None = None,
    checkpoint: str | os.PathLike | None = None,
    keep: Callable[[TrainResult], None] | None = None,
    device: torch.device | str = "cpu",
    workers: int = 0,
) -> TrainResult:
    """Train, keep the best weights, calibrate them.

    The same images, settings and machine give the same weights, whatever `workers` is (processes that prepare images)
    and however often the run is interrupted and resumed. On a GPU this holds as far as PyTorch has deterministic
    kernels. ValueError, before training starts, for what cannot be trained.

    Args:
        progress: `progress(done, total)` for each image read, then for each step.
        check: called for each image read, before each step and between the batches of an evaluation; raises to
            interrupt.
        checkpoint: file to resume from if it exists, written now and then and at the end, never deleted.
            ValueError when it belongs to other images or settings.
        keep: called with the best result so far before an exception (of `check`, say) propagates.
        device: where to train. The classifier ends up on the CPU.
    """
    device = torch.device(device)
    with torch.inference_mode(False), torch.enable_grad(), _deterministic(device):
        run = _Run(labelled, settings, progress or _nothing, check or _nothing, device)
        run.prepare(None if checkpoint is None else Path(checkpoint))
        try:
            stopped = run.advance(workers)
        except BaseException:  # a cancelled run as well; re-raised below
            if run.loop.resting:
                run.save()
            if keep and run.loop.step:
                keep(run.result("interrupted"))
            raise
        run.save()
        return run.result(stopped)


def training_key(labelled: LabelledSet, settings: TrainSettings) -> str:
    """A value that changes with anything that changes the result."""
    sides = [
        [(item.path.as_posix(), item.path.stat().st_size, *item[1:]) for item in side]
        for side in (labelled.train, labelled.validation)
    ]
    text = json.dumps([settings.facts() | init.digest(settings), labelled.class_names, sides, torch.__version__])
    return hashlib.sha256(text.encode()).hexdigest()


class _Run:
    """The state of one call of `train`."""

    def __init__(
        self,
        labelled: LabelledSet,
        settings: TrainSettings,
        progress: Progress,
        check: Callable[[], None],
        device: torch.device,
    ):
        self.labelled, self.progress, self.check, self.device = labelled, progress, check, device
        self.settings = init.resolved(settings).resolved(len(labelled.train))
        self.key = training_key(labelled, self.settings)

    def prepare(self, checkpoint: Path | None) -> None:
        s, names = self.settings, self.labelled.class_names
        with seeded(mixed_seed(s.seed, 0)):
            module, kwargs, preprocess = init.build(s, names)
        self.loop = Loop(module, s, self.labelled.counts(), self.device)
        average = self.loop.average.module
        self.classifier = FineGrainedClassifier(average, names, preprocess, arch=s.arch, model_kwargs=kwargs)
        self.checkpoint = checkpoint
        if checkpoint and checkpoint.is_file():
            self.loop.load(checkpoint, self.key)
            log.info("resumed after step %d of %d", self.loop.step, s.steps)
        self._read_images(2 * max(preprocess.input_size))

    def advance(self, workers: int) -> str:
        s, labels = self.settings, [item.label for item in self.labelled.train]
        images = Augmented(self.images, labels, s, self.classifier.preprocessing)
        stream = Stream(len(images), s.batch_size, s.seed, self.loop.step, s.steps)
        batches = training_batches(images, stream, workers)
        return self.loop.advance(batches, self.held_out, self.progress, self.check, self.save)

    def save(self) -> None:
        if self.checkpoint:
            self.loop.save(self.checkpoint, self.key)

    def result(self, stopped: str) -> TrainResult:
        best, k = self.loop.best, len(self.labelled.class_names)
        if best:
            self.classifier.module.load_state_dict(best.weights)
        self.classifier.module.to("cpu").to(memory_format=torch.contiguous_format)
        logits, labels = (best.logits, self.held_out.labels) if best else (torch.zeros(0, k), torch.zeros(0).long())
        calibration = calibrate(logits, labels) if best else None
        self.classifier.temperature = calibration.temperature if calibration else 1.0
        return TrainResult(
            classifier=self.classifier,
            settings=self.settings,
            history=tuple(self.loop.history),
            best_step=best.step if best else self.loop.step,
            logits=logits,
            labels=labels,
            calibration=calibration,
            train_images=len(self.labelled.train),
            held_out=tuple(item.path for item in self.labelled.validation),
            stopped=stopped,
        )

    def _read_images(self, side: int) -> None:
        """Read all files once, to find a damaged one before training starts."""
        train, held_out = self.labelled.train, self.labelled.validation
        total = len(train) + len(held_out)

        def seen(done: int) -> None:
            self.progress(done, total)
            self.check()

        self.images = CachedImages(train, side, seen)
        self.held_out = HeldOut(held_out, self.classifier.preprocessing, self.settings.batch_size)
        done = len(train)
        for batch in self.held_out:
            done += len(batch)
            seen(done)
        log.info("read %s", counted(total, "image"))


@contextmanager
def _deterministic(device: torch.device):
    """Deterministic kernels where PyTorch has them."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    benchmark = torch.backends.cudnn.benchmark
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
    # The gradient of CUDA's fused attention is deterministic only without warn_only, which refuses too much else.
    attention = sdpa_kernel(SDPBackend.MATH) if device.type == "cuda" else nullcontext()
    try:
        with attention:
            yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        torch.backends.cudnn.benchmark = benchmark


def _nothing(*_) -> None:
    pass
