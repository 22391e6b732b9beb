"""Results of a server: found in the dataset's own folder, or fetched over HTTP with the help of the server's manifest.

Servers are not trusted: their answers are checked against the plan, and only the planned paths are written.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
import time
from dataclasses import dataclass

from ..files.atomic import write_atomic
from ..files.held import create_held
from ..files.paths import folder_name, inside, name_flaw
from ..files.records import Row, check_row, plain
from ..store.rows import append_line
from .answers import Means, ServerError, clean
from .client import FILE_BYTES, Client
from .states import States

BLOCK = 1 << 23  # bytes of a manifest that are read at a time, and the most that a row may have
LONGEST = 1 << 32  # bytes that a manifest may have
SIGNATURES = {"png": b"\x89PNG\r\n\x1a\n", "jpg": b"\xff\xd8\xff", "webp": b"RIFF"}
KEY = re.compile(rb'"key": ?"(\w+)"')  # takes a tenth of the time of decoding the whole row


@dataclass(frozen=True)
class Fetched:
    """A row of the server's manifest, and the line for the folder's own manifest."""

    row: Row
    line: bytes


class Collector:
    """Fetches what the server of `client` has made, in at most `seconds` at a time and `block` bytes of manifest."""

    def __init__(self, client: Client, states: States, seconds: float = 600.0, block: int = BLOCK):
        self.client, self.states, self.seconds, self.block = client, states, seconds, block
        self._lines: dict[str, list[bytes]] = {}  # of the server's manifest, for jobs that are not done
        self._offset: int | None = None

    def collect(self, key: str) -> bool:
        """Whether all images of a job are in the dataset's folder, after fetching what only the server has."""
        self.states.ingest()
        if self.states.is_whole(key):
            return True
        self._read_server_manifest()
        rows = {found.row.index: found for line in self._lines.get(key, ()) if (found := self._checked(line))}
        if not rows or len(rows) < rows[min(rows)].row.batch:
            return False
        self.states.ingest()  # a shared folder has it by now
        if not self.states.is_whole(key):
            for found in rows.values():
                if not self._fetch(found):
                    return False
            self.states.ingest()
        return self.states.is_whole(key)

    def forget(self, key: str) -> None:
        """Discard what is known about a finished job."""
        self._lines.pop(key, None)

    def _read_server_manifest(self) -> None:
        if self._offset is None:
            self._offset = self._first_offset()
        name, end = self.states.plan.header["dataset_name"], time.monotonic() + self.seconds
        while data := self.client.read_output("manifest.jsonl", name, self._offset, self.block):
            lines = data.split(b"\n")[:-1]
            self._offset += sum(len(line) + 1 for line in lines)
            self._keep(lines)
            if len(data) < self.block:
                return
            if not lines or self._offset > LONGEST:
                raise self._hostile(f"it has a line of over {self.block} bytes, or no end")
            if time.monotonic() > end:
                raise ServerError(f"{self.client.url} sends its manifest too slowly. Is the network overloaded?")
        if data is None:
            self._offset, self._lines = 0, {}

    def _keep(self, lines: list[bytes]) -> None:
        keys = [found[1].decode() if (found := KEY.search(line)) else "" for line in lines]
        wanted = self.states.unfinished({*self._lines, *keys})
        self._lines = {key: found for key, found in self._lines.items() if key in wanted}
        for key, line in zip(keys, lines):
            if key in wanted:
                self._lines.setdefault(key, []).append(line)

    def _first_offset(self) -> int:
        """The end of the folder's own manifest where the server writes into this very folder, else 0."""
        folder, token = self.states.folder, secrets.token_bytes(16)
        manifest, probe = folder / "manifest.jsonl", folder / f".probe.{os.getpid()}.{secrets.token_hex(8)}.part"
        size = manifest.stat().st_size if manifest.is_file() else 0
        try:
            with os.fdopen(create_held(probe), "wb") as file:  # held, or the next driver would consider it a leftover
                file.write(token)
                file.flush()
                seen = self.client.read_output(probe.name, self.states.plan.header["dataset_name"], 0, len(token))
        finally:
            probe.unlink(missing_ok=True)
        return size if seen == token else 0

    def _checked(self, line: bytes) -> Fetched | None:
        """A line about a job of ours; None for one cut short by a crash. ServerError if our own node would not have
        written it."""
        try:
            values = plain(line)
        except ValueError:
            return None
        try:
            row = check_row(line)
            self.states.check_claim(row)
        except ValueError as error:
            raise self._hostile(str(error)) from None
        names = [path.split("/")[1:] for path in filter(None, (row.file, row.mask))]
        stem = f"{row.key[:16]}-{row.index}"
        if any(folder != folder_name(row.class_name) or name.rpartition(".")[0] != stem for folder, name in names):
            raise self._hostile(f"{row.file!r} is not where the image {stem} of class {row.class_name!r} belongs")
        if flaw := next(filter(None, (name_flaw(part) for parts in names for part in parts)), ""):
            raise self._hostile(f"{row.file!r} {flaw}")
        return Fetched(row, json.dumps(values, ensure_ascii=False, allow_nan=False).encode())

    def _fetch(self, found: Fetched) -> bool:
        row, folder = found.row, self.states.folder
        if not row.bytes:
            return False
        for path in filter(None, (row.mask, row.file)):
            place, _, name = path.rpartition("/")
            most = min(row.bytes, FILE_BYTES) if path == row.file else FILE_BYTES
            data = self.client.read_output(name, f"{self.states.plan.header['dataset_name']}/{place}", 0, most)
            if data is None or (path == row.file and not _is_that(data, row)):
                return False
            if not data.startswith(SIGNATURES[path.rpartition(".")[2]]):
                raise self._hostile(f"{path!r} is not an image of that kind")
            write_atomic(inside(folder, path), data)
        append_line(folder / "manifest.jsonl", found.line + b"\n")
        return True

    def _hostile(self, what: str) -> ServerError:
        words = (
            f"{self.client.url}: its manifest cannot be trusted ({clean(what)}). Restore it, or leave this server out."
        )
        return ServerError(words, Means.HOSTILE, heard=True)


def _is_that(data: bytes, row: Row) -> bool:
    return len(data) == row.bytes and hashlib.sha256(data).hexdigest() == row.sha256
