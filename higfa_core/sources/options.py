"""How somebody says in which way images and labels lie on disk: on a command line, in a plan, in a node."""

from __future__ import annotations

from collections.abc import Mapping

COLUMNS = ("labels", "path_column", "label_column", "split_column")
OPTIONS = ("layout", "layout_option", *COLUMNS)


def layout_of(options: Mapping) -> dict[str, str]:
    """Layout and options as `..sources.layouts.read_dataset` takes them, from those of `OPTIONS` that are there."""
    columns = {name: str(options[name]) for name in COLUMNS if options.get(name)}
    return {"layout": options.get("layout") or "auto", **dict(options.get("layout_option") or ()), **columns}
