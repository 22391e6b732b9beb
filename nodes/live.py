"""Messages to the page about a guided run: while it samples, and once it is over."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

from comfy_api.latest import io, ui

from ..higfa_core.guidance.trace import Trace
from ..higfa_core.plots.live import state

EVENT = "higfa.guidance"
LEFT = "higfa_guidance"  # among a node's outputs, on the page and in the history
# What the schema of such a node needs. Newer releases of ComfyUI show it again when the node is cached.
SHOWS: dict[str, Any] = {"hidden": [io.Hidden.unique_id, io.Hidden.extra_pnginfo]}
if hasattr(io.Schema, "has_intermediate_output"):
    SHOWS["has_intermediate_output"] = True
PAUSE = 0.15  # seconds between messages


def prompt_server() -> Any:
    """ComfyUI's running server; None where its nodes are used without one, and importing it would start half of it."""
    return getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)


def watcher(hidden: io.HiddenHolder | None) -> Watcher | None:
    """The watcher that reports a run to the page; None for a node called by other code.

    Args:
        hidden: of the node that shows it.
    """
    return None if hidden is None else Watcher(*_about(hidden))


def later_watcher(hidden: io.HiddenHolder | None) -> LaterWatcher | None:
    """The same for a node that is done before the run begins."""
    return None if hidden is None else LaterWatcher(*_about(hidden))


def _about(hidden: io.HiddenHolder) -> tuple[str, str | None]:
    workflow = (hidden.extra_pnginfo or {}).get("workflow") or {}
    return str(hidden.unique_id), workflow.get("id")


class Watcher:
    """Reports a run to the page that queued it; does nothing if no page listens, as in an API run."""

    def __init__(self, node: str, workflow: str | None):
        self.about = {"node": node, "workflow": workflow}
        self.told = 0.0
        self.latest: Trace | None = None  # the run that is over, with all images of its batch

    def __call__(self, trace: Trace, sigma: float | None) -> None:
        self.latest = trace if sigma is None else self.latest
        now = time.monotonic()
        if sigma is None or now >= self.told + PAUSE:
            self.told = now
            self.tell(EVENT, lambda: {**self.about, "state": state(trace, sigma)})

    def tell(self, event: str, message: Callable[[], Mapping]) -> None:
        """Send a message to the page that queued the run, if it listens."""
        server = prompt_server()
        if server is not None and server.client_id in server.sockets:
            server.send_sync(event, message(), server.client_id)


class LaterWatcher(Watcher):
    """Of a node that is done before the run begins: it then fills in what that node has left in the history."""

    def __init__(self, node: str, workflow: str | None):
        super().__init__(node, workflow)
        self.left: dict[str, Any] = {}

    @property
    def outputs(self) -> dict[str, list]:
        """What the node leaves."""
        return {LEFT: [self.left]}

    def __call__(self, trace: Trace, sigma: float | None) -> None:
        super().__call__(trace, sigma)
        server = prompt_server()
        if sigma is not None or server is None:
            return
        if self.left:
            _part(server.prompt_queue, self.left)
        self.left.update(state(trace))
        about = {"node": self.about["node"], "display_node": self.about["node"], "prompt_id": server.last_prompt_id}
        self.tell("executed", lambda: {**about, "output": self.outputs})


def _part(queue: Any, left: dict) -> None:
    """Give finished prompts a copy of what a node has left: while it is cached, all of them have the same object."""
    with queue.mutex:
        for entry in queue.history.values():
            for node, output in entry["outputs"].items():
                if any(one is left for one in output.get(LEFT, ())):
                    entry["outputs"][node] = {**output, LEFT: [dict(left)]}


def shown(summary: str, trace: Trace | None) -> dict[str, Any]:
    """What a sampler node leaves on the page and in the history."""
    text = ui.PreviewText(summary).as_dict()
    return text if trace is None else {**text, LEFT: [state(trace)]}
