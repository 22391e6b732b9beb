"""A small blocking client for a ComfyUI server, standard library only.

The server keeps its queue and history in memory and forgets both when it restarts, so the caller's own
records are the truth: a prompt that is neither queued nor in the history is lost and may be sent again.
"""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Iterable


class ServerError(ConnectionError):
    """The server cannot be reached or answers nonsense."""


class PromptRejected(ValueError):
    """The server refused a prompt: which node and why; `node_errors` is what the server said."""

    def __init__(self, message: str, node_errors: dict):
        super().__init__(message)
        self.node_errors = node_errors


class PromptFailed(RuntimeError):
    """A prompt ended with an error, was interrupted, or was lost by the server."""


class Client:
    """ComfyUI at `url`; `timeout` in seconds for one request. Raises ServerError without an answer."""

    def __init__(self, url: str = "http://127.0.0.1:8188", timeout: float = 30.0):
        parts = urllib.parse.urlsplit(url)
        if parts.scheme not in ("http", "https"):
            raise ValueError(f"url must begin with http:// or https://, got {url!r}")
        self.url, self.timeout, self.client_id = url.rstrip("/"), timeout, uuid.uuid4().hex
        # A proxy from the environment cannot reach this machine's own loopback address.
        local = parts.hostname in ("localhost", "127.0.0.1", "::1")
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({} if local else None))

    def submit(self, prompt: dict, prompt_id: str | None = None) -> str:
        """Queue an API-format prompt, return its id. Raises PromptRejected when it is invalid."""
        body = {"prompt": prompt, "client_id": self.client_id, "prompt_id": prompt_id or str(uuid.uuid4())}
        return self._json("/prompt", body).get("prompt_id", body["prompt_id"])

    def status(self, prompt_id: str) -> str:
        """ "waiting", "running", "done", "failed" or "lost" (the server does not know it)."""
        entry, state = self._look(prompt_id)
        return state if entry is None else ("done" if _error_of(entry) is None else "failed")

    def history(self, prompt_id: str) -> dict | None:
        """The history entry of a finished prompt: {"outputs": {node id: ui}, "status": ..., ...}, or None."""
        return self._json(f"/history/{prompt_id}").get(prompt_id)

    def error(self, prompt_id: str) -> str | None:
        """Why a finished prompt failed, in words; None when it did not."""
        entry = self.history(prompt_id)
        return None if entry is None else _error_of(entry)

    def wait(self, prompt_id: str, timeout: float = 600.0, poll: float = 0.25) -> dict:
        """Block until a prompt is done, return its history entry. Raises PromptFailed or TimeoutError."""
        end = time.monotonic() + timeout
        while True:
            entry, state = self._look(prompt_id)
            if entry is not None:
                if error := _error_of(entry):
                    raise PromptFailed(error)
                return entry
            if state == "lost":
                raise PromptFailed(f"{self.url} does not know prompt {prompt_id}: it was restarted or cleared")
            if time.monotonic() > end:
                raise TimeoutError(f"Prompt {prompt_id} is still {state} after {timeout:g} s")
            time.sleep(poll)

    def interrupt(self, prompt_id: str | None = None) -> None:
        """Stop the running prompt (only if it is `prompt_id`, when given)."""
        self._request("/interrupt", {"prompt_id": prompt_id} if prompt_id else {})

    def cancel(self, prompt_ids: Iterable[str]) -> None:
        """Remove prompts from the queue and stop the one that runs."""
        ids = list(prompt_ids)
        self._request("/queue", {"delete": ids})
        for prompt_id in ids:
            self.interrupt(prompt_id)

    def object_info(self, node_class: str | None = None) -> dict:
        """The server's nodes and their inputs."""
        return self._json("/object_info" + (f"/{urllib.parse.quote(node_class)}" if node_class else ""))

    def system_stats(self) -> dict:
        """Version, devices and memory; also the way to see whether the server is up."""
        return self._json("/system_stats")

    def view(self, filename: str, subfolder: str = "", type: str = "output") -> bytes:
        """The bytes of an image that a prompt's outputs name."""
        query = urllib.parse.urlencode({"filename": filename, "subfolder": subfolder, "type": type})
        return self._request(f"/view?{query}")

    def read_output(self, filename: str, subfolder: str, start: int = 0, most: int | None = None) -> bytes | None:
        """`most` bytes (None: all) of a file of the output folder from `start` on; None when it is not there."""
        query = urllib.parse.urlencode({"filename": filename, "subfolder": subfolder, "type": "output"})
        end = None if most is None else start + most
        headers = {"Range": f"bytes={start}-{'' if end is None else end - 1}"} if start or end else {}
        status, data = self._answer(f"/view?{query}", None, headers, allowed=(404, 416))
        if status == 404:
            return None
        return b"" if status == 416 else data if status == 206 else data[start:end]

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
        headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
        _, answer = self._answer("/upload/image", body, headers)
        saved = self._parse("/upload/image", answer)
        return f"{saved['subfolder']}/{saved['name']}".lstrip("/")

    def free(self) -> None:
        """Have the server forget its cached results before the next prompt, and give memory back."""
        self._request("/free", {"free_memory": True})

    def _look(self, prompt_id: str) -> tuple[dict | None, str]:
        if entry := self.history(prompt_id):
            return entry, "done"
        queue = self._json("/queue")
        for name, state in (("queue_running", "running"), ("queue_pending", "waiting")):
            if any(item[1] == prompt_id for item in queue.get(name, [])):
                return None, state
        # It may have ended between the two questions.
        return self.history(prompt_id), "lost"

    def _json(self, path: str, body: dict | None = None) -> dict:
        return self._parse(path, self._request(path, body))

    def _parse(self, path: str, answer: bytes) -> dict:
        try:
            return json.loads(answer)
        except ValueError as error:
            raise ServerError(f"{self.url}{path} did not answer in JSON: is it ComfyUI?") from error

    def _request(self, path: str, body: dict | None = None) -> bytes:
        data = None if body is None else json.dumps(body).encode()
        return self._answer(path, data, {"Content-Type": "application/json"})[1]

    def _answer(self, path: str, data: bytes | None, headers: dict, allowed: tuple = ()) -> tuple[int, bytes]:
        request = urllib.request.Request(self.url + path, data, headers)
        try:
            with self._opener.open(request, timeout=self.timeout) as response:
                return response.status, response.read()
        except urllib.error.HTTPError as error:
            if error.code in allowed:
                return error.code, b""
            if path == "/prompt" and error.code == 400:
                raise _rejected(error.read()) from None
            raise ServerError(f"{self.url}{path} answered {error.code} {error.reason}") from error
        except (OSError, http.client.HTTPException) as error:  # refused, reset, timed out, half an answer
            raise ServerError(f"No answer from {self.url}{path} ({error}): is ComfyUI running there?") from error


def _error_of(entry: dict) -> str | None:
    status = entry.get("status") or {}
    if status.get("status_str") != "error":
        return None
    for kind, data in status.get("messages") or []:
        if kind == "execution_error":
            where = f"Node {data.get('node_id')} ({data.get('node_type')})"
            return f"{where}: {data.get('exception_type')}: {str(data.get('exception_message')).strip()}"
        if kind == "execution_interrupted":
            return f"Interrupted at node {data.get('node_id')} ({data.get('node_type')})"
    return "The server reports an error without saying which"


def _rejected(answer: bytes) -> PromptRejected:
    try:
        values = json.loads(answer)
    except ValueError:
        return PromptRejected(f"The server refused the prompt: {answer[:200]!r}", {})
    errors = values.get("node_errors") or {}
    words = [
        f"node {node} ({about.get('class_type')}): {error.get('message')} ({error.get('details')})"
        for node, about in errors.items()
        for error in about.get("errors", [])
    ]
    general = values.get("error") or {}
    general = f"{general.get('message')} ({general.get('details')})" if isinstance(general, dict) else general
    return PromptRejected(f"The server refused the prompt: {'; '.join(words) or general}", errors)
