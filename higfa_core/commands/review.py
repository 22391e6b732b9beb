"""`higfa review`: look through a dataset in a browser: other rules at once, and verdicts by hand. No ComfyUI needed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qsl, quote, urlsplit

from ..review.answers import MOST_BYTES, Answer, Review
from ..review.datasets import datasets
from .shell import Parser, Speech, add_json_option, command

HERE = ("127.0.0.1", "localhost")  # what a browser may call this server: no other name leads to it


@command()
def main(argv: Sequence[str] | None = None) -> int:
    args = _parse(argv)
    is_one = (args.folder / "manifest.jsonl").is_file()
    folder, speech = args.folder.absolute(), Speech(args.json)
    root = folder.parent if is_one else folder
    with serving(root, args.source, args.port) as server:
        name = f"?dataset={quote(folder.name)}" if is_one else ""
        address = f"http://127.0.0.1:{server.server_address[1]}/{name}"
        speech.say(f"Review: {address}\nCtrl-C ends it.")
        speech.result(address=address, folder=folder, datasets=[folder.name] if is_one else datasets(root))
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            speech.say("")
    return 0


def serving(root: Path, source: Path | None = None, port: int = 0) -> ThreadingHTTPServer:
    """A server of the review, for this machine only, of the datasets below `root`.

    Args:
        source: The folder of the real images; by default the one that the plan names.
    """
    if not root.is_dir():
        raise ValueError(f"No folder {root}. Give a dataset, or a folder that has datasets.")
    review = Review(root, lambda _name, recorded: _folder(source or recorded))

    class Handler(_Handler):
        answers = review

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


def _folder(path: str | Path) -> Path | None:
    return found if path and (found := Path(path)).is_dir() else None


class _Handler(BaseHTTPRequestHandler):
    answers: Review
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        asked = urlsplit(self.path)
        if self._is_called_right():
            query = dict(parse_qsl(asked.query, keep_blank_values=True))
            self._send(self.answers.get(asked.path.lstrip("/"), query, self._titled()))

    def do_POST(self) -> None:
        size = self.headers.get("Content-Length", "")
        if not size.isdecimal() or int(size) > MOST_BYTES:
            self.send_error(413)
        elif self._is_called_right():
            body = self.rfile.read(int(size))
            self._send(self.answers.post(urlsplit(self.path).path.lstrip("/"), self._titled(), body))

    def _titled(self) -> dict[str, str]:
        return {name.title(): value for name, value in self.headers.items()}

    def _is_called_right(self) -> bool:
        """Whether it is called by its own name: another one can be a page elsewhere, which had its name point here."""
        right = urlsplit(f"//{self.headers.get('Host', '')}").hostname in HERE
        if not right:
            self.send_error(403)
        return right

    def _send(self, answer: Answer) -> None:
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, *_: object) -> None:
        """Say nothing about every picture."""


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser("review", about=__doc__)
    add = parser.add_argument
    add("folder", type=Path, metavar="FOLDER", help="a dataset, with manifest.jsonl, or a folder of datasets")
    add("--source", type=Path, metavar="FOLDER", help="the real images, where the plan does not name their folder")
    add("--port", type=int, default=0, metavar="N", help="of the address (default: any that is free)")
    add_json_option(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
