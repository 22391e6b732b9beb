"""The demo: sources, a dataset through a running ComfyUI, and a report; each part is skipped when it is there.

python -m higfa_core.commands.demo --base BASE --output BASE/output/NAME [--check | --server URL]

The jobs are those of workflows/api/miniature_augment.json, so pressing Run on the canvas goes on with the same
dataset. `--check` says quickly (it imports neither torch nor NumPy) whether anything is left to do.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import json
import math
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path

from ..batch.client import Client, ServerError
from ..batch.queue import Failure, run_jobs
from ..exports.report import Counts, Picture, plain_png, render_report
from ..files.atomic import write_atomic
from ..plans.workflow import EXPORT, JOB, digest, find_node, image_key
from ..store.manifest import Manifest

ROOT = Path(__file__).resolve().parents[2]
WORKFLOW = ROOT / "workflows" / "api" / "miniature_augment.json"
MAX_IMAGES = 1000  # seeds from 1,000,000 on belong to training, those in between to evaluation
JOBS_PER_CLASS = 5  # 80 jobs and the comparison: under six minutes on two cores
ATTEMPTS = 2
CONTOUR, TRANSFORM = "HiGFA_ExtractContour", "HiGFA_TransformContour"
SAMPLER, CLASSIFY = "HiGFA_KSampler", "HiGFA_ClassifyImages"
KSAMPLER_INPUTS = ("model", "latent_image", "seed", "steps", "cfg", "sampler_name", "scheduler", "denoise")
JUDGE_NOTE = (
    "The percentages are the probability of the intended class that the guide gives, guide.safetensors (resnet10t); no "
    "judge. The guide steered the HiGFA images and here judges its own work, so its figures flatter them; the table in "
    "the README uses an independent judge."
)


def comparison_graph(job_graph: dict, prefix: str) -> dict:
    """The graph of one job with stock KSamplers in place of HiGFA's: contours, text only, text + contour.

    Node ids of results: `save <name>` and, for the generated ones, `judge <name>`.
    """
    sampler = job_graph[find_node(job_graph, SAMPLER)]["inputs"]
    plain = job_graph[sampler["positive"][0]]["inputs"]  # what goes into Apply ControlNet
    graph = copy.deepcopy(job_graph)
    saved = {"contour": [find_node(graph, CONTOUR), 0], "transformed": [find_node(graph, TRANSFORM), 0]}
    for name, source in (("text", plain), ("text contour", sampler)):
        inputs = {key: sampler[key] for key in KSAMPLER_INPUTS}
        inputs |= {"positive": source["positive"], "negative": source["negative"]}
        graph[f"sample {name}"] = _node("KSampler", **inputs)
        graph[f"decode {name}"] = _node("VAEDecode", samples=[f"sample {name}", 0], vae=sampler["vae"])
        saved[name] = [f"decode {name}", 0]
        judge = {"classifier": sampler["classifier"], "class_name": sampler["class_name"]}
        graph[f"judge {name}"] = _node(CLASSIFY, images=saved[name], **judge)
    for name, images in saved.items():
        file = f"{prefix}-{name.replace(' ', '_')}"
        graph[f"save {name}"] = _node("SaveImage", images=images, filename_prefix=file)
    return _upstream(graph, [key for key in graph if key.startswith(("save ", "judge "))])


def _upstream(graph: dict, wanted: list[str]) -> dict:
    """The given nodes and all that they need: without the rest (previews, HiGFA's sampler, the export)."""
    found: dict = {}
    while wanted:
        key = wanted.pop()
        if key not in found:
            found[key] = graph[key]
            wanted += [value[0] for value in graph[key]["inputs"].values() if isinstance(value, list)]
    return found


def _node(class_type: str, **inputs) -> dict:
    return {"class_type": class_type, "inputs": inputs}


def read_comparison(entry: dict) -> dict:
    """History entry of a comparison graph -> {"files": {name: path in output}, "confidence": {name: 0..1}}."""
    files, confidence = {}, {}
    for node, shown in entry["outputs"].items():
        kind, _, name = node.partition(" ")
        if kind == "save":
            files[name] = "/".join(filter(None, (shown["images"][0]["subfolder"], shown["images"][0]["filename"])))
        elif kind == "judge":
            if percent := re.search(r": ([\d.]+)%\s*$", shown["text"][0]):
                confidence[name] = round(float(percent.group(1)) / 100, 4)
    return {"files": files, "confidence": confidence}


class Demo:
    """A demo dataset: where it lives, its workflow, its jobs, and what is there of them."""

    def __init__(self, base: Path, output: Path, images_per_class: int = 8, jobs_per_class: int | None = None):
        self.base, self.output = Path(os.path.abspath(base)), Path(os.path.abspath(output))
        if self.base / "output" not in self.output.parents:
            raise ValueError(f"--output {output} must be a folder inside {self.base / 'output'}: ComfyUI writes there")
        self.name = self.output.relative_to(self.base / "output").as_posix()
        self.images_per_class = images_per_class
        self.jobs_per_class = jobs_per_class or min(images_per_class, JOBS_PER_CLASS)
        self.workflow = json.loads(WORKFLOW.read_text("utf-8"))
        self.plan_inputs = self.workflow[find_node(self.workflow, JOB)]["inputs"]
        # More replicas only append jobs: the first ones stay those of the workflow.
        self.replicas = max(self.plan_inputs["replicas"], math.ceil(self.jobs_per_class / images_per_class))
        self.sources = self.base / "input" / self.plan_inputs["dataset"]
        self._digest = digest(self.workflow, find_node(self.workflow, EXPORT))

    @cached_property
    def manifest(self) -> Manifest:
        return Manifest(self.output)

    # --- what is there

    def key(self, job) -> str:
        """The key of the image that the workflow makes of a job."""
        return image_key(job.key, self._digest)

    def row(self, key: str) -> dict | None:
        """The manifest row of a job whose image is there, else None."""
        row = self.manifest.get(key, 0)
        file = self.output / row["file"] if row else None
        return row if file and file.is_file() and file.stat().st_size == row["bytes"] else None

    def counts(self, keys: Sequence[str]) -> Counts:
        rows = [row for key in keys if (row := self.row(key))]
        return Counts(len(keys), len(rows), sum(row["accepted"] for row in rows))

    def last_line(self, keys: Sequence[str]) -> str:
        return f"Dataset: {self.output}  {self.counts(keys)}"

    @property
    def report(self) -> Path:
        return self.output / "report.html"

    def finished_keys(self) -> list[str] | None:
        """The keys of all planned jobs when everything is there, else None."""
        try:
            record = json.loads((self.output / "demo.json").read_text("utf-8"))
            keys = record["keys"]
            same = record["request"] == self._request() and record["sources"] == self._source_hashes()
            # A manifest that was edited by hand may hold anything.
            whole = same and self.report.stat().st_size > 0 and self.counts(keys).written == len(keys)
        except (OSError, ValueError, TypeError, KeyError):
            return None
        return keys if whole else None

    def finish(self, keys: Sequence[str]) -> None:
        """Record, last of all, that everything is there."""
        record = {"request": self._request(), "sources": self._source_hashes(), "keys": list(keys)}
        write_atomic(self.output / "demo.json", json.dumps(record, indent=1).encode())

    def _request(self) -> dict:
        workflow = hashlib.sha256(WORKFLOW.read_bytes()).hexdigest()
        return {"images": self.images_per_class, "jobs": self.jobs_per_class, "workflow": workflow}

    def _source_hashes(self) -> dict[str, str]:
        files = sorted(self.sources.rglob("*.png"))
        return {f.relative_to(self.sources).as_posix(): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}

    # --- what is made

    def render_sources(self) -> int:
        """Draw the real-like images that are not there; returns how many were."""
        from ..miniature.sources import draw_sources

        return draw_sources(self.sources, self.images_per_class)

    def jobs(self) -> list:
        """The planned jobs: the Dataset Job node's own plan, the same number from every class."""
        from ..plans.plan import Plan
        from ..plans.prompts import Prompts
        from ..sources.layouts import read_dataset

        options = {name: self.plan_inputs[name] for name in ("plan_seed", "contour_from")}
        prompts = Prompts((self.plan_inputs["prompt_template"],))
        dataset = read_dataset(self.sources)
        counts = dict.fromkeys(dataset.class_names, self.jobs_per_class)
        return list(Plan(dataset, counts, prompts, name=self.plan_inputs["dataset"], **options))

    def job_graph(self, job) -> dict:
        """The workflow set to one job."""
        graph = copy.deepcopy(self.workflow)
        graph[find_node(graph, JOB)]["inputs"] |= {"index": job.index, "replicas": self.replicas}
        graph[find_node(graph, EXPORT)]["inputs"]["dataset_name"] = self.name
        return graph

    def make_images(self, client: Client, jobs: Sequence) -> list[Failure]:
        """Have the server make the images that are not there. Stops after a round in which every job failed."""
        left = [job for job in jobs if not self.row(self.key(job))]
        by_name = {_name(job): job for job in left}
        with _bar("images", len(jobs), len(jobs) - len(left)) as bar:

            def done(name: str, entry: dict):
                self.manifest.refresh()
                if self.row(self.key(by_name[name])) is None:
                    return False
                _, written, accepted = self.counts([self.key(job) for job in jobs])
                bar.set_postfix(accepted=accepted, rejected=written - accepted, refresh=False)
                bar.update()

            return _run_rounds(client, [(name, self.job_graph(job)) for name, job in by_name.items()], done)

    def make_comparison(self, client: Client, jobs: Sequence) -> list[Failure]:
        """Have the server make, for one source of each class, what the stock nodes make of it."""
        firsts = list(first_of_each_class(jobs).values())
        left = {_name(job): job for job in firsts if self.comparison(job) is None}
        with _bar("comparison", len(firsts), len(firsts) - len(left)) as bar:

            def done(name: str, entry: dict):
                data = json.dumps(read_comparison(entry), indent=1).encode()
                write_atomic(self._comparison_file(left[name])[0], data)
                if self.comparison(left[name]) is None:
                    return False
                bar.update()

            prompts = [(name, self._comparison_file(job)[1]) for name, job in left.items()]
            return _run_rounds(client, prompts, done)

    def comparison(self, job) -> dict | None:
        """What `read_comparison` gave for the job, when all its images are there."""
        try:
            found = json.loads(self._comparison_file(job)[0].read_text("utf-8"))
        except (OSError, ValueError):
            return None
        return found if all((self.base / "output" / file).is_file() for file in found["files"].values()) else None

    def _comparison_file(self, job) -> tuple[Path, dict]:
        # Named after all that affects the pixels: other settings never show older pictures.
        graph = self.job_graph(job)
        text = json.dumps([job.key, comparison_graph(graph, "")], sort_keys=True)
        stem = hashlib.sha256(text.encode()).hexdigest()[:16]
        return self.output / "report" / f"{stem}.json", comparison_graph(graph, f"{self.name}/report/{stem}")

    # --- the report

    def write_report(self, jobs: Sequence) -> None:
        page = render_report(
            "HiGFA demo: a labelled synthetic dataset of sixteen bird species",
            self.counts([self.key(job) for job in jobs]),
            {name: self._pictures(job) for name, job in first_of_each_class(jobs).items()},
            self._sheet(),
            self._settings(),
            JUDGE_NOTE,
            self._next_steps(len(jobs)),
        )
        write_atomic(self.report, page.encode())

    def _pictures(self, job) -> list[Picture]:
        made = self.comparison(job) or {"files": {}, "confidence": {}}
        shown = [Picture("source", _read(self.sources / job.source))]
        labels = {"contour": "contour", "transformed": "transformed contour"}
        labels |= {"text": "text only", "text contour": "text + contour"}
        for name, label in labels.items():
            file = made["files"].get(name)
            png = _read(self.base / "output" / file) if file else None
            shown.append(Picture(label, png, made["confidence"].get(name)))
        row = self.row(self.key(job))
        return [*shown, self._dataset_picture("HiGFA", row) if row else Picture("HiGFA", None)]

    def _sheet(self) -> dict[str, list[Picture]]:
        sheet: dict[str, list[Picture]] = {}
        for row in sorted(self.manifest.rows(), key=lambda row: (row["class_name"], row.get("plan_index") or 0)):
            if self.row(row["key"]) == row:
                sheet.setdefault(row["class_name"], []).append(self._dataset_picture(Path(row["file"]).name, row))
        return sheet

    def _dataset_picture(self, label: str, row: dict) -> Picture:
        return Picture(label, _read(self.output / row["file"]), row["scores"].get("confidence"), row["accepted"])

    def _settings(self) -> dict[str, dict]:
        graph = self.workflow
        return {
            node.get("_meta", {}).get("title", node["class_type"]): {
                name: value for name, value in node["inputs"].items() if not isinstance(value, list)
            }
            for node in graph.values()
            if node["class_type"] != JOB
        } | {"Dataset Job": {**self.plan_inputs, "index": "each in turn", "replicas": self.replicas}}

    def _next_steps(self, made: int) -> list[tuple[str, str]]:
        return [
            ("Train on it:", f"torchvision.datasets.ImageFolder({str(self.output / 'train')!r})"),
            ("Make more, from the command line:", f"python run.py demo --jobs-per-class {2 * self.jobs_per_class}"),
            (
                f"Or on the canvas: open Workflows > miniature_augment, set Dataset Job to index {made} and enough "
                "replicas, and press Run; it adds to this very dataset.",
                "python run.py serve",
            ),
        ]


def first_of_each_class(jobs: Iterable) -> dict:
    """Class name -> its first job."""
    firsts: dict = {}
    for job in jobs:
        firsts.setdefault(job.class_name, job)
    return firsts


def _run_rounds(client: Client, prompts: list[tuple[str, dict]], done: Callable, size: int = 16) -> list[Failure]:
    failures: list[Failure] = []
    for start in range(0, len(prompts), size):
        batch = prompts[start : start + size]
        failed = run_jobs(client, batch, done, max_in_flight=2, attempts=ATTEMPTS)
        failures += failed
        if len(failed) == len(batch):  # no single job is to blame
            break
    return failures


def _name(job) -> str:
    return f"job {job.index} ({job.class_name})"


def _bar(what: str, total: int, done: int):
    from tqdm import tqdm

    return tqdm(desc=what, total=total, initial=done, unit="", dynamic_ncols=True, file=sys.stderr)


def _read(path: Path) -> bytes | None:
    return plain_png(path.read_bytes()) if path.is_file() else None


def describe(failures: Sequence[Failure]) -> str:
    """Failures as text, one line a reason (it names the node), with the jobs it struck."""
    reasons: dict[str, list[str]] = {}
    for failure in failures:
        reasons.setdefault(failure.reason, []).append(failure.name)
    lines = [f"{len(failures)} failed:"]
    for reason, names in reasons.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        lines.append(f"  {', '.join(names[:3])}{more}: {reason}")
    return "\n".join(lines)


def run(demo: Demo, client: Client) -> int:
    """Make what is missing, write the report; 0 when everything is there afterwards."""
    if made := demo.render_sources():
        print(f"{made} source images drawn in {demo.sources}")
    jobs = demo.jobs()
    keys = [demo.key(job) for job in jobs]
    failures = demo.make_images(client, jobs)
    if demo.counts(keys).written:
        failures += demo.make_comparison(client, jobs)
        demo.write_report(jobs)
        print(f"Report: {demo.report}")
    if failures:
        print(f"{describe(failures)}\nRun this again to try those again.", file=sys.stderr)
    else:
        demo.finish(keys)
    print(demo.last_line(keys))
    return 1 if failures else 0


def parse(argv: Sequence[str] | None, prog: str | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog=prog or "higfa demo", description="Make the demo dataset with a running ComfyUI."
    )
    parser.add_argument("--base", type=Path, required=True, help="ComfyUI's base directory (has input/ and output/)")
    parser.add_argument("--output", type=Path, required=True, help="dataset folder, inside BASE/output")
    group = parser.add_mutually_exclusive_group()
    group.add_argument("--check", action="store_true", help="exit 0 when everything is there, else 1; makes nothing")
    group.add_argument("--server", default="http://127.0.0.1:8188", metavar="URL", help="ComfyUI's address")
    parser.add_argument("--images-per-class", type=int, default=8, metavar="N", help="source images (default: 8)")
    parser.add_argument("--jobs-per-class", type=int, metavar="N", help=f"images to make (default: {JOBS_PER_CLASS})")
    args = parser.parse_args(argv)
    if not 1 <= args.images_per_class <= MAX_IMAGES:
        parser.error(f"--images-per-class must be 1 to {MAX_IMAGES}, got {args.images_per_class}")
    if args.jobs_per_class is not None and args.jobs_per_class < 1:
        parser.error(f"--jobs-per-class must be at least 1, got {args.jobs_per_class}")
    return args


def main(argv: Sequence[str] | None = None, prog: str | None = None) -> int:
    args = parse(argv, prog)
    try:
        demo = Demo(args.base, args.output, args.images_per_class, args.jobs_per_class)
        if not args.check:
            return run(demo, Client(args.server))
    except (ServerError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted: what is made stays, the next start goes on from there", file=sys.stderr)
        return 130
    keys = demo.finished_keys()
    if keys is None:
        return 1
    print(f"everything is there, nothing to do\n{demo.last_line(keys)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
