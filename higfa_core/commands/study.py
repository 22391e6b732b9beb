"""`higfa study`: compare conditions, which are settings of a workflow's nodes, on the same jobs and seeds: a row for
every image, tables with intervals of paired differences. The same command resumes."""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from ..batch.options import Options
from ..batch.states import States
from ..evaluation.study import Result, StudyFile, by_class, plot, read_study, summary, to_csv
from ..evaluation.tuning import apart
from ..exports.collection import Item
from ..exports.contact_sheet import draw_page
from ..files.atomic import write_atomic
from ..files.paths import folder_name
from ..plans.acceptance import with_judge
from ..plans.balance import spread
from ..plans.plan import Plan
from ..plans.plan_file import PlanFile, write_plan
from ..plans.prompts import Prompts
from ..plans.rules import Rules
from ..plans.settings import PlanSettings
from ..plans.workflow import EXPORT, JOB, digest, find_node, image_key, is_link, with_values
from ..sources.layouts import read_dataset
from ..store.manifest import Manifest
from ..wording import counted
from .plan import read_workflow
from .run import add_server_arguments, http_clients, run_plan
from .shell import Parser, Speech, add_json_option, command

RESULTS, REPORT, PLOT, SHEET = "results.csv", "study.md", "differences.png", "images.jpg"
COLUMNS, SHOWN = 6, 8  # conditions and jobs in the sheet


@command(safe="Every image that is recorded is whole, and the same command resumes.")
def main(argv: Sequence[str] | None = None) -> int:
    args = _parse(argv)
    speech = Speech(args.json)
    study = Study.read(args.file, args.folder)
    total = len(study.about.conditions) * len(study.about.seeds) * study.about.images
    speech.say(f"{counted(len(study.graphs), 'condition')}, {counted(total, 'image')}")
    code = 0
    for part in study.parts():
        if not args.table:
            code = study.make(part, args, speech) or code
            study.write()
    results = study.write()
    if not results:
        raise ValueError(f"No image of the study is there in {args.folder}. Run it without --table.")
    study.draw(results)
    study.write()  # with the pictures
    speech.say(f"\n{_unescaped(summary(results, study.about.base))}\n\n{args.folder / REPORT}")
    speech.result(rows=len(results), wanted=total, results=args.folder / RESULTS, report=args.folder / REPORT)
    return code


@dataclass(frozen=True)
class Part:
    """The images of a condition and a seed."""

    condition: str
    plan: Plan
    folder: Path


