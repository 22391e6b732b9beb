"""Miniature copies of every layout, for the tests of readers, plans and exports."""

from pathlib import Path

import pytest

from .layouts.miniatures import BUILDERS

LAYOUT_NAMES = tuple(BUILDERS)


@pytest.fixture(scope="session")
def miniature_layout():
    """(name, folder) -> the root of a miniature of that layout, built below ``folder``."""
    return lambda name, folder: BUILDERS[name](Path(folder))
