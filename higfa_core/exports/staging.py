"""A folder that is filled beside its destination, and moved there once it is complete.

Beside `out`: the stage `out.part-TOKEN`, briefly the replaced folder `out.part-TOKEN.old`, and the hidden file
`.out.part-TOKEN`, which is held as long as the export runs, so that others can tell.
"""

from __future__ import annotations

import os
import platform
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from ..files.held import create_held, remove_left

Identity = tuple[int, int, int]


@dataclass(frozen=True)
class Stage:
    """The folder to fill, and where it belongs."""

    path: Path
    out: Path

    def put(self, replaced: Identity | None) -> None:
        """Move the folder to its destination. ValueError, without any change, if something else is there by now.

        Args:
            replaced: The `identity` of the folder that may be replaced; None: the destination must not exist.
        """
        old = self.path.with_name(f"{self.path.name}.old")
        if replaced is not None:
            with suppress(FileNotFoundError):  # removed in the meantime
                os.rename(self.out, old)
        try:
            if old.exists() and identity(old) != replaced:
                raise FileExistsError(self.out)
            os.rename(self.path, self.out)
        except OSError as error:
            if old.exists():
                os.rename(old, self.out)
            if self.out.exists():
                appeared = f"{self.out} was created by another program in the meantime, so it is not replaced"
                raise ValueError(f"{appeared}. Choose another folder, or add --replace.") from error
            raise
        shutil.rmtree(old, ignore_errors=True)


def identity(folder: Path) -> Identity:
    """A value that stays the same as long as this is the same folder, and nothing was added to it."""
    info = folder.stat()
    return info.st_dev, info.st_ino, info.st_mtime_ns  # a new folder may reuse the inode of a removed one


@contextmanager
def stage_beside(out: Path) -> Iterator[Stage]:
    """A new stage for `out`, removed at the end. ValueError while another export to `out` runs."""
    out.parent.mkdir(parents=True, exist_ok=True)
    clear_left(out)
    name = f"{out.name}.part-{secrets.token_hex(8)}"
    stage, sign = Stage(out.with_name(name), out), out.with_name(f".{name}")
    held = create_held(sign)
    try:
        stage.path.mkdir()
        yield stage
    finally:
        shutil.rmtree(stage.path, ignore_errors=True)
        os.close(held)
        sign.unlink(missing_ok=True)


def clear_left(out: Path) -> None:
    """Clean up after killed exports to `out`. ValueError if one of them is still running."""
    name = re.escape(out.name)
    for path in sorted(out.parent.iterdir()):
        if re.fullmatch(rf"\.{name}\.part-[0-9a-f]{{16}}", path.name):
            _clear(path, path.with_name(path.name[1:]), out)
        elif re.fullmatch(rf"{name}\.part-[0-9a-f]{{16}}", path.name.removesuffix(".old")):
            stage = path.with_name(path.name.removesuffix(".old"))
            _clear(stage.with_name(f".{stage.name}"), stage, out)
        elif found := re.fullmatch(rf"{name}\.part-{re.escape(platform.node())}-(\d+)(\.old)?", path.name):
            _clear_of_earlier_version(path, int(found[1]))


def _clear(sign: Path, stage: Path, out: Path) -> None:
    if sign.exists() and not remove_left(sign):
        raise ValueError(f"Another export to {out} is running. Wait for it, or choose another folder.")
    old = stage.with_name(f"{stage.name}.old")
    if old.exists() and not out.exists():  # it died between removing the old one and moving the new one there
        with suppress(OSError):
            os.rename(old, out)
    for folder in (old, stage):
        shutil.rmtree(folder, ignore_errors=True)


def _clear_of_earlier_version(stage: Path, pid: int) -> None:
    import psutil

    if pid == os.getpid() or not psutil.pid_exists(pid):
        shutil.rmtree(stage, ignore_errors=True)
