"""A plan on disk: `plan.json` (what was decided) and `plan.jsonl` (one job per line), in the dataset's folder."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import msgspec
from msgspec import structs

from ..files.atomic import replacing, write_atomic
from ..files.faults import naming
from ..files.held import remove_left_parts
from ..files.reading import open_file, read_bytes
from ..files.records import PlanHeader, PlanLine, checked, read_as
from ..sources.source import SourceImage
from .plan import Job, Plan
from .rules import Rules
from .workflow import image_key

if TYPE_CHECKING:
    from ..sources.leaks import Leak

HEADER, JOBS = "plan.json", "plan.jsonl"
VERSION = 1
NOTES = {"leaks", "left_out"}  # record what was seen, not what is planned; plans of earlier versions lack them
LINE = ("index", "key", "class_name", "source", "contour_source", "prompt", "seed", "replica")


def write_plan(
    folder: str | Path,
    plan: Plan,
    *,
    workflow: Mapping,
    workflow_digest: str,
    dataset_name: str,
    options: Mapping,
    quota: Mapping[str, int] | None = None,
    rules: Rules = Rules(),
    licences: Mapping[str, str] | None = None,
    leaks: Sequence[Leak] = (),
    replace: bool = False,
) -> dict:
    """Write the plan, return its header. Writing the same plan again changes nothing; ValueError if another is there.

    `quota`: accepted images wanted per class; without it every job is run. `leaks`: what was found in the sources.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    remove_left_parts(folder)
    with naming(folder / JOBS), replacing(folder / JOBS) as file:
        header = _header(plan, _write_jobs(file, plan), quota, rules) | {
            "dataset_name": dataset_name,
            "options": dict(options),
            "licences": dict(licences or {}),
            "leaks": [asdict(leak) for leak in leaks],
            "workflow_digest": workflow_digest,
            "workflow": dict(workflow),
        }
        _refuse_another(folder, header, replace)
    # json itself indents in Python, which takes a quarter of the time of a plan.
    write_atomic(folder / HEADER, msgspec.json.format(json.dumps(header, ensure_ascii=False).encode(), indent=1))
    return header