class Study:
    """A study file and the folder of its images. Everything in the file is checked before anything is made."""

    def __init__(self, about: StudyFile, folder: Path, home: Path):
        self.about, self.folder = about, folder
        graph = read_workflow(home / about.workflow)
        graph = with_judge(graph, about.judge) if about.judge else graph
        if not is_link(graph[find_node(graph, EXPORT)]["inputs"].get("judge")):
            raise ValueError("A study needs a judge: name its file with judge: FILE, or connect one to Export Dataset.")
        self.graphs = {name: _with_all(graph, nodes) for name, nodes in about.conditions.items()}
        ends = {name: digest(graph, find_node(graph, EXPORT)) for name, graph in self.graphs.items()}
        for name, end in ends.items():
            if twin := next((other for other in ends if other != name and ends[other] == end), ""):
                raise ValueError(f"Conditions {name!r} and {twin!r} make the same images. Change one, or leave it out.")
        widgets = {k: v for k, v in graph[find_node(graph, JOB)]["inputs"].items() if not is_link(v)}
        self.settings = PlanSettings.pick(widgets)
        self.dataset = read_dataset(home / about.source, about.layout, follow_links=True)
        self.places = {name: folder_name(name) for name in self.graphs}

    @classmethod
    def read(cls, file: Path, folder: Path) -> Study:
        return cls(read_study(file), folder, file.absolute().parent)

    def parts(self) -> Iterator[Part]:
        """Seed by seed, so that what exists is paired; the base first."""
        counts = spread(self.dataset.counts(), self.about.images)
        prompts, others = (
            Prompts((self.about.prompt or self.settings.prompt_template,)),
            (n for n in self.graphs if n != self.about.base),
        )
        conditions = [self.about.base, *others]
        for seed in self.about.seeds:
            plan = Plan(self.dataset, counts, prompts, seed, self.settings.contour_from)
            for name in conditions:
                yield Part(name, plan, self.folder / self.places[name] / f"seed_{seed}")

    def make(self, part: Part, args: argparse.Namespace, speech: Speech) -> int:
        """Make what is missing of a part, as `higfa run` does."""
        graph = self.graphs[part.condition]
        name = f"{self.folder.absolute().name}/{part.folder.relative_to(self.folder).as_posix()}"
        end = digest(graph, find_node(graph, EXPORT))
        write_plan(
            part.folder,
            part.plan,
            workflow=graph,
            workflow_digest=end,
            dataset_name=name,
            options={},
            rules=Rules(),
            replace=True,  # more images than before: those that exist stay
        )
        with closing(States(part.folder)) as states:
            states.retry_failed()
            code, _ = run_plan(states, http_clients(args), Options(attempts=args.attempts, poll=args.poll), speech)
        return code

    def write(self) -> list[Result]:
        """The rows of all images that exist, written with their tables."""
        results = [result for part in self.parts() for result in self._results(part)]
        if results:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_atomic(self.folder / RESULTS, to_csv(results).encode())
            parts = [f"# {self.folder.absolute().name}", summary(results, self.about.base), by_class(results)]
            pictures = [f"![{name}]({name})" for name in (PLOT, SHEET) if (self.folder / name).is_file()]
            write_atomic(self.folder / REPORT, ("\n\n".join([*parts, *pictures]) + "\n").encode())
        return results

    def draw(self, results: Sequence[Result]) -> None:
        """The differences as a plot, and the first jobs under the first conditions as a sheet."""
        image = Image.fromarray((plot(results, self.about.base)[0] * 255).round().byte().numpy())
        _save(image, self.folder / PLOT)
        seed = self.about.seeds[0]
        parts = [part for part in self.parts() if part.plan.plan_seed == seed and (part.folder / "plan.json").is_file()]
        parts = parts[:COLUMNS]
        found = [(part.folder, _images(part.folder, part.plan)) for part in parts]
        jobs = [job for job in parts[0].plan if all(job.index in rows for _, rows in found)][:SHOWN] if parts else []
        rows = []
        for job in jobs:
            images = [Item(rows_of[job.index], folder / rows_of[job.index]["file"]) for folder, rows_of in found]
            rows.append((job.source, images))
        title = f"real, then: {', '.join(part.condition for part in parts)}"
        _save(draw_page(title, rows, Path(self.dataset.root)), self.folder / SHEET)

    def _results(self, part: Part) -> Iterator[Result]:
        if not (part.folder / "plan.json").is_file():
            return
        own = _images(part.folder, part.plan)
        base_folder = self.folder / self.places[self.about.base] / part.folder.name
        base = _images(base_folder, part.plan) if (base_folder / "plan.json").is_file() else {}
        for index, row in own.items():
            scores = row["scores"]
            if scores.get("judge_confidence") is None:
                raise ValueError(f"{part.folder / row['file']} was made without a judge. Give another folder.")
            moved = apart(part.folder / row["file"], base_folder / base[index]["file"]) if index in base else None
            yield Result(
                condition=part.condition,
                plan_seed=part.plan.plan_seed,
                job=index,
                class_name=row["class_name"],
                seed=row["seed"],
                right=int(scores["judge_rank"] == 1 and not scores.get("judge_broken")),
                p=scores["judge_confidence"],
                guide_p=scores.get("confidence"),
                contour_agreement=scores.get("contour_agreement"),
                moved=moved,
            )


def _save(image: Image.Image, path: Path) -> None:
    buffer = io.BytesIO()
    image.save(buffer, "PNG" if path.suffix == ".png" else "JPEG", quality=88)
    write_atomic(path, buffer.getvalue())


def _unescaped(markdown: str) -> str:
    """For a terminal, which does not act on signs."""
    return markdown.replace("\\-", "-").replace("\\+", "+")


def _images(folder: Path, plan: Plan) -> dict[int, dict]:
    """Number of a job -> its row, of those that are whole."""
    manifest, workflow = Manifest(folder), PlanFile(folder).header["workflow_digest"]
    found = ((job.index, manifest.get(image_key(job.key, workflow), 0)) for job in plan)
    return {index: row for index, row in found if row and manifest.is_intact(row)}


def _with_all(graph: Mapping, nodes: Mapping[str, Mapping]) -> dict:
    changed = dict(graph)
    for node, values in nodes.items():
        changed = with_values(changed, node, values)
    return changed


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser("study", about=__doc__)
    add = parser.add_argument
    add("file", type=Path, metavar="FILE.yaml", help="workflow, source, judge, images, seeds, base, conditions")
    add("folder", type=Path, help=f"for its images, {RESULTS} and {REPORT}")
    add("--table", action="store_true", help="make nothing: only the tables of what is there")
    add_server_arguments(parser)
    add("--poll", type=float, default=Options.poll, help=argparse.SUPPRESS)  # for tests
    add_json_option(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
