"""Names and places on disk: valid folder names, paths that stay inside a folder, folders that are never sources."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from .names import matching_key

# The names of Hugging Face's datasets included; for training_set and the like see split_of.
SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
HELD_OUT_LIST = "held_out.txt"  # see held_out.py
WINDOWS_NAMES = {"con", "prn", "aux", "nul", *(f"{port}{n}" for port in ("com", "lpt") for n in range(1, 10))}
MAX_NAME_BYTES = 200
SURROGATE = re.compile("[\ud800-\udfff]")
HALF = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # the others stand for the bytes of a name that is not text


def inside(root: str | Path, relative: str) -> Path:
    """`root/relative`; ValueError when absolute, with `..`, or leading out of `root` by a link."""
    if HALF.search(relative):
        raise ValueError(
            f"Path {relative!r} has half a character (a lone surrogate), which no disk can store. Rename it."
        )
    if leads_out(relative):
        raise ValueError(f"Path {relative!r} must be relative and without '..'. It has to stay inside {root}.")
    base, target = os.path.realpath(root), os.path.realpath(os.path.join(root, relative))
    # A path on another Windows drive has no common path at all, hence the drive comparison first.
    same_drive = os.path.splitdrive(base)[0] == os.path.splitdrive(target)[0]
    if not same_drive or os.path.commonpath((base, target)) != base:
        raise ValueError(f"Path {relative!r} leads outside {root} (a link?). Copy the files into that folder.")
    return Path(root, relative)


def refuse_link(path: Path) -> None:
    """ValueError where a file that is to be changed is a link: what it leads to may be anything of the user's."""
    if path.is_symlink():
        raise ValueError(f"{path} is a link, and may lead to any file. Put the file itself there.")


def leads_out(relative: str) -> bool:
    """Whether a path is empty, absolute on any system, or has `..`. Checks the text only: `inside` also sees links."""
    # Not by pathlib, which would take a fifth of the time of a plan. A Windows server sees backslashes and drives.
    path = relative.replace("\\", "/")
    parts = set(path.split("/"))
    anchored = path[:1] == "/" or path[:1].isalpha() and path[1:2] == ":"
    return not parts - {"", "."} or ".." in parts or anchored or "\0" in path


def path_flaw(path: str) -> str:
    """Why a path in a record could lead out of its folder on Linux, macOS or Windows; empty if it cannot.

    Checks the text only: `inside` sees links that lead out.
    """
    if re.search(r"[\x00-\x1f\x7f\\:]", path):
        return "has a backslash, a colon or a control character"
    if not path or path.startswith("/") or {"", ".", ".."} & set(path.split("/")):
        return "is empty, absolute, or has an empty part, '.' or '..'"
    return ""


def split_of(name: str) -> str:
    """Which split a folder of that name (`Training`, `test_set`) is: train, validation, test, or "" for none."""
    name = name.strip().lower()
    return SPLITS.get(re.sub("[ _-]?set$", "", name) if name.endswith("set") else name, "")


def is_held_out(name: str) -> bool:
    """Whether a folder of that name is a validation or test split."""
    return split_of(name) in ("validation", "test")


def training_folders(root: Path) -> list[Path]:
    """The folders in `root` that are training splits."""
    try:
        return sorted(Path(entry) for entry in os.scandir(root) if split_of(entry.name) == "train" and entry.is_dir())
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []


def refuse_held_out(*parts: str) -> None:
    """ValueError when a path part names a validation or test split."""
    for part in parts:
        if is_held_out(part):
            raise ValueError(
                f"Folder {part!r} is a validation or test split and can never be a source. Choose the training images."
            )


def held_out_part(path: Path) -> str:
    """The part of an absolute path that is a validation or test split; empty if there is none."""
    if is_held_out(path.name):
        return path.name
    # Any folder may be called "test", but one beside "train" is a split.
    return next((up.name for up in path.parents if is_held_out(up.name) and training_folders(up.parent)), "")


def refuse_inside_held_out(root: Path) -> None:
    """ValueError when `root`, an absolute path, is a validation or test split, or a folder inside one."""
    refuse_held_out(held_out_part(root))


def folder_name(class_name: str) -> str:
    """The folder of a class: its name, with whatever some system cannot store percent-encoded.

    `F-16A/B` -> `F-16A%2FB`. `class_of_folder` is the inverse. ValueError if it is too long.
    """
    name = re.sub(r'[\x00-\x1f\x7f%<>:"/\\|?*]', lambda found: _encoded(found[0]), class_name)
    if name[:1] in (".", " "):
        name = _encoded(name[0]) + name[1:]
    if name[-1:] in (".", " "):
        name = name[:-1] + _encoded(name[-1])
    # Names that readers of image folders would not treat as a class are encoded as well.
    if name.split(".")[0].rstrip().lower() in WINDOWS_NAMES or split_of(name) or name.lower() == "masks":
        name = _encoded(name[0]) + name[1:]
    if flaw := name_flaw(name):
        raise ValueError(f"Class {class_name!r} {flaw} and cannot be a folder name. Rename the class.")
    return name


def class_of_folder(folder: str) -> str:
    """The class name that `folder_name` encoded."""
    return re.sub("%([0-9A-F]{2})", lambda found: chr(int(found[1], 16)), folder)


def _encoded(character: str) -> str:
    return f"%{ord(character):02X}"


def check_class_names(names: Sequence[str]) -> None:
    """ValueError unless every class name can be stored as a folder, and no two would share one."""
    seen: dict[str, str] = {}
    for name in names:
        if not name:
            raise ValueError("No class given. Connect a job or type a class_name.")
        twin = seen.setdefault(matching_key(folder_name(name)), name)
        if twin != name:
            raise ValueError(
                f"Classes {twin!r} and {name!r} are one folder on Windows and macOS. Rename one, or give both the same "
                "name if they are one class."
            )


def name_flaw(name: str) -> str:
    """Why `name` cannot be a folder on all of Linux, macOS and Windows; empty if it can."""
    if re.search(r'[\x00-\x1f\x7f<>:"/\\|?*]', name):
        return 'has a slash, a control character or one of <>:"|?*'
    if SURROGATE.search(name):
        return "has half a character (a lone surrogate), or bytes that are not UTF-8"
    if not name or name[0] == "." or name[-1] in ". " or name[0] == " ":
        return "is empty, begins with a dot or space, or ends with one"
    if name.split(".")[0].rstrip().lower() in WINDOWS_NAMES:
        return "is reserved by Windows"
    return "is too long" if len(name.encode()) > MAX_NAME_BYTES else ""


def fingerprint(root: str | Path) -> str:
    """A value that changes when a file below `root`, or a held-out list above it, is added, removed, renamed or
    written."""
    digest, root = hashlib.sha256(), Path(root)
    above = [folder / HELD_OUT_LIST for folder in list(root.absolute().parents)[:2]]
    for file in (*walk(root), *filter(Path.is_file, above)):
        info = file.stat()
        digest.update(f"{file.as_posix()}\0{info.st_size}\0{info.st_mtime_ns}\0".encode())
    return digest.hexdigest()


def walk(folder: Path) -> list[Path]:
    """All files below `folder` except hidden ones, sorted."""
    found = []
    for where, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(where, name) for name in files if not name.startswith(".")]
    return sorted(found, key=Path.as_posix)
