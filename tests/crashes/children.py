"""Commands in processes of their own that share what is imported, so that hundreds of them can be killed.

They are forked from a server (`multiprocessing`'s forkserver) that has imported torch and timm once.
"""

import multiprocessing
import os
import sys
import time
from pathlib import Path

PRELOADED = ("timm", "higfa_core.training.outputs", "higfa_core.commands.main", "tests.crashes.world")
CALLS = ("write", "replace", "rename", "unlink", "mkdir")
HERE = str(Path(__file__).resolve().parents[2] / "higfa_core")
_context = None


def start(words, log, die_before=None, trace=None, clock=0.0):
    """Start a command in a process of its own; returns that, a `multiprocessing.Process`.

    Args:
        log: The file that its words go to.
        die_before: It dies, as by kill -9, before that call that changes a file, from 0.
        trace: A file that gets a line for each such call: its name and the line of ours that makes it.
        clock: Seconds that its clock is ahead.
    """
    global _context
    if _context is None:
        _context = multiprocessing.get_context("forkserver")
        _context.set_forkserver_preload(list(PRELOADED))
    process = _context.Process(target=_run, args=(list(map(str, words)), str(log), die_before, trace, clock))
    process.start()
    return process


def finish(words, log, seconds=120.0, **options):
    """The exit status of a command: -9 when it was killed."""
    process = start(words, log, **options)
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        raise TimeoutError(f"{words} did not end in {seconds:g} s:\n{Path(log).read_text()[-2000:]}")
    return process.exitcode


def kill(process, seconds):
    """kill -9 after so many seconds, unless it has ended; returns whether it was killed."""
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
    process.join()
    return process.exitcode == -9


def _run(words, log, die_before, trace, clock):
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.fsync = lambda descriptor: None  # a kill, unlike a power cut, loses nothing that was written
    _watch_calls(die_before, trace)
    if clock:
        real = time.time
        time.time = lambda: real() + clock
    from higfa_core.commands import main

    code = main.main(words)
    sys.stdout.flush()
    os._exit(code)


def _watch_calls(die_before, trace):
    count = 0

    def watched(name):
        real = getattr(os, name)

        def call(*values, **options):
            nonlocal count
            if name != "write" or values[0] > 2:
                if count == die_before:
                    os.kill(os.getpid(), 9)
                if trace:
                    with open(trace, "a", encoding="utf-8") as file:
                        file.write(f"{name} {_place()}\n")
                count += 1
            return real(*values, **options)

        return call

    for name in CALLS:
        setattr(os, name, watched(name))


def _place():
    """The innermost line of the pack that is running."""
    frame = sys._getframe(2)
    while frame is not None and not frame.f_code.co_filename.startswith(HERE):
        frame = frame.f_back
    return f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}" if frame else "elsewhere"


def boundaries(trace, last=True):
    """The numbers of the calls to die before: the first of each kind and place, and the `last`."""
    lines = Path(trace).read_text("utf-8").splitlines()
    first = {lines.index(line) for line in lines}
    return sorted(first | ({len(lines) - 1 - lines[::-1].index(line) for line in lines} if last else set()))
