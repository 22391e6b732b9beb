"""The files of a job as a server needs them: its source image, and the names of many classes.

Without torch, as long as they can be sent unchanged.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from ..files.hashes import canonical_json
from ..files.paths import inside
from ..files.reading import read_bytes
from ..files.records import read_as
from ..sources.source import SourceImage, load_source

if TYPE_CHECKING:
    from torch import Tensor

UPLOADS = "higfa_sources"  # subfolder of ComfyUI's input folder; its file names are content hashes
MANY = 1 << 14  # bytes of class names that a prompt carries; servers keep prompts, and send them at each look
CLASSES = "classes-"


def upload_files(root: str | Path, source: SourceImage) -> list[tuple[str, bytes]]:
    """(name, content) of the image, and of its mask if it has one, as a server needs them to start the job.

    Plain files are sent unchanged, cropped ones and special masks as PNG: the pixels are those of `load_source`.
    """
    image = Path(root, source.path)
    if not source.crop_bottom and not source.mask_values:
        files = [image, *([Path(root, source.mask)] if source.mask else [])]
        return [_named(file.suffix.lower(), read_bytes(file)) for file in files]
    pixels, mask = load_source(root, source)
    return [_named(".png", _png(part[0])) for part in (pixels, mask) if part is not None]


def classes_file(classes: Sequence[str]) -> tuple[str, bytes] | None:
    """(name, content) of a file with the names of so many classes that prompts should not carry them; else None."""
    content = canonical_json(classes).encode()
    return None if len(content) <= MANY else _named(".json", content, CLASSES)


def read_classes(input_folder: str | Path, name: str) -> list[str]:
    """The names in that file of ComfyUI's input folder. ValueError unless `classes_file` made it."""
    try:
        content = read_bytes(inside(input_folder, name))
    except OSError as error:
        raise ValueError(f"Cannot read the class names in {name} ({error}). Start higfa run again.") from None
    if not Path(name).name.startswith(_named("", content, CLASSES)[0]):  # a server may add a number to a name
        raise ValueError(f"{name} does not hold the class names that were sent. Delete it, and start higfa run again.")
    return read_as(list[str], content)


def _named(suffix: str, content: bytes, kind: str = "") -> tuple[str, bytes]:
    return kind + hashlib.sha256(content).hexdigest()[:32] + suffix, content


def _png(part: Tensor) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray((part * 255).round().byte().numpy()).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
