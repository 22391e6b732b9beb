"""Templates by their short names, as in `/?template=miniature_augment&source=ComfyUI-HiGFA`."""

import functools
from pathlib import Path
from typing import Any

from ..higfa_core.plans.templates import TITLES
from .live import prompt_server

PACK = Path(__file__).parent.parent  # its name is the one under which ComfyUI serves it
FOLDER = PACK / "workflows"


async def answer(title: str, _request: Any) -> Any:
    from server import web  # the server's own: it runs, as it was asked

    return web.FileResponse(FOLDER / f"{title}.json")


def register() -> None:
    """Serve them, where there is a server."""
    if (server := prompt_server()) is not None:
        for name, title in TITLES.items():
            address = f"/workflow_templates/{PACK.name}/{name}.json"
            server.routes.get(address)(functools.partial(answer, title))
