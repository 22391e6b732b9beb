"""The images of an export, one after the other: read, verified and, on request, re-encoded.

`keep` copies bytes, preserving the dataset's hashes and text chunks. Every other format re-encodes the pixels:
text chunks (prompt, workflow) are dropped, and generated images are marked in their XMP with IPTC's DigitalSourceType
trainedAlgorithmicMedia.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, PngImagePlugin

from ..files.opening import refuse_large
from ..files.paths import inside
from ..files.reading import read_bytes
from ..sources.source import SourceImage, load_source
from .collection import Item

IMAGE_FORMATS = ("keep", "png", "jpeg", "webp")
SUFFIXES = {"png": ".png", "jpeg": ".jpg", "webp": ".webp"}
KEPT = {".png": ".png", ".jpg": ".jpg", ".jpeg": ".jpg", ".webp": ".webp"}
XMP = (
    b'<?xpacket begin="\xef\xbb\xbf" id="W5M0MpCehiHzreSzNTczkc9d"?><x:xmpmeta xmlns:x="adobe:ns:meta/">'
    b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
    b'xmlns:Iptc4xmpExt="http://iptc.org/std/Iptc4xmpExt/2008-02-29/"><Iptc4xmpExt:DigitalSourceType>'
    b"http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia</Iptc4xmpExt:DigitalSourceType>"
    b'</rdf:Description></rdf:RDF></x:xmpmeta><?xpacket end="w"?>'
)


@dataclass(frozen=True)
class Picture:
    """An image as it is exported: its row (the format fills in `file`), content and file name."""

    row: Mapping
    data: bytes
    stem: str
    suffix: str
    mask: bytes | None = None

    @property
    def name(self) -> str:
        """`stem` + `suffix`: unique in its class, with one dot."""
        return self.stem + self.suffix

    @property
    def split(self) -> str:
        """`train` or `validation`."""
        return self.row.get("split", "train")


def pictures(items: Iterable[Item], image_format: str) -> Iterator[Picture]:
    """The items in order. ValueError for a file that differs from what its row, or the plan, records."""
    threads = min(8, os.cpu_count() or 1)
    with ThreadPoolExecutor(threads) as pool:
        waiting = deque()
        for item in items:
            waiting.append(pool.submit(_picture, item, image_format))
            if len(waiting) > 2 * threads:  # never hold all in memory
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def real_items(
    root: Path, sources: Iterable[SourceImage], like: Mapping, hashes: Mapping[str, str], **more: object
) -> list[Item]:
    """Items of the real images below `root`; their rows have the keys of `like`, and `more`.

    ValueError if one is missing.
    """
    found = []
    for source in sources:
        path = inside(root, source.path)
        if not path.is_file():
            raise ValueError(f"Real image {path} is missing. Name their folder with --source, or use --real none.")
        key = hashlib.sha256(source.path.encode()).hexdigest()
        row = {**dict.fromkeys(like), "key": key, "index": 0, "batch": 1, "sha256": hashes.get(source.path)}
        row |= {"class_name": source.class_name, "label": source.label, "source": source.path, "synthetic": False}
        row |= {"accepted": True, "reason": "real image", "scores": {}, "versions": {}}
        row |= {"box": list(source.box) if source.box else None, **more}
        found.append(Item(row, path, inside(root, source.mask) if source.mask else None, source, root))
    return sorted(found, key=lambda item: item.row["key"])  # shuffles the classes deterministically


def kept_suffix(path: Path) -> str:
    """The suffix of a file whose bytes are kept."""
    return KEPT.get(path.suffix.lower(), ".png")


def digest(data: bytes) -> str:
    """SHA-256 (hex)."""
    return hashlib.sha256(data).hexdigest()


def encode(image: Image.Image, image_format: str, synthetic: bool = True) -> bytes:
    """A PIL image -> file content without text chunks; marked as generated when `synthetic`."""
    buffer, picture = io.BytesIO(), Image.fromarray(np.asarray(image.convert("RGB")))  # drops all metadata
    mark = {"xmp": XMP} if synthetic else {}
    if image_format == "png":
        info = PngImagePlugin.PngInfo()
        if synthetic:
            info.add_itxt("XML:com.adobe.xmp", XMP.decode())
        picture.save(buffer, "PNG", compress_level=4, pnginfo=info)
    elif image_format == "jpeg":
        picture.save(buffer, "JPEG", quality=95, subsampling=0, **mark)
    else:
        picture.save(buffer, "WEBP", quality=95, **mark)
    return buffer.getvalue()


def _picture(item: Item, image_format: str) -> Picture:
    data = read_bytes(item.path)
    found = digest(data)
    if item.row["sha256"] and found != item.row["sha256"]:
        remedy = "The real image was changed after planning: plan again" if item.real else "Generate the image again"
        raise ValueError(f"{item.path} is not the file that was recorded (SHA-256 differs). {remedy}.")
    try:
        with Image.open(io.BytesIO(data)) as image:
            if image_format == "keep" and not _as_it_is(item, image):
                image_format = "png"
            (width, height), mask, suffix = image.size, item.mask and read_bytes(item.mask), kept_suffix(item.path)
            if item.real and item.root and (image_format != "keep" or mask):
                image, mask = _real(item.root, item.real)
                width, height = image.size
            if image_format != "keep":
                refuse_large(image)
                data, suffix = encode(image, image_format, not item.real), SUFFIXES[image_format]
                found = digest(data)
    except (
        OSError,
        SyntaxError,
        ValueError,
        Image.DecompressionBombError,
    ) as error:  # PIL: SyntaxError for a broken PNG
        raise ValueError(f"Cannot read image {item.path} ({error}). Replace or remove it.") from error
    row = {**item.row, "sha256": found, "bytes": len(data), "width": width, "height": height}
    stem = f"{'real-' if item.real else ''}{row['key'][:16]}-{row['index']}"
    return Picture(row, data, stem, suffix, mask)


def _as_it_is(item: Item, image: Image.Image) -> bool:
    """Whether the file can be copied: a box refers to the upright image without its banner."""
    if item.path.suffix.lower() not in KEPT:
        return False
    return not item.real or not (item.real.crop_bottom or image.getexif().get(ExifTags.Base.Orientation, 1) != 1)


def _real(root: Path, real: SourceImage) -> tuple[Image.Image, bytes | None]:
    pixels, mask = load_source(root, real)
    buffer = io.BytesIO()
    if mask is not None:
        _image(mask.round()).save(buffer, "PNG")
    return _image(pixels), buffer.getvalue() or None


def _image(batch) -> Image.Image:
    return Image.fromarray((batch[0] * 255).round().byte().numpy())
