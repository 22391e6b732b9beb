"""When two names mean the same thing: of folders, listed files and classes, however a system encoded them."""

from __future__ import annotations

import re
import unicodedata

# Invisible wherever they stand. Joiners (U+200C, U+200D) shape letters inside a word and are only noise at its ends.
INVISIBLE = re.compile("[\u00ad\u200b\u2060\ufeff]|^[\u200c\u200d]+|[\u200c\u200d]+$")


def composed(name: str) -> str:
    """The name in Unicode form NFC: macOS hands out decomposed ones."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def class_name(name: str) -> str:
    """A folder's or a table's name for a class, as a class is called: composed, without invisible characters."""
    return name.strip() if name.isascii() else INVISIBLE.sub("", composed(name)).strip()


def matching_key(name: str) -> str:
    """Equal for all spellings of one name: decomposed, invisible, full-width and case differences do not count."""
    if not name.isascii():
        name = INVISIBLE.sub("", "".join(map(_narrow, unicodedata.normalize("NFC", name))))
    return " ".join(name.split()).casefold()


def undecodable(path: str) -> bool:
    """Whether a path on disk has bytes that are no UTF-8, which neither JSON nor another system can hold."""
    return not path.isascii() and any("\udc80" <= character <= "\udcff" for character in path)


def printable(path: str) -> str:
    """The path for a message, with what no terminal could show as escapes."""
    return path.encode("utf-8", "backslashreplace").decode()


def _narrow(character: str) -> str:
    kind, _, code = unicodedata.decomposition(character).partition(" ")
    return chr(int(code, 16)) if kind in ("<wide>", "<narrow>", "<noBreak>") and " " not in code else character
