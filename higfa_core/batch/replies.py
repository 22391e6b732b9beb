"""ComfyUI's answers, as far as they are read. Anything of another shape is not from ComfyUI."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct, to_builtins

from .answers import clean

Name = Annotated[str, Meta(min_length=1, max_length=255, pattern=r"^[^/\\:\x00-\x1f]+$")]
Folder = Annotated[str, Meta(max_length=255, pattern=r"^[^:\x00-\x1f]*$")]


class Queued(Struct):
    """The answer to an accepted prompt."""

    prompt_id: str


class Fault(Struct):
    """What is wrong with a prompt, or with an input of a node."""

    type: str = ""
    message: str = ""
    details: str = ""


class NodeFaults(Struct):
    """What is wrong with a node."""

    class_type: str = ""
    errors: list[Fault] = []


class Rejection(Struct):
    """The answer to a refused prompt."""

    error: Fault | str
    node_errors: dict[str, NodeFaults] | list[Any] = {}

    def __post_init__(self):
        if isinstance(self.node_errors, list):  # ComfyUI sends [] if there are none
            self.node_errors = {}


class Item(Struct, array_like=True):
    """A prompt in the queue: a list whose rest is not read."""

    number: float
    prompt_id: str


class Queue(Struct):
    """The answer to a queue request."""

    queue_running: list[Item]
    queue_pending: list[Item]


class Saved(Struct):
    """The answer to an upload: where the file is in the input folder."""

    name: Name
    subfolder: Folder = ""


class Message(Struct, array_like=True):
    """One message of a prompt's history."""

    kind: str
    data: dict[str, Any] = {}


class Status(Struct):
    """How a prompt ended."""

    status_str: str = ""
    messages: list[Message] = []


class Entry(Struct):
    """A finished prompt in the history."""

    status: Status | None = None
    outputs: dict[str, dict[str, Any]] = {}

    @property
    def error(self) -> str | None:
        """Why it failed, in words; None when it did not."""
        if self.status is None or self.status.status_str != "error":
            return None
        for message in self.status.messages:
            data = message.data
            where = clean(f"{data.get('node_id')} ({data.get('node_type')})")
            if message.kind == "execution_error":
                return f"Node {where}: {clean(str(data.get('exception_type')))}: {_words(data)}"
            if message.kind == "execution_interrupted":
                return f"Interrupted at node {where}"
        return "The server reports an error without saying which"


def history_of(entry: Entry) -> dict[str, Any]:
    """The entry as plain values: {"outputs": {node id: ui}, "status": ...}."""
    return to_builtins(entry)


def _words(data: dict[str, Any]) -> str:
    return clean(str(data.get("exception_message")).strip())
