"""The miniature as ComfyUI objects, made once; see guiding.py beside this file."""

import pytest

from ..numeric import with_rounding
from .guiding import make_exact_world, make_world, noise_for, run, stock


@pytest.fixture(scope="session")
def world(comfyui):
    """The miniature: see guiding.py beside this file."""
    return make_world()


@pytest.fixture(scope="session")
def exact(comfyui):
    """The miniature in float64, for what is equal but not to the last bit."""
    return make_exact_world()


@pytest.fixture(scope="session")
def rounding(exact):
    """What one rounding of the noise does to a stock run of six steps."""
    guider = stock(exact, exact.on_positive, exact.empty)
    return with_rounding(lambda noise: run(guider, noise, steps=6), noise_for(1))[1]
