"""A dataset as one self-contained HTML page: images inline, no script, nothing fetched."""

from __future__ import annotations

import io
from base64 import b64encode
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from statistics import fmean

from jinja2 import Environment, FileSystemLoader, Template
from PIL import Image, ImageOps

from ..files.atomic import write_atomic
from ..files.opening import opened
from ..files.paths import inside
from ..plans.plan_file import HEADER, PlanFile, planned_keys
from ..store.manifest import Manifest
from ..store.rows import place_in_plan
from .reasons import reasons

NAME = "report.html"
SIDE = 192  # pixels of a picture on the page; smaller ones keep their size
MOST_PICTURES = 600  # on a page, shared by the classes
SCORES = {"guide": "confidence", "judge": "judge_confidence"}


class Dataset:
    """What a report says about the images in `folder`; where there is a plan, about that plan's images only.

    Args:
        source: The folder of the real images, for a dataset whose plan does not name it or whose images were moved.

    Raises:
        ValueError: There are no images.
    """

    def __init__(self, folder: str | Path, source: str | Path | None = None):
        self.folder = Path(folder).absolute()
        manifest = Manifest(self.folder)
        keys = planned_keys(self.folder)
        self.rows = sorted((row for row in manifest if keys is None or row["key"] in keys), key=place_in_plan)
        if not self.rows:
            raise ValueError(f"No images in {folder}. Give a folder that Export Dataset or `higfa run` has filled.")
        header = self.folder / HEADER
        self.plan: dict = PlanFile(header.parent).header if header.is_file() else {}
        root = source or (self.plan.get("dataset") or {}).get("root")
        self.source = Path(root) if root else None
        known = (manifest.info() or {}).get("classes") or [about["name"] for about in self.plan.get("classes", ())]
        self.classes = known or sorted({row["class_name"] for row in self.rows})

    @cached_property
    def counts(self) -> dict[str, dict[str, int]]:
        """Class name -> its images planned (where there is a plan), written and accepted."""
        wanted = self.plan.get("quota") or self.plan.get("counts")
        table = {name: {"planned": wanted.get(name, 0)} if wanted else {} for name in self.classes}
        for counts in table.values():
            counts |= {"written": 0, "accepted": 0}
        for row in self.rows:
            table[row["class_name"]]["written"] += 1
            table[row["class_name"]]["accepted"] += bool(row["accepted"])
        return table

    @cached_property
    def total(self) -> dict[str, int]:
        """The sums of `counts` over the classes."""
        names = next(iter(self.counts.values()))
        return {name: sum(counts[name] for counts in self.counts.values()) for name in names}

    @cached_property
    def by_job(self) -> dict[tuple, dict]:
        """Rows by what identifies a job across datasets that different workflows made from the same plan."""
        return {_job(row): row for row in self.rows}

    def picture(self, row: Mapping) -> dict:
        """One image in the form that the page shows."""
        words = [f"{who} {value:.1%}" for who, value in _confidences(row).items()]
        about = f"{Path(row['file']).name}: {', '.join(words) or 'no score'}; {row['reason'] or 'no reason given'}"
        kind = "accepted" if row["accepted"] else "rejected"
        return {"data": data_uri(self.folder / row["file"]), "kind": kind, "words": words, "about": about}

    def real_picture(self, row: Mapping) -> dict:
        """The real image that it was made from."""
        path = inside(self.source, row["source"]) if self.source and row["source"] else None
        return {"data": data_uri(path) if path else None, "kind": "real", "words": [], "about": row["source"] or "real"}


