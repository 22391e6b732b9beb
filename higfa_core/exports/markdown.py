"""Escapes names and prompts from outside for Markdown: they appear as they are, never as markup."""

from __future__ import annotations

import re
from collections.abc import Iterable

ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
# An underscore inside a word marks nothing up, and class names are full of them.
MARKUP = re.compile(r"[\\`*\[\]|~!#&<>]|(?<!\w)_|_(?!\w)|(?<=http):|(?<=https):|(?<=www)\.", re.IGNORECASE)
HIDDEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]+")
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # a cell that begins so is a formula to a spreadsheet


def inline(text: object) -> str:
    """The text on one line, with all that Markdown or HTML would act on as plain characters."""
    line = HIDDEN.sub(" ", str(text)).strip()
    line = MARKUP.sub(lambda found: ENTITIES.get(found[0]) or f"\\{found[0]}", line)
    return re.sub(r"^([+-]|\d+[.)](?= ))", lambda found: f"{found[1][:-1]}\\{found[1][-1]}", line)


def bullets(lines: Iterable[str]) -> str:
    """A list."""
    return "\n".join(f"- {line}" for line in lines)


def table(head: tuple, rows: Iterable[tuple]) -> str:
    """A table, whose cells are shown as they are."""
    lines = [head, ("---",) * len(head), *(map(inline, row) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
