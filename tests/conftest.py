"""Fixtures on a real ComfyUI, in this process. They need COMFYUI_PATH (`python run.py test` sets it)."""

import asyncio
import importlib
import os
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from .sources.layouts.miniatures import BUILDERS

ROOT = Path(__file__).resolve().parent.parent
LOADED = ("__init__.py", "pyproject.toml", "nodes", "higfa_core", "web", "workflows")


@pytest.fixture(scope="session")
def comfyui_path() -> Path:
    path = os.environ.get("COMFYUI_PATH")
    if not path:
        pytest.skip("COMFYUI_PATH is not set: run `python run.py test`, or set it to a ComfyUI folder")
    return Path(path)


@pytest.fixture(scope="session")
def comfyui(comfyui_path, tmp_path_factory) -> Path:
    """ComfyUI importable in this process, on the CPU, with input and output in a temporary folder."""
    base = tmp_path_factory.mktemp("comfyui_base")
    argv, sys.argv = sys.argv, ["main.py", "--cpu", "--base-directory", str(base)]
    sys.path.insert(0, str(comfyui_path))  # before this repository, whose `nodes` is another one
    try:
        importlib.import_module("comfy.options").enable_args_parsing()
        importlib.import_module("comfy.cli_args")
    finally:
        sys.argv = argv
    folder_paths = importlib.import_module("folder_paths")
    for folder in (folder_paths.get_input_directory(), folder_paths.get_output_directory()):
        os.makedirs(folder, exist_ok=True)
    return comfyui_path


@pytest.fixture(scope="session")
def core_nodes(comfyui) -> dict:
    """Node id -> class of ComfyUI without any pack."""
    nodes = importlib.import_module("nodes")
    assert Path(nodes.__file__).parent == comfyui, f"imported {nodes.__file__} instead of ComfyUI's nodes.py"
    asyncio.run(nodes.init_builtin_extra_nodes())
    return dict(nodes.NODE_CLASS_MAPPINGS)


@pytest.fixture(scope="session")
def pack(core_nodes, tmp_path_factory) -> SimpleNamespace:
    """The pack as ComfyUI's own loader loads it, from a copy: .loaded, .module, .nodes, .folder.

    Its classes are not those of `import higfa_core`: the loader names modules after the folder.
    """
    nodes = importlib.import_module("nodes")
    folder = tmp_path_factory.mktemp("custom_nodes") / "ComfyUI-HiGFA"
    folder.mkdir()
    for name in LOADED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        elif source.is_file():
            shutil.copy(source, folder / name)
    loaded = asyncio.run(nodes.load_custom_node(str(folder), set(core_nodes)))
    module = sys.modules.get(str(folder).replace(".", "_x_"))
    own = {key: node for key, node in nodes.NODE_CLASS_MAPPINGS.items() if key not in core_nodes}
    return SimpleNamespace(loaded=loaded, module=module, nodes=own, folder=folder)


@pytest.fixture(scope="session")
def miniature_layout():
    """(name, folder) -> the root of a miniature of that layout, built below `folder`."""
    return lambda name, folder: BUILDERS[name](Path(folder))
