"""`higfa tune`: find eta, and where the final stage begins, on your own model, classifier and images: a ladder of
settings at the same seeds, the gentlest that repairs enough, written into the workflow."""

from __future__ import annotations

import argparse
import io
import itertools
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from ..batch.options import Options
from ..batch.states import States
from ..evaluation.tuning import MOST, Rung, TuneSettings, apart, choose, table
from ..exports.collection import Item
from ..exports.contact_sheet import draw_page
from ..files.atomic import write_atomic
from ..guidance.settings import Guidance
from ..plans.acceptance import with_judge
from ..plans.balance import spread
from ..plans.plan import Plan
from ..plans.plan_file import PlanFile, write_plan
from ..plans.rules import Rules
from ..plans.settings import PlanSettings
from ..plans.workflow import EXPORT, GUIDANCE, JOB, digest, find_node, image_key, is_link, with_values
from ..sources.layouts import read_dataset
from ..sources.options import layout_of
from ..store.manifest import Manifest
from ..wording import counted
from .options import add_options
from .plan import prompts_of, read_workflow, source_of
from .run import add_server_arguments, http_clients, run_plan
from .shell import Parser, Speech, add_json_option, command
from .source_options import add_source_arguments

ETAS = (0.0, 0.25, 0.5, 1.0, 2.0)
SHOWN = 8  # jobs in the picture
PICTURE, RESULT = "tune.jpg", "tune.json"


@command(safe="Every pilot image so far is whole, and the same command resumes.")
def main(argv: Sequence[str] | None = None) -> int:
    args = _parse(argv)
    speech = Speech(args.json)
    settings, ladder = TuneSettings.pick(vars(args)), _ladder(args)
    if settings.jobs * len(ladder) > MOST:
        fitting = MOST // len(ladder)
        raise ValueError(
            f"{len(ladder)} settings of {settings.jobs} images are more than {MOST}. Use --jobs {fitting}."
        )
    pilot = Pilot.of(args, settings, ladder)
    speech.say(f"{counted(len(ladder), 'setting')} of {counted(len(pilot.plan), 'image')}, judged by the {pilot.who}")
    if pilot.who == "guide":
        speech.say("Only the guide judges, and it flatters its own images. Add --judge FILE for a setting to trust.")
    folders = [args.folder / "-".join(f"{name}_{value:g}" for name, value in values.items()) for values in ladder]
    for values, folder in zip(ladder, folders):
        if code := pilot.make(values, folder, args, speech):
            return code
    rungs, sheets = pilot.read(ladder, folders)
    choice = choose(rungs, settings)
    speech.say(f"{table(rungs, choice.rung)}\n\nTake {choice.rung.name}: {choice.reason}.")
    columns = ", ".join(rung.name for rung in rungs)
    _draw(args.folder / PICTURE, f"real, then: {columns}", sheets, pilot.root)
    graph = with_values(pilot.graph, GUIDANCE, choice.rung.values)
    if args.write:
        write_atomic(args.write, (json.dumps(graph, ensure_ascii=False, indent=2) + "\n").encode())
        speech.say(f"written into {args.write}")
    result = {"chosen": dict(choice.rung.values), "reason": choice.reason, "judged_by": pilot.who}
    result["settings"] = [_as_dict(rung, rungs[0]) for rung in rungs]
    write_atomic(args.folder / RESULT, (json.dumps(result, ensure_ascii=False, indent=1) + "\n").encode())
    speech.say(f"picture: {args.folder / PICTURE}")
    speech.result(**result, picture=args.folder / PICTURE)
    return 0


