"""Results of a server: found in the dataset's own folder, or fetched over HTTP by the server's manifest."""

from __future__ import annotations

import hashlib
import json
import os
import re
import secrets
from collections.abc import Mapping

from ..files.atomic import write_atomic
from ..store.rows import append_line, parse_row
from .client import Client
from .states import States

BLOCK = 1 << 23  # bytes of a manifest that are read at a time
KEY = re.compile(rb'"key": ?"(\w+)"')  # a tenth of the time of reading the whole row


class Collector:
    """Brings home what the server of `client` has made."""

    def __init__(self, client: Client, states: States):
        self.client, self.states = client, states
        self._lines: dict[str, list[bytes]] = {}  # of the server's manifest, for jobs that are not done
        self._offset: int | None = None

    def collect(self, key: str) -> bool:
        """Whether all images of a job are in the dataset's folder, after fetching what only the server has."""
        self.states.ingest()
        if self.states.is_whole(key):
            return True
        self._read_server_manifest()
        rows = {row["index"]: row for row in map(parse_row, self._lines.get(key, ())) if row}
        if not rows or set(rows) < set(range(rows[min(rows)]["batch"])):
            return False
        self.states.ingest()  # a shared folder has it by now
        if not self.states.is_whole(key):
            for row in rows.values():
                if not self._fetch(row):
                    return False
            self.states.ingest()
        return self.states.is_whole(key)

    def _read_server_manifest(self) -> None:
        if self._offset is None:
            self._offset = self._first_offset()
        name = self.states.plan.header["dataset_name"]
        while data := self.client.read_output("manifest.jsonl", name, self._offset, BLOCK):
            lines = data.split(b"\n")[:-1]
            self._offset += sum(len(line) + 1 for line in lines)
            self._keep(lines)
            if len(data) < BLOCK or not lines:
                return
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
        folder = self.states.folder
        manifest, probe = folder / "manifest.jsonl", folder / f".probe.{os.getpid()}.{secrets.token_hex(8)}.part"
        size = manifest.stat().st_size if manifest.is_file() else 0
        probe.touch()
        try:
            seen = self.client.read_output(probe.name, self.states.plan.header["dataset_name"])
        finally:
            probe.unlink()
        return 0 if seen is None else size

    def _fetch(self, row: Mapping) -> bool:
        for path in filter(None, (row["mask"], row["file"])):
            folder, _, name = path.rpartition("/")
            data = self.client.read_output(name, f"{self.states.plan.header['dataset_name']}/{folder}")
            if data is None or (path == row["file"] and not _is_that(data, row)):
                return False
            write_atomic(self.states.folder / path, data)
        line = json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        append_line(self.states.folder / "manifest.jsonl", line)
        return True

    def forget(self, key: str) -> None:
        """The job is done with."""
        self._lines.pop(key, None)


def _is_that(data: bytes, row: Mapping) -> bool:
    return len(data) == row["bytes"] and hashlib.sha256(data).hexdigest() == row["sha256"]
