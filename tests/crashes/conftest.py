"""A small image set, a plan over it, and a dataset of which the plan's images are made."""

import shutil

import pytest

from higfa_core.commands import main as cli

from .world import build


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """`real/<class>/<image>` and the dataset `set`, see `.world.build`."""
    return build(tmp_path_factory.mktemp("made"))


@pytest.fixture
def folder(made, tmp_path):
    """A copy of the dataset that a test may ruin."""
    return shutil.copytree(made / "set", tmp_path / "set")


@pytest.fixture
def refused(capsys):
    """Runs a command that must fail; returns its only line on stderr."""

    def refused(*words):
        assert cli.main([str(word) for word in words]) == 1
        (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        return line

    return refused
