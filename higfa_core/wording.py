"""Counts in words, for everything that is printed."""

from __future__ import annotations


def counted(number: int, noun: str, spec: str = "") -> str:
    """The number with its noun: "1 class", "2 classes". `spec` formats the number, as in an f-string."""
    return f"{number:{spec}} {noun if number == 1 else plural(noun)}"


def plural(noun: str) -> str:
    """The regular plural of the last word."""
    if noun.endswith(("s", "x", "ch", "sh")):
        return f"{noun}es"
    return f"{noun[:-1]}ies" if noun[-1] == "y" and noun[-2] not in "aeiou" else f"{noun}s"
