"""A folder that is filled beside its place, and put there when it is complete.

Beside `out`: the stage `out.part-TOKEN`, what it replaces for a moment `out.part-TOKEN.old`, and the hidden file
`.out.part-TOKEN`, which is held as long as the export runs and tells the next one whether that is so.
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
        """Put the folder in its place. ValueError, and nothing changes, when something else is there by now.

        Args:
            replaced: The `identity` of the folder that may be replaced; None: nothing may be there.
        """
        old = self.path.with_name(f"{self.path.name}.old")
        if replaced is not None:
            with suppress(FileNotFoundError):  # removed meanwhile
                os.rename(self.out, old)
        try:
            if old.exists() and identity(old) != replaced:
                raise FileExistsError(self.out)
            os.rename(self.path, self.out)
        except OSError as error:
            if old.exists():
                os.rename(old, self.out)
            if self.out.exists():
                appeared = f"{self.out} was made by somebody else meanwhile, so it is not replaced"
                raise ValueError(f"{appeared}. Choose another folder, or add --replace.") from error
            raise
        shutil.rmtree(old, ignore_errors=True)


def identity(folder: Path) -> Identity:
    """What stays the same as long as it is this very folder, and nothing was added to it."""
    info = folder.stat()
    return info.st_dev, info.st_ino, info.st_mtime_ns  # a new folder may get the number of one that was removed


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
    """Put right what exports to `out` left when they were killed. ValueError when one of them is still running."""
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
    if old.exists() and not out.exists():  # it died between taking the old one away and putting the new one there
        with suppress(OSError):
            os.rename(old, out)
    for folder in (old, stage):
        shutil.rmtree(folder, ignore_errors=True)


def _clear_of_earlier_version(stage: Path, pid: int) -> None:
    import psutil

    if pid == os.getpid() or not psutil.pid_exists(pid):
        shutil.rmtree(stage, ignore_errors=True)
