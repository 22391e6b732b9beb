"""Messages to the page about a guided run: while it samples, and once it is over."""

from __future__ import annotations

import sys
import time
from typing import Any

from comfy_api.latest import io, ui

from ..higfa_core.guidance.trace import Trace
from ..higfa_core.plots.live import state

EVENT = "higfa.guidance"
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
    if hidden is None:
        return None
    workflow = (hidden.extra_pnginfo or {}).get("workflow") or {}
    return Watcher(str(hidden.unique_id), workflow.get("id"))


class Watcher:
    """Reports a run to the page that queued it; does nothing if no page listens, as in an API run."""

    def __init__(self, node: str, workflow: str | None):
        self.about = {"node": node, "workflow": workflow}
        self.told = 0.0
        self.latest: Trace | None = None  # the run that is over, with all images of its batch

    def __call__(self, trace: Trace, sigma: float | None) -> None:
        self.latest = trace if sigma is None else self.latest
        server, now = prompt_server(), time.monotonic()
        too_soon = sigma is not None and now < self.told + PAUSE
        if too_soon or server is None or server.client_id not in server.sockets:
            return
        self.told = now
        server.send_sync(EVENT, {**self.about, "state": state(trace, sigma)}, server.client_id)


def shown(summary: str, trace: Trace | None) -> dict[str, Any]:
    """What a sampler node leaves on the page and in the history."""
    text = ui.PreviewText(summary).as_dict()
    return text if trace is None else {**text, "higfa_guidance": [state(trace)]}
