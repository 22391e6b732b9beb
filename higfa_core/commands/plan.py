"""`higfa plan`: from a folder of labelled images and a workflow to a list of jobs, down to every seed."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ..files.records import plain
from ..miniature import sources as embedded
from ..plans.acceptance import acceptance, with_judge
from ..plans.balance import job_counts
from ..plans.plan import Plan
from ..plans.plan_file import write_plan
from ..plans.prompts import Prompts, read_lines
from ..plans.rules import Rules
from ..plans.settings import PlanSettings
from ..plans.workflow import EXPORT, JOB, check_workflow, digest, find_node, is_link
from ..sources.layouts import describe, read_dataset
from ..sources.options import OPTIONS as SOURCE_OPTIONS
from ..sources.options import layout_of
from ..sources.source import SourceDataset
from ..wording import counted
from .options import add_options, given, names_of
from .shell import Parser, Speech, add_json_option, command, hint
from .source_options import add_source_arguments

if TYPE_CHECKING:
    from ..sources.leaks import Leak

HASHES = "image_hashes.txt"  # of the sources, to speed up the next search for leaks
LEAKS = ("exclude", "report", "off")
MANY, SHOWN = 5000, 10  # images that take a while, leaks that are printed


@command(safe="An earlier plan is as it was, or the new one is whole.")
def main(argv: Sequence[str] | None = None) -> int:
    args = _parse(argv)
    speech = Speech(args.json)
    graph = read_workflow(args.workflow)
    graph = with_judge(graph, args.judge) if args.judge else graph
    widgets = {k: v for k, v in graph[find_node(graph, JOB)]["inputs"].items() if not is_link(v)}
    settings = PlanSettings.pick(widgets | given(PlanSettings, args))
    root, name = source_of(args, widgets.get("dataset", ""))
    found = read_dataset(root, follow_links=True, **layout_of(vars(args)))
    dataset, leaks, known, keep_hashes = _inspected(found, args.leaks, args.folder / HASHES)
    speech.say("\n".join([describe(dataset), *_leak_lines(leaks, args.leaks)]))
    wanted = _counts(settings, dataset)
    quota = wanted if settings.accepted else None
    counts = {k: v * settings.max_tries for k, v in wanted.items()} if quota else wanted
    prompts = prompts_of(args, settings)
    plan = Plan(dataset, counts, prompts, settings.plan_seed, settings.contour_from, name, known)
    rules = _rules(args, graph)
    speech.say(_summary(plan, quota))
    if worth := acceptance(graph, rules):
        speech.say(worth)
    clients = _clients(args)
    result = _result(args, plan, quota) | {"leaks": len(leaks)}
    if args.dry_run:
        speech.say(f"example: {plan[0].prompt!r}, seed {plan[0].seed}, from {plan[0].contour_source}")
        speech.say("dry run: no plan was written")
    else:
        _write(args, plan, graph, quota, rules, leaks)
        keep_hashes()
        speech.say(f"plan written to {args.folder}. To run it: {hint('run', args.folder)}")
    code = 0
    if args.pilot and not args.dry_run:
        code, result["pilot"] = _pilot(args, clients, speech)
    speech.result(**result)
    return code


def _write(
    args: argparse.Namespace, plan: Plan, graph: dict, quota: Mapping | None, rules: Rules, leaks: Sequence[Leak]
) -> None:
    write_plan(
        args.folder,
        plan,
        workflow=graph,
        workflow_digest=digest(graph, find_node(graph, EXPORT)),
        dataset_name=args.dataset_name or args.folder.absolute().name,
        options={k: v for k, v in vars(args).items() if k in OPTIONS and v is not None},
        quota=quota,
        rules=rules,
        licences={"sources": args.source_license or plan.dataset.licence, "checkpoint": args.checkpoint_license},
        leaks=leaks,
        replace=args.replace,
    )


def _result(args: argparse.Namespace, plan: Plan, quota: Mapping | None) -> dict:
    images, jobs = plan.dataset.counts(), plan.counts()
    classes = {name: {"images": images[name], "jobs": jobs[name], "quota": (quota or {}).get(name)} for name in jobs}
    result = {"folder": args.folder, "written": not args.dry_run, "jobs": len(plan), "classes": classes}
    return result | {"layout": plan.dataset.layout, "recognised_by": plan.dataset.evidence}


def read_workflow(path: str | Path) -> dict:
    """The API-format workflow in a file. ValueError unless it makes a dataset."""
    try:
        graph = plain(Path(path).read_bytes())
    except (OSError, ValueError) as error:
        raise ValueError(f"Cannot read the workflow {path} ({error}). Give a file of File > Export (API).") from error
    check_workflow(graph)
    return graph


def source_of(args: argparse.Namespace, dataset: str) -> tuple[Path, str]:
    """The folder of the real images that the arguments name, and what jobs call it."""
    if args.source is None and not (args.input_dir and dataset):
        raise ValueError("No source given. Add --source FOLDER, or --input-dir FOLDER for the workflow's own dataset.")
    root = (args.source or args.input_dir / dataset).absolute()
    if root.name == embedded.NAME and not root.exists():
        embedded.draw_sources(root)  # as Dataset Job does
    if args.input_dir and args.input_dir.absolute() in root.parents:
        return root, root.relative_to(args.input_dir.absolute()).as_posix()
    return root, root.name


def _inspected(
    dataset: SourceDataset, leaks: str, kept: Path
) -> tuple[SourceDataset, Sequence[Leak], dict[str, str], Callable[[], None]]:
    """The dataset without leaks, the leaks, the SHA-256 of its files, and a function that saves their hashes."""
    if leaks == "off":
        return dataset, (), {}, lambda: None
    # Here: a plan without this search should not wait for NumPy.
    from ..sources.image_hashes import ImageHashes
    from ..sources.leaks import inspect, without_leaks

    hashes = ImageHashes(kept)
    count = len(dataset.images) + len(dataset.held_out_images)
    if count >= MANY:
        print(f"looking for leaks among {counted(count, 'image', ',')} (--leaks off skips this)", file=sys.stderr)
    seen = inspect(dataset, hashes)
    return without_leaks(dataset, seen, keep_leaks=leaks == "report"), seen.leaks, seen.sha256, hashes.keep


def _leak_lines(leaks: Sequence[Leak], way: str) -> list[str]:
    if not leaks:
        return []
    kept = "kept" if way == "report" else "left out of the sources"
    lines = [f"leaks: {counted(len(leaks), 'image', ',')} in two splits or two classes, {kept}"]
    return lines + [f"  {leak}" for leak in leaks[:SHOWN]] + ["  ..."] * (len(leaks) > SHOWN)


def _counts(settings: PlanSettings, dataset: SourceDataset) -> dict[str, int]:
    ways = {"per_class": settings.per_class, "fill_to": settings.fill_to}
    if not any(ways.values()):
        ways["replicas"] = settings.replicas
    return job_counts(dataset.counts(), only_rare=settings.only_rare, **ways)


def prompts_of(args: argparse.Namespace, settings: PlanSettings) -> Prompts:
    """The prompts of the arguments, else of the workflow."""
    templates = (*(args.prompt or ()), *(read_lines(args.prompts) if args.prompts else ()))
    lists = {name: _list(getattr(args, name)) for name in ("backgrounds", "styles")}
    return Prompts(templates or (settings.prompt_template,), super_class=args.super or "", **lists)


def _list(text: str | None) -> tuple[str, ...]:
    if not text:
        return ()
    # Not Path.is_file, which before Python 3.12 raises for a list that is too long for a file name.
    return read_lines(text) if os.path.isfile(text) else tuple(part.strip() for part in text.split(",") if part.strip())


def _rules(args: argparse.Namespace, graph: Mapping) -> Rules:
    rules = graph[find_node(graph, EXPORT)]["inputs"] | given(Rules, args)
    if linked := [name for name in names_of(Rules) if is_link(rules.get(name))]:
        option = f"--{linked[0].replace('_', '-')}"
        raise ValueError(f"Export Dataset gets {linked[0]} from another node, so it is not known here. Add {option}.")
    return Rules.pick(rules)


def _summary(plan: Plan, quota: Mapping[str, int] | None) -> str:
    counts = [count for count in plan.counts().values() if count]
    spread = f"{min(counts)}" if min(counts) == max(counts) else f"{min(counts)} to {max(counts)}"
    line = f"jobs: {len(plan)} in {counted(len(counts), 'class')}, {spread} per class"
    if quota:
        line += f"; wanted: {counted(sum(quota.values()), 'accepted image')}, so not all jobs may be needed"
    return line


def _clients(args: argparse.Namespace) -> list:
    from .run import http_clients

    return http_clients(args)


def _pilot(args: argparse.Namespace, clients: list, speech: Speech) -> tuple[int, dict]:
    from contextlib import closing

    from ..batch.options import Options
    from ..batch.states import States
    from .run import run_plan

    with closing(States(args.folder)) as states:
        code, result = run_plan(states, clients, Options(attempts=args.attempts, limit=args.pilot), speech)
        speech.say(states.disk_estimate())
    return code, result


# What a plan's header records of the command line.
OPTIONS = (*SOURCE_OPTIONS, "prompt", "backgrounds", "styles", "super", *names_of(PlanSettings))


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser("plan", about=__doc__)
    add = parser.add_argument
    add("folder", type=Path, help="the dataset's folder, for example ComfyUI/output/my_dataset")
    add("--workflow", type=Path, required=True, metavar="FILE", help="API format, with Dataset Job and Export Dataset")
    about = "its file in the servers' models/higfa_classifiers: asked by Export Dataset, besides the guide"
    add("--judge", metavar="FILE", help=f"an independent classifier, {about}")
    add("--source", type=Path, metavar="FOLDER", help="the labelled real images, in any known layout")
    add("--input-dir", type=Path, metavar="FOLDER", help="ComfyUI's input folder, where the workflow's own dataset is")
    add_source_arguments(parser)
    leaks = (
        "images that are in two splits or two classes, identical or nearly so: leave them out (default), keep them, "
    )
    add("--leaks", choices=LEAKS, default="exclude", help=leaks + "or skip the search")
    unset = "the workflow's"
    amount = parser.add_mutually_exclusive_group()
    add_options(amount, PlanSettings, "replicas", unset=unset)
    add_options(amount, PlanSettings, "per_class", "fill_to")
    add_options(parser, PlanSettings, "only_rare", "accepted", "max_tries")
    add(
        "--prompt",
        action="append",
        metavar="TEMPLATE",
        help="with {class} or {a class}, {super}, {background}, {style}",
    )
    add("--prompts", type=Path, metavar="FILE", help="more templates, one per line")
    add("--backgrounds", metavar="LIST", help="for {background}: a text file, or words separated by commas")
    add("--styles", metavar="LIST", help="for {style}: the same")
    add("--super", metavar="NAME", help="for {super}: what all classes are kinds of (default: the layout's)")
    add_options(parser, PlanSettings, "contour_from", "plan_seed", unset=unset)
    add("--dataset-name", metavar="NAME", help="its name on the servers (default: the folder's)")
    add("--source-license", default="", metavar="TEXT", help="of the real images (default: the layout's)")
    add("--checkpoint-license", default="", metavar="TEXT", help="of the diffusion model")
    add("--dry-run", action="store_true", help="show the plan without writing it")
    add("--replace", action="store_true", help="replace another plan in this folder")
    add("--pilot", type=int, metavar="N", help="run the first N jobs and extrapolate time and disk")
    add_options(parser, Rules, unset=unset)
    add_json_option(parser)
    add("--server", action="append", metavar="URL", help="for --pilot: a ComfyUI server; repeat it for more")
    add("--header", action="append", default=[], metavar="NAME=VALUE", help="for --pilot: as in higfa run")
    add("--attempts", type=int, default=3, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.pilot is not None and args.pilot < 1:
        parser.error(f"--pilot must be at least 1, got {args.pilot}")
    return args


if __name__ == "__main__":
    sys.exit(main())
