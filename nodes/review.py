"""The review of datasets in ComfyUI's page: routes that read and write below its output folder.

Real images are shown where they are below the input folder.
"""

from __future__ import annotations

import asyncio
import functools
from pathlib import Path
from typing import Any

import folder_paths

from ..higfa_core.files.paths import inside
from ..higfa_core.review.answers import Answer, Review
from .faults import shown
from .live import prompt_server

ROUTE = "/higfa/review/{path:.*}"


def real_images(name: str, recorded: str) -> Path | None:
    """The folder of a set of real images; None if it is not below ComfyUI's input folder."""
    base = Path(folder_paths.get_input_directory())
    names = [name]
    if recorded and Path(recorded).is_relative_to(base):
        names.insert(0, Path(recorded).relative_to(base).as_posix())
    for one in filter(None, names):
        try:
            if (folder := inside(base, one)).is_dir():
                return folder
        except ValueError:  # leads out: not to be read
            continue
    return None


@functools.lru_cache(maxsize=1)
def _review(output: Path) -> Review:
    return Review(output, real_images, shown)


async def read(request: Any) -> Any:
    """Answer a GET request."""
    find = functools.partial(_here().get, request.match_info["path"], request.query, request.headers)
    return _response(await asyncio.to_thread(find))


async def write(request: Any) -> Any:
    """Answer a POST request."""
    find = functools.partial(_here().post, request.match_info["path"], request.headers, await request.read())
    return _response(await asyncio.to_thread(find))


def register() -> None:
    """Serve it, where there is a server."""
    if (server := prompt_server()) is not None:
        server.routes.get(ROUTE)(read)
        server.routes.post(ROUTE)(write)


def _here() -> Review:
    return _review(Path(folder_paths.get_output_directory()))


def _response(answer: Answer) -> Any:
    from server import web  # the server's own: it runs, as it was asked

    return web.Response(status=answer.status, body=answer.body, headers=answer.headers)
