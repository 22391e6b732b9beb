"""A dataset as one self-contained HTML page: pictures inline, no script, nothing fetched from anywhere.

Pure functions, standard library only: data in, text out; every text is escaped here.
"""

from __future__ import annotations

import struct
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import NamedTuple

TEXT_CHUNKS = (b"tEXt", b"zTXt", b"iTXt", b"eXIf")
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


class Counts(NamedTuple):
    """Images of a plan: asked for, on disk, and of those in the training set."""

    planned: int
    written: int
    accepted: int

    def __str__(self) -> str:
        return f"planned {self.planned}, written {self.written}, accepted {self.accepted}"


@dataclass(frozen=True)
class Picture:
    """A PNG (None: there is none) with its heading, what the judge says of it, and whether it was accepted."""

    label: str
    png: bytes | None
    confidence: float | None = None
    accepted: bool = True


def render_report(
    title: str,
    counts: Counts,
    comparison: Mapping[str, Sequence[Picture]],
    sheet: Mapping[str, Sequence[Picture]],
    settings: Mapping[str, Mapping[str, object]],
    judge_note: str,
    next_steps: Iterable[tuple[str, str]],
) -> str:
    """The page. `comparison` and `sheet`: class name -> pictures; `settings`: node -> its values;
    `next_steps`: (what to do, the command or code for it)."""
    parts = [
        f"<h1>{escape(title)}</h1>",
        _counts(counts),
        "<h2>One source of each class</h2>",
        f"<p>{escape(judge_note)} {escape(_means(comparison))}</p>",
        *(_class_row(name, pictures) for name, pictures in comparison.items()),
        "<h2>The dataset</h2>",
        "<p>Every image, with its probability of the class as a tooltip; rejected ones are pale and dashed.</p>",
        *(_contacts(name, pictures) for name, pictures in sheet.items()),
        "<h2>Settings</h2>",
        _settings(settings),
        "<h2>How to continue</h2>",
        *(f"<p>{escape(text)}</p><pre>{escape(code)}</pre>" for text, code in next_steps),
    ]
    body = "\n".join(parts)
    return PAGE.format(title=escape(title), style=STYLE, body=body)


def plain_png(data: bytes) -> bytes:
    """A PNG without its text (ComfyUI puts the whole workflow there). ValueError for anything but a PNG."""
    if not data.startswith(PNG_SIGNATURE):
        raise ValueError(f"Not a PNG: begins with {data[:8]!r}")
    kept, at = [PNG_SIGNATURE], len(PNG_SIGNATURE)
    while at + 8 <= len(data):
        length, kind = struct.unpack(">I4s", data[at : at + 8])
        end = at + 12 + length
        if kind not in TEXT_CHUNKS:
            kept.append(data[at:end])
        at = end
    return b"".join(kept)


def mean_confidence(comparison: Mapping[str, Sequence[Picture]]) -> dict[str, float]:
    """Label -> mean over the classes that have a confidence for every label that is judged anywhere."""
    rows = [{p.label: p.confidence for p in row if p.confidence is not None} for row in comparison.values()]
    labels = list(dict.fromkeys(label for row in rows for label in row))
    whole = [row for row in rows if len(row) == len(labels)]
    return {label: sum(row[label] for row in whole) / len(whole) for label in labels} if whole else {}


def _means(comparison: Mapping[str, Sequence[Picture]]) -> str:
    means = mean_confidence(comparison)
    words = ", ".join(f"{label} {value:.0%}" for label, value in means.items())
    return f"Mean of the rows below: {words}." if words else ""


def _counts(counts: Counts) -> str:
    cells = zip(counts._fields, counts)
    return f'<p class="counts">{"".join(f"<span><b>{value}</b> {name}</span>" for name, value in cells)}</p>'


def _class_row(name: str, pictures: Sequence[Picture]) -> str:
    return f'<h3>{escape(name)}</h3><div class="row">{"".join(map(_figure, pictures))}</div>'


