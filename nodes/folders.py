"""The folder of labelled images that several nodes ask for."""

from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ..higfa_core.files.paths import inside
from ..higfa_core.miniature import sources


def dataset_input(tooltip: str) -> io.String.Input:
    """The widget for the name of a folder in ComfyUI's input folder."""
    place = "folder in ComfyUI/input with one subfolder per class"
    return io.String.Input("dataset", default="", placeholder=place, tooltip=tooltip)


def dataset_folder(name: str) -> Path:
    """The folder of that name; the miniature's images are drawn on first use. ValueError for a place outside."""
    folder = inside(folder_paths.get_input_directory(), name)
    if name == sources.NAME and not folder.exists():
        sources.draw_sources(folder)
    return folder
