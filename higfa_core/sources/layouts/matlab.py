"""MATLAB files, checked before SciPy reads them: it trusts their headers, and crashes the process if these are wrong.

The check covers the structure of the level 5 format: every element lies inside its parent, has a known type, and as
many values as its dimensions say. Source: MathWorks, "MAT-File Format", R2024a.
"""

from __future__ import annotations

import io
import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ...files.reading import read_bytes

VALUE_BYTES = {1: 1, 2: 1, 3: 2, 4: 2, 5: 4, 6: 4, 7: 4, 9: 8, 12: 8, 13: 8, 16: 1, 17: 2, 18: 4}
MATRIX, COMPRESSED = 14, 15
# Names may be UTF-8 and dimensions unsigned, as some programs write them.
NAMES, WHOLE, FLAGS = (1, 16), (5, 6), (6,)
TEXT_TYPES = (1, 2, 4, 16, 17, 18)
CELL, STRUCT, OBJECT, CHAR = 1, 2, 3, 4
NUMBERS = range(6, 16)
HEADER, DEEPEST, LARGEST = 128, 20, 1 << 28  # bytes, levels, bytes of a variable after decompression


def load_mat(path: Path) -> dict[str, Any]:
    """The variables of a MATLAB file. ValueError if it is unreadable."""
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise ValueError(f"Reading {path} needs SciPy: pip install scipy.") from error
    try:
        content = read_bytes(path)
        refuse_damaged(content)
        return loadmat(io.BytesIO(content), squeeze_me=True)
    except Exception as error:  # a damaged file raises almost anything
        raise ValueError(f"Cannot read {path} ({error}). Replace it with the original.") from error


def refuse_damaged(content: bytes) -> None:
    """ValueError if a level 5 file contradicts its headers. SciPy reads files of other levels safely."""
    order = {b"IM": "<", b"MI": ">"}.get(content[126:HEADER])
    if order is None or 0 in content[:4]:  # as SciPy recognises level 4
        return
    for kind, data in _elements(content[HEADER:], order, padded=False):
        if kind == COMPRESSED:
            data = _decompressed(data)
            ((kind, data),) = _elements(data, order, padded=True)
        if kind != MATRIX:
            raise ValueError(f"an element of type {kind} where a variable belongs")
        _check_matrix(data, order, 0)


class _Head(NamedTuple):
    kind: int
    is_complex: bool
    count: int


def _check_matrix(content: bytes, order: str, depth: int) -> None:
    if not content and depth:  # an empty cell
        return
    if depth > DEEPEST:
        raise ValueError("variables nested too deep")
    parts = _elements(content, order, padded=True)
    head = _head(parts, order)
    if head.kind in NUMBERS:
        for _ in range(1 + head.is_complex):
            _check_values(_next(parts), head.count)
    elif head.kind == CHAR:
        kind, _ = _next(parts)
        if kind not in TEXT_TYPES:
            raise ValueError(f"text of type {kind}")
    elif head.kind in (CELL, STRUCT, OBJECT):
        _check_matrices(parts, head, order, depth)
    else:
        raise ValueError(f"a variable of class {head.kind}, which no list of images has")
    if next(parts, None) is not None:
        raise ValueError("a variable with more parts than it needs")


def _head(parts: Iterator[tuple[int, bytes]], order: str) -> _Head:
    """Flags, dimensions and name of a variable."""
    (flags,) = struct.unpack_from(f"{order}I", _of_type(parts, FLAGS, 8))
    sides = _of_type(parts, WHOLE)
    sides = struct.unpack(f"{order}{len(sides) // 4}i", sides)
    if not 2 <= len(sides) <= 32 or min(sides) < 0:
        raise ValueError(f"a variable of the dimensions {sides}")
    _of_type(parts, NAMES)
    return _Head(flags & 0xFF, bool(flags & 0x800), math.prod(sides))


def _check_matrices(parts: Iterator[tuple[int, bytes]], head: _Head, order: str, depth: int) -> None:
    """The variables in a cell array, a structure or an object."""
    count = head.count
    if head.kind == OBJECT:
        _of_type(parts, NAMES)
    if head.kind != CELL:
        (length,) = struct.unpack(f"{order}i", _of_type(parts, WHOLE, 4))
        names = _of_type(parts, NAMES)
        if length < 1 or len(names) % length:
            raise ValueError(f"field names of {length} characters in {len(names)} bytes")
        count *= len(names) // length
    for _ in range(count):
        kind, data = _next(parts)
        if kind != MATRIX:
            raise ValueError(f"an element of type {kind} where a variable belongs")
        _check_matrix(data, order, depth + 1)


def _check_values(part: tuple[int, bytes], count: int) -> None:
    kind, data = part
    if kind not in VALUE_BYTES or len(data) != count * VALUE_BYTES[kind]:
        raise ValueError(f"{len(data)} bytes of type {kind} for {count} values")


def _of_type(parts: Iterator[tuple[int, bytes]], wanted: tuple[int, ...], size: int | None = None) -> bytes:
    kind, data = _next(parts)
    if kind not in wanted or (size is not None and len(data) != size) or len(data) % VALUE_BYTES[kind]:
        raise ValueError(f"{len(data)} bytes of type {kind} where type {wanted[0]} belongs")
    return data


def _next(parts: Iterator[tuple[int, bytes]]) -> tuple[int, bytes]:
    part = next(parts, None)
    if part is None:
        raise ValueError("a variable that is cut short")
    return part


def _elements(content: bytes, order: str, padded: bool) -> Iterator[tuple[int, bytes]]:
    """Type and content of each element; short ones have both in the eight bytes of their tag."""
    at = 0
    while at < len(content):
        if len(content) - at < 8:
            raise ValueError("an element that is cut short")
        kind, size = struct.unpack_from(f"{order}II", content, at)
        start, end = at + 8, at + 8 + size
        if kind >> 16:
            kind, size = kind & 0xFFFF, kind >> 16
            start, end = at + 4, at + 4 + size
            if size > 4:
                raise ValueError(f"a short element of {size} bytes")
        if end > len(content):
            raise ValueError(f"an element of {size} bytes where {len(content) - start} are left")
        yield kind, content[start:end]
        at = max(end, at + 8)
        if padded or kind != COMPRESSED:
            at += -at % 8


def _decompressed(data: bytes) -> bytes:
    unpacker = zlib.decompressobj()
    found = unpacker.decompress(data, LARGEST)
    if not unpacker.eof:
        raise ValueError("a compressed variable that is cut short, or larger than 256 MB")
    return found
