"""Counts in words, for everything that is printed, and articles for prompts."""

from __future__ import annotations

import re
import unicodedata

# Names that are spoken with a vowel first.
AN = re.compile(
    r"(?!(?i:eu|ewe|one\b|once\b|uni(?!n|m)|us[ae]|uk|ur[ai]|ub)|U(?![a-z]))[AEIOUaeiou]"  # "a Eurasian", "a UH-60"
    r"|(?i:hour|heir|honest|honou?r)"
    r"|8|1[18](?!\d)"
    r"|[FHLMNRSX][B-DF-HJ-NP-TV-Z]*(?![A-Za-z])"  # spelled: "an F-16", "an MD-80"
)


def counted(number: int, noun: str, spec: str = "") -> str:
    """The number with its noun: "1 class", "2 classes". `spec` formats the number, as in an f-string."""
    return f"{number:{spec}} {noun if number == 1 else plural(noun)}"


def plural(noun: str) -> str:
    """The regular plural of the last word."""
    if noun.endswith(("s", "x", "ch", "sh")):
        return f"{noun}es"
    return f"{noun[:-1]}ies" if noun[-1] == "y" and noun[-2] not in "aeiou" else f"{noun}s"


def with_article(name: str) -> str:
    """The name with "a" or "an", as it is spoken: "an Alder Finch", "a Eurasian Wren", "an F-16A"."""
    spoken = unicodedata.normalize("NFD", name)  # without accents
    return f"{'an' if AN.match(spoken) else 'a'} {name}"
