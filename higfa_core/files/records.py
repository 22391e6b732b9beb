"""What records on disk must look like: one schema per record, and one way to read them.

msgspec, because it decodes and checks a row in less time than `json.loads` takes to decode it, and needs nothing else.
A schema only lists the fields that somebody reads; others may come along and are kept.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Raw, Struct

from .paths import path_flaw

T = TypeVar("T")
Natural = Annotated[int, Meta(ge=0, le=2**63 - 1)]
Small = Annotated[int, Meta(ge=0, le=2**16)]
Key = Annotated[str, Meta(min_length=1, max_length=200)]
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
    box: tuple[float, float, float, float] | None = None
    width: Natural | None = None
    height: Natural | None = None
    versions: dict[str, Any] | None = None

    def __post_init__(self):
        if not STORED.fullmatch(self.file) or path_flaw(self.file):
            raise ValueError(f"file {self.file!r} is no place for an image of a dataset: train/CLASS/NAME.png")
        if self.mask is not None and (not STORED_MASK.fullmatch(self.mask) or path_flaw(self.mask)):
            raise ValueError(f"mask {self.mask!r} is no place for a mask of a dataset: masks/CLASS/NAME.png")


_ROW = msgspec.json.Decoder(Row)
ROW_FIELDS = tuple(field.name for field in msgspec.structs.fields(Row) if field.required)


def check_row(line: bytes) -> Row:
    """The fields of a line of a manifest that somebody reads. ValueError says which of them is wrong."""
    try:
        return _ROW.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(_words(error)) from None


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
    what, place = re.fullmatch(r"(.*?)(?: - at `\$(.*)`)?", str(error), re.DOTALL).groups()
    what = re.sub(r"^Object missing required field", "lacks", what.replace("Expected ", "must be ", 1))
    words = f"{place.strip('.')} {what}" if place else what
    return words.replace("`", "").strip()
