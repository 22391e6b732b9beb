"""What each answer of a server means for the run, in one table."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from enum import Enum

from .transport import NoAnswer

LONGEST = 500  # characters of a server's own words to show
PATIENCE = 86400.0  # the maximum number of seconds that a server may ask for


class Means(Enum):
    """The consequence of an answer."""

    WAIT = "ask again later; no job counts as failed"
    SETTINGS = "nothing will change until somebody changes a setting: this server gets no jobs"
    JOB = "this server cannot take this job: another one may"
    SERVER = "this is not ComfyUI: this server gets no jobs"
    HOSTILE = "what this server says of its files cannot be trusted: it gets no jobs, whatever it made before"


class ServerError(ConnectionError):
    """No usable answer. `heard`: something answered. `refused`: the request was certainly not carried out."""

    def __init__(
        self,
        message: str,
        means: Means = Means.WAIT,
        heard: bool = False,
        refused: bool = False,
        retry_after: float = 0,
    ):
        super().__init__(message)
        self.means, self.heard, self.refused, self.retry_after = means, heard, refused, retry_after


LOGIN = "give --header NAME=VALUE with what it asks for, or a URL with user and password"
ADDRESS = "is this the address of ComfyUI itself, with its path?"
BUSY = "it is busy or being restarted"
STATUS: Mapping[int, tuple[Means, str]] = {
    401: (Means.SETTINGS, LOGIN),
    403: (Means.SETTINGS, LOGIN),
    404: (Means.SETTINGS, ADDRESS),
    405: (Means.SETTINGS, ADDRESS),
    407: (Means.SETTINGS, "the proxy of this machine asks for a login: put it into http_proxy, or set no_proxy"),
    408: (Means.WAIT, BUSY),
    413: (Means.JOB, "it takes no upload of that size: raise its limit (ComfyUI: --max-upload-size)"),
    421: (Means.SETTINGS, ADDRESS),
    425: (Means.WAIT, BUSY),
    429: (Means.WAIT, BUSY),
    501: (Means.SETTINGS, ADDRESS),
}
GROUPS: Mapping[int, tuple[Means, str]] = {
    1: (Means.SERVER, ADDRESS),
    2: (Means.SERVER, ADDRESS),  # 201 and the like: ComfyUI says 200
    3: (Means.SETTINGS, "give the address that it leads to with --server"),
    4: (Means.SERVER, ADDRESS),
    5: (Means.WAIT, BUSY),
}
SILENCE: Mapping[str, tuple[Means, str]] = {
    "unreachable": (Means.WAIT, "is ComfyUI running there?"),
    "late": (Means.WAIT, "it is busy, or hangs: restart it if that lasts"),
    "broken": (Means.WAIT, "is ComfyUI running there?"),
    "untrusted": (Means.SETTINGS, "give http:// if it has no TLS; else set SSL_CERT_FILE to the certificate it uses"),
    "endless": (Means.SERVER, ADDRESS),
    "starting": (Means.WAIT, "it answers once it has started"),
}
# Statuses that a server sends only for requests it has not carried out; 500 or 504 may come after it has.
REFUSALS = {*range(300, 500), 503} - {408}


def error_of_status(where: str, status: int, headers: Mapping[str, str], sent: bool) -> ServerError:
    """The error for an answer with a status other than 200; `sent`: the request sent something."""
    means, remedy = STATUS.get(status) or GROUPS.get(status // 100, (Means.SERVER, ADDRESS))
    if means is Means.JOB and not sent:
        means, remedy = Means.SERVER, ADDRESS
    goal = f" and leads to {without_login(headers.get('location', ''))!r}" if status // 100 == 3 else ""
    words = f"{where} answered {status}{goal}: {remedy}"
    return ServerError(words, means, True, status in REFUSALS, _seconds(headers.get("retry-after", "")))


def error_of_silence(where: str, silence: NoAnswer) -> ServerError:
    """The error for a missing answer."""
    means, remedy = SILENCE[silence.kind]
    refused = silence.kind in ("unreachable", "untrusted", "starting")
    words = f"No answer from {where} ({clean(silence.words)}): {remedy}"
    return ServerError(words, means, silence.kind == "starting", refused)


def error_of_shape(where: str, body: bytes, why: str) -> ServerError:
    """The error for an answer that is not ComfyUI's; one without any content may come from a crash."""
    if not body:
        return ServerError(f"{where} answered nothing: {BUSY}", heard=True)
    sample = clean(body[:80].decode("utf-8", "replace"))
    page = re.search(rb"<title>(.{1,200}?)</title>", body[:4096], re.IGNORECASE | re.DOTALL)
    title = f", a web page {clean(page[1].decode('utf-8', 'replace'))!r}" if page else ""
    remedy = f"{ADDRESS} For a login before it, {LOGIN}"
    return ServerError(
        f"{where} did not answer as ComfyUI does{title} ({why}: {sample!r}): {remedy}", Means.SERVER, True
    )


def clean(text: str) -> str:
    """A server's words, safe to show: one line of printable characters, not too long."""
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."


def without_login(url: str) -> str:
    """A URL, safe to show: without user and password, and without a query, which may contain a token."""
    return clean(re.sub(r"//[^/?#]*@", "//", url).partition("?")[0])


def _seconds(retry_after: str) -> float:
    try:
        if retry_after.strip().isdecimal():
            seconds = float(retry_after)
        else:
            moment = parsedate_to_datetime(retry_after)
            seconds = (moment - datetime.now(moment.tzinfo and timezone.utc)).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return 0.0
    return min(max(seconds, 0.0), PATIENCE) if math.isfinite(seconds) else 0.0
