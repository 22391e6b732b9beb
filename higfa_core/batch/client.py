"""A small blocking client for a ComfyUI server. Anything may answer at an address, so every answer is checked.

The server keeps its queue and history in memory and forgets both when it restarts, so the caller's own
records are the truth: a prompt that is neither queued nor in the history is lost and may be sent again.
"""

from __future__ import annotations

import json
import time
import urllib.parse
import uuid
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

import msgspec

from .. import __version__
from .answers import Means, ServerError, clean, error_of_shape, error_of_silence, error_of_status
from .replies import Entry, Queue, Queued, Rejection, Saved, history_of
from .transport import Answer, NoAnswer, Transport, read_address

__all__ = ["Client", "Means", "PromptFailed", "PromptRejected", "ServerError"]

JSON_BYTES = 1 << 25  # of an answer in JSON; a queue of 1,000 large workflows has a third of that
FILE_BYTES = 1 << 28  # of an image, or of a block of a manifest
SLOWEST = 1 << 17  # bytes per second: slower transfers are given up
LONGEST_EXTRA = 60.0  # additional seconds for large files
FIRST_SECONDS = 10.0  # for the very first answer

PLAIN = {200: None}  # not JSON, or not read
PART = {200: None, 206: None, 404: None, 416: None}

T = TypeVar("T")


class PromptRejected(ValueError):
    """The server refused a prompt: which node and why; `node_errors` is the server's answer.

    `always`: it would refuse every prompt of this workflow, because it lacks a node.
    """

    def __init__(self, message: str, node_errors: dict, always: bool = False):
        super().__init__(message)
        self.node_errors, self.always = node_errors, always


class PromptFailed(RuntimeError):
    """A prompt ended with an error, was interrupted, or was lost by the server."""


