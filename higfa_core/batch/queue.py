"""Prompts of any kind through one server; for the jobs of a plan there is `.runner`."""

from __future__ import annotations

import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass

from .client import Client, PromptFailed, PromptRejected, ServerError


@dataclass(frozen=True)
class Failure:
    """A job that `run_jobs` gave up on."""

    name: str
    reason: str
    attempts: int


@dataclass
class _Flight:
    name: str
    prompt: dict
    prompt_id: str = ""
    attempts: int = 0
    submitted: bool = False

    def next_attempt(self) -> _Flight:
        return _Flight(self.name, self.prompt, str(uuid.uuid4()), self.attempts + 1)


def run_jobs(
    client: Client,
    prompts: Iterable[tuple[str, dict]],
    on_done: Callable[[str, dict], object],
    max_in_flight: int = 2,
    attempts: int = 3,
    poll: float = 0.25,
    patience: float = 60.0,
) -> list[Failure]:
    """Run (name, API prompt) pairs, at most `max_in_flight` at the server; return those that failed.

    `prompts` is pulled as room appears. `on_done(name, history entry)` is called for each finished one;
    when it returns False (no usable result) the attempt counts as failed. Failed and lost prompts are sent
    again up to `attempts` times in all, rejected ones are not. A server that gives no answer for `patience`
    seconds raises ServerError. When anything raises (Ctrl-C too), what is at the server is cancelled.
    """
    if max_in_flight < 1 or attempts < 1:
        raise ValueError(f"max_in_flight and attempts must be >= 1, got {max_in_flight} and {attempts}")
    source = (_Flight(name, prompt) for name, prompt in prompts)
    again: deque[_Flight] = deque()
    flying: list[_Flight] = []
    failures: list[Failure] = []
    try:
        while True:
            while len(flying) < max_in_flight:
                flight = again.popleft() if again else next(source, None)
                if flight is None:
                    break
                flying.append(flight.next_attempt())
                if reason := _patiently(_submit, client, flying[-1], patience):
                    failures.append(Failure(flight.name, reason, flying.pop().attempts))
            if not flying:
                return failures
            ended = 0
            for flight in list(flying):
                outcome = _patiently(_outcome, client, flight, patience)
                if outcome is None:
                    continue
                flying.remove(flight)
                ended += 1
                reason = outcome if isinstance(outcome, str) else _accept(on_done, flight.name, outcome)
                if reason and flight.attempts < attempts:
                    again.append(flight)
                elif reason:
                    failures.append(Failure(flight.name, reason, flight.attempts))
            if not ended:
                time.sleep(poll)
    except BaseException:
        with suppress(ServerError):
            client.cancel(flight.prompt_id for flight in flying)
        raise


def _submit(client: Client, flight: _Flight) -> str | None:
    # After a broken connection the server may have it all the same, and would run it twice.
    if flight.submitted and client.status(flight.prompt_id) != "lost":
        return None
    flight.submitted = True
    try:
        flight.prompt_id = client.submit(flight.prompt, flight.prompt_id)
    except PromptRejected as error:
        return str(error)
    return None


def _outcome(client: Client, flight: _Flight) -> dict | str | None:
    """History entry when done, the reason when failed or lost, None while it waits or runs."""
    try:
        return client.wait(flight.prompt_id, timeout=-1)
    except TimeoutError:
        return None
    except PromptFailed as error:
        return str(error)


def _accept(on_done: Callable[[str, dict], object], name: str, entry: dict) -> str | None:
    return "it ended without a usable result" if on_done(name, entry) is False else None


def _patiently(ask: Callable, client: Client, flight: _Flight, patience: float):
    end = time.monotonic() + patience
    while True:
        try:
            return ask(client, flight)
        except ServerError:
            if time.monotonic() > end:
                raise
            time.sleep(min(1.0, patience / 10))
