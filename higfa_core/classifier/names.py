"""Class names: which are valid, how a name is found, and how various files list them."""

from __future__ import annotations

import difflib
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from ..files.names import matching_key
from ..wording import counted


def checked(names) -> tuple[str, ...]:
    """At least two unique, non-empty, one-line names (slashes and any script are fine); ValueError otherwise."""
    if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"class_names must be a list of strings, got {str(names)[:80]}")
    if len(names) < 2:
        raise ValueError(f"a classifier needs at least 2 classes, got {len(names)}. Add the missing names.")
    bad = [i + 1 for i, name in enumerate(names) if not name.strip() or name.splitlines() != [name]]
    if bad:
        raise ValueError(f"class name {bad[0]} of {len(names)} is empty or has a line break. Give it a name.")
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ValueError(f"class names must be unique, repeated: {', '.join(twice[:5])}. Rename them.")
    return tuple(names)


def index(name: str, names: Sequence[str], source: str) -> int:
    """Position of `name`; ValueError with the closest one. Where that is unambiguous, what `_plain` removes is ignored,
    and one of several synonyms suffices ("tench" for ImageNet's "tench, Tinca tinca")."""
    if name in names:
        return names.index(name)
    wanted, plain = _plain(name), [_plain(known) for known in names]
    if plain.count(wanted) == 1:
        return plain.index(wanted)
    synonyms = [set(re.split(r"\s*,\s*", known)) for known in plain]
    having = [i for i, words in enumerate(synonyms) if wanted and wanted in words]
    if len(having) == 1:
        return having[0]
    owner = {word: known for known, words in zip(names, synonyms) for word in words} | dict(zip(plain, names))
    closest = difflib.get_close_matches(wanted, owner, n=1)
    hint = f": closest '{owner[closest[0]]}'" if closest else ""
    shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
    raise ValueError(f"No class '{name}' in {source}{hint}. It has {counted(len(names), 'class')}: {shown}")


def listed(labels: Mapping | Sequence | None) -> list[str] | None:
    """The names of an `id2label` or `label_names` entry; None if it has none, or only LABEL_0, LABEL_1 ...

    Public models repeat names (ImageNet has two cranes); these get their number: "crane (134)".
    """
    if not isinstance(labels or (), (Mapping, list, tuple)):
        raise ValueError(f"the labels must be a list or an object, got {str(labels)[:80]!r}")
    if isinstance(labels, Mapping):
        if sorted(map(str, labels), key=_number) != [str(i) for i in range(len(labels))]:
            raise ValueError(f"the labels are not numbered 0 to {len(labels) - 1}: {', '.join(map(str, labels))[:80]}")
        labels = [labels[key] for key in sorted(labels, key=_number)]
    names = [str(label) for label in labels or ()]
    if all(re.fullmatch(r"LABEL_\d+", name) for name in names):
        return None
    counts = Counter(names)
    return [name if counts[name] == 1 else f"{name} ({i})" for i, name in enumerate(names)]


def unnumbered(lines: list[str]) -> list[str]:
    """The lines without a leading number, if all have one, as in CUB's classes.txt ("2 002.Laysan_Albatross")."""
    parts = [line.split(maxsplit=1) for line in lines]
    for first in (0, 1):
        if all(len(part) == 2 and part[0] == str(i) for i, part in enumerate(parts, first)):
            rest = [part[1] for part in parts]
            return rest if len(set(rest)) == len(rest) else lines  # "1 euro", "2 euro" are names
    return lines


def _number(key) -> int:
    return int(key) if str(key).isdigit() else -1


def _plain(name: str) -> str:
    """Without case, underscores and a dataset's numbering: "003.Laysan_Albatross" is "Laysan Albatross"."""
    return " ".join(re.sub(r"^\d+\.", "", matching_key(name)).replace("_", " ").split())
