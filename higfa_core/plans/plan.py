"""What to make: a plan is an indexable, lazily built list of jobs; a job is one image to generate.

Everything about a job is a pure function of the plan's arguments and the source files, so any part of a plan
can run on any machine, in any order and any number of times.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from ..files.hashes import canonical_json, file_sha256, json_sha256
from ..files.names import class_name, composed
from ..files.paths import leads_out, refuse_held_out
from ..files.records import plain
from ..sources.source import Box, SourceDataset, SourceImage
from ..wording import counted
from .prompts import Prompts

CONTOUR_FROM = ("same", "other")
MAX_SEED = 2**63 - 1


@dataclass(frozen=True)
class Job:
    """One image to generate. `source` and `contour_source` are relative to the folder `dataset`.

    `classes` are all class names in label order; `key`, the job key (64 hex digits), covers everything in the job
    that affects pixels. `image_file` and `mask_file`: where a batch run has put the contour's image and mask, relative
    to ComfyUI's input folder. `box`: the object in the contour's image, (x, y, width, height) in pixels of an image of
    `size` (width, height).
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
    image_file: str = ""
    mask_file: str = ""
    box: Box | None = None
    size: tuple[int, int] | None = None

    def __post_init__(self):
        values = self.__dict__
        for name, kind in _KINDS.items():
            if type(values[name]) is not kind:
                raise ValueError(f"Job field {name!r} must be {kind.__name__}, got {values[name]!r}")
        if len(self.key) != 64 or self.key.strip("0123456789abcdef"):
            raise ValueError(f"Job key must be 64 lower-case hex digits, got {self.key!r}")
        if not 0 <= self.seed <= MAX_SEED:
            raise ValueError(f"Job seed must be in 0..2**63-1, got {self.seed}.")
        if not 0 <= self.label < len(self.classes) or self.classes[self.label] != self.class_name:
            raise ValueError(f"Job class {self.class_name!r} is not number {self.label} of {self.classes}")
        for name, length in (("box", 4), ("size", 2)):
            if (value := getattr(self, name)) is not None and not _are_numbers(value, length):
                raise ValueError(f"Job field {name!r} must be {length} numbers, got {value!r}")
        for name in ("source", "contour_source", "image_file", "mask_file"):
            if (path := getattr(self, name)) and leads_out(path):
                raise ValueError(f"Job field {name!r} must be a relative path without '..', got {path!r}")
        refuse_held_out(
            *self.dataset.split("/"), *(self._split_part(path) for path in (self.source, self.contour_source))
        )

    def _split_part(self, path: str) -> str:
        """The part of a path that may be a split: its first folder, unless that is the class folder."""
        first, _, rest = path.partition("/")
        return "" if "/" not in rest and class_name(first) == self.class_name else first

    def to_json(self) -> str:
        """The job as one line of JSON with sorted keys."""
        return canonical_json(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        """The job that `to_json` wrote. ValueError for anything else."""
        return cls._from_values(_object(text))

    @classmethod
    def _from_values(cls, values: Mapping[str, Any]) -> Job:
        names = {field.name for field in fields(cls)}
        if wrong := sorted((_KINDS.keys() - OPTIONAL - values.keys()) | (values.keys() - names)):
            words = ", ".join(f"{name} ({'missing' if name in names else 'unknown'})" for name in wrong)
            raise ValueError(f"Job has wrong fields: {words}")
        if not isinstance(values["classes"], list) or not all(isinstance(c, str) for c in values["classes"]):
            raise ValueError(f"Job field 'classes' must be a list of names, got {values['classes']!r}")
        parts: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
        return cls(**parts)


def jobs_to_json(jobs: Sequence[Job], classes_file: str = "") -> str:
    """Jobs of one plan as one line of JSON; one job as `Job.to_json` writes it, more with their classes said once.

    `classes_file`: a file with the classes, which is named in their place.
    """
    if len(jobs) == 1 and not classes_file:
        return jobs[0].to_json()
    own = [{name: value for name, value in vars(job).items() if name != "classes"} for job in jobs]
    return canonical_json({"classes": classes_file or jobs[0].classes, "jobs": own})


def jobs_from_json(text: str, read_classes: Callable[[str], list[str]] | None = None) -> list[Job]:
    """The jobs that `jobs_to_json` wrote; `read_classes` reads the file that they may name. ValueError for anything
    else."""
    values = _object(text)
    if "jobs" not in values:
        return [Job._from_values(values)]
    jobs, classes = values["jobs"], values.get("classes")
    if not isinstance(jobs, list) or not jobs or not all(isinstance(job, dict) for job in jobs):
        raise ValueError(f"Job field 'jobs' must be a list of jobs, got {text[:80]!r}")
    if isinstance(classes, str) and read_classes is not None:
        classes = read_classes(classes)
    return [Job._from_values({**job, "classes": classes}) for job in jobs]


def _object(text: str) -> dict[str, Any]:
    try:
        values = plain(text.encode())
    except ValueError as error:  # UnicodeEncodeError is one
        raise ValueError(f"Job is not JSON ({error}): {text[:80]!r}") from error
    if not isinstance(values, dict):
        raise ValueError(f"Job must be a JSON object, got {text[:80]!r}")
    return values


OPTIONAL = {"image_file", "mask_file"}
_NAMED = {"int": int, "str": str}
_KINDS = {f.name: _NAMED.get(str(f.type), tuple) for f in fields(Job) if f.name not in ("box", "size")}


def _are_numbers(values: Any, length: int) -> bool:
    if not isinstance(values, (list, tuple)) or len(values) != length:
        return False
    return all(type(value) in (int, float) and math.isfinite(value) for value in values)


class Plan(Sequence[Job]):
    """`counts[class]` jobs for every class, with the classes taking turns.

    Within a class the jobs go through all images once, then through all again (the next replica). In any prefix of
    the plan two classes differ by at most one job as long as neither has run out. `counts` may be a single number:
    that many replicas of every image. `name`: what jobs call the dataset. Source files are read (for their hashes)
    only when a job is asked for. `hashes`: path -> SHA-256, where already known.
    """

    def __init__(
        self,
        dataset: SourceDataset,
        counts: Mapping[str, int] | int = 1,
        prompts: Prompts = Prompts(),
        plan_seed: int = 0,
        contour_from: str = "same",
        name: str | None = None,
        hashes: dict[str, str] | None = None,
    ):
        if isinstance(counts, int):
            counts = {name: images * counts for name, images in dataset.counts().items()}
        if unknown := sorted(counts.keys() - set(dataset.class_names)):
            raise ValueError(f"counts has a class that the dataset lacks: {unknown[0]!r}.")
        if contour_from not in CONTOUR_FROM:
            raise ValueError(f"contour_from must be one of {', '.join(CONTOUR_FROM)}, got {contour_from!r}")
        self.dataset, self.name = dataset, Path(dataset.root).name if name is None else name
        self.classes, self.prompts = dataset.class_names, prompts
        self.plan_seed, self.contour_from = plan_seed, contour_from
        self._counts = {name: counts.get(name, 0) for name in dataset.class_names}
        self._groups = _group(dataset, self._counts, contour_from)
        prompts.check_classes([info for info in dataset.classes if self._counts[info.name]])
        self._blocks = _blocks(self._counts)
        self._starts = [start for start, _, _ in self._blocks]
        self._length = sum(self._counts.values())
        self._hashes = {} if hashes is None else hashes
        if not self._length:
            raise ValueError(
                f"A plan needs at least one job, got counts {dict(counts)} for {counted(len(dataset.images), 'image')}"
            )

    def __len__(self) -> int:
        return self._length

    def counts(self) -> dict[str, int]:
        """Class name -> number of jobs, in label order."""
        return dict(self._counts)

    def __getitem__(self, index: int) -> Job:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"Job index {index} is out of range: the plan has {counted(len(self), 'job')}")
        return self._job(index % len(self))

    def _job(self, index: int) -> Job:
        class_name, turn = self._turn(index)
        group = self._groups[class_name]
        replica, position = divmod(turn, len(group))
        source = group[position]
        contour = group[self._contour_position(source, position, replica, len(group))]
        draw = 0
        if self.prompts.variants > 1:
            draw = _hash64("prompt", self.plan_seed, composed(source.path), composed(class_name), replica)
        prompt = self.prompts.render(self.dataset.classes[source.label], index, draw)
        seed = job_seed(self.plan_seed, source.path, class_name, replica)
        key = job_key(
            source_sha256=self.sha256(source.path),
            contour_sha256=self.sha256(contour.path),
            mask_sha256=self.sha256(contour.mask) if contour.mask else None,
            treatment=[contour.crop_bottom, *contour.mask_values, *((contour.box or ()) if not contour.mask else ())],
            class_name=class_name,
            prompt=prompt,
            seed=seed,
            replica=replica,
        )
        places = (self.classes, source.path, contour.path)
        return Job(self.name, index, key, class_name, source.label, *places, prompt, seed, replica, "", "", contour.box)

    def sha256(self, path: str) -> str:
        """The hash of a file of the dataset, read once per plan."""
        if path not in self._hashes:
            self._hashes[path] = file_sha256(Path(self.dataset.root, path))
        return self._hashes[path]

    def known_sha256(self, path: str) -> str | None:
        """The hash of a file that some job has already asked for, else None."""
        return self._hashes.get(path)

    def _turn(self, index: int) -> tuple[str, int]:
        start, first_turn, active = self._blocks[bisect_right(self._starts, index) - 1]
        turn, position = divmod(index - start, len(active))
        return active[position], first_turn + turn

    def _contour_position(self, source: SourceImage, position: int, replica: int, count: int) -> int:
        if self.contour_from == "same":
            return position
        draw = _hash64("contour", self.plan_seed, composed(source.path), composed(source.class_name), replica)
        return (position + 1 + draw % (count - 1)) % count


