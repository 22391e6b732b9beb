"""What the review answers, whoever serves it: ComfyUI (`nodes/review.py`) or `higfa review`.

| request | answer |
|---|---|
| GET ``, `review.js`, `review.css` | the page |
| GET `datasets` | names, the one that changed last first |
| GET `dataset?name=` | its images, rules and classes; with `&version=` nothing if it is still that |
| GET `picture?dataset=&key=&index=&kind=&size=` | real, contour or made; small or large |
| POST `preview`, `filter` | what rules would change; change it |
| POST `verdict` | accept, reject or take back by hand |

Every answer reads and writes below one folder; only real images are read elsewhere, where `Roots` allows it. Requests
that another site's page makes are refused: browsers say where a request comes from, and a page cannot change that.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from ..files.faults import in_words
from ..files.records import HandVerdict, OtherRules, read_as
from .datasets import Dataset, datasets
from .pictures import KINDS, SIDES, Roots

PAGE = Path(__file__).parent / "page"
TYPES = {"": "text/html", "review.js": "text/javascript", "review.css": "text/css"}
POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
POLICY += "frame-ancestors 'self'; base-uri 'none'; form-action 'none'"
MOST_BYTES = 4_000_000  # of a request
KEPT = 8  # datasets in memory
UNCHANGED = {"same": True}


@dataclass(frozen=True)
class Answer:
    """An answer to a request, for any server."""

    status: int
    body: bytes
    kind: str = "application/json"
    kept: bool = False  # by the browser, for good

    @property
    def headers(self) -> dict[str, str]:
        """Its headers."""
        kind = self.kind if self.kind.startswith("image/") else f"{self.kind}; charset=utf-8"
        found = {"Content-Type": kind, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "same-origin"}
        found["Cache-Control"] = "private, max-age=31536000, immutable" if self.kept else "no-cache"
        return found | ({"Content-Security-Policy": POLICY} if self.kind == "text/html" else {})


class Review:
    """The datasets below `root`, for a page.

    Args:
        roots: Where real images may be read, see `.pictures.Pictures`.
        shown: An error message as the page may show it.
    """

    def __init__(self, root: Path, roots: Roots, shown: Callable[[str], str] = str):
        self.root, self._roots, self._shown = root, roots, shown
        self._kept: OrderedDict[str, Dataset] = OrderedDict()
        self._lock = Lock()

    def get(self, path: str, query: Mapping[str, str], headers: Mapping[str, str]) -> Answer:
        """Answer a GET request for a path below that of the page."""
        if path in TYPES:
            return Answer(200, (PAGE / (path or "index.html")).read_bytes(), TYPES[path])
        if path == "favicon.ico":  # browsers ask for it by themselves
            return Answer(204, b"")
        return self._answer(headers, lambda: self._read(path, query))

    def post(self, path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        """Answer a POST request."""
        if headers.get("Content-Type", "").partition(";")[0].strip() != "application/json":
            return _refusal(415, "The body must be JSON, and say so.")
        return self._answer(headers, lambda: self._write(path, body))

    def _answer(self, headers: Mapping[str, str], find: Callable[[], Answer | None]) -> Answer:
        if comes_from_elsewhere(headers):
            return _refusal(403, "Refused: another site's page asked. Open the review itself.")
        try:
            return find() or _refusal(404, "There is nothing here. Load the page again.")
        except TimeoutError:
            return _refusal(409, "A run is judging images. Try again in a moment.")
        except (OSError, ValueError) as error:
            words = in_words(error, "Every image is whole.") if isinstance(error, OSError) else str(error)
            return _refusal(400, self._shown(words))

    def _read(self, path: str, query: Mapping[str, str]) -> Answer | None:
        if path == "datasets":
            return _as_json({"datasets": datasets(self.root)})
        if path == "dataset":
            found = self._dataset(query.get("name", ""))
            return _as_json(UNCHANGED if query.get("version") == found.version else found.state())
        if path == "picture":
            kind, size = query.get("kind", ""), query.get("size", "small")
            if kind not in KINDS or size not in SIDES or not query.get("index", "").isdecimal():
                raise ValueError(f"A picture is one of {', '.join(KINDS)}, and {' or '.join(SIDES)}.")
            found = self._dataset(query.get("dataset", ""))
            data = found.picture(query.get("key", ""), int(query["index"][:9]), kind, size)
            return Answer(200, data, "image/webp", kept=True)
        return None

    def _write(self, path: str, body: bytes) -> Answer | None:
        if len(body) > MOST_BYTES:
            raise ValueError(f"The request has more than {MOST_BYTES:,} bytes.")
        if path == "verdict":
            asked = read_as(HandVerdict, body)
            images = [(one.key, one.index) for one in asked.images]
            return _as_json(self._dataset(asked.dataset).decide(images, asked.accepted))
        if path in ("preview", "filter"):
            asked = read_as(OtherRules, body)
            found = self._dataset(asked.dataset)
            return _as_json(found.preview(asked.rules) if path == "preview" else found.apply(asked.rules))
        return None

    def _dataset(self, name: str) -> Dataset:
        with self._lock:
            found = self._kept.pop(name, None) or Dataset(self.root, name, self._roots)
            self._kept[name] = found
            while len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        return found


def comes_from_elsewhere(headers: Mapping[str, str]) -> bool:
    """Whether a page of another site made a browser ask. What is no browser says nothing, and is let through."""
    if site := headers.get("Sec-Fetch-Site"):
        return site not in ("same-origin", "none")
    origin = headers.get("Origin")
    return origin is not None and origin.partition("://")[2] != headers.get("Host")


def _as_json(value: Any, status: int = 200) -> Answer:
    return Answer(status, json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())


def _refusal(status: int, words: str) -> Answer:
    return _as_json({"error": words}, status)
