"""How a layout and its options are specified: on the command line, in a plan, in a node."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

COLUMNS = ("labels", "path_column", "label_column", "split_column")
OPTIONS = ("layout", "layout_option", *COLUMNS)


def parse_layout(text: str) -> dict[str, str]:
    """`table labels=train.csv "label_column=the breed"`, or just `auto`, as `read_dataset` takes it."""
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ValueError(f"Layout {text!r} has an unclosed quote. Correct it.") from error
    pairs = [word.partition("=") for word in words]
    names = [word for word, sign, _ in pairs if not sign]
    if len(names) > 1:
        raise ValueError(f"Layout {text!r} names {' and '.join(names)}. Write one, and its options as NAME=VALUE.")
    return {"layout": names[0] if names else "auto", **{name: value for name, sign, value in pairs if sign}}


def layout_of(options: Mapping) -> dict[str, Any]:
    """Layout and options as `..sources.layouts.read_dataset` takes them, from those of `OPTIONS` that are given."""
    columns = {name: str(options[name]) for name in COLUMNS if options.get(name)}
    return {"layout": options.get("layout") or "auto", **dict(options.get("layout_option") or ()), **columns}
