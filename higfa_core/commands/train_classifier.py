"""`higfa train-classifier`: train and calibrate an image classifier, and on request a judge, with timm on a folder of
labelled images."""

from __future__ import annotations

import argparse
import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from ..files.atomic import write_atomic
from ..sources.options import layout_of
from ..training.data import read_labelled
from ..training.outputs import Trained, checkpoint_of, summary, train_files
from ..training.settings import TrainOptions, TrainSettings
from .options import add_options
from .progress import CountView
from .shell import INTERRUPTED, Parser, command
from .source_options import add_source_arguments


@command(
    lower="--batch-size or --image-size",
    safe="An earlier file of that name is as it was; what is trained so far continues with --resume.",
)
def main(argv: Sequence[str] | None = None) -> int:
    args = _parse(argv)
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    logging.getLogger("higfa_core").setLevel(logging.INFO)
    try:
        with _interrupt() as check:
            trained = _train(args, check)
    except KeyboardInterrupt:
        kept = checkpoint_of(args.out)
        print(f"Interrupted. Add --resume to resume ({kept})." if kept.exists() else "Interrupted.", file=sys.stderr)
        return INTERRUPTED
    print(summary(trained))
    if args.plots:
        for one in trained:
            _save_plots(one)
    return 0


def _train(args: argparse.Namespace, check: Callable[[], None]) -> list[Trained]:
    from tqdm.contrib.logging import logging_redirect_tqdm

    device = _device(args.device)
    settings = TrainSettings.pick(vars(args))
    judge = {"judge": args.judge is not None, "judge_arch": args.judge}
    workers = _workers(device) if args.workers is None else args.workers
    options = TrainOptions.pick({**vars(args), **judge, "workers": workers})
    labelled = read_labelled(args.folder, options.validation_share, follow_links=True, **layout_of(vars(args)))
    with CountView("training") as view, logging_redirect_tqdm():
        return train_files(labelled, settings, args.out, options, progress=view, check=check, device=device)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser(
        "train-classifier",
        about=__doc__,
        epilog="0 means: chosen for you. Ctrl-C stops after the current step or image and keeps the best weights so "
        "far; --resume continues.",
    )
    add = parser.add_argument
    add("folder", type=Path, help="folder/<class>/<image>, or folder/train and folder/val; test is never read")
    add_source_arguments(parser)
    add("--out", type=Path, required=True, help="the classifier's .safetensors file")
    add_options(parser, TrainSettings)
    add_options(parser, TrainOptions, "validation_share", "keep_split")
    add("--judge", nargs="?", const="", metavar="ARCH", help="also train an independent judge, with this architecture")
    add_options(parser, TrainOptions, "resume", "overwrite", resume=False)
    add("--plots", action="store_true", help="save curves, confusion matrix and reliability diagram beside the file")
    add("--device", default="", help="cuda, mps or cpu; by default the best available")
    add_options(parser, TrainOptions, "workers", unset="by device and system")
    return parser.parse_args(argv)


@contextmanager
def _interrupt():
    """A callback that raises KeyboardInterrupt after the first Ctrl-C (or SIGTERM, as batch systems send before their
    time limit); the second one stops at once."""
    asked = threading.Event()

    def ask(number, frame):
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()

    def check() -> None:
        if asked.is_set():
            raise KeyboardInterrupt

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield check
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _device(name: str) -> torch.device:
    name = name or _best_device()
    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError) as error:  # torch: AssertionError for a GPU it was not built for
        reason = str(error).partition("\n")[0]
        raise ValueError(f"Cannot train on device {name!r} ({reason}). Choose another, such as cpu.") from error
    return torch.device(name)


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _workers(device: torch.device) -> int:
    """On a CPU the network itself needs the cores; processes are cheap only on Linux."""
    if device.type == "cpu" or sys.platform != "linux":
        return 0
    return min(8, max(0, (os.cpu_count() or 1) - 1))


def _save_plots(one: Trained) -> None:
    from PIL import Image

    for name, image in one.plots().items():
        path, buffer = one.path.with_suffix(f".{name}.png"), io.BytesIO()
        Image.fromarray((image[0] * 255).round().byte().numpy()).save(buffer, "PNG")
        write_atomic(path, buffer.getvalue())
        print(f"plot         {path}")


if __name__ == "__main__":
    sys.exit(main())