class PlanFile:
    """The plan in `folder`. ValueError when there is none, or its two files do not match."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        path = self.folder / HEADER
        try:
            self.header = checked(PlanHeader, read_bytes(path))
        except FileNotFoundError:
            raise ValueError(f"No {HEADER} in {self.folder}. Make a plan with higfa plan.") from None
        except ValueError as error:
            raise ValueError(f"{path} is damaged ({error}). Make the plan again.") from error
        if self.header["version"] != VERSION:
            raise ValueError(f"{path} has version {self.header['version']!r}, expected {VERSION}. Update HiGFA.")
        self.classes = tuple(info["name"] for info in self.header["classes"])
        self._labels = {name: label for label, name in enumerate(self.classes)}

    def __len__(self) -> int:
        return self.header["jobs"]

    @property
    def rules(self) -> Rules:
        """The rules that accepted images satisfy."""
        return Rules.recorded(self.header["rules"])

    def lines(self) -> Iterator[bytes]:
        """The jobs as stored in the file. ValueError at the end if the file does not match the header."""
        digest = hashlib.sha256()
        with open_file(self.folder / JOBS) as file:
            for line in file:
                digest.update(line)
                yield line
        if digest.hexdigest() != self.header["jobs_sha256"]:
            raise ValueError(f"{self.folder / JOBS} was changed after planning. Make the plan again.")

    def image_keys(self) -> set[str]:
        """The keys of the images that this plan makes."""
        digest = self.header["workflow_digest"]
        return {image_key(self.read(line).key, digest) for line in self.lines()}

    def job(self, index: int) -> Job:
        """Job number `index`."""
        path = self.folder / JOBS
        lines = _kept_lines(path, path.stat().st_mtime_ns)
        if not 0 <= index < len(lines):
            raise ValueError(f"No job {index} in the plan. Use 0 to {len(lines) - 1}.")
        return self.parse(lines[index])

    def parse(self, line: bytes | str) -> Job:
        """The job on a line of the plan."""
        found = self.read(line)
        box, name = self.header["sources"][found.contour_source].get("box"), self.header["dataset"]["name"]
        places = {"dataset": name, "label": self._labels[found.class_name], "classes": self.classes}
        return Job(**structs.asdict(found), **places, box=tuple(box) if box else None)

    def read(self, line: bytes | str) -> PlanLine:
        """The contents of a line of the plan. ValueError when it is damaged, or belongs to another plan."""
        try:
            found = read_as(PlanLine, line.encode() if isinstance(line, str) else line)
        except ValueError as error:
            raise ValueError(f"{self.folder / JOBS} is damaged ({error}). Make the plan again.") from error
        sources = {found.source, found.contour_source}
        if found.class_name not in self._labels or not sources <= self.header["sources"].keys():
            where = f"{self.folder / JOBS}, job {found.index}"
            raise ValueError(f"{where}: its class or its source is not in {HEADER}. Make the plan again.")
        return found

    def source(self, path: str) -> SourceImage:
        """The source image at `path`, as the layout described it when the plan was made."""
        about = self.header["sources"][path]
        return SourceImage(
            path,
            self.classes[about["label"]],
            about["label"],
            about.get("mask"),
            tuple(about.get("mask_values") or ()),
            tuple(about["box"]) if about.get("box") else None,
            about.get("crop_bottom") or 0,
        )


def planned_keys(folder: str | Path) -> set[str] | None:
    """The keys of the images of the plan in `folder`; None where there is no plan, as on the canvas."""
    there = all((Path(folder) / name).is_file() for name in (HEADER, JOBS))
    return PlanFile(folder).image_keys() if there else None


@functools.lru_cache(maxsize=2)
def _kept_lines(path: Path, mtime_ns: int) -> list[bytes]:
    return read_bytes(path).splitlines()


def _write_jobs(file: BinaryIO, plan: Plan) -> str:
    """Returns the digest of the lines."""
    digest, encode = hashlib.sha256(), json.JSONEncoder(ensure_ascii=False).encode
    for job in plan:
        line = encode({name: getattr(job, name) for name in LINE}).encode() + b"\n"
        digest.update(line)
        file.write(line)
    return digest.hexdigest()


def _header(plan: Plan, jobs_sha256: str, quota: Mapping[str, int] | None, rules: Rules) -> dict:
    return {
        "version": VERSION,
        "dataset": _dataset(plan),
        "classes": [asdict(info) for info in plan.dataset.classes],
        "counts": plan.counts(),
        "quota": dict(quota) if quota else None,
        "rules": rules.stored(),
        "jobs": len(plan),
        "jobs_sha256": jobs_sha256,
        "sources": {image.path: _source(image, plan) for image in plan.dataset.images},
        "left_out": [asdict(entry) for entry in plan.dataset.left_out],
    }


def _dataset(plan: Plan) -> dict:
    found = plan.dataset
    about = {"name": plan.name, "root": str(Path(found.root).absolute()), "layout": found.layout}
    return about | {"evidence": found.evidence, "licence": found.licence, "held_out": found.held_out}


def _source(image: SourceImage, plan: Plan) -> dict:
    values = {name: value for name, value in vars(image).items() if name not in ("path", "class_name")}
    return values | {"sha256": plan.known_sha256(image.path)}


def _refuse_another(folder: Path, header: dict, replace: bool) -> None:
    if replace or not (folder / HEADER).is_file():
        return
    old = PlanFile(folder).header
    changed = [name for name in header.keys() - NOTES if old.get(name) != json.loads(json.dumps(header[name]))]
    if changed:
        raise ValueError(
            f"{folder} holds another plan (other {', '.join(changed)}). Choose another folder, or add --replace: "
            "images of jobs that are in both plans stay, exports omit the others."
        )
