"""Repairs what a killed process left in a dataset: temporary files, and images where they no longer belong.

An image is written before its row, and moved by a copy, a row and a removal: between two of these steps a file may be
at a place that no row names. Only files with our names are touched. A second copy of an image is removed; a file that
no row names, and that is too old for its row to be pending, is moved to `unlisted/`, where nothing reads it.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from pathlib import Path

from ..files.atomic import alone
from ..files.hashes import json_sha256
from ..files.held import PART, STALE_SECONDS, remove_left, remove_left_parts
from .rows import ACCEPTED, MASKS, REJECTED

OURS = re.compile(r"([0-9a-f]{16}-\d+)\.(png|jpg|webp)")
UNLISTED = "unlisted"


def put_right(folder: Path, named: Mapping[str, Collection[str]], all_known: bool) -> None:
    """Tidy the dataset in `folder`; does nothing while another process moves images, or without write permission.

    Args:
        named: Subfolder -> names of the files in it that belong to an image.
        all_known: Whether `named` has all images of the manifest; only then can a file be orphaned.
    """
    with suppress(OSError, ValueError):
        remove_left_parts(folder)
        if _unnamed(folder, named):
            with alone(folder, seconds=0):
                _tidy(folder, _unnamed(folder, named), named, all_known)


def folders_stamp(folder: Path) -> str:
    """Changes when a file is added to the folders of images, or removed."""
    places = [place for kind in (ACCEPTED, REJECTED, MASKS) for place in _folders(folder / kind)]
    times = sorted((place.relative_to(folder).as_posix(), place.stat().st_mtime_ns) for place in places)
    return json_sha256(times)


def _unnamed(folder: Path, named: Mapping[str, Collection[str]]) -> list[str]:
    """Files with our names that belong to no image."""
    found = []
    for kind in (ACCEPTED, REJECTED, MASKS):
        for place in _folders(folder / kind):
            path = f"{kind}/{place.name}"
            others = set(os.listdir(place)).difference(named.get(path, ()))
            found += [f"{path}/{name}" for name in others if OURS.fullmatch(name) or PART.fullmatch(name)]
    return found


def _tidy(folder: Path, extra: list[str], named: Mapping[str, Collection[str]], all_known: bool) -> None:
    homes = {(_is_mask(place), _stem(name)): f"{place}/{name}" for place in named for name in named[place]}
    for path in extra:
        place, _, name = path.rpartition("/")
        if PART.fullmatch(name):
            remove_left(folder / path)
        else:
            home = homes.get((_is_mask(place), _stem(name)))
            if home is not None and (folder / home).is_file():
                (folder / path).unlink()
            elif home is None and all_known and _is_old(folder / path):
                (folder / UNLISTED / path).parent.mkdir(parents=True, exist_ok=True)
                os.replace(folder / path, folder / UNLISTED / path)


def _is_mask(place: str) -> bool:
    return place.startswith(f"{MASKS}/")


def _stem(name: str) -> str:
    return name.rpartition(".")[0]


def _is_old(path: Path) -> bool:
    return time.time() - path.stat().st_mtime > STALE_SECONDS


def _folders(folder: Path) -> list[Path]:
    with suppress(OSError), os.scandir(folder) as entries:
        return [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    return []
