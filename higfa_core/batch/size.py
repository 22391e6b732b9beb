"""The number of jobs per prompt: given, or found by measuring."""

from __future__ import annotations

import time

LARGEST = 64
PROMPTS_PER_SIZE = 2  # measured; the faster one counts, as the first may load or compile something
WORTH = 1.1  # the speed-up that a doubled size must achieve


class BatchSize:
    """`value` jobs per prompt; without `fixed` it doubles from 1 while that makes more images per second."""

    def __init__(self, fixed: int | None):
        self.value, self._is_fixed = fixed or 1, fixed is not None
        self._found = self._is_fixed
        self._rates: dict[int, list[float]] = {}
        self._most = LARGEST
        self._begun: dict[str, float] = {}  # prompt id -> when it was sent, or became the next in line

    @property
    def is_found(self) -> bool:
        """Whether `value` is final."""
        return self._found

    def sent(self, prompt_id: str) -> None:
        """A prompt was sent to the server."""
        self._begun[prompt_id] = time.monotonic()

    def ended(self, prompt_id: str, jobs: int) -> None:
        """A prompt is over and made the images of `jobs` jobs, 0 if it failed; the next prompt begins."""
        now, begun = time.monotonic(), self._begun.pop(prompt_id, None)
        if begun is not None:
            self.made(jobs, now - begun)
        self._begun = dict.fromkeys(self._begun, now)

    def made(self, jobs: int, seconds: float) -> None:
        """A prompt of `jobs` jobs took `seconds`."""
        if self._found or jobs != self.value:
            return
        rates = self._rates.setdefault(jobs, [])
        rates.append(jobs / max(seconds, 1e-9))
        if len(rates) < PROMPTS_PER_SIZE:
            return
        if jobs > 1 and max(rates) < WORTH * max(self._rates[jobs // 2]):
            self.value, self._found = jobs // 2, True
        elif 2 * jobs > self._most:
            self._found = True
        else:
            self.value = 2 * jobs

    def failed(self, jobs: int) -> None:
        """A prompt of `jobs` jobs failed, perhaps for lack of memory: at most half as many from now on."""
        if self._is_fixed:
            return
        self._most = max(1, min(self._most, jobs // 2))
        if self.value > self._most:
            self.value, self._found = self._most, True
