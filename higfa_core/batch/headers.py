"""User-defined headers of every request: `NAME=VALUE`, on the command line or in the environment."""

from __future__ import annotations

import re
from collections.abc import Iterable

VARIABLE = "HIGFA_HEADERS"  # one NAME=VALUE per line: for secrets, which stay out of the shell's history
OWN = ("content-length", "content-type", "host", "range", "transfer-encoding")


def read_headers(texts: Iterable[str], environment: str = "") -> dict[str, str]:
    """Header name -> value, from `texts` and from the lines of `environment`, which `texts` override.

    ValueError for anything else. It never shows a value, which may be a secret.
    """
    found: dict[str, tuple[str, str]] = {}
    for where, text in [*((VARIABLE, line) for line in environment.splitlines()), *(("--header", t) for t in texts)]:
        if not text.strip() and where == VARIABLE:
            continue
        name, sign, value = (part.strip() for part in text.partition("="))
        if not sign or not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
            raise ValueError(f"{where} must be NAME=VALUE, as in 'Authorization=Bearer ...', and has no name")
        if not value or not value.isprintable() or not value.isascii():
            raise ValueError(f"{where}: the value of {name} must be printable ASCII, and not empty")
        if name.lower() in OWN:
            raise ValueError(f"{where}: {name} is set by each request itself. Leave it out.")
        found[name.lower()] = name, value
    return dict(found.values())
