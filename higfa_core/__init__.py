"""The method: pure functions of tensors, files and jobs. Importing it never imports ComfyUI."""

import re
from importlib import metadata
from pathlib import Path


def _version() -> str:
    """That of pyproject.toml, which lies beside the pack in ComfyUI; pip leaves it in the package's metadata."""
    project = Path(__file__).parents[1] / "pyproject.toml"
    if not project.is_file():
        return metadata.version("higfa")
    found = re.search(r'^version = "(.+)"$', project.read_text("utf-8"), re.MULTILINE)
    return found[1] if found else "unknown"


__version__ = _version()
