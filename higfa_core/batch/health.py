"""What a worker knows about its server: whether it answers, whether it gets jobs, and what to report about it."""

from __future__ import annotations

import time

from .answers import Means, ServerError

LONGEST_REST = 30.0  # seconds between two tries, unless the server asks for more


class Health:
    """The state of one server, which is polled every `poll` seconds.

    `unusable`: why it gets no jobs at all; `note`: the current problem; `last`: the last problem.
    """

    def __init__(self, poll: float):
        self.poll = poll
        self.note = self.unusable = self.remark = self.last = ""
        self.silent = False
        self.answered = time.monotonic()
        self._rest_until = self._quiet_until = 0.0
        self._rest = poll
        self._not_taken: tuple[float, float] | None = None  # when it first and last failed to take a job

    def silent_for(self) -> float:
        """Seconds since the server last answered properly, or for which it has taken none of the jobs sent to it."""
        first, last = self._not_taken or (0.0, 0.0)
        return max(time.monotonic() - self.answered, last - first)

    def trouble(self, error: ServerError, proven: bool) -> None:
        """It did not answer properly. One that has made images (`proven`) is given time, whatever it says."""
        self.note = self.last = str(error)
        self.silent = True
        if error.means is Means.HOSTILE or (error.means in (Means.SETTINGS, Means.SERVER) and not proven):
            self.unusable = str(error)
        self._quiet_until = time.monotonic() + error.retry_after

    def back_off(self, error: ServerError) -> None:
        """It did not take a job: the next one is delayed, increasingly so."""
        now = time.monotonic()
        self._not_taken = (self._not_taken or (now, now))[0], now
        self.rest(max(self._rest, error.retry_after))
        self._rest = min(2 * self._rest, LONGEST_REST)

    def fine(self) -> float:
        """It answered; returns how long it had been silent."""
        now = time.monotonic()
        silence = now - self.answered if self.silent else 0.0
        self.answered, self.silent, self.note = now, False, self.remark
        return silence

    def took_job(self) -> None:
        """It accepted a prompt."""
        self._rest, self._not_taken = self.poll, None

    def rest(self, seconds: float) -> None:
        """It gets no jobs for that long."""
        self._rest_until = max(self._rest_until, time.monotonic() + seconds)

    def end_rest(self) -> None:
        """It works again."""
        self._rest_until, self.remark = 0.0, ""

    @property
    def resting(self) -> bool:
        """Whether it gets no jobs now."""
        return time.monotonic() < self._rest_until

    @property
    def quiet(self) -> bool:
        """Whether it asked for a pause (Retry-After)."""
        return time.monotonic() < self._quiet_until
