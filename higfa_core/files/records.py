"""The schemas of records on disk: one per record, and one way to read them.

msgspec, because it decodes and checks a row in less time than `json.loads` takes to decode it, and needs nothing else.
A schema only lists the fields in use; others may come along and are kept.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Raw, Struct

from .paths import leads_out, path_flaw

T = TypeVar("T")
Natural = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Small = Annotated[int, Meta(ge=0, le=2**16)]
Key = Annotated[str, Meta(min_length=1, max_length=200)]
Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
Four = tuple[float, float, float, float]
Hash = Annotated[str, Meta(pattern="^[0-9a-f]{1,16}$")]
Number = float | None
STORED = re.compile(r"(train|rejected)/[^/]+/[^/]+\.(png|jpg|webp)")
STORED_MASK = re.compile(r"masks/[^/]+/[^/]+\.png")


class Scores(Struct, gc=False, omit_defaults=True):
    """What was measured about an image."""

    confidence: Number = None
    rank: Number = None
    margin: Number = None
    seen: str | None = None
    broken: bool | None = None
    judge_confidence: Number = None
    judge_rank: Number = None
    judge_margin: Number = None
    judge_seen: str | None = None
    judge_broken: bool | None = None
    contour_agreement: Number = None
    sharpness: Number = None
    phash: Hash | None = None
    given_up: Number = None


class Human(Struct, gc=False):
    """What a person decided about an image, and when (ISO 8601)."""

    accepted: bool
    at: str


class Row(Struct, gc=False):
    """A line of `manifest.jsonl`: one image."""

    key: Key
    index: Small
    batch: Annotated[int, Meta(ge=1, le=2**16)]
    file: str
    sha256: str | None
    bytes: Natural | None
    class_name: str
    label: Natural | None
    accepted: bool
    reason: str | None
    scores: Scores
    seed: int | None
    prompt: str | None
    source: str | None
    transform: Raw
    created: Raw
    mask: str | None = None
    plan_index: Natural | None = None
    contour_source: str | None = None
    workflow: str | None = None
    rules: dict[str, Any] | None = None
    box: Four | None = None
    width: Natural | None = None
    height: Natural | None = None
    versions: dict[str, Any] | None = None
    human: Human | None = None

    def __post_init__(self):
        if not STORED.fullmatch(self.file) or path_flaw(self.file):
            raise ValueError(f"file {self.file!r} is not the path of an image in a dataset: train/CLASS/NAME.png")
        if self.mask is not None and (not STORED_MASK.fullmatch(self.mask) or path_flaw(self.mask)):
            raise ValueError(f"mask {self.mask!r} is not the path of a mask in a dataset: masks/CLASS/NAME.png")


class PlanLine(Struct, gc=False, forbid_unknown_fields=True):
    """A line of `plan.jsonl`: what differs from job to job."""

    index: Natural
    key: Digest
    class_name: str
    source: str
    contour_source: str
    prompt: str
    seed: Natural
    replica: Natural


class PlanSource(Struct, gc=False):
    """A source image in `plan.json`."""

    label: Natural
    mask: str | None = None
    mask_values: list[int] = []
    box: Four | None = None
    crop_bottom: Natural = 0
    sha256: str | None = None


class PlanClass(Struct, gc=False):
    """A class in `plan.json`."""

    name: str
    prompt: str = ""
    super_class: str = ""


class PlanDataset(Struct):
    """Where the source images are, in `plan.json`."""

    name: str
    root: str
    layout: str = ""
    evidence: str = ""
    licence: str = ""
    held_out: int = 0


class PlanLeftOut(Struct, forbid_unknown_fields=True):
    """Files that were left out for one reason, in `plan.json`."""

    reason: str
    count: Natural
    example: str
    remedy: str = ""


class PlanHeader(Struct):
    """`plan.json`: what was decided for all jobs."""

    version: int
    dataset: PlanDataset
    classes: list[PlanClass]
    rules: dict[str, float | bool]
    jobs: Natural
    jobs_sha256: str
    sources: dict[str, PlanSource]
    dataset_name: str
    workflow_digest: str
    workflow: dict[str, dict[str, Any]]
    counts: dict[str, Natural] = {}
    quota: dict[str, Natural] | None = None
    options: dict[str, Any] = {}
    licences: dict[str, str] = {}
    left_out: list[PlanLeftOut] = []

    def __post_init__(self):
        for path, source in self.sources.items():
            if flawed := next((name for name in (path, source.mask) if name is not None and leads_out(name)), None):
                raise ValueError(f"sources has the path {flawed!r}, which leads out of the dataset")
            if source.label >= len(self.classes):
                raise ValueError(f"sources[{path!r}].label is {source.label}, expected below {len(self.classes)}")


class DatasetInfo(Struct):
    """`dataset.json`: the classes of a dataset in label order; None where images came without a job."""

    classes: list[str] | None
    version: int = 1
    rules: dict[str, float | bool] | None = None


class MixedLists(Struct):
    """`mix.json`: real images with their labels, and the synthetic ones that may stand in for each."""

    probability: Annotated[float, Meta(ge=0, le=1)]
    classes: list[str]
    root: str
    labels: dict[str, int]
    pairs: dict[str, list[str]]

    def __post_init__(self):
        places = [*self.labels, *self.pairs, *(path for found in self.pairs.values() for path in found)]
        if flawed := next(filter(leads_out, places), None):
            raise ValueError(f"the path {flawed!r} leads out of its folder")


class OneImage(Struct, forbid_unknown_fields=True):
    """Which image of a dataset the page of the review means."""

    key: Key
    index: Small


class HandVerdict(Struct, forbid_unknown_fields=True):
    """What a person decides on the page of the review; None: what the rules say."""

    dataset: str
    images: Annotated[list[OneImage], Meta(min_length=1, max_length=10_000)]
    accepted: bool | None


class OtherRules(Struct, forbid_unknown_fields=True):
    """Rules to try, or to apply, on the page of the review."""

    dataset: str
    rules: dict[str, float | bool]


_ROW = msgspec.json.Decoder(Row)


def check_row(line: bytes) -> Row:
    """The fields in use of one manifest line. ValueError says which of them is wrong."""
    try:
        return _ROW.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(_words(error)) from None


def read_as(kind: type[T], data: bytes) -> T:
    """JSON as the record `kind`. ValueError says what is wrong with it."""
    try:
        return msgspec.json.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(_words(error)) from None


def checked(kind: type[Struct], data: bytes) -> dict[str, Any]:
    """JSON that has the fields of `kind`, with all others it has. ValueError says what is wrong with it."""
    read_as(kind, data)
    return plain(data)


def plain(data: bytes) -> Any:
    """Any JSON. ValueError says what is wrong with it."""
    try:
        return msgspec.json.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(_words(error)) from None


def _words(error: Exception) -> str:
    """msgspec's words as ours: "Expected `int`, got `str` - at `$.seed`" -> "seed must be int, got str"."""
    if isinstance(error, RecursionError):
        return "it is nested too deep"
    if isinstance(error, UnicodeDecodeError):
        return f"it is not UTF-8 text ({error.reason} at byte {error.start})"
    what, _, place = str(error).partition(" - at `$")
    place = place.removesuffix("`")
    what = re.sub(r"^Object missing required field", "lacks", what.replace("Expected ", "must be ", 1))
    words = f"{place.strip('.')} {what}" if place else what
    return words.replace("`", "").strip()
