"""The real server; see server.py beside this file."""

import pytest

from .guiding import make_world
from .server import running_server


@pytest.fixture(scope="session")
def server(comfyui_path, tmp_path_factory):
    """A running ComfyUI with this pack: .url, .base, .log, .get(path), .log_text()."""
    with running_server(comfyui_path, tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="session")
def world(comfyui):
    """The miniature: see guiding.py beside this file."""
    return make_world()
