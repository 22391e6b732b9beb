"""Errors as shown on the canvas: disk faults in words, and no absolute paths of the server."""

import functools
import os
import re
from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ..higfa_core.files.faults import in_words

SAFE = "Every image that manifest.jsonl names is whole."
PACK = Path(__file__).resolve().parents[1]
ABSOLUTE = re.compile(r"(?<![\w/\\.:>])(?:/|[A-Za-z]:[\\/])[^\s'\"<>|*?:,;()\[\]{}]+")


def guarded(node: type[io.ComfyNode]) -> type[io.ComfyNode]:
    """The node, with an `execute` that raises errors in the form to show."""
    execute = node.execute.__func__

    @functools.wraps(execute)
    def run(cls, *args, **kwargs):
        try:
            return execute(cls, *args, **kwargs)
        except Exception as error:
            _raise_shown(error)

    node.execute = classmethod(run)
    return node


def shown(text: str) -> str:
    """The text without absolute paths: relative to ComfyUI's folders, and only the name of anything elsewhere."""
    for folder, name in _known():
        text = text.replace(folder, name)
    return ABSOLUTE.sub(lambda found: _name_of(found[0]), text)


def shown_error(error: Exception, safe: str = "") -> str:
    """What to show of an error: a fault of the disk in words, with `safe`, and no absolute paths."""
    return shown(in_words(error, safe) if isinstance(error, (OSError, UnicodeEncodeError)) else str(error))


def _raise_shown(error: Exception) -> None:
    """Raise the error again, with the same class if possible. ComfyUI logs the original one."""
    if isinstance(error, (OSError, UnicodeEncodeError)) and in_words(error, SAFE) != str(error):
        raise ValueError(shown_error(error, SAFE)) from error
    if isinstance(error, OSError) and error.filename is not None:
        raise OSError(shown(str(error))) from error
    if error.args and isinstance(error.args[0], str):
        error.args = (shown(error.args[0]), *error.args[1:])
    raise error


def _known() -> list[tuple[str, str]]:
    """Folders that messages may name, innermost first, and what to call them instead."""
    found = {
        folder_paths.get_input_directory(): "input",
        folder_paths.get_output_directory(): "output",
        folder_paths.get_temp_directory(): "temp",
        folder_paths.models_dir: "models",
        str(PACK): PACK.name,
        folder_paths.base_path: "ComfyUI",
    }
    found |= {os.path.realpath(folder): name for folder, name in found.items()}
    return sorted(found.items(), key=lambda pair: -len(pair[0]))


def _name_of(path: str) -> str:
    """`.../name` for a path below a folder on this machine; other words that begin with a slash stay."""
    parts = re.split(r"[\\/]+", path)
    top = os.path.join(os.sep if path.startswith("/") else "", *parts[:2])
    return f".../{parts[-1] or parts[-2]}" if len(parts) > 2 and os.path.isdir(top) else path
