"""What the page offers to choose from, so that nobody types it: folders of datasets and plans, names of classes.

It reads inside ComfyUI's input, output and models folders, and nowhere else.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import folder_paths

from ..higfa_core.classifier.formats import classifier_file
from ..higfa_core.files.paths import inside
from ..higfa_core.miniature import birds, sources
from ..higfa_core.plans.plan_file import HEADER
from ..higfa_core.sources.layouts import read_dataset
from .classifier import FOLDER, file_stamp
from .faults import shown_error
from .live import prompt_server

ROUTE = "/higfa/choices/{kind}"


def datasets(_name: str = "") -> list[str]:
    """The folders of ComfyUI's input folder that have folders in them, and the miniature's birds."""
    found = [folder.name for folder in _folders(folder_paths.get_input_directory()) if _folders(folder)]
    return sorted({*found, sources.NAME}, key=str.casefold)


def plans(_name: str = "") -> list[str]:
    """The folders of ComfyUI's output folder with a plan in them, also one level deeper."""
    output = Path(folder_paths.get_output_directory())
    found = [folder for one in _folders(output) for folder in (one, *_folders(one)) if (folder / HEADER).is_file()]
    return sorted((folder.relative_to(output).as_posix() for folder in found), key=str.casefold)


def classes_of_dataset(name: str) -> list[str]:
    folder = inside(folder_paths.get_input_directory(), name)
    if name == sources.NAME and not folder.exists():
        return sorted(birds.CLASS_NAMES)
    return sorted(read_dataset(folder).class_names, key=str.casefold)


def classes_in_turn(name: str) -> list[str]:
    """The classes of a dataset's first jobs: Dataset Job's index 0 is of the first one, 1 of the second."""
    folder = inside(folder_paths.get_input_directory(), name)
    if name == sources.NAME and not folder.exists():
        return sorted(birds.CLASS_NAMES)  # as its folders will be
    return [class_name for class_name, images in read_dataset(folder).counts().items() if images]


def classes_of_classifier(name: str) -> list[str]:
    """The classes of a file in models/higfa_classifiers."""
    path = folder_paths.get_full_path(FOLDER, name)
    if path is None:
        return []
    return _named(Path(path), "|".join(file_stamp(file) for file in classifier_file.beside(Path(path))))


@functools.lru_cache(maxsize=64)
def _named(path: Path, _stamp: str) -> list[str]:
    _weights, facts = classifier_file.read(path)
    return list(facts.class_names or ())


def classes_of_miniature(_name: str = "") -> list[str]:
    return list(birds.CLASS_NAMES)


CHOICES: dict[str, Callable[[str], list[str]]] = {
    "datasets": datasets,
    "plans": plans,
    "dataset": classes_of_dataset,
    "turns": classes_in_turn,
    "classifier": classes_of_classifier,
    "miniature": classes_of_miniature,
}


async def answer(request: Any) -> Any:
    """The choices of a kind, none where they cannot be read: the run then says what is wrong."""
    from server import web  # the server's own: it runs, as it was asked

    read = CHOICES.get(request.match_info["kind"])
    if read is None:
        return web.json_response({"error": f"Unknown kind. There is: {', '.join(CHOICES)}"}, status=404)
    try:
        choices = await asyncio.to_thread(read, request.query.get("name", ""))
    except (OSError, ValueError) as error:
        return web.json_response({"choices": [], "problem": shown_error(error)})
    return web.json_response({"choices": choices})


def register() -> None:
    """Serve them, where there is a server."""
    if (server := prompt_server()) is not None:
        server.routes.get(ROUTE)(answer)


def _folders(folder: str | Path) -> list[Path]:
    if not Path(folder).is_dir():
        return []
    return [path for path in Path(folder).iterdir() if path.is_dir() and not path.name.startswith(".")]
