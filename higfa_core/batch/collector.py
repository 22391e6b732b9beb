"""Results of a server: found in the dataset's own folder, or fetched over HTTP by the server's manifest."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping

from ..dataset.files import write_atomic
from ..dataset.rows import append_line, parse_row
from ..dataset.states import States
from .client import Client


class Collector:
    """Brings home what the server of ``client`` has made."""

    def __init__(self, client: Client, states: States):
        self.client, self.states = client, states
        self._rows: dict[str, dict[int, dict]] = {}
        self._offset = 0

    def collect(self, key: str) -> bool:
        """Whether all images of a job are in the dataset's folder, after fetching what only the server has."""
        self.states.ingest()
        if self.states.is_whole(key):
            return True
        self._read_server_manifest()
        rows = self._rows.get(key, {})
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
        name = self.states.plan.header["dataset_name"]
        data = self.client.read_output("manifest.jsonl", name, self._offset)
        if data is None:
            self._offset, self._rows = 0, {}
            return
        lines = data.split(b"\n")[:-1]
        self._offset += sum(len(line) + 1 for line in lines)
        for row in filter(None, map(parse_row, lines)):
            self._rows.setdefault(row["key"], {})[row["index"]] = row

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
        self._rows.pop(key, None)


def _is_that(data: bytes, row: Mapping) -> bool:
    return len(data) == row["bytes"] and hashlib.sha256(data).hexdigest() == row["sha256"]