def _figure(picture: Picture) -> str:
    label, words = escape(picture.label), _confidence(picture)
    caption = f"<figcaption>{label}{f'<br><b>{words}</b>' if words else ''}</figcaption>"
    return f"<figure>{_image(picture, picture.label)}{caption}</figure>"


def _contacts(name: str, pictures: Sequence[Picture]) -> str:
    accepted = sum(picture.accepted for picture in pictures)
    images = "".join(_image(p, ": ".join(filter(None, (p.label, _confidence(p))))) for p in pictures)
    heading = f"{escape(name)} <small>{accepted} of {len(pictures)} accepted</small>"
    return f'<h3>{heading}</h3><div class="sheet">{images}</div>'


def _image(picture: Picture, words: str) -> str:
    if picture.png is None:
        return '<div class="none">none</div>'
    data = b64encode(picture.png).decode()
    words, kind = escape(words), "" if picture.accepted else ' class="rejected"'
    return f'<img{kind} alt="{words}" title="{words}" src="data:image/png;base64,{data}">'


def _confidence(picture: Picture) -> str:
    if picture.confidence is None:
        return ""
    return f"{picture.confidence:.1%}" + ("" if picture.accepted else ", rejected")


def _settings(settings: Mapping[str, Mapping[str, object]]) -> str:
    rows = (
        f"<tr><th>{escape(node)}</th><td>"
        + ", ".join(f"{escape(name)} <b>{escape(_value(value))}</b>" for name, value in values.items())
        + "</td></tr>"
        for node, values in settings.items()
        if values
    )
    return f"<table>{''.join(rows)}</table>"


def _value(value: object) -> str:
    return ("yes" if value else "no") if isinstance(value, bool) else str(value) or "(empty)"


PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""

STYLE = """
:root { color-scheme: light dark; --back: #fbfaf7; --text: #23211d; --soft: #6d685f; --line: #ddd8cc; }
@media (prefers-color-scheme: dark) {
  :root { --back: #191a1c; --text: #e8e5de; --soft: #a09b91; --line: #3a3b3e; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1rem; max-width: 60rem; background: var(--back); color: var(--text);
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; margin: .5rem 0; } h2 { margin: 2.5rem 0 .5rem; font-size: 1.25rem; }
h3 { margin: 1.2rem 0 .3rem; font-size: 1rem; } small, figcaption { color: var(--soft); font-weight: normal; }
.counts { display: flex; flex-wrap: wrap; gap: .3rem 2rem; } .counts b { font-size: 1.6rem; }
.row { display: grid; grid-template-columns: repeat(6, 1fr); gap: .5rem; }
figure { margin: 0; min-width: 0; } figcaption { font-size: .78rem; line-height: 1.35; }
figcaption b { color: var(--text); }
.row img { width: 100%; } .sheet img { width: 5.3rem; }
.sheet { display: flex; flex-wrap: wrap; gap: .3rem; }
img { display: block; aspect-ratio: 1; object-fit: contain; image-rendering: pixelated; border-radius: 3px; }
img.rejected { outline: 2px dashed var(--soft); outline-offset: -2px; } .sheet img.rejected { opacity: .45; }
.none { aspect-ratio: 1; display: grid; place-items: center; border: 1px dashed var(--line); color: var(--soft); }
table { border-collapse: collapse; font-size: .85rem; } td, th { padding: .35rem .6rem .35rem 0; text-align: left;
  vertical-align: top; border-top: 1px solid var(--line); overflow-wrap: anywhere; } th { min-width: 8rem; }
td b { font-weight: 600; } pre { padding: .7rem; border: 1px solid var(--line); border-radius: 4px; overflow-x: auto; }
@media (max-width: 40rem) { .row { grid-template-columns: repeat(3, 1fr); } .sheet img { width: 4.2rem; } }
"""
