"""`higfa plan`: from a folder of labelled images and a workflow to a list of jobs, with nothing left to chance."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path

from ..miniature import sources as embedded
from ..plans.balance import job_counts
from ..plans.plan import CONTOUR_FROM, Plan
from ..plans.plan_file import write_plan
from ..plans.prompts import Prompts, read_lines
from ..plans.rules import Rules
from ..plans.workflow import EXPORT, JOB, check_workflow, digest, find_node, is_link
from ..sources.image_hashes import ImageHashes
from ..sources.layouts import describe, read_dataset
from ..sources.leaks import Inspection, Leak, inspect, without_leaks
from ..sources.options import OPTIONS as SOURCE_OPTIONS
from ..sources.options import layout_of
from ..sources.source import SourceDataset
from .source_options import add_source_arguments

HASHES = "image_hashes.txt"  # of the sources, so that leaks are found quickly the next time
LEAKS = ("exclude", "report", "off")
MANY, SHOWN = 5000, 10  # images that take a while, leaks that are printed
WIDGETS = {"prompt_template": "a photo of a {class}", "replicas": 1, "plan_seed": 0, "contour_from": "same"}


def main(argv: Sequence[str] | None = None) -> int:
    args = _parse(argv)
    try:
        graph = read_workflow(args.workflow)
        widgets = WIDGETS | {k: v for k, v in graph[find_node(graph, JOB)]["inputs"].items() if not is_link(v)}
        root, name = _source(args, widgets.get("dataset", ""))
        hashes = ImageHashes(args.folder / HASHES)
        dataset, seen = _inspected(read_dataset(root, follow_links=True, **layout_of(vars(args))), args.leaks, hashes)
        print("\n".join([describe(dataset), *_leak_lines(seen.leaks, args.leaks)]))
        wanted = _counts(args, dataset, widgets)
        quota = wanted if args.accepted else None
        counts = {k: v * args.max_tries for k, v in wanted.items()} if quota else wanted
        plan = Plan(dataset, counts, _prompts(args, widgets), _or(args.plan_seed, widgets["plan_seed"]),
                    args.contour_from or widgets["contour_from"], name, dict(seen.sha256))  # fmt: skip
        rules = _rules(args, graph)
        print(_summary(plan, quota))
        clients = _clients(args)
        if args.dry_run:
            print(f"example: {plan[0].prompt!r}, seed {plan[0].seed}, from {plan[0].contour_source}")
            print("dry run: no plan was written")
            return 0
        write_plan(
            args.folder,
            plan,
            workflow=graph,
            workflow_digest=digest(graph, find_node(graph, EXPORT)),
            dataset_name=args.dataset_name or args.folder.absolute().name,
            options={k: v for k, v in vars(args).items() if k in OPTIONS and v is not None},
            quota=quota,
            rules=rules,
            licences={"sources": args.source_license or dataset.licence, "checkpoint": args.checkpoint_license},
            leaks=seen.leaks,
            replace=args.replace,
        )
        hashes.keep()
        print(f"plan written to {args.folder}; next: higfa run {args.folder} --server URL")
        return _pilot(args, clients) if args.pilot else 0
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


def read_workflow(path: str | Path) -> dict:
    """The API-format workflow in a file. ValueError when it is not one that makes a dataset."""
    try:
        graph = json.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"Cannot read the workflow {path} ({error}): give a file of File > Export (API)") from error
    check_workflow(graph)
    return graph


def _source(args: argparse.Namespace, dataset: str) -> tuple[Path, str]:
    if args.source is None and not (args.input_dir and dataset):
        raise ValueError("Where are the images? Give --source FOLDER, or --input-dir for the workflow's own dataset")
    root = (args.source or args.input_dir / dataset).absolute()
    if root.name == embedded.NAME and not root.exists():
        embedded.draw_sources(root)  # as Dataset Job does
    if args.input_dir and args.input_dir.absolute() in root.parents:
        return root, root.relative_to(args.input_dir.absolute()).as_posix()
    return root, root.name


def _inspected(dataset: SourceDataset, leaks: str, hashes: ImageHashes) -> tuple[SourceDataset, Inspection]:
    if leaks == "off":
        return dataset, Inspection((), (), {})
    count = len(dataset.images) + len(dataset.held_out_images)
    if count >= MANY:
        print(f"looking for leaks among {count:,} images (--leaks off does not)", file=sys.stderr)
    seen = inspect(dataset, hashes)
    return without_leaks(dataset, seen, keep_leaks=leaks == "report"), seen


def _leak_lines(leaks: Sequence[Leak], way: str) -> list[str]:
    if not leaks:
        return []
    kept = "kept" if way == "report" else "left out of the sources"
    lines = [f"leaks: {len(leaks):,} images are in two splits or two classes, {kept}"]
    return lines + [f"  {leak}" for leak in leaks[:SHOWN]] + ["  ..."] * (len(leaks) > SHOWN)


def _counts(args: argparse.Namespace, dataset: SourceDataset, widgets: Mapping) -> dict[str, int]:
    ways = {"replicas": args.replicas, "per_class": args.per_class, "fill_to": args.fill_to}
    if all(value is None for value in ways.values()):
        ways["replicas"] = widgets["replicas"]
    return job_counts(dataset.counts(), only_rare=args.only_rare, **ways)


def _prompts(args: argparse.Namespace, widgets: Mapping) -> Prompts:
    templates = (*(args.prompt or ()), *(read_lines(args.prompts) if args.prompts else ()))
    lists = {name: _list(getattr(args, name)) for name in ("backgrounds", "styles")}
    return Prompts(templates or (widgets["prompt_template"],), super_class=args.super or "", **lists)


def _list(text: str | None) -> tuple[str, ...]:
    if not text:
        return ()
    # Not Path.is_file, which before Python 3.12 raises for a list that is too long for a file name.
    return read_lines(text) if os.path.isfile(text) else tuple(part.strip() for part in text.split(",") if part.strip())


def _rules(args: argparse.Namespace, graph: Mapping) -> Rules:
    widgets, given = graph[find_node(graph, EXPORT)]["inputs"], given_rules(args)
    rules = {field.name: widgets[field.name] for field in fields(Rules) if field.name in widgets} | given
    if linked := [name for name, value in rules.items() if is_link(value)]:
        option = f"--{linked[0].replace('_', '-')}"
        raise ValueError(f"Export Dataset gets {linked[0]} from another node, so it is not known here: add {option}")
    return Rules(**rules)


def _summary(plan: Plan, quota: Mapping[str, int] | None) -> str:
    counts = [count for count in plan.counts().values() if count]
    spread = f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
    line = f"jobs: {len(plan)} in {len(counts)} classes, {spread} a class"
    if quota:
        line += f"; wanted are {sum(quota.values())} accepted images, the jobs are the most that will be tried"
    return line


def _clients(args: argparse.Namespace) -> list:
    from ..batch.client import Client

    return [Client(url) for url in args.server or ["http://127.0.0.1:8188"]]


def _pilot(args: argparse.Namespace, clients: list) -> int:
    from contextlib import closing

    from ..batch.options import Options
    from ..batch.states import States
    from .run import run_plan

    with closing(States(args.folder)) as states:
        code = run_plan(states, clients, Options(attempts=args.attempts, limit=args.pilot))
        print(states.disk_estimate())
    return code


def _or(value: int | None, default: int) -> int:
    return default if value is None else value


def add_rule_arguments(parser: argparse.ArgumentParser) -> None:
    """One option for every rule of `.rules.Rules`."""
    for field in fields(Rules):
        option = "--" + field.name.replace("_", "-")
        if field.type == "bool":
            parser.add_argument(option, action=argparse.BooleanOptionalAction, default=None, help=RULES[field.name])
        else:
            kind = int if field.type == "int" else float
            parser.add_argument(option, type=kind, metavar="X", help=RULES[field.name])


def given_rules(args: argparse.Namespace) -> dict[str, object]:
    """The rules that the command line names."""
    names = [field.name for field in fields(Rules)]
    return {name: value for name in names if (value := getattr(args, name)) is not None}


RULES = {
    "min_confidence": "the guide's probability of the class",
    "require_top1": "the guide must find no class more probable",
    "min_margin": "the guide's lead of the class over the next",
    "min_judge_confidence": "the judge's probability of the class",
    "require_judge_top1": "the judge must find no class more probable",
    "min_judge_margin": "the judge's lead of the class over the next",
    "min_contour_agreement": "boundary F1 of the wanted contour and the image's edges",
    "min_sharpness": "variance of the Laplacian",
    "max_duplicate_bits": "near-duplicates differ in at most X of 64 hash bits from an earlier image of the class",
}
OPTIONS = (
    *("replicas", "per_class", "fill_to", "only_rare", "accepted", "max_tries", "prompt", "backgrounds", "styles"),
    *("super", "plan_seed", "contour_from", *SOURCE_OPTIONS),
)


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="higfa plan", description="Plan a synthetic dataset; see what it would be.")
    add = parser.add_argument
    add("folder", type=Path, help="the dataset's folder, for instance ComfyUI/output/my_dataset")
    add("--workflow", type=Path, required=True, metavar="FILE", help="API format, with Dataset Job and Export Dataset")
    add("--source", type=Path, metavar="FOLDER", help="the labelled real images, in any layout that is known")
    add("--input-dir", type=Path, metavar="FOLDER", help="ComfyUI's input folder, where the workflow's own dataset is")
    add_source_arguments(parser)
    add("--leaks", choices=LEAKS, default="exclude", help="images that are in two splits or two classes, identical "
        "or nearly so: leave them out (default), keep them, or do not look")  # fmt: skip
    amount = parser.add_mutually_exclusive_group()
    amount.add_argument("--replicas", type=int, metavar="N", help="N from every real image (default: the workflow's)")
    amount.add_argument("--per-class", type=int, metavar="N", help="N for every class")
    amount.add_argument(
        "--fill-to", type=int, metavar="N", help="so many that real and synthetic make N in every class"
    )
    add("--only-rare", type=int, metavar="N", help="only for classes with fewer than N real images")
    add("--accepted", action="store_true", help="count accepted images, and try until there are as many")
    add("--max-tries", type=int, default=3, metavar="N", help="with --accepted: at most N tries an image (default: 3)")
    add("--prompt", action="append", metavar="TEMPLATE", help="with {class}, {super}, {background}, {style}; repeat it")
    add("--prompts", type=Path, metavar="FILE", help="more templates, one a line")
    add("--backgrounds", metavar="LIST", help="for {background}: a text file, or words with commas between them")
    add("--styles", metavar="LIST", help="for {style}: the same")
    add("--super", metavar="NAME", help="for {super}: what all classes are a kind of (default: the layout's own)")
    add("--contour-from", choices=CONTOUR_FROM, help="the contour of the same, or of another image of the class")
    add("--plan-seed", type=int, metavar="N", help="other seeds for all jobs (default: the workflow's)")
    add("--dataset-name", metavar="NAME", help="its name at the servers (default: the folder's)")
    add("--source-license", default="", metavar="TEXT", help="of the real images (default: the layout's)")
    add("--checkpoint-license", default="", metavar="TEXT", help="of the diffusion model")
    add("--dry-run", action="store_true", help="say what would be planned, write nothing")
    add("--replace", action="store_true", help="put this plan in the place of another")
    add("--pilot", type=int, metavar="N", help="run the first N jobs and extrapolate time and disk")
    add_rule_arguments(parser)
    add("--server", action="append", metavar="URL", help="for --pilot: a ComfyUI server; repeat it for more")
    add("--attempts", type=int, default=3, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    for name in ("max_tries", "pilot"):
        if (value := getattr(args, name)) is not None and value < 1:
            parser.error(f"--{name.replace('_', '-')} must be at least 1, got {value}")
    return args


if __name__ == "__main__":
    sys.exit(main())
