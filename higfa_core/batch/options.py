"""The options of a run, and what workers need from it."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from .size import LARGEST
from .states import Lease, States

if TYPE_CHECKING:
    from .prompts import Prompts
    from .worker import Worker


@dataclass(frozen=True)
class Options:
    """How to run. Times in seconds; `attempts`: per job; `limit`: maximum number of jobs to send in this run.

    `wait`: how long the first answer of any server may take, `patience`: how long a silent server keeps its jobs,
    `give_up`: how long all may be silent, `job_timeout`: how long one that answers may neither start nor finish a job
    (0: no limit), `rest`: how long a failing server gets no jobs. `free_every`: jobs after which a server is asked to
    free memory (0: never). `batch`: jobs per prompt; None measures which size makes most images per second.
    """

    attempts: int = 3
    limit: int | None = None
    poll: float = 0.25
    wait: float = 10.0
    patience: float = 30.0
    give_up: float = 600.0
    job_timeout: float = 3600.0
    rest: float = 300.0
    free_every: int = 0
    batch: int | None = 1

    def __post_init__(self):
        if self.attempts < 1 or (self.limit is not None and self.limit < 1):
            raise ValueError(f"attempts and limit must be at least 1, got {self.attempts} and {self.limit}.")
        if self.batch is not None and not 1 <= self.batch <= LARGEST:
            raise ValueError(f"batch must be 1 to {LARGEST}, or auto, got {self.batch}.")
        if not self.job_timeout >= 0:
            raise ValueError(f"job_timeout must be a number of seconds, or 0 for no limit, got {self.job_timeout}.")


class RunContext(Protocol):
    """What a worker needs from `.runner.Run`."""

    states: States
    options: Options
    stopping: threading.Event

    @property
    def finished(self) -> bool: ...

    def next_jobs(self, worker: Worker) -> list[Lease]: ...

    def give_back(self) -> None: ...

    def hand_back(self, lease: Lease) -> None: ...

    def others_may_take(self, worker: Prompts, idx: int) -> bool: ...
