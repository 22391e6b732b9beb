"""The folder of labelled images that several nodes ask for."""

from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ..higfa_core.files.paths import inside
from ..higfa_core.miniature import sources
from ..higfa_core.plans.plan_file import HEADER
from .choices import datasets, plans
from .faults import shown_error


def dataset_input(tooltip: str) -> io.String.Input:
    """The widget for the name of a folder in ComfyUI's input folder."""
    place = "folder in ComfyUI/input with one subfolder per class"
    return io.String.Input("dataset", default="", placeholder=place, tooltip=tooltip)


def dataset_folder(name: str) -> Path:
    """The folder of that name; the miniature's images are drawn on first use. ValueError for a place outside,
    or for the birds of an earlier version."""
    folder = inside(folder_paths.get_input_directory(), name)
    if name == sources.NAME:
        sources.refuse_earlier(folder)
        if not folder.exists():
            sources.draw_sources(folder)
    return folder


def dataset_flaw(name: str | None) -> str | None:
    """What is wrong with the name of a dataset, before a run; None where nothing is, or it is linked."""
    if name is None:
        return None
    if not name.strip():
        return "No dataset is given. Choose one, or type the name of a folder in ComfyUI's input folder."
    return _missing(folder_paths.get_input_directory(), name.strip(), "", "folder", datasets())


def plan_flaw(name: str) -> str | None:
    """What is wrong with the name of a plan, before a run."""
    return _missing(folder_paths.get_output_directory(), name.strip(), HEADER, "plan", plans())


def _missing(root: str, name: str, file: str, what: str, there: list[str]) -> str | None:
    try:
        found = (inside(root, name) / file).exists() or name in there
    except (OSError, ValueError) as error:
        return shown_error(error)
    if found:
        return None
    return f"No {what} {name!r} in ComfyUI's {Path(root).name} folder. There is: {', '.join(there[:10]) or 'none'}."
