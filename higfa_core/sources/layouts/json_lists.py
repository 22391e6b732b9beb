"""Large JSON files with one list each of images, classes and annotations, as COCO and iNaturalist write them."""

from __future__ import annotations

import json
import mmap
import re
from pathlib import Path

MANY = 1 << 12  # bytes within which such a file names its first list


def read_array(file: Path, key: str) -> list:
    """The list under `key`. Parsing the whole file could take gigabytes of memory."""
    try:
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            found = re.search(rb'"' + key.encode() + rb'"\s*:\s*', content)
            text = content[found.end() :].decode() if found else ""
        return list(json.JSONDecoder().raw_decode(text)[0])
    except (ValueError, TypeError) as error:  # mmap: ValueError for an empty file
        raise ValueError(f"{file} has no list of {key} ({error}). Replace or remove the file.") from error


def has_lists(file: Path, *keys: str) -> bool:
    """Whether the file contains an object with a list under each of these keys."""
    try:
        with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return all(re.search(rb'"' + key.encode() + rb'"\s*:\s*\[', content) for key in keys)
    except (OSError, ValueError):
        return False
