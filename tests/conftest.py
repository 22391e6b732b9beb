"""A real ComfyUI as fixtures, in this process and as a server; which tests are marked, come first, share a process.

The fixtures need COMFYUI_PATH (`python run.py test` sets it). Marks: `comfy` is set here on what needs ComfyUI;
`slow` (training, killed processes, clusters, benchmarks) and `releases` (what can differ between two releases of
ComfyUI, and runs on the oldest one as well) are set by hand, for a file or a test.
"""

import asyncio
import importlib
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest

from .server.server import running_server
from .sources.layouts.miniatures import BUILDERS

TOGETHER = ("tests/server/", "tests/page/")  # one process for each folder, so that each has one server
MARKS = ("comfy", "slow")
ROOT = Path(__file__).resolve().parent.parent
LOADED = ("__init__.py", "pyproject.toml", "nodes", "higfa_core", "web", "workflows", "subgraphs")


def pytest_collection_modifyitems(items):
    for item in items:
        if "comfyui_path" in item.fixturenames:
            item.add_marker("comfy")
    # Files that take long first, so that no process is left with one of them at the end.
    first = {item.path: 0 for item in items}
    for item in items:
        weight = sum(2**place for place, mark in enumerate(MARKS) if item.get_closest_marker(mark))
        first[item.path] = max(first[item.path], 4 if item.nodeid.startswith(TOGETHER) else weight)
    items.sort(key=lambda item: -first[item.path])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """The tests of a file in one process: its fixtures are made once."""
    from xdist.scheduler import LoadFileScheduling

    class ByFileAndServer(LoadFileScheduling):
        def _split_scope(self, nodeid):
            return next(filter(nodeid.startswith, TOGETHER), None) or super()._split_scope(nodeid)

    config.option.loadscopereorder = False  # keep the order given above
    return ByFileAndServer(config, log)


@pytest.fixture(autouse=True)
def called_as_higfa(monkeypatch):
    """Hints name the command as it was called; run.py, which may have started the tests, is not what they call."""
    monkeypatch.delenv("HIGFA_CALLED_AS", raising=False)


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
        # As main.py does, before 0.18.0's nodes.py puts comfy/, which has a utils.py, in front of sys.path.
        importlib.import_module("utils.install_util")
    finally:
        sys.argv = argv
    folder_paths = importlib.import_module("folder_paths")
    for folder in (folder_paths.get_input_directory(), folder_paths.get_output_directory()):
        os.makedirs(folder, exist_ok=True)
    return comfyui_path


def completed(coroutine):
    """As asyncio.run, but in another thread: in this one runs the loop of a browser, once tests/page has begun."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, coroutine).result()


@pytest.fixture(scope="session")
def core_nodes(comfyui) -> dict:
    """Node id -> class of ComfyUI without any pack."""
    nodes = importlib.import_module("nodes")
    assert Path(nodes.__file__).parent == comfyui, f"imported {nodes.__file__} instead of ComfyUI's nodes.py"
    completed(nodes.init_builtin_extra_nodes())
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
    loaded = completed(nodes.load_custom_node(str(folder), set(core_nodes)))
    module = sys.modules.get(str(folder).replace(".", "_x_"))
    own = {key: node for key, node in nodes.NODE_CLASS_MAPPINGS.items() if key not in core_nodes}
    return SimpleNamespace(loaded=loaded, module=module, nodes=own, folder=folder)


@pytest.fixture(scope="session")
def server(comfyui_path, tmp_path_factory):
    """A running ComfyUI with this pack: .url, .base, .log, .get(path), .log_text(). Its tests belong in `TOGETHER`."""
    with running_server(comfyui_path, tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="session")
def miniature_layout():
    """(name, folder) -> the root of a miniature of that layout, built below `folder`."""
    return lambda name, folder: BUILDERS[name](Path(folder))
