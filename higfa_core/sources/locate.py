"""Where listed images are: at the listed path, or elsewhere below the root if exactly one file matches."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from pathlib import PurePosixPath

from ..files.formats import readable_suffixes, suffix_of
from ..files.names import matching_key
from .hints import held_out_hint, is_beside_images, split_hint
from .tree import Tree, stem_of

JPEG = (".jpg", ".jpeg", ".jpe", ".jfif")
ANCHOR = re.compile(r"^(?:[a-z]+://|[A-Za-z]:|[/\\])+")


def normal(path: str) -> str:
    """A listed path in the form in which paths are compared: `./a//b` and `C:\\a\\b` -> `a/b`. ValueError for `..`."""
    clean = PurePosixPath(ANCHOR.sub("", path.replace("\\", "/")))
    if ".." in clean.parts:
        raise ValueError(f"Path {path!r} in a list must be relative and without '..'. Correct the list.")
    return clean.as_posix()


def locate(
    tree: Tree, train: Collection[str], held_out: Collection[str] = (), taken: Collection[str] = ()
) -> dict[str, str]:
    """Listed path -> path on disk, of the images that exist. Listed paths are in the form of `normal`; files `taken`,
    on disk, are something else.

    A file elsewhere stands in for a listed one only if the whole listed folder is elsewhere and no other file matches,
    and never across the boundary between training and held-out images. ValueError when two match.
    """
    found = {path: place for path in (*train, *held_out) if (place := _in_place(tree, path))}
    lost = _lost_folders((*train, *held_out), found)
    claimed = {*found.values(), *taken}
    for paths, training in ((held_out, False), (train, True)):
        for path in paths:
            if path not in found and path.rpartition("/")[0] in lost:
                fitting = _fitting(tree, path, training, claimed)
                if len(fitting) > 1 and training:
                    raise ValueError(
                        f"{path} is listed, but not in {tree.root}, where {fitting[0]} and {fitting[1]} could both be "
                        "it. Move the images to the listed paths."
                    )
                if len(fitting) == 1:
                    found[path] = fitting[0]
    _refuse_shared(found, claimed)
    return found


def near_misses(tree: Tree, path: str) -> list[str]:
    """Files that nearly match the listed one, for a message: the same stem with another suffix or place."""
    return [place for _, place in tree.by_name.get(matching_key(stem_of(path)), ())]


def _in_place(tree: Tree, path: str) -> str | None:
    """At the listed path: under that name, with or without a suffix, or with another JPEG suffix."""
    if place := tree.find(path):
        return place
    if path in tree.places:
        return path
    above, _, name = path.rpartition("/")
    if (folder := tree.folder(above)) is None:
        return None
    suffix = suffix_of(name)
    listed = suffix if suffix in readable_suffixes() else ""
    same = folder.by_stem.get(matching_key(stem_of(name) if listed else name), [])
    if listed in JPEG:
        same = [place for place in same if suffix_of(place) in JPEG]
        if not same and (bare := folder.by_key.get(matching_key(stem_of(name)))):
            return bare[0] if len(bare) == 1 else None  # the file has lost its suffix
    elif listed:
        return None
    return same[0] if len(same) == 1 else None


def _lost_folders(paths: Iterable[str], found: dict[str, str]) -> set[str]:
    """Listed folders none of whose files is in its place."""
    counts, there = Counter(), Counter()
    for path in paths:
        folder = path.rpartition("/")[0]
        counts[folder] += 1
        there[folder] += path in found
    return {folder for folder in counts if not there[folder]}


def _fitting(tree: Tree, path: str, training: bool, claimed: set[str]) -> list[str]:
    """The files elsewhere that match best: those that share the longest end of the listed path."""
    name = path.rpartition("/")[2]
    listed = suffix_of(name) if suffix_of(name) in readable_suffixes() else ""
    key = matching_key(stem_of(name) if listed else name)
    wanted = path.split("/")[:-1]
    ranked = defaultdict(list)
    for shown, place in tree.by_name.get(key, ()):
        if listed and suffix_of(place) != listed and not {listed, suffix_of(place)} <= set(JPEG):
            continue
        folders = shown.split("/")[:-1]
        if place not in claimed and not _on_the_other_side(folders, wanted, training):
            ranked[_shared_end(folders, wanted)].append(place)
    return ranked[max(ranked)] if ranked else []


def _on_the_other_side(folders: list[str], wanted: list[str], training: bool) -> bool:
    """Whether a file lies among images of the other splits, or among masks."""
    others = {matching_key(folder) for folder in folders} - {matching_key(folder) for folder in wanted}
    if any(map(is_beside_images, others)):
        return True
    if training:
        return any(map(held_out_hint, others))
    return any(split_hint(name) == "train" for name in others)


def _shared_end(folders: list[str], wanted: list[str]) -> int:
    shared = 0
    for ours, theirs in zip(reversed(folders), reversed(wanted)):
        if matching_key(ours) != matching_key(theirs):
            break
        shared += 1
    return shared


def _refuse_shared(found: dict[str, str], claimed: set[str]) -> None:
    owners: dict[str, str] = {}
    for path, place in found.items():
        other = owners.setdefault(place, path)
        if other != path and place not in claimed:
            raise ValueError(f"{other} and {path} are both listed, but only {place} exists. Correct the list.")
