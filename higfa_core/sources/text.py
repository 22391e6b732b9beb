"""The text of a file, whatever its encoding."""

from __future__ import annotations

import codecs
import json
from pathlib import Path
from typing import Any

from ..files.reading import read_bytes

MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
SAMPLE = 1_000_000  # bytes that a guess is based on


def read_text(path: Path) -> tuple[str, str]:
    """The text, and the name of its encoding where that is a guess (not for UTF-8, UTF-16 and UTF-32).

    UnicodeDecodeError when no encoding fits.
    """
    content = read_bytes(path)
    marked = next((name for mark, name in MARKS if content.startswith(mark)), "")
    if marked or b"\0" not in content[:1000]:
        try:
            return content.decode(marked or "utf-8"), ""
        except UnicodeDecodeError:
            pass
    if wide := _wide(content[:1000]):
        return content.decode(wide), ""
    import chardet  # comes with clevercsv; here, because most text does not need it

    guess = chardet.detect(content[:SAMPLE])["encoding"] or "cp1252"
    text = content.decode(guess)
    return text, "" if guess.lower().startswith("utf") else guess


def json_of(text: str | bytes) -> Any:
    """JSON as other programs write it. ValueError also where it is nested too deep, or has a number too long."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def _wide(head: bytes) -> str:
    """UTF-16 without a byte order mark, told by its zeros: every other byte of the letters in paths and numbers."""
    for start, name in ((1, "utf-16-le"), (0, "utf-16-be")):
        if head and head[start::2].count(0) > 0.4 * len(head) / 2 and not head[1 - start :: 2].count(0):
            return name
    return ""
