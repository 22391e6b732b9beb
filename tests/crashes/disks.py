"""Disks and folders that cannot be written to, as far as this machine lets a test make them."""

import contextlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest


def _mounted(*command):
    if not (hasattr(os, "getuid") and os.getuid() == 0 and shutil.which("mount")):
        pytest.skip("only root can mount a small disk")
    done = subprocess.run(["mount", *map(str, command)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")


@contextlib.contextmanager
def small_disk(folder: Path, size: int):
    """A disk of `size` bytes at `folder`."""
    folder.mkdir(exist_ok=True)
    _mounted("-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@contextlib.contextmanager
def read_only(folder: Path):
    """What is in `folder` stays, and nobody may write there."""
    _mounted("--bind", folder, folder)
    try:
        subprocess.run(["mount", "-o", "remount,ro,bind", folder], check=True, capture_output=True)
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


@contextlib.contextmanager
def file_size_limit(size: int):
    """No file of this process may become larger."""
    resource = pytest.importorskip("resource", reason="Windows has no limit to the size of a file")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def fill(folder: Path, leave: int = 0):
    """Fill a disk but for `leave` bytes; returns the file to remove."""
    ballast = folder / "ballast"
    with open(ballast, "wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            if file.write(bytes(4096)) < 4096:
                break
    with open(ballast, "rb+") as file:
        file.truncate(max(0, ballast.stat().st_size - leave))
    return ballast
