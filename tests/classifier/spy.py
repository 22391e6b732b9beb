"""What a piece of code opens, asks and starts: hosts, programs and files, by Python's audit events and the kernel's."""

import contextlib
import ctypes
import os
import site
import sys
import tempfile
from pathlib import Path

HOSTS = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "urllib.Request", "http.client.connect")
PROGRAMS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "pty.spawn")
IN_OPEN, IN_ACCESS = 0x20, 0x1
# Its modules and data, Python's own, and what the system says of itself.
LIBRARIES = [
    *site.getsitepackages(),
    sys.base_prefix,
    sys.prefix,
    "/proc",
    "/sys",
    "/dev",
    "/etc/localtime",
]
ROOT = Path(__file__).resolve().parents[2]


class Seen:
    """Hosts asked, programs started, files opened, and decoys touched (by whatever means, on Linux)."""

    def __init__(self):
        self.hosts, self.programs, self.files, self.decoys = [], [], [], []

    def others(self, allowed: list[Path]) -> list[str]:
        """Files opened that are neither `allowed`, nor a library's, nor temporary ones of the process itself."""
        own = {os.path.realpath(path) for path in allowed}
        places = [os.path.realpath(place) for place in (*LIBRARIES, ROOT / "higfa_core")]
        return [file for file in self.files if file not in own and not any(_in(file, place) for place in places)]


def _in(file: str, place: str) -> bool:
    return file == place or file.startswith(place + os.sep)


_active: list[Seen] = []


def _hook(event: str, args: tuple) -> None:
    for seen in _active:
        if event in HOSTS:
            seen.hosts.append(f"{event} {args[:2]}")
        elif event in PROGRAMS:
            seen.programs.append(f"{event} {args[:1]}")
        elif event == "open" and isinstance(args[0], (str, bytes, os.PathLike)):
            seen.files.append(os.path.realpath(os.fsdecode(args[0])))


sys.addaudithook(_hook)  # there is no way to take it off again: it does nothing while nobody watches


@contextlib.contextmanager
def watch(decoys=()):
    seen, made = Seen(), tempfile.gettempdir()
    with _touched(decoys) as touched:
        _active.append(seen)
        try:
            yield seen
        finally:
            _active.remove(seen)
            seen.decoys = touched()
    gone = [file for file in seen.files if _in(file, os.path.realpath(made)) and not os.path.exists(file)]
    seen.files = [file for file in seen.files if file not in gone]  # made and removed by the code itself


@contextlib.contextmanager
def _touched(decoys):
    """A function that names the decoys opened so far: also by C and Rust, which raise no audit events."""
    if not sys.platform.startswith("linux"):
        print("only Linux sees what C and Rust open")
        yield list
        return
    libc = ctypes.CDLL(None, use_errno=True)
    watcher = libc.inotify_init1(os.O_NONBLOCK)
    named = {libc.inotify_add_watch(watcher, os.fsencode(decoy), IN_OPEN | IN_ACCESS): str(decoy) for decoy in decoys}
    assert watcher >= 0 and -1 not in named, os.strerror(ctypes.get_errno())

    def touched() -> list[str]:
        try:
            events = os.read(watcher, 1 << 16)
        except BlockingIOError:
            return []
        return sorted({named[int.from_bytes(events[at : at + 4], sys.byteorder)] for at in range(0, len(events), 16)})

    try:
        yield touched
    finally:
        os.close(watcher)
