"""Every reader against damaged and hostile inputs: a few seconds each, the same inputs each time.

`HIGFA_FUZZ` is how many inputs there are over all readers; `benchmarks/fuzz.py` takes any number of new ones.
"""

import os
import tempfile
import time
from pathlib import Path

import pytest

from higfa_core.files.records import plain

from .campaign import TARGETS, fuzz, shares
from .watch import verdict

pytestmark = pytest.mark.slow

COUNT = int(os.environ.get("HIGFA_FUZZ", "3000"))
SECONDS = 20.0 if COUNT <= 3000 else float("inf")  # for one reader, on a machine that has much else to do


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)


@pytest.mark.parametrize("name", TARGETS)
def test_nothing_but_our_own_clear_errors_leaves_a_reader(tmp_path, name):
    count = shares(COUNT)[name]
    result = fuzz(name, count, tmp_path / "deep" / "home", 1, time.monotonic() + SECONDS)
    assert not result.faults, result.examples
    assert result.inputs >= min(count, 10) and [path.name for path in tmp_path.iterdir()] == ["deep"]


def test_the_watch_sees_what_may_not_happen(tmp_path):
    def raises(value):
        raise value

    def of(call, value=None, seconds=5.0):
        return verdict(call, value, tmp_path, seconds=seconds)

    outside = Path(tempfile.mkdtemp()) / "x"
    assert of(lambda value: None) == ""
    assert of(plain, b"{") == "refused"
    assert of(raises, ValueError("not ours")).startswith("unclear ValueError")
    assert of(lambda value: int("x")).startswith("unclear ValueError")
    assert of(raises, KeyError("x")).startswith("unclear KeyError")
    assert of(lambda value: time.sleep(5), seconds=0.05).startswith("late")
    assert of(lambda value: outside.write_text("x")).startswith(f"outside: open {outside}")
    assert of(lambda value: (tmp_path / "y").write_text("x")) == ""
    assert of(lambda value: outside.parent.joinpath("z").mkdir()).startswith("outside: os.mkdir")
