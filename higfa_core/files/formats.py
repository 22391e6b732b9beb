"""Which image files are readable here, and what the others would need."""

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


@functools.cache
def readable_suffixes() -> frozenset[str]:
    """The suffixes, in lower case, that Pillow or an installed plugin reads."""
    return frozenset(ALWAYS) | {suffix for suffix, plugin in PLUGINS.items() if _has(suffix, plugin)}


def suffix_of(name: str) -> str:
    """The suffix of a file name, with its dot and in lower case; empty if there is none."""
    stem, dot, suffix = name.rpartition(".")
    return f".{suffix.lower()}" if dot and stem else ""


def is_image(name: str) -> bool:
    """Whether a file of that name is an image that is readable here."""
    return name[name.rfind(".") :].lower() in readable_suffixes()


def unreadable_image(name: str) -> str:
    """How to make the image file of that name readable here; empty for readable and for other files."""
    suffix = suffix_of(name)
    if suffix in readable_suffixes():
        return ""
    return INSTALL.get(PLUGINS.get(suffix, ""), "convert to PNG or JPEG" if suffix in OTHERS else "")


@functools.cache
def register_plugins() -> None:
    """Register the installed plugins with Pillow. Pillow's own decoders come first."""
    if ".heic" in readable_suffixes():
        importlib.import_module("pillow_heif").register_heif_opener()
    if ".avif" in readable_suffixes() and not _pillow_has_avif():
        importlib.import_module("pillow_avif")


def _has(suffix: str, plugin: str) -> bool:
    return (suffix == ".avif" and _pillow_has_avif()) or find_spec(plugin) is not None


def _pillow_has_avif() -> bool:
    from PIL import features

    return "avif" in features.modules and bool(features.check("avif"))
