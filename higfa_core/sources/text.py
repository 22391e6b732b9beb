"""The text of a file, whatever its encoding."""

from __future__ import annotations

import codecs
from pathlib import Path

MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
SAMPLE = 1_000_000  # bytes that a guess is made from


def read_text(path: Path) -> tuple[str, str]:
    """The text, and the name of its encoding where that is a guess; UTF-8, UTF-16 and UTF-32 need none.

    UnicodeDecodeError when nothing fits.
    """
    content = path.read_bytes()
    marked = next((name for mark, name in MARKS if content.startswith(mark)), "")
    if marked or b"\0" not in content[:1000]:
        try:
            return content.decode(marked or "utf-8"), ""
        except UnicodeDecodeError:
            pass
    import chardet  # comes with clevercsv; here, because most text needs it not

    guess = chardet.detect(content[:SAMPLE])["encoding"] or "cp1252"
    text = content.decode(guess)
    return text, "" if guess.lower().startswith("utf") else guess
