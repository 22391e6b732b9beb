"""`higfa train-classifier`: a classifier, and a judge if wanted, from a folder of labelled images."""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import torch

from ..sources.options import layout_of
from ..training.data import read_labelled
from ..training.outputs import Trained, checkpoint_of, summary, train_files
from ..training.settings import TrainOptions, TrainSettings
from .main import failure
from .options import add_options
from .source_options import add_source_arguments

INTERRUPTED = 130


def main(arguments: list[str], prog: str = "higfa train-classifier") -> int:
    args = _parser(prog).parse_args(arguments)
    logging.basicConfig(format="%(message)s", stream=sys.stdout)
    logging.getLogger(__package__).setLevel(logging.INFO)
    try:
        with _interrupt() as check:
            trained = _train(args, check)
    except (ValueError, OSError, ImportError, RuntimeError) as error:
        return failure(error, "--batch-size or --image-size")
    except KeyboardInterrupt:
        kept = f"; it continues with --resume ({checkpoint_of(args.out)})" if checkpoint_of(args.out).exists() else ""
        print(f"Interrupted{kept}", file=sys.stderr)
        return INTERRUPTED
    print(summary(trained))
    if args.plots:
        for one in trained:
            _save_plots(one)
    return 0


def _train(args, check) -> list[Trained]:
    from tqdm import tqdm
    from tqdm.contrib.logging import logging_redirect_tqdm

    device = _device(args.device)
    settings = TrainSettings.pick(vars(args))
    judge = {"judge": args.judge is not None, "judge_arch": args.judge}
    workers = _workers(device) if args.workers is None else args.workers
    options = TrainOptions.pick({**vars(args), **judge, "workers": workers})
    labelled = read_labelled(args.folder, options.validation_share, follow_links=True, **layout_of(vars(args)))
    with tqdm(disable=None, leave=False) as bar, logging_redirect_tqdm():  # no bar where stderr is no terminal

        def progress(done: int, total: int) -> None:
            bar.total, bar.n = total, done
            bar.refresh()

        return train_files(
            labelled,
            settings,
            args.out,
            options,
            progress=progress,
            check=check,
            device=device,
        )


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Train an image classifier with timm, and calibrate it. 0 means: chosen for you.",
        epilog="Ctrl-C stops after the current step or image, keeps the best so far, and --resume continues.",
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
    add("--device", default="", help="cuda, mps or cpu; by default the best there is")
    add_options(parser, TrainOptions, "workers", unset="by device and system")
    return parser


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
        raise ValueError(f"Cannot train on device {name!r} ({reason}). Choose another, such as cpu") from error
    return torch.device(name)


def _best_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _workers(device: torch.device) -> int:
    """On a CPU the network needs the cores itself; processes are cheap on Linux only."""
    if device.type == "cpu" or sys.platform != "linux":
        return 0
    return min(8, max(0, (os.cpu_count() or 1) - 1))


def _save_plots(one: Trained) -> None:
    from PIL import Image

    for name, image in one.plots().items():
        path = one.path.with_suffix(f".{name}.png")
        Image.fromarray((image[0] * 255).round().byte().numpy()).save(path)
        print(f"plot         {path}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
