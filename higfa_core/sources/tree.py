"""The files below a folder, found in one walk and looked up as lists spell them."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterator
from functools import cached_property
from pathlib import Path

from ..files.formats import is_image, unreadable_image
from ..files.litter import is_litter
from ..files.names import matching_key
from ..files.paths import held_out_part, is_held_out, split_of
from .ledger import Ledger

UNCOUNTED = {".git", ".cache", ".venv"}  # large, and never images of a dataset
MOST_SKIPPED = 10_000  # files to count in one skipped folder


class Folder:
    """One folder of a `Tree`. `layers`: where its files are on disk, with their names; more than one where a folder
    of the same name was nested in it."""

    def __init__(self, place: str):
        self.folders: dict[str, Folder] = {}
        self.layers: list[tuple[str, list[str]]] = [(place, [])]
        self.no_images: dict[str, str] = {}  # name -> path on disk, of the files that are not images

    @property
    def files(self) -> Iterator[tuple[str, str]]:
        """Name and path on disk of each file."""
        for place, names in self.layers:
            for name in names:
                yield name, f"{place}{name}"

    @property
    def place(self) -> str:
        """Where the innermost of its layers is on disk: empty, or ending in a slash."""
        return self.layers[-1][0]

    @cached_property
    def images(self) -> list[str]:
        """The images directly in this folder, as paths on disk."""
        return [path for name, path in self.files if name not in self.no_images]

    @cached_property
    def by_name(self) -> dict[str, str]:
        """Name -> path on disk of each file."""
        return dict(self.files)

    @cached_property
    def by_key(self) -> dict[str, list[str]]:
        """`matching_key` of the name -> paths on disk of the files."""
        found = defaultdict(list)
        for name, path in self.files:
            found[matching_key(name)].append(path)
        return found

    @cached_property
    def by_stem(self) -> dict[str, list[str]]:
        """`matching_key` of the name without suffix -> paths on disk of the images."""
        found = defaultdict(list)
        for path in self.images:
            found[matching_key(stem_of(path))].append(path)
        return found

    def holds_images(self) -> bool:
        """Whether there are images in it, at any depth."""
        return bool(self.images) or any(folder.holds_images() for folder in self.folders.values())

    def walk(self, path: str = "") -> Iterator[tuple[str, Folder]]:
        """This folder and those below it, each with its path as `Tree` shows it."""
        yield path, self
        for name, folder in self.folders.items():
            yield from folder.walk(f"{path}/{name}" if path else name)


class Tree:
    """All files below `root` except hidden ones and system files.

    Paths as the tree *shows* them omit a folder nested in one of its own name (`images/images/1.jpg` is
    `images/1.jpg`); paths *on disk* include it. Both are relative to the root, with forward slashes.

    `follow_links`: also those that lead out of the root. `look_into`: read only folders with these names (as
    `matching_key` writes them); the others are known by name only.
    """

    def __init__(self, root: Path, follow_links: bool = False, look_into: Collection[str] | None = None):
        self.root = root
        self.follow_links = follow_links
        self._look_into = look_into
        self.ledger = Ledger()
        self.outside: list[str] = []  # links that lead out of the root and are not followed
        self.to_held_out: dict[str, str] = {}  # links into a validation or test split -> their targets
        self._real_root = os.path.realpath(root)
        self.top = self._read("", self._real_root, ())
        _collapse(self.top, root.name)

    def folder(self, path: str) -> Folder | None:
        """The folder shown at `path`, ignoring case and Unicode form."""
        found = self.top
        for name in filter(None, path.split("/")):
            inner = found.folders.get(name)
            if inner is None:
                same = [folder for other, folder in found.folders.items() if matching_key(other) == matching_key(name)]
                inner = same[0] if len(same) == 1 else None
            if inner is None:
                return None
            found = inner
        return found

    def folders(self, path: str = "") -> list[str]:
        """The names of the folders in the one at `path`, sorted."""
        found = self.folder(path)
        return sorted(found.folders) if found else []

    def find(self, path: str) -> str | None:
        """Path on disk of the file shown at `path`, ignoring case and Unicode form."""
        above, _, name = path.rpartition("/")
        folder = self.folder(above)
        if folder is None:
            return None
        if exact := folder.by_name.get(name):
            return exact
        same = folder.by_key.get(matching_key(name), ())
        return same[0] if len(same) == 1 else None

    def path(self, shown: str) -> Path:
        """The file shown there; where there is none, the path unchanged."""
        return self.root / (self.find(shown) or shown)

    def has(self, *paths: str) -> bool:
        """Whether all these files exist."""
        return all(self.find(path) is not None for path in paths)

    def place(self, path: str) -> str:
        """Where the folder shown at `path` is on disk: empty, or ending in a slash."""
        folder = self.folder(path)
        return folder.place if folder else (f"{path}/" if path else "")

    def images(self, path: str = "") -> list[str]:
        """All images at and below `path`, as sorted paths on disk."""
        folder = self.folder(path)
        return sorted(image for _, inner in folder.walk() for image in inner.images) if folder else []

    @cached_property
    def places(self) -> frozenset[str]:
        """All images as paths on disk, if any of these differ from how the tree shows them; else none."""
        return frozenset(self.images()) if any(len(folder.layers) > 1 for _, folder in self.top.walk()) else frozenset()

    def homes(self, first: str, *others: str) -> list[str]:
        """The folders outside validation and test splits that contain all these files, each by its relative path."""
        above, _, name = first.rpartition("/")
        found = []
        for holder in self._holders.get(matching_key(name), ()):
            home = _without_end(holder, above)
            if home is not None and not any(map(is_held_out, home.split("/"))) and self.has(*_below(home, others)):
                found.append(home)
        return found

    def training_folders(self) -> list[str]:
        """The training splits outside validation and test splits, each by its path."""
        found = []
        for path, folder in self.top.walk():
            if not any(map(is_held_out, path.split("/"))):
                found += [f"{path}/{name}" if path else name for name in folder.folders if split_of(name) == "train"]
        return found

    def nearest(self, home: str, path: str) -> str:
        """The file or folder `path` in the folder `home`, else the only one, or the closest one, elsewhere.

        As the tree shows it; empty when there is none, or two are equally close.
        """
        above, _, name = path.rpartition("/")
        found = [f"{holder}/{name}" if holder else name for holder in self._holders.get(matching_key(name), ())]
        found += [shown for shown, _ in self.top.walk() if matching_key(shown.rpartition("/")[2]) == matching_key(name)]
        found = [shown for shown in found if shown and _without_end(shown.rpartition("/")[0], above) is not None]
        ranked = defaultdict(list)
        for shown in found:
            ranked[len(os.path.commonpath((f"/{home}", f"/{shown}"))), -shown.count("/")].append(shown)
        return ranked[max(ranked)][0] if ranked and len(ranked[max(ranked)]) == 1 else ""

    @cached_property
    def others(self) -> list[str]:
        """All files that are not images, as paths on disk."""
        return [path for _, folder in self.top.walk() for path in folder.no_images.values()]

    @cached_property
    def by_name(self) -> dict[str, list[tuple[str, str]]]:
        """File name without suffix, as `matching_key` writes it -> the images of that name: shown, and on disk."""
        found = defaultdict(list)
        for path, folder in self.top.walk():
            for place in folder.images:
                name = place.rpartition("/")[2]
                found[matching_key(stem_of(name))].append((f"{path}/{name}" if path else name, place))
        return found

    @cached_property
    def _holders(self) -> dict[str, list[str]]:
        found = defaultdict(list)
        for path, folder in self.top.walk():
            for name in folder.no_images:
                found[matching_key(name)].append(path)
        return found

    def _read(self, place: str, real: str, above: tuple[str, ...]) -> Folder:
        folder = Folder(place)
        try:
            entries = sorted(os.scandir(self.root / place), key=lambda entry: entry.name)
        except (PermissionError, FileNotFoundError):
            self.ledger.add("folder that may not be read", place)
            return folder
        for entry in entries:
            if is_litter(entry.name):
                self._skip(entry, place)
            elif entry.is_symlink():
                self._read_link(folder, entry, place, (*above, real))
            elif entry.is_dir():
                self._read_folder(folder, entry.name, f"{real}/{entry.name}", (*above, real))
            else:
                self._add_file(folder, entry.name)
        return folder

    def _read_folder(self, folder: Folder, name: str, real: str, above: tuple[str, ...]) -> None:
        place = f"{folder.place}{name}/"
        looked_into = self._look_into is None or matching_key(name) in self._look_into
        folder.folders[name] = self._read(place, real, above) if looked_into else Folder(place)

    def _read_link(self, folder: Folder, entry, place: str, above: tuple[str, ...]) -> None:
        target, path = os.path.realpath(entry.path), f"{place}{entry.name}"
        if not os.path.exists(target) or any(up == target or up.startswith(f"{target}/") for up in above):
            return  # dangling, or a cycle
        if leads := held_out_part(Path(target)):
            self.to_held_out[path] = leads
        outside = target != self._real_root and not target.startswith(f"{self._real_root}/")
        if outside and not self.follow_links and (os.path.isdir(target) or is_image(entry.name)):
            self.outside.append(path)
        if not os.path.isdir(target):
            self._add_file(folder, entry.name)
        elif self.follow_links or not outside:
            self._read_folder(folder, entry.name, target, above)

    def _add_file(self, folder: Folder, name: str) -> None:
        folder.layers[0][1].append(name)
        if is_image(name):
            return
        path = folder.no_images[name] = f"{folder.place}{name}"
        if remedy := unreadable_image(name):
            self.ledger.add(f".{name.rpartition('.')[2].lower()}", path, remedy=remedy)

    def _skip(self, entry, place: str) -> None:
        """Count the images in a skipped folder, so that users who miss them learn where they are."""
        path = f"{place}{entry.name}"
        if not entry.is_dir(follow_symlinks=False):
            if is_image(entry.name):
                self.ledger.add("hidden", path)
        elif entry.name not in UNCOUNTED and (found := _pictures(Path(entry.path))):
            self.ledger.add(f"in {entry.name}", f"{path}/{found[0]}", len(found))


def stem_of(path: str) -> str:
    """The file name at the end of a path, without its suffix."""
    name = path.rpartition("/")[2]
    return name.rpartition(".")[0] or name


def _pictures(folder: Path) -> list[str]:
    found: list[str] = []
    for where, _, files in os.walk(folder):
        found += [Path(where, name).relative_to(folder).as_posix() for name in files if is_image(name)]
        if len(found) >= MOST_SKIPPED:
            break
    return found


def _collapse(folder: Folder, name: str) -> bool:
    """Merge each folder nested in one of its own name into its parent; whether there are images below."""
    filled = {inner: _collapse(child, inner) for inner, child in folder.folders.items()}
    nested = [inner for inner in folder.folders if matching_key(inner) == matching_key(name)]
    if nested and folder.place and not folder.images:
        child = folder.folders[nested[0]]
        others = [inner for inner in folder.folders if inner != nested[0]]
        names = {name for name, _ in folder.files} | set(others)
        if not any(filled[inner] for inner in others) and names.isdisjoint(
            [*child.folders, *(name for name, _ in child.files)]
        ):
            del folder.folders[nested[0]]
            folder.folders |= child.folders
            folder.layers += child.layers
            folder.no_images |= child.no_images
            del folder.images  # was cached without those of the new layer
    return bool(folder.images) or any(filled.values())


def _without_end(path: str, end: str) -> str | None:
    """`path` without `end`; None if it does not end with it."""
    if not end:
        return path
    parts, tail = path.split("/"), end.split("/")
    same = len(parts) >= len(tail) and [matching_key(part) for part in parts[-len(tail) :]] == list(
        map(matching_key, tail)
    )
    return "/".join(parts[: -len(tail)]) if same else None


def _below(home: str, paths: tuple[str, ...]) -> list[str]:
    return [f"{home}/{path}" if home else path for path in paths]
