"""One bounded HTTP request: a deadline for all of it, a limit on the size of its answer, and no redirects.

urllib3, because ComfyUI already includes it (through requests) and a thread per server needs no event loop. Like every
blocking client it only limits the time between two bytes; `_TimedSocket` turns that into a deadline for the whole.
Imports nothing from this pack: Ray sends this module to nodes that lack the rest.
"""

from __future__ import annotations

import functools
import io
import ssl
import threading
import time
import urllib.request
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import unquote

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import HTTPError, LocationParseError, NewConnectionError, SSLError
from urllib3.util import make_headers, parse_url

HEADERS = ("location", "retry-after", "content-type")  # those of an answer that are read
LONGEST = 200  # characters of an error to keep
LOOPBACK = ("localhost", "127.0.0.1", "::1")


class NoAnswer(ConnectionError):
    """No complete answer came. `kind`: "unreachable", "late", "broken", "untrusted", "endless" or "starting"."""

    def __init__(self, kind: str, words: str):
        super().__init__(kind, words)
        self.kind, self.words = kind, words


class Answer(NamedTuple):
    """A complete answer; `headers` holds those of `HEADERS` that it has."""

    status: int
    headers: dict[str, str]
    body: bytes


class Address(NamedTuple):
    """A server's address: its name, safe to show, and the parts used in requests."""

    name: str
    url: str
    host: str
    login: dict[str, str]


def read_address(text: str) -> Address:
    """A server's URL; user and password become a header. ValueError, without the password, for anything else."""
    try:
        url = parse_url(text)
    except LocationParseError:
        url = parse_url("")
    hidden = url._replace(auth=None, query=None, fragment=None)
    if url.scheme not in ("http", "https") or not url.host or url.query or url.fragment:
        secret = "@" in text or "?" in text
        shown = (hidden.url if url.host else "something else") if secret else text
        raise ValueError(f"A server must be http://HOST:PORT or https://HOST, without ? and #, got {shown!r}.")
    login = make_headers(basic_auth=unquote(url.auth), basic_auth_encoding="utf-8") if url.auth else {}
    return Address(hidden.url.rstrip("/"), hidden.url.rstrip("/"), url.host.strip("[]"), login)


class Transport:
    """Requests to the server at `url`, one at a time; `headers` are sent with each, and never appear in errors."""

    def __init__(self, url: str, headers: Mapping[str, str] | None = None):
        address = read_address(url)
        # A new connection per request: the server may close a kept one just as a prompt is sent through it.
        self._url, self._headers = address.url, {"Connection": "close", **address.login, **(headers or {})}
        self._pools, self._clock, self._lock = _pools(address), _Clock(), threading.Lock()
        pool = self._pools.connection_from_url(address.url)
        secure = issubclass(pool.ConnectionCls, HTTPSConnection)
        connect: Any = functools.partial(_TimedSecureConnection if secure else _TimedConnection, clock=self._clock)
        pool.ConnectionCls = connect

    def ask(
        self, path: str, body: bytes | None, headers: Mapping[str, str], seconds: float, most: int, cut: bool = False
    ) -> Answer:
        """POST `body` to `path`, or GET it without one. NoAnswer unless a complete answer comes within `seconds`.

        `most`: maximum size of its body in bytes; with `cut` a longer one is truncated, otherwise it is NoAnswer.
        """
        with self._lock:
            self._clock.end = time.monotonic() + seconds
            try:
                return self._ask(path, body, {**self._headers, **headers}, seconds, most, cut)
            except NoAnswer:
                raise
            except (HTTPError, OSError, ValueError) as error:  # ValueError: what urllib3 cannot parse
                if time.monotonic() >= self._clock.end:
                    raise NoAnswer("late", f"no whole answer within {seconds:g} s") from None
                raise _no_answer(error) from None

    def _ask(self, path, body, headers, seconds, most, cut) -> Answer:
        options = {"redirect": False, "retries": False, "preload_content": False, "timeout": urllib3.Timeout(seconds)}
        method = "GET" if body is None else "POST"
        response = self._pools.urlopen(method, self._url + path, body=body, headers=headers, **options)
        try:
            data = response.read(most + 1, decode_content=False)
            while len(data) <= most and (more := response.read(most + 1 - len(data), decode_content=False)):
                data += more
            if len(data) > most and not cut:
                raise NoAnswer("endless", f"an answer of more than {most} bytes")
            known = {name: response.headers[name] for name in HEADERS if name in response.headers}
            return Answer(response.status, known, data[:most])
        finally:
            response.close()
            if self._clock.connection:
                self._clock.connection.close()


class _Clock:
    """When a request must end, and its connection."""

    end = 0.0
    connection: HTTPConnection | None = None

    def left(self) -> float:
        left = self.end - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        return left


class _TimedSocket:
    """A socket on which even many small steps end by the clock's deadline."""

    def __init__(self, sock: Any, clock: _Clock):
        self._sock, self._clock = sock, clock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def sendall(self, data: Any, *flags: int) -> None:
        self._sock.settimeout(self._clock.left())
        self._sock.sendall(data, *flags)  # Python applies the timeout to all of it

    def makefile(self, mode: str, *_: Any, **__: Any) -> io.BufferedReader:
        return io.BufferedReader(_TimedReader(self._sock, self._sock.makefile(mode, buffering=0), self._clock))


class _TimedReader(io.RawIOBase):
    def __init__(self, sock: Any, raw: Any, clock: _Clock):
        self._sock, self._raw, self._clock = sock, raw, clock

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        self._sock.settimeout(self._clock.left())
        return self._raw.readinto(buffer)

    def close(self) -> None:
        self._raw.close()
        super().close()


class _TimedConnection(HTTPConnection):
    def __init__(self, *values: Any, clock: _Clock, **options: Any):
        super().__init__(*values, **options)
        self._clock = clock

    def connect(self) -> None:
        self._clock.connection = self
        super().connect()
        self.sock = _TimedSocket(self.sock, self._clock)


class _TimedSecureConnection(_TimedConnection, HTTPSConnection):
    pass


def _pools(address: Address) -> urllib3.PoolManager:
    # A proxy from the environment cannot reach this machine's own loopback address.
    proxy = urllib.request.getproxies().get(address.url.partition(":")[0])
    if address.host in LOOPBACK or not proxy or urllib.request.proxy_bypass(address.host):
        return urllib3.PoolManager(num_pools=1)
    url = parse_url(proxy if "://" in proxy else f"http://{proxy}")
    login = make_headers(proxy_basic_auth=unquote(url.auth)) if url.auth else None
    return urllib3.ProxyManager(url._replace(auth=None).url, num_pools=1, proxy_headers=login)


def _no_answer(error: Exception) -> NoAnswer:
    kind, words = "broken", str(error)
    if isinstance(error, (SSLError, ssl.SSLError)):
        kind = "untrusted"
    elif isinstance(error, NewConnectionError):  # "HTTPConnection(host=..., port=...): Failed to ..."
        kind, words = "unreachable", words.partition(": ")[2]
    elif len(error.args) > 1:  # ("Connection aborted.", RemoteDisconnected("Remote end closed ..."))
        words = str(error.args[1])
    return NoAnswer(kind, words[:LONGEST])
