"""What to make: a plan is an indexable, lazily built list of jobs; a job is one image to be generated.

Everything about a job is a pure function of the plan's arguments and the source files, so any part of a plan
can be made on any machine, in any order and any number of times.
"""

from __future__ import annotations

import functools
import hashlib
import json
import string
import unicodedata
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from .layouts import SourceImage, find_mask, inside, prompt_name, read_image_folder, refuse_held_out

PLACEHOLDERS = ("class", "index")
CONTOUR_FROM = ("same", "other")


@dataclass(frozen=True)
class Job:
    """One image to generate. ``source`` and ``contour_source`` are relative to the folder ``dataset``.

    ``classes`` are all class names in label order; ``key`` (64 hex digits) covers all that affects pixels.
    """

    dataset: str
    index: int
    key: str
    class_name: str
    label: int
    classes: tuple[str, ...]
    source: str
    contour_source: str
    prompt: str
    seed: int
    replica: int

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            kind = {"int": int, "str": str}.get(field.type, tuple)
            if not isinstance(value, kind) or isinstance(value, bool):
                raise ValueError(f"Job field {field.name!r} must be {field.type}, got {value!r}")
        if len(self.key) != 64 or set(self.key) - set("0123456789abcdef"):
            raise ValueError(f"Job key must be 64 lower-case hex digits, got {self.key!r}")
        if not 0 <= self.seed < 2**63:
            raise ValueError(f"Job seed must be in 0..2**63-1, got {self.seed}: a plan writes every seed")
        if not 0 <= self.label < len(self.classes) or self.classes[self.label] != self.class_name:
            raise ValueError(f"Job class {self.class_name!r} is not number {self.label} of {self.classes}")
        refuse_held_out(*self.dataset.split("/"), *self.source.split("/")[:1])
        refuse_held_out(*self.contour_source.split("/")[:1])

    def to_json(self) -> str:
        """The job as one line of JSON with sorted keys."""
        return canonical_json(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        """The job that :meth:`to_json` wrote. ValueError for anything else."""
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"Job is not JSON ({error}): {text[:80]!r}") from error
        if not isinstance(values, dict):
            raise ValueError(f"Job must be a JSON object, got {text[:80]!r}")
        names = {field.name for field in fields(cls)}
        if wrong := sorted(names ^ values.keys()):
            words = ", ".join(f"{name} ({'missing' if name in names else 'unknown'})" for name in wrong)
            raise ValueError(f"Job has wrong fields: {words}")
        if not isinstance(values["classes"], list) or not all(isinstance(c, str) for c in values["classes"]):
            raise ValueError(f"Job field 'classes' must be a list of names, got {values['classes']!r}")
        return cls(**{**values, "classes": tuple(values["classes"])})


class Plan(Sequence[Job]):
    """``replicas`` jobs for every source image, in an order that goes round the classes.

    In a class the replicas follow one another (all sources once, then all again), and the classes take turns:
    in any prefix two classes differ by at most one job as long as neither has run out. Source files are read
    (for their hashes) only when a job is asked for. ``settings``: whatever else affects pixels; it enters the
    keys.
    """

    def __init__(
        self,
        root: str | Path,
        sources: Sequence[SourceImage],
        replicas: int = 1,
        prompt_template: str = "a photo of a {class}",
        plan_seed: int = 0,
        contour_from: str = "same",
        settings: Mapping | None = None,
        dataset: str | None = None,
    ):
        check_template(prompt_template)
        if not sources or replicas < 1:
            raise ValueError(f"A plan needs sources and replicas >= 1, got {len(sources)} and {replicas}")
        if contour_from not in CONTOUR_FROM:
            raise ValueError(f"contour_from must be one of {', '.join(CONTOUR_FROM)}, got {contour_from!r}")
        self.root, self.dataset = Path(root), Path(root).name if dataset is None else dataset
        self.replicas, self.prompt_template, self.plan_seed = replicas, prompt_template, plan_seed
        self.contour_from, self.settings = contour_from, dict(settings or {})
        self._by_class = _group(sources, contour_from)
        self.classes = tuple(self._by_class)
        self._blocks = _blocks({name: len(group) * replicas for name, group in self._by_class.items()})
        self._starts = [start for start, _, _ in self._blocks]
        self._length = len(sources) * replicas

    def __len__(self) -> int:
        return self._length

    def counts(self) -> dict[str, int]:
        """Class name -> number of jobs."""
        return {name: len(group) * self.replicas for name, group in self._by_class.items()}

    def __getitem__(self, index: int) -> Job:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"Job index {index} is out of range: the plan has {len(self)} jobs")
        return self._job(index % len(self))

    def _job(self, index: int) -> Job:
        class_name, turn = self._turn(index)
        group = self._by_class[class_name]
        replica, position = divmod(turn, len(group))
        source = group[position]
        contour = group[self._contour_position(source, position, replica, len(group))]
        prompt = render_prompt(self.prompt_template, class_name, index)
        seed = job_seed(self.plan_seed, source.path, class_name, replica)
        key = job_key(
            source_sha256=file_sha256(self.root / source.path),
            contour_sha256=file_sha256(self.root / contour.path),
            mask_sha256=file_sha256(self.root / contour.mask) if contour.mask else None,
            class_name=class_name,
            prompt=prompt,
            seed=seed,
            replica=replica,
            settings=self.settings,
        )
        names = (self.classes, source.path, contour.path, prompt)
        return Job(self.dataset, index, key, class_name, source.label, *names, seed, replica)

    def _turn(self, index: int) -> tuple[str, int]:
        start, first_turn, active = self._blocks[bisect_right(self._starts, index) - 1]
        turn, position = divmod(index - start, len(active))
        return active[position], first_turn + turn

    def _contour_position(self, source: SourceImage, position: int, replica: int, count: int) -> int:
        if self.contour_from == "same":
            return position
        draw = _hash64("contour", self.plan_seed, _nfc(source.path), _nfc(source.class_name), replica)
        return (position + 1 + draw % (count - 1)) % count