@dataclass
class Pilot:
    """The jobs that all settings share. `graph` is the workflow as it was given, with the judge."""

    graph: dict
    plan: Plan
    root: Path
    who: str
    name: str

    @classmethod
    def of(cls, args: argparse.Namespace, settings: TuneSettings, ladder: Sequence[Mapping]) -> Pilot:
        graph = read_workflow(args.workflow)
        graph = with_judge(graph, args.judge) if args.judge else graph
        inputs = graph[find_node(graph, EXPORT)]["inputs"]
        who = next((who for who in ("judge", "classifier") if is_link(inputs.get(who))), "")
        if not who:
            raise ValueError("Export Dataset has neither a judge nor a classifier. Connect one, or add --judge FILE.")
        with_values(graph, GUIDANCE, ladder[0])  # raises where there is nothing to set
        widgets = {k: v for k, v in graph[find_node(graph, JOB)]["inputs"].items() if not is_link(v)}
        root, name = source_of(args, widgets.get("dataset", ""))
        dataset = read_dataset(root, follow_links=True, **layout_of(vars(args)))
        chosen = PlanSettings.pick(widgets)
        prompts = prompts_of(args, chosen)
        plan = Plan(
            dataset, spread(dataset.counts(), settings.jobs), prompts, settings.plan_seed, chosen.contour_from, name
        )
        return cls(graph, plan, Path(dataset.root), "judge" if who == "judge" else "guide", args.folder.absolute().name)

    def make(self, values: Mapping[str, float], folder: Path, args: argparse.Namespace, speech: Speech) -> int:
        """Make the images of one setting, as `higfa run` does; those that exist are not made again."""
        graph = with_values(self.graph, GUIDANCE, values)
        write_plan(
            folder,
            self.plan,
            workflow=graph,
            workflow_digest=digest(graph, find_node(graph, EXPORT)),
            dataset_name=f"{self.name}/{folder.name}",
            options={},
            rules=Rules(),
            replace=True,
        )
        with closing(States(folder)) as states:
            options = Options(attempts=args.attempts, poll=args.poll)
            states.retry_failed()
            code, _ = run_plan(states, http_clients(args), options, speech)
        return code

    def read(self, ladder: Sequence[Mapping[str, float]], folders: Sequence[Path]) -> tuple[list[Rung], list]:
        """The results, and for each job its source and the images of all settings."""
        found = [self._items(folder) for folder in folders]
        rungs = []
        for values, items in zip(ladder, found):
            scores = [self._scores(item) for item in items]
            moved = tuple(apart(item.path, base.path) for item, base in zip(items, found[0]))
            rungs.append(Rung(values, tuple(p for p, _ in scores), tuple(right for _, right in scores), moved))
        return rungs, [(job.source, [items[i] for items in found]) for i, job in enumerate(self.plan)]

    def _items(self, folder: Path) -> list[Item]:
        """The image of every job. ValueError if one is missing."""
        manifest, workflow = Manifest(folder), PlanFile(folder).header["workflow_digest"]
        items = []
        for job in self.plan:
            row = manifest.get(image_key(job.key, workflow), 0)
            if row is None or not manifest.is_intact(row):
                raise ValueError(
                    f"The pilot image of job {job.index} is missing in {folder}. Remove it and start again."
                )
            items.append(Item(row, folder / row["file"]))
        return items

    def _scores(self, item: Item) -> tuple[float, bool]:
        """The probability of the class, and whether it is the most probable."""
        scores, prefix = item.row["scores"], "judge_" if self.who == "judge" else ""
        if scores.get(f"{prefix}confidence") is None:
            words = f"{item.path} was made without a {self.who}"
            raise ValueError(f"{words}. Give another folder, or remove this one.")
        return scores[f"{prefix}confidence"], scores[f"{prefix}rank"] == 1 and not scores.get(f"{prefix}broken")


def _ladder(args: argparse.Namespace) -> list[dict[str, float]]:
    """The settings, gentlest first: the first is the base that others are compared with."""
    axes = {"eta": sorted({0.0, *args.eta}), "start_percent": sorted(set(args.start_percent), reverse=True)}
    axes = {name: values for name, values in axes.items() if values}
    found = [dict(zip(axes, point)) for point in itertools.product(*axes.values())]
    for values in found:
        Guidance.pick(values)  # in range
    base = [values for values in found if values["eta"] == 0][:1]  # without a step the start hardly matters
    return base + [values for values in found if values["eta"] > 0]


def _as_dict(rung: Rung, base: Rung) -> dict:
    counts = {"right": sum(rung.right), "repaired": rung.repaired(base), "broken": rung.broken(base)}
    return {**rung.values, "images": len(rung.right), "probability": rung.mean, **counts, "moved": rung.shift}


def _draw(path: Path, title: str, rows: list, root: Path) -> None:
    buffer = io.BytesIO()
    draw_page(title, [(source, items) for source, items in rows[:SHOWN]], root).save(buffer, "JPEG", quality=88)
    write_atomic(path, buffer.getvalue())


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser("tune", about=__doc__)
    add = parser.add_argument
    add("folder", type=Path, help="for the pilot: its images, picture and numbers")
    add("--workflow", type=Path, required=True, metavar="FILE", help="API format, with HiGFA Guidance")
    add("--write", type=Path, metavar="FILE", help="write the workflow with the chosen setting there")
    about = "an independent classifier in the servers' models/higfa_classifiers; without one the guide judges itself"
    add("--judge", metavar="FILE", help=about)
    add("--source", type=Path, metavar="FOLDER", help="the labelled real images, in any known layout")
    add("--input-dir", type=Path, metavar="FOLDER", help="ComfyUI's input folder, where the workflow's own dataset is")
    add_source_arguments(parser)
    about = "with {class}, {a class} or {super} (default: the workflow's); repeat it for more"
    add("--prompt", action="append", metavar="TEMPLATE", help=about)
    etas = " ".join(f"{eta:g}" for eta in ETAS)
    add("--eta", type=float, nargs="+", default=list(ETAS), metavar="X", help=f"to try; 0 is added (default: {etas})")
    about = "to try, each with every eta (default: the workflow's)"
    add("--start-percent", type=float, nargs="+", default=[], metavar="X", help=about)
    add_options(parser, TuneSettings)
    add_server_arguments(parser)
    add("--poll", type=float, default=Options.poll, help=argparse.SUPPRESS)  # for tests
    add_json_option(parser)
    args = parser.parse_args(argv)
    args.prompts = args.super = args.backgrounds = args.styles = None
    return args


if __name__ == "__main__":
    sys.exit(main())
