"""What operating systems leave among a user's files: never part of a dataset."""

from __future__ import annotations

FOLDERS = frozenset(
    (
        "@eadir @recycle @synoresource @tmp @sharebin #recycle #snapshot __macosx $recycle.bin recycler recycled "
        "lost+found __pycache__"
    ).split()
) | {"system volume information", "network trash folder", "temporary items", "found.000"}
FILES = frozenset(("thumbs.db", "ehthumbs.db", "ehthumbs_vista.db", "desktop.ini", "icon\r"))


def is_litter(name: str) -> bool:
    """Whether a file or folder of that name is hidden, or created by an operating system or a disk for itself."""
    return name[:1] == "." or name[:2] == "~$" or name.lower() in FOLDERS or name.lower() in FILES
