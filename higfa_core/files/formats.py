"""Which image files can be read here, and what the others would need."""

from __future__ import annotations

import functools
import importlib
from importlib.util import find_spec

# torchvision's, whose import would cost a plan more time and memory than the plan itself.
IMG_EXTENSIONS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
ALWAYS = (*IMG_EXTENSIONS, ".jfif", ".jpe", ".gif")
PLUGINS = {".heic": "pillow_heif", ".heif": "pillow_heif", ".avif": "pillow_avif"}
INSTALL = {"pillow_heif": "pip install pillow-heif", "pillow_avif": "pip install 'pillow>=11.3'"}
OTHERS = frozenset(
    ".svg .psd .tga .jp2 .j2k .jxl .ico .eps .exr .hdr .dng .cr2 .cr3 .nef .arw .raf .orf .rw2 .raw".split()
)
MAGIC = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF8", b"BM", b"II*\0", b"MM\0*")


@functools.cache
def readable_suffixes() -> frozenset[str]:
    """The suffixes, in lower case, that Pillow or an installed plugin reads."""
    return frozenset(ALWAYS) | {suffix for suffix, plugin in PLUGINS.items() if _has(suffix, plugin)}


def suffix_of(name: str) -> str:
    """What follows the last dot of a file name, with the dot and in lower case; empty where nothing does."""
    stem, dot, suffix = name.rpartition(".")
    return f".{suffix.lower()}" if dot and stem else ""


def is_image(name: str) -> bool:
    """Whether a file of that name is an image that can be read here."""
    return name[name.rfind(".") :].lower() in readable_suffixes()


def unreadable_image(name: str) -> str:
    """Why the image file of that name cannot be read here: what to do about it. Empty for other files."""
    suffix = suffix_of(name)
    if suffix in readable_suffixes():
        return ""
    return INSTALL.get(PLUGINS.get(suffix, ""), "convert to PNG or JPEG" if suffix in OTHERS else "")


def starts_as_image(head: bytes) -> bool:
    """Whether a file that begins so is an image, whatever its name."""
    return head.startswith(MAGIC) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


@functools.cache
def register_plugins() -> None:
    """Tell Pillow about the plugins that are installed. Pillow's own decoders come first."""
    if ".heic" in readable_suffixes():
        importlib.import_module("pillow_heif").register_heif_opener()
    if ".avif" in readable_suffixes() and not _pillow_has_avif():
        importlib.import_module("pillow_avif")


def _has(suffix: str, plugin: str) -> bool:
    return (suffix == ".avif" and _pillow_has_avif()) or find_spec(plugin) is not None


def _pillow_has_avif() -> bool:
    from PIL import features

    return "avif" in features.modules and bool(features.check("avif"))
