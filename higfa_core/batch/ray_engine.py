"""Servers as warm actors of a Ray cluster: ``higfa run --engine ray``.

The driver's pull loop and its records stay as they are, only the way of a request changes: driver -> actor ->
ComfyUI. Either an actor owns a given URL, which only its cluster may be able to reach, or one for each GPU starts
a ComfyUI there and starts it again when it ends. Nodes need Ray, and ComfyUI with this pack, not this package.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from . import client
from .client import Client, PromptRejected, ServerError

PLACING_SECONDS = 60.0
# It ends with the actor that holds its standard input, however that one ends.
RUN_WITH_PARENT = """\
import os, runpy, sys, threading
threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start()
sys.argv, sys.path[0] = sys.argv[1:], os.getcwd()
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class ComfyActor:
    """Owns the server at ``url``, or one that it starts from the folder ``comfyui`` of its node."""

    def __init__(self, url: str | None, comfyui: str | None, timeout: float):
        self.url, self.comfyui, self.timeout = url, comfyui, timeout
        self.process = self.client = self.folder = None

    def place(self) -> str:
        """The server's name: its URL, else node and GPU. Starts the server; ValueError when that cannot be."""
        self._start()
        if self.url:
            return self.url
        import ray

        return f"ray://{ray.util.get_node_ip_address()}:{'+'.join(ray.get_gpu_ids())}"

    def answer(self, *request) -> tuple[int, bytes] | tuple[str, dict] | str:
        """What ``Client._answer`` returns; for PromptRejected its two values, for ServerError its words."""
        try:
            self._start()
            return self.client._answer(*request)
        except PromptRejected as error:
            return str(error), error.node_errors
        except ServerError as error:
            return self._end() or str(error)
