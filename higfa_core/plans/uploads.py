"""The files of a source image as a server needs them. Without torch, as long as they can be sent unchanged."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from ..files.reading import read_bytes
from ..sources.source import SourceImage, load_source

if TYPE_CHECKING:
    from torch import Tensor

UPLOADS = "higfa_sources"  # subfolder of ComfyUI's input folder; its file names are content hashes


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


def _named(suffix: str, content: bytes) -> tuple[str, bytes]:
    return hashlib.sha256(content).hexdigest()[:32] + suffix, content


def _png(part: Tensor) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray((part * 255).round().byte().numpy()).save(buffer, "PNG", compress_level=1)
    return buffer.getvalue()