def write_report(
    dataset: Dataset,
    out: str | Path | None = None,
    compare: Sequence[Dataset] = (),
    per_class: int | None = None,
    higfa: str = "higfa",
) -> Path:
    """Write the page.

    Args:
        out: The file; by default `report.html` in the dataset's folder.
        compare: Datasets that other workflows made from the same jobs, to show side by side.
        per_class: Images shown per class; by default as many as keep the page small.
        higfa: How the command line is invoked here, for the hints on the page.
    """
    out = Path(out) if out else dataset.folder / NAME
    per_class = per_class or max(2, min(24, MOST_PICTURES // len(dataset.classes)))
    page = template("report.html").render(
        title=dataset.folder.name,
        total=dataset.total,
        comparison=_comparison(dataset, compare) if compare else None,
        judged=any("judge" in _confidences(row) for row in dataset.rows),
        classes=[_class(dataset, name, per_class) for name in dataset.classes],
        rejected=_rejected(dataset.rows),
        facts=_facts(dataset),
        settings=_settings(dataset.plan.get("workflow") or {}),
        steps=_steps(dataset.folder, higfa),
    )
    write_atomic(out, page.encode())
    return out


def template(name: str, folder: Path = Path(__file__).parent) -> Template:
    """A page's template in `folder`; it may extend `page.html` and import from `picture.html` of this room."""
    loader = FileSystemLoader([folder, Path(__file__).parent])
    return Environment(loader=loader, autoescape=True, trim_blocks=True).get_template(name)


def _comparison(dataset: Dataset, others: Sequence[Dataset]) -> dict:
    """For one job of each class, the image of every dataset."""
    columns = {other.folder.name.replace("_", " "): other for other in others} | {"this dataset": dataset}
    shared = [row for row in dataset.rows if all(_job(row) in other.by_job for other in others)]
    firsts = {row["class_name"]: row for row in reversed(shared)}
    rows = [(name, _job(firsts[name]), firsts[name]) for name in dataset.classes if name in firsts]
    means = {label: _mean(column.by_job[job] for _, job, _ in rows) for label, column in columns.items()}
    return {
        "columns": ["real", *columns],
        "rows": [
            (name, [dataset.real_picture(row), *(column.picture(column.by_job[job]) for column in columns.values())])
            for name, job, row in rows
        ],
        "means": {label: mean for label, mean in means.items() if mean is not None},
    }


def _class(dataset: Dataset, name: str, shown: int) -> dict:
    """A class on the page: its counts, its mean scores and its first images, with the real one before its own."""
    rows = [row for row in dataset.rows if row["class_name"] == name]
    groups: dict[str, list[dict]] = defaultdict(list)
    for row in rows[:shown]:
        groups[row["source"] or ""].append(row)
    return {
        "name": name,
        "counts": dataset.counts[name],
        "means": {who: _mean(rows, who) for who in SCORES},
        "groups": [(dataset.real_picture(some[0]), [dataset.picture(row) for row in some]) for some in groups.values()],
        "more": max(0, len(rows) - shown),
    }


def _rejected(rows: Iterable[Mapping]) -> list[tuple[str, int]]:
    return reasons(Counter(row["reason"] for row in rows if not row["accepted"])).most_common()


def _facts(dataset: Dataset) -> dict[str, str]:
    """What the plan and the rows say about where the images come from."""
    source, licences = dataset.plan.get("dataset") or {}, dataset.plan.get("licences") or {}
    last = dataset.rows[-1]
    facts = {
        "real images": f"{source['name']} ({source['layout']}), {source['root']}" if source else "",
        "licence of the real images": licences.get("sources") or "",
        "licence of the checkpoint": licences.get("checkpoint") or "",
        "rules": _pairs(last.get("rules") or {}),
        "versions": _pairs(last.get("versions") or {}),
    }
    return {name: text for name, text in facts.items() if text}


def _settings(workflow: Mapping) -> dict[str, str]:
    """Title of a node -> its values, without its links."""
    found = {}
    for node in workflow.values():
        values = {name: value for name, value in node["inputs"].items() if not isinstance(value, list)}
        if values:
            found[(node.get("_meta") or {}).get("title", node["class_type"])] = _pairs(values)
    return found


def _steps(folder: Path, higfa: str) -> list[tuple[str, str]]:
    """(What to do next, the code or command for it)."""
    rules = "--require-top1 --max-duplicate-bits 4"
    return [
        ("Train on the accepted images:", f"torchvision.datasets.ImageFolder({str(folder / 'train')!r})"),
        ("Apply other rules, without generating anything again:", f'{higfa} filter "{folder}" {rules}'),
        (
            "Export the accepted images with a data card:",
            f'{higfa} export "{folder}" --out "{folder}_export" --format huggingface',
        ),
    ]


def _pairs(values: Mapping) -> str:
    return ", ".join(f"{name} {'(empty)' if value == '' else value}" for name, value in values.items())


def _mean(rows: Iterable[Mapping], who: str = "guide") -> float | None:
    found = [value for row in rows if (value := _confidences(row).get(who)) is not None]
    return fmean(found) if found else None


def _confidences(row: Mapping) -> dict[str, float]:
    scores = row["scores"] or {}
    return {who: scores[name] for who, name in SCORES.items() if scores.get(name) is not None}


def _job(row: Mapping) -> tuple:
    # Not the job key, which also covers the prompt: a comparison may well be about prompts.
    return row["class_name"], row["source"], row["seed"], row["index"]


def data_uri(path: Path) -> str | None:
    """An image as a data URI without the text that ComfyUI embeds in files; None if it is unreadable."""
    buffer = io.BytesIO()
    try:
        with opened(path) as found:
            small = ImageOps.exif_transpose(found).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None
    exact = max(small.size) <= SIDE
    small.thumbnail((SIDE, SIDE))
    small.save(buffer, "PNG" if exact else "JPEG", quality=85)
    return f"data:image/{'png' if exact else 'jpeg'};base64,{b64encode(buffer.getvalue()).decode()}"
