"""Command-line options for settings that are declared on dataclasses."""

from __future__ import annotations

import argparse
from typing import Any

from ..settings import Setting, in_words, settings_of

METAVARS = {int: "N", float: "X", str: "NAME"}


def add_options(parser: Any, cls: type, *names: str, unset: str = "", **defaults: Any) -> None:
    """Add an option for each setting of a dataclass, or for those named, in that order.

    Args:
        parser: an `argparse.ArgumentParser` or a group of one.
        unset: what applies if an option is not given, in words; its value is then None.
        defaults: by name, where the command line has a different default.
    """
    for item in settings_of(cls, *names):
        _add(parser, item, unset, None if unset else defaults.get(item.name, item.default))


def names_of(cls: type) -> list[str]:
    """The names of a dataclass's settings."""
    return [item.name for item in settings_of(cls)]


def given(cls: type, args: argparse.Namespace) -> dict[str, Any]:
    """The settings of a dataclass that the command line names, of those added with `unset`."""
    return {name: value for name in names_of(cls) if (value := getattr(args, name, None)) is not None}


def _add(parser: Any, item: Setting, unset: str, default: Any) -> None:
    shown = unset or in_words(default)
    text = f"{item.text} (default: {shown})" if shown else item.text
    option = parser.add_argument(f"--{item.name.replace('_', '-')}", help=text.replace("%", "%%"), **_form(item))
    option.default = default  # passed to add_argument, Python before 3.13 would repeat it in the help


def _form(item: Setting) -> dict[str, Any]:
    if item.kind is bool:
        return {"action": argparse.BooleanOptionalAction}
    if item.choices:
        return {"choices": item.choices}
    return {"type": item.kind, "metavar": item.unit.upper() or METAVARS[item.kind]}