def pick_job(input_folder: str | Path, dataset: str, index: int, job: str = "", **plan) -> tuple[Job, int]:
    """Job ``index`` of the plan over ``input_folder/dataset``, and how many there are; ``plan``: as for Plan.

    A ``job`` as JSON wins over everything else (and counts as 1).
    """
    if job.strip():
        return Job.from_json(job), 1
    refuse_held_out(*dataset.split("/"))
    root = inside(input_folder, dataset)
    jobs = Plan(root, read_image_folder(root), dataset=dataset, **plan)
    if not 0 <= index < len(jobs):
        raise ValueError(f"No job {index} in {dataset!r}: there are {len(jobs)}, use 0 to {len(jobs) - 1}")
    return jobs[index], len(jobs)


def job_files(input_folder: str | Path, job: Job) -> tuple[Path, Path | None]:
    """The image whose contour the job uses, and its mask if there is one; both inside ``input_folder``."""
    root = inside(input_folder, job.dataset)
    mask = find_mask(root, job.contour_source)
    return inside(root, job.contour_source), inside(root, mask) if mask else None


def job_seed(plan_seed: int, source: str, class_name: str, replica: int) -> int:
    """Seed in 0..2**63-1: top 63 bits of SHA-256 of the JSON ``[plan_seed,source,class_name,replica]``.

    JSON without spaces, in UTF-8, strings in Unicode form NFC (macOS hands out decomposed file names).
    """
    return _hash64(plan_seed, _nfc(source), _nfc(class_name), replica) >> 1


def job_key(**parts: object) -> str:
    """SHA-256 (hex) of the canonical JSON of everything that affects the pixels of a job."""
    return hashlib.sha256(canonical_json(parts).encode()).hexdigest()


def canonical_json(value: object) -> str:
    """JSON with sorted keys and no spaces; ValueError for values that JSON cannot hold (NaN, objects)."""
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except TypeError as error:
        raise ValueError(f"Not plain JSON ({error}): {value!r}") from error


def check_template(template: str) -> None:
    """ValueError unless ``template`` holds ``{class}`` and no placeholder besides those of PLACEHOLDERS."""
    valid = ", ".join(f"{{{name}}}" for name in PLACEHOLDERS)
    try:
        parsed = [(name, spec, conversion) for _, name, spec, conversion in string.Formatter().parse(template)]
    except ValueError as error:
        raise ValueError(f"prompt_template {template!r}: {error}; write a literal brace twice") from error
    used = [part for part in parsed if part[0] is not None]
    for name, spec, conversion in used:
        if name not in PLACEHOLDERS or spec or conversion:
            raise ValueError(f"prompt_template has an unknown placeholder {{{name}}}: valid are {valid}")
    if not any(name == "class" for name, _, _ in used):
        raise ValueError(f"prompt_template {template!r} names no class: put {{class}} where the name belongs")


def render_prompt(template: str, class_name: str, index: int) -> str:
    """The prompt of job ``index``; the class name is cleaned by :func:`.layouts.prompt_name`."""
    return template.format(**{"class": prompt_name(class_name), "index": index})


def file_sha256(path: str | Path) -> str:
    """SHA-256 (hex) of a file, remembered until its size or time changes."""
    try:
        info = Path(path).stat()
    except OSError as error:
        raise ValueError(f"Cannot read source file {path} ({error}): was it moved?") from error
    return _file_sha256(str(path), info.st_size, info.st_mtime_ns)


@functools.lru_cache(maxsize=65536)
def _file_sha256(path: str, size: int, mtime_ns: int) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def _hash64(*values: object) -> int:
    return int.from_bytes(hashlib.sha256(canonical_json(values).encode()).digest()[:8], "big")


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _group(sources: Sequence[SourceImage], contour_from: str) -> dict[str, list[SourceImage]]:
    groups: dict[str, list[SourceImage]] = {}
    for source in sorted(sources, key=lambda s: (s.label, s.path)):
        groups.setdefault(source.class_name, []).append(source)
    for name, group in groups.items():
        if contour_from == "other" and len(group) < 2:
            raise ValueError(f"Class {name!r} has one image: contour_from 'other' needs two, use contour_from 'same'")
    return groups


def _blocks(counts: dict[str, int]) -> list[tuple[int, int, list[str]]]:
    """Stretches of the plan where the same classes take turns: (first index, first turn, those classes)."""
    blocks, start, done = [], 0, 0
    for level in sorted(set(counts.values())):
        active = [name for name, count in counts.items() if count >= level]
        blocks.append((start, done, active))
        start, done = start + (level - done) * len(active), level
    return blocks
