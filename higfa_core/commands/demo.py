"""`higfa demo`: the embedded birds through plan, run and report, beside stock nodes' results for the same jobs."""

from __future__ import annotations

import argparse
import io
import json
import os
import sys
from collections.abc import Sequence
from contextlib import closing, redirect_stderr, redirect_stdout
from pathlib import Path

from ..batch.client import Client
from ..batch.options import Options
from ..batch.states import States
from ..files.atomic import write_atomic
from ..miniature.sources import IMAGES_PER_CLASS, NAME, draw_sources
from ..plans.plan_file import HEADER
from ..plans.workflow import EXPORT, find_node, needed
from ..store.manifest import Manifest
from . import plan, report, run
from .shell import Parser, command

WORKFLOW = Path(__file__).resolve().parents[2] / "workflows" / "api" / "miniature_augment.json"
MAX_IMAGES = 1000  # seeds from 1,000,000 on belong to training, those in between to evaluation
JOBS_PER_CLASS = 4  # 128 jobs and the comparison: about four minutes on two cores
# The judge keeps the best three of four of each species: a threshold could leave one without images.
RULES = ("--min-judge-confidence", "0", "--keep-judge-share", "0.75")
KSAMPLER_INPUTS = ("model", "latent_image", "seed", "steps", "cfg", "sampler_name", "scheduler", "denoise")


@command()
def main(argv: Sequence[str] | None = None) -> int:
    args = _parse(argv)
    demo = Demo(args.base, args.images_per_class, args.jobs_per_class)
    if args.check:
        return demo.check()
    Client(args.server).system_stats()  # a run would wait for a server that does not answer
    return demo.make("--server", args.server, "--poll", str(args.poll))


class Demo:
    """The demo's datasets in `base`, ComfyUI's base folder: HiGFA's images, and in `comparison/` those of other
    workflows for the first job of each class."""

    def __init__(
        self,
        base: Path,
        images_per_class: int = IMAGES_PER_CLASS,
        jobs_per_class: int | None = None,
        workflow: Path = WORKFLOW,
    ):
        if not workflow.is_file():
            raise ValueError(f"No file {workflow}. The demo needs the whole repository. Run it from a clone.")
        base = Path(os.path.abspath(base))
        self.input, self.output = base / "input", base / "output"
        self.folder, self.sources = self.output / NAME, self.input / NAME
        self.images_per_class = images_per_class
        graph = json.loads(workflow.read_text("utf-8"))
        jobs = jobs_per_class or min(images_per_class, JOBS_PER_CLASS)
        self.plans: dict[Path, tuple[dict, int, tuple[str, ...]]] = {self.folder: (graph, jobs, RULES)}
        for name, variant in variants(graph).items():
            self.plans[self.folder / "comparison" / name] = variant, 1, ()

    def make(self, *options: str) -> int:
        """Make what is missing, with these options of `higfa run`; 0 if everything exists afterwards."""
        self._refuse_unjudged()
        if drawn := draw_sources(self.sources, self.images_per_class):
            print(f"{drawn} source images drawn in {self.sources}")
        for folder in self.plans:
            with redirect_stdout(io.StringIO()):
                code = self._plan(folder, "--replace")
            if code := code or run.main([str(folder), "--attempts", "2", "--retry-failed", *options]):
                return code
        return self._report()

    def check(self) -> int:
        """0 if every image exists, else 1; generates nothing and does not import torch."""
        if not self.sources.is_dir() or not all(map(self._is_finished, self.plans)):
            return 1
        print("everything exists, nothing to do")
        return self._report()

    def _refuse_unjudged(self) -> None:
        rows = Manifest(self.folder).rows() if self.folder.is_dir() else []
        if any(row["scores"].get("judge_confidence") is None for row in rows):
            words = f"{self.folder} has images of an earlier version, which no judge has seen"
            raise ValueError(f"{words}. Move the folder away, and start again.")

    def _plan(self, folder: Path, *options: str) -> int:
        workflow, jobs, rules = self.plans[folder]
        file, name = folder / "workflow.json", folder.relative_to(self.output).as_posix()
        write_atomic(file, json.dumps(workflow, indent=1).encode())
        command = [str(folder), "--workflow", str(file), "--input-dir", str(self.input), "--dataset-name", name]
        # Our own renders need no search for leaks, which would make `check` import NumPy.
        return plan.main([*command, "--per-class", str(jobs), "--leaks", "off", *rules, *options])

    def _is_finished(self, folder: Path) -> bool:
        if not (folder / HEADER).is_file():
            return False
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            if self._plan(folder):  # other sources, other options or another workflow
                return False
        with closing(States(folder)) as states:
            counts = states.counts()
        return counts["done"] == sum(counts.values())

    def _report(self) -> int:
        page, manifest = self.folder / report.NAME, self.folder / "manifest.jsonl"
        if not page.is_file() or page.stat().st_mtime_ns < manifest.stat().st_mtime_ns:
            compare = [part for folder in list(self.plans)[1:] for part in ("--compare", str(folder))]
            if code := report.main([str(self.folder), *compare]):
                return code
        print(f"Dataset: {self.folder}  {report.counts(self.folder)}")
        return 0


def variants(workflow: dict) -> dict[str, dict]:
    """Workflows that differ from `workflow` in what is exported: the warped contour, and the images of a stock
    KSampler with text alone and with text and contour. They accept every image."""
    node, end = find_node(workflow, "HiGFA_KSampler"), find_node(workflow, EXPORT)
    every = {"min_confidence": 0.0, "require_top1": False, "min_judge_confidence": 0.0}
    sampler, export = workflow[node]["inputs"], workflow[end]["inputs"] | every
    del export["trace"]  # only HiGFA's sampler has one
    plain = workflow[sampler["positive"][0]]["inputs"]  # the inputs of Apply ControlNet
    drawn = {name: value for name, value in export.items() if name not in ("classifier", "judge")}
    drawn |= {"images": export["contour"]}
    found = {"warped_contour": {end: {**workflow[end], "inputs": drawn}}}
    for name, conditions in (("text_only", plain), ("text_and_contour", sampler)):
        inputs = {key: sampler[key] for key in KSAMPLER_INPUTS}
        inputs |= {side: conditions[side] for side in ("positive", "negative")}
        found[name] = {node: {"class_type": "KSampler", "inputs": inputs}, end: {**workflow[end], "inputs": export}}
    return {name: needed({**workflow, **changed}, end) for name, changed in found.items()}


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser("demo", about=__doc__)
    parser.add_argument("--base", type=Path, required=True, help="ComfyUI's base directory (has input/ and output/)")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--check", action="store_true", help="exit 0 if every image exists, else 1; generate none")
    group.add_argument("--server", default="http://127.0.0.1:8188", metavar="URL", help="ComfyUI's address")
    parser.add_argument("--images-per-class", type=int, default=8, metavar="N", help="source images (default: 8)")
    parser.add_argument("--jobs-per-class", type=int, metavar="N", help=f"images to make (default: {JOBS_PER_CLASS})")
    parser.add_argument("--poll", type=float, default=Options.poll, help=argparse.SUPPRESS)  # for tests
    args = parser.parse_args(argv)
    if not 1 <= args.images_per_class <= MAX_IMAGES:
        parser.error(f"--images-per-class must be 1 to {MAX_IMAGES}, got {args.images_per_class}")
    if args.jobs_per_class is not None and args.jobs_per_class < 1:
        parser.error(f"--jobs-per-class must be at least 1, got {args.jobs_per_class}")
    return args


if __name__ == "__main__":
    sys.exit(main())
