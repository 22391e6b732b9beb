"""Whether two names of folders, listed files or classes mean the same thing, however a system encoded them."""

from __future__ import annotations

import re
import unicodedata

# Invisible in any position. Joiners (U+200C, U+200D) shape letters inside a word and are noise only at its ends.
INVISIBLE = re.compile("[\u00ad\u200b\u2060\ufeff]|^[\u200c\u200d]+|[\u200c\u200d]+$")


def composed(name: str) -> str:
    """The name in Unicode form NFC: macOS returns decomposed ones."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def class_name(name: str) -> str:
    """The class name in a folder's name or a table: composed, without invisible characters."""
    return name.strip() if name.isascii() else INVISIBLE.sub("", composed(name)).strip()


def matching_key(name: str) -> str:
    """Equal for all spellings of one name: decomposed, invisible, full-width and case differences do not count."""
    if not name.isascii():
        name = INVISIBLE.sub("", "".join(map(_narrow, unicodedata.normalize("NFC", name))))
    return " ".join(name.split()).casefold()


def undecodable(path: str) -> bool:
    """Whether a path on disk has bytes that are not UTF-8, which neither JSON nor other systems can represent."""
    return not path.isascii() and any("\udc80" <= character <= "\udcff" for character in path)


def printable(path: str) -> str:
    """The path for a message, with unprintable bytes as escapes."""
    return path.encode("utf-8", "backslashreplace").decode()


def _narrow(character: str) -> str:
    kind, _, code = unicodedata.decomposition(character).partition(" ")
    return chr(int(code, 16)) if kind in ("<wide>", "<narrow>", "<noBreak>") and " " not in code else character