def job_seed(plan_seed: int, source: str, class_name: str, replica: int) -> int:
    """Seed in 0..2**63-1: top 63 bits of SHA-256 of the JSON `[plan_seed,source,class_name,replica]`.

    JSON without spaces, in UTF-8, strings in Unicode form NFC (macOS returns decomposed file names).
    """
    return _hash64(plan_seed, composed(source), composed(class_name), replica) >> 1


def job_key(**parts: object) -> str:
    """SHA-256 (hex) of the canonical JSON of everything in a job that affects pixels."""
    return json_sha256(parts)


def _hash64(*values: object) -> int:
    return int(json_sha256(values)[:16], 16)


def _group(dataset: SourceDataset, counts: Mapping[str, int], contour_from: str) -> dict[str, list[SourceImage]]:
    groups: dict[str, list[SourceImage]] = {name: [] for name in dataset.class_names}
    for source in sorted(dataset.images, key=lambda s: (s.label, s.path)):
        groups[source.class_name].append(source)
    for name, count in counts.items():
        if count and not groups[name]:
            raise ValueError(f"Class {name!r} has no training image. Ask for no jobs of it, or add images.")
        if count and contour_from == "other" and len(groups[name]) < 2:
            raise ValueError(f"Class {name!r} has one image, but contour_from 'other' needs two. Use 'same'.")
    return groups


def _blocks(counts: Mapping[str, int]) -> list[tuple[int, int, list[str]]]:
    """Stretches of the plan where the same classes take turns: (first index, first turn, those classes)."""
    blocks, start, done = [], 0, 0
    for level in sorted(set(counts.values()) - {0}):
        active = [name for name, count in counts.items() if count >= level]
        blocks.append((start, done, active))
        start, done = start + (level - done) * len(active), level
    return blocks
