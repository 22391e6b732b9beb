"""What a reader did with an input: returned, refused it clearly, or anything that it never may do."""

import contextlib
import linecache
import os
import signal
import sys
import traceback
from pathlib import Path

PACKAGE = str(Path(__file__).resolve().parents[2] / "higfa_core") + os.sep
CLEAR = (ValueError, FileNotFoundError, FileExistsError)
SECONDS = 10.0  # for one input
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
CHANGES = (
    "shutil.rmtree",
    "os.mkdir",
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.link",
    "os.symlink",
    "os.truncate",
    "os.chmod",
)
HOSTS = ("socket.connect", "socket.getaddrinfo")
PROGRAMS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork")


class Late(BaseException):
    """An input took longer than `SECONDS`."""


class Watch:
    """Where files may be changed; what was done elsewhere. One at a time: audit hooks stay for good."""

    def __init__(self):
        self.home, self.outside = None, []
        sys.addaudithook(self._hear)

    def _hear(self, event, args):
        if self.home is None:
            return
        if event == "open" and isinstance(args[0], (str, bytes, os.PathLike)):
            if isinstance(args[2], int) and args[2] & WRITING or set(str(args[1])) & set("wax+"):
                self._check(args[0], event)
        elif event in CHANGES and not any(type(part) is int and part >= 0 for part in args[1:] if event != "os.mkdir"):
            for path in args[:2]:  # with the descriptor of a folder: `shutil.rmtree`, which has its own event
                if isinstance(path, (str, bytes, os.PathLike)):
                    self._check(path, event)
        elif event in PROGRAMS or (event in HOSTS and "127.0.0.1" not in str(args)):
            self.outside.append(f"{event} {str(args)[:100]}")

    def _check(self, path, event):
        place = os.path.realpath(os.fsdecode(path))
        if not place.startswith(self.home) and place != os.devnull:
            self.outside.append(f"{event} {place[:200]}")

    @contextlib.contextmanager
    def inside(self, home):
        self.home = os.path.realpath(home)
        try:
            yield self
        finally:
            self.home = None


WATCH = Watch()


def verdict(call, value, home, clear=CLEAR, seconds=SECONDS):
    """ "" when `call(value)` returned, "refused" when it raised one of our own clear errors, else what went wrong.

    Args:
        home: The folder in which it may change files.
        clear: The classes of clear errors.
    """
    WATCH.outside = []
    try:
        with WATCH.inside(home), _limit(seconds):
            call(value)
        result = ""
    except clear as error:
        result = "refused" if is_ours(error) else f"unclear {_place(error)}"
    except Late as error:
        result = f"late {_place(error)}"
    except Exception as error:
        result = f"unclear {_place(error)}"
    return f"outside: {WATCH.outside[0]}" if WATCH.outside else result


def is_ours(error):
    """Whether one of our own `raise` statements made it, with a message. Whoever shows it cuts what is long."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    line = linecache.getline(last.filename, last.lineno).lstrip()
    return last.filename.startswith(PACKAGE) and line.startswith("raise") and bool(str(error))


def _place(error):
    """The kind of an error: its class and where it left our code."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(PACKAGE)]
    where = f"{frames[-1].filename.removeprefix(PACKAGE)}:{frames[-1].lineno} {frames[-1].name}" if frames else "?"
    return f"{type(error).__name__} in {where}"


@contextlib.contextmanager
def _limit(seconds):
    if not hasattr(signal, "setitimer"):
        yield
        return

    def late(number, frame):
        raise Late(f"more than {seconds:g} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
