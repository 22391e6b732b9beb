"""All targets, and how inputs are drawn for them: the same ones for the same seed."""

import ctypes
import gc
import itertools
import logging
import resource
import sys
import tempfile
import time
import warnings
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from hypothesis import HealthCheck, Phase, given, seed, settings

from . import answers, files, records
from .watch import CLEAR, verdict

TARGETS = {**records.TARGETS, **files.TARGETS, **answers.TARGETS}
# Shares of the inputs: the slow readers get fewer.
SHARES = {"index": 0.1, "export": 0.1, "transformers": 0.05, "checkpoint": 0.15, "layouts": 0.4, "HTTP bytes": 0.2}
SHARES |= {"leaks": 0.3, "sidecar": 0.2, "safetensors": 0.3, "image hashes": 0.2, "plan": 0.6, "tables": 0.7}
SHARES |= {"HTTP answers": 3.0, "addresses": 2.0, "job": 2.0, "transform": 2.0, "server's manifest": 2.0}
BATCH = 100  # inputs that hypothesis keeps: those of a classifier have megabytes


@dataclass
class Result:
    """What became of the inputs of one target."""

    name: str
    inputs: int = 0
    refused: int = 0
    seconds: float = 0.0
    slowest: float = 0.0
    memory: int = 0
    faults: Counter = field(default_factory=Counter)
    examples: dict = field(default_factory=dict)

    def __str__(self):
        passed = self.inputs - self.refused - self.faults.total()
        words = f"{self.name:<18}{self.inputs:>8,} inputs, {self.refused:>7,} refused, {passed:>7,} read"
        cost = f"{self.seconds:>6.1f} s, slowest {self.slowest:.2f} s, {self.memory / 1e9:.2f} GB"
        return f"{words}, {cost}, faults {self.faults.total()}"


def shares(count, names=()):
    """Target -> how many of `count` inputs it gets."""
    chosen = [name for name in TARGETS if not names or name in names]
    whole = sum(SHARES.get(name, 1.0) for name in chosen)
    found = {name: int(count * SHARES.get(name, 1.0) / whole) for name in chosen}
    found[chosen[0]] += count - sum(found.values())
    return found


def fuzz(name, count, home, number, end=float("inf")):
    """Call the reader of a target with `count` inputs, or until the time `end` (`time.monotonic`)."""
    home.mkdir(parents=True)
    strategy, read = TARGETS[name](home)
    clear = answers.CLEAR if name in answers.TARGETS and name != "addresses" else CLEAR
    result, start = Result(name), time.monotonic()

    def one(value):
        if time.monotonic() > end or result.inputs >= count:
            return
        began = time.monotonic()
        outcome = verdict(read, value, home, clear)
        result.inputs += 1
        result.slowest = max(result.slowest, time.monotonic() - began)
        result.refused += outcome == "refused"
        if outcome not in ("", "refused"):
            result.faults[outcome] += 1
            result.examples.setdefault(outcome, repr(value)[:1000])

    with warnings.catch_warnings(), _temporary_files_in(home), _quiet_log():
        warnings.simplefilter("ignore")
        for batch in itertools.count():
            if time.monotonic() > end or result.inputs >= count:
                break
            size = min(BATCH, count - result.inputs)
            options = settings(
                max_examples=size,
                database=None,
                deadline=None,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            seed(f"{number}/{name}/{batch}")(options(given(strategy)(one)))()
            _give_back_memory()
    result.seconds, result.memory = time.monotonic() - start, peak_memory()
    return result


def _give_back_memory():
    """What is free but scattered, after thousands of files of a megabyte, counts as used all the same."""
    gc.collect()
    if sys.platform == "linux":
        with suppress(AttributeError):  # another C library than glibc
            ctypes.CDLL(None).malloc_trim(0)


@contextmanager
def _quiet_log():
    """Damaged lines are named in the log, thousands of times here."""
    log = logging.getLogger("higfa_core")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


@contextmanager
def _temporary_files_in(home):
    """What libraries write for a moment may be written there."""
    before, tempfile.tempdir = tempfile.tempdir, str(home)
    try:
        yield
    finally:
        tempfile.tempdir = before


def peak_memory():
    """The most memory that this process has had, in bytes."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used if sys.platform == "darwin" else used * 1024