class Client:
    """ComfyUI at `url`; `timeout` in seconds for one request, from its first byte to the last of its answer, and up to
    `longest_extra` more for large files. `headers` are sent with every request. Raises ServerError without a usable
    answer.

    `url` as an attribute is the server's name: without user and password.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8188",
        timeout: float = 30.0,
        headers: Mapping[str, str] | None = None,
        longest_extra: float = LONGEST_EXTRA,
    ):
        self._start(read_address(url).name, timeout, longest_extra)
        self._transport = Transport(url, with_agent(headers))

    def _start(self, name: str, timeout: float, longest_extra: float = LONGEST_EXTRA) -> None:
        self.url, self.timeout, self.longest_extra, self.client_id = name, timeout, longest_extra, uuid.uuid4().hex
        self.heard = False  # whether anything has ever answered

    def submit(self, prompt: dict, prompt_id: str | None = None) -> str:
        """Queue an API-format prompt, return its id. Raises PromptRejected when it is invalid."""
        body = {"prompt": prompt, "client_id": self.client_id, "prompt_id": prompt_id or str(uuid.uuid4())}
        answer = self._ask("/prompt", body, {200: Queued, 400: Rejection})
        if isinstance(answer, Rejection):
            raise _rejected(answer)
        return answer.prompt_id

    def status(self, prompt_id: str) -> str:
        """ "waiting", "running", "done", "failed" or "lost" (the server does not know it)."""
        entry, state = self._look(prompt_id)
        return state if entry is None else ("done" if entry.error is None else "failed")

    def history(self, prompt_id: str) -> Entry | None:
        """What the server knows of a finished prompt, or None."""
        return self._ask(f"/history/{prompt_id}", shapes={200: dict[str, Entry]}).get(prompt_id)

    def error(self, prompt_id: str) -> str | None:
        """Why a finished prompt failed, in words; None when it did not."""
        entry = self.history(prompt_id)
        return None if entry is None else entry.error

    def wait(self, prompt_id: str, timeout: float = 600.0, poll: float = 0.25) -> dict:
        """Block until a prompt is done, return its history entry. Raises PromptFailed or TimeoutError."""
        end = time.monotonic() + timeout
        while True:
            entry, state = self._look(prompt_id)
            if entry is not None:
                if entry.error is not None:
                    raise PromptFailed(entry.error)
                return history_of(entry)
            if state == "lost":
                raise PromptFailed(f"{self.url} does not know prompt {prompt_id}: it was restarted or cleared.")
            if time.monotonic() > end:
                raise TimeoutError(f"Prompt {prompt_id} is still {state} after {timeout:g} s")
            time.sleep(poll)

    def interrupt(self, prompt_id: str | None = None) -> None:
        """Stop the running prompt (if `prompt_id` is given, only that one)."""
        self._ask("/interrupt", {"prompt_id": prompt_id} if prompt_id else {})

    def cancel(self, prompt_ids: Iterable[str]) -> None:
        """Remove prompts from the queue and stop any of them that is running."""
        ids = list(prompt_ids)
        self._ask("/queue", {"delete": ids})
        for prompt_id in ids:
            self.interrupt(prompt_id)

    def object_info(self, node_class: str | None = None) -> dict:
        """The server's nodes and their inputs."""
        path = "/object_info" + (f"/{urllib.parse.quote(node_class)}" if node_class else "")
        return self._ask(path, shapes={200: dict})

    def system_stats(self) -> dict:
        """Version, devices and memory; also the way to see whether the server is up."""
        return self._ask("/system_stats", shapes={200: dict})

    def view(self, filename: str, subfolder: str = "", type: str = "output") -> bytes:
        """The bytes of an image that a prompt's outputs name."""
        query = urllib.parse.urlencode({"filename": filename, "subfolder": subfolder, "type": type})
        return self._ask(f"/view?{query}", most=FILE_BYTES).body

    def read_output(self, filename: str, subfolder: str, start: int = 0, most: int | None = None) -> bytes | None:
        """`most` bytes (None: all) of a file in the output folder from `start` on; None if it does not exist."""
        query = urllib.parse.urlencode({"filename": filename, "subfolder": subfolder, "type": "output"})
        end = None if most is None else start + most
        headers = {"Range": f"bytes={start}-{'' if end is None else end - 1}"} if start or end else {}
        size = FILE_BYTES if end is None else end  # a server that ignores ranges sends all of it
        answer = self._ask(f"/view?{query}", None, PART, headers, size, cut=end is not None)
        if answer.status in (404, 416):
            return None if answer.status == 404 else b""
        return answer.body[:most] if answer.status == 206 else answer.body[start:end]

    def upload(self, name: str, content: bytes, subfolder: str) -> str:
        """Put a file into the input folder; returns its path there (another name when the name was taken)."""
        boundary = uuid.uuid4().hex
        fields = {"subfolder": subfolder, "type": "input", "overwrite": "false"}
        parts = [
            f'--{boundary}\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n' for k, v in fields.items()
        ]
        kind = f'form-data; name="image"; filename="{name}"\r\nContent-Type: application/octet-stream'
        head = "".join(parts) + f"--{boundary}\r\nContent-Disposition: {kind}\r\n\r\n"
        body = head.encode() + content + f"\r\n--{boundary}--\r\n".encode()
        form = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        saved = self._ask("/upload/image", body, {200: Saved}, form)
        return f"{saved.subfolder}/{saved.name}".lstrip("/")

    def free(self) -> None:
        """Make the server drop its cached results before the next prompt, and free memory."""
        self._ask("/free", {"free_memory": True})

    def _look(self, prompt_id: str) -> tuple[Entry | None, str]:
        if entry := self.history(prompt_id):
            return entry, "done"
        queue = self._ask("/queue", shapes={200: Queue})
        for items, state in ((queue.queue_running, "running"), (queue.queue_pending, "waiting")):
            if any(item.prompt_id == prompt_id for item in items):
                return None, state
        # It may have ended between the two requests.
        return self.history(prompt_id), "lost"

    def _ask(
        self,
        path: str,
        body: dict | bytes | None = None,
        shapes: Mapping[int, type | None] = PLAIN,
        headers: Mapping[str, str] | None = None,
        most: int = JSON_BYTES,
        cut: bool = False,
    ) -> Any:
        """The answer to a GET, or to a POST of `body`. ServerError if its status is not in `shapes`, or it lacks the
        shape given there (None: it is returned unchanged)."""
        if isinstance(body, dict):
            body, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
        where = self.url + path.partition("?")[0]
        try:
            answer = self._whole(where, path, body, headers or {}, most, cut)
            if answer.status not in shapes:
                raise error_of_status(where, answer.status, answer.headers, body is not None)
            shape = shapes[answer.status]
            found = answer if shape is None else _decode(where, answer.body, shape)
        except ServerError as error:
            self.heard |= error.heard
            raise
        self.heard = True
        return found

    def _whole(self, where: str, path: str, body: bytes | None, headers: Mapping, most: int, cut: bool) -> Answer:
        seconds = self.timeout if self.heard else min(self.timeout, FIRST_SECONDS)
        size = len(body or b"") + (0 if most == JSON_BYTES else most)
        seconds += min(size / SLOWEST, self.longest_extra)
        try:
            return self._answer(path, body, headers, seconds, most, cut)
        except NoAnswer as silence:
            raise error_of_silence(where, silence) from None

    def _answer(self, *request) -> Answer:
        return self._transport.ask(*request)


def with_agent(headers: Mapping[str, str] | None) -> dict[str, str]:
    """The headers of every request: these, and the user agent."""
    return {"User-Agent": f"HiGFA/{__version__}", **(headers or {})}


def _decode(where: str, body: bytes, shape: type[T]) -> T:
    try:
        return msgspec.json.decode(body, type=shape)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise error_of_shape(where, body, clean(str(error))) from None


def _rejected(rejection: Rejection) -> PromptRejected:
    faults = dict(rejection.node_errors)
    words = [
        f"node {node} ({about.class_type}): {error.message} ({error.details})"
        for node, about in faults.items()
        for error in about.errors
    ]
    general = rejection.error
    about = f"{general.message} ({general.details})" if isinstance(general, msgspec.Struct) else general
    message = f"The server refused the prompt: {clean('; '.join(words) or about)}"
    return PromptRejected(message, msgspec.to_builtins(faults), getattr(general, "type", "") == "missing_node_type")
