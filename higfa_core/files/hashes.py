"""Digests: of values as canonical JSON, of files."""

from __future__ import annotations

import functools
import hashlib
import json
from pathlib import Path

from .reading import open_file

_ENCODER = json.JSONEncoder(sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def canonical_json(value: object) -> str:
    """JSON with sorted keys and no spaces; ValueError for values that JSON cannot hold (NaN, objects)."""
    try:
        return _ENCODER.encode(value)
    except TypeError as error:
        raise ValueError(f"Not plain JSON ({error}): {value!r}") from error


def json_sha256(value: object) -> str:
    """SHA-256 (hex) of a value's canonical JSON."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()


def file_sha256(path: str | Path) -> str:
    """SHA-256 (hex) of a file of any size, cached until its size or time changes."""
    try:
        info = Path(path).stat()
    except OSError as error:
        raise ValueError(f"Cannot read source file {path} ({error}). Was it moved?") from error
    return _file_sha256(str(path), info.st_size, info.st_mtime_ns)


@functools.lru_cache(maxsize=65536)
def _file_sha256(path: str, size: int, mtime_ns: int) -> str:
    digest = hashlib.sha256()
    with open_file(path) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
