"""A run of a plan: hands jobs to one worker per server, and ends when nothing is left or no server is usable."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from .client import Client
from .options import Options
from .prompts import Prompts
from .states import Lease, States
from .worker import Worker

DEAD_EVERY = 10.0  # seconds until it is looked again for drivers that have died
LEFT_TO_OTHERS = 200  # jobs that failed on one server, which it does not retry while others may


class Run:
    """A run of the plan in `states` over several servers."""

    def __init__(self, states: States, clients: Sequence[Client], options: Options = Options()):
        if not clients:
            raise ValueError("A run needs at least one server. Add --server http://127.0.0.1:8188")
        if twice := {c.url for c in clients if [d.url for d in clients].count(c.url) > 1}:
            raise ValueError(f"The server {min(twice)} is given twice. Name it once.")
        self.states, self.options = states, options
        self.stopping = threading.Event()
        self.workers = [Worker(self, client, alone=len(clients) == 1) for client in clients]
        self.started, self.problem = time.monotonic(), ""  # why it ended before everything was made
        self._budget, self._lock = options.limit, threading.Lock()

    def go(self, watch: Callable[[Run], None] = lambda run: None, every: float = 0.5) -> None:
        """Run until nothing is left, no server is usable, or Ctrl-C; `watch` is called `every` seconds."""
        urls = [worker.client.url for worker in self.workers]
        self.states.free_dead(urls)
        looked = self.started = time.monotonic()
        for worker in self.workers:
            worker.start()
        try:
            while any(worker.is_alive() for worker in self.workers):
                if time.monotonic() - looked > DEAD_EVERY:
                    self.states.free_dead(urls)
                    looked = time.monotonic()
                self._judge_servers()
                watch(self)
                self._wait_for_workers(every)
        finally:
            self.stopping.set()
            for worker in self.workers:
                worker.join()
            watch(self)
        for worker in self.workers:
            if worker.crash is not None:
                raise worker.crash

    def _wait_for_workers(self, seconds: float) -> None:
        """Wait until all have ended, `seconds` at most."""
        end = time.monotonic() + seconds
        for worker in self.workers:
            worker.join(max(0.0, end - time.monotonic()))

    def next_jobs(self, worker: Worker) -> list[Lease]:
        """The jobs of the next prompt for the server of `worker`; none where the limit of this run is reached."""
        with self._lock:
            if self.stopping.is_set() or self._budget == 0:
                return []
            size = worker.size.value if self._budget is None else min(worker.size.value, self._budget)
            leases = self.states.lease(worker.client.url, self._left_to_others(worker), size)
            if self._budget is not None:
                self._budget = max(0, self._budget - len(leases))
            return leases

    def give_back(self) -> None:
        """A leased job has not ended, so it does not count towards the limit."""
        with self._lock:
            self._budget = None if self._budget is None else self._budget + 1

    def hand_back(self, lease: Lease) -> None:
        """Undo the lease of a job."""
        self.give_back()
        self.states.release(lease.idx)

    def others_may_take(self, worker: Prompts, idx: int) -> bool:
        """Whether another server answers, or is worth waiting for if `worker` can never take job `idx`."""
        others = (other for other in self.workers if other is not worker and idx not in other.refused)
        return any(other.usable if idx in worker.unsendable else other.answers for other in others)

    def _left_to_others(self, worker: Worker) -> list[int]:
        latest = list(worker.refused)[-LEFT_TO_OTHERS:]
        return [idx for idx in latest if self.others_may_take(worker, idx)]

    @property
    def finished(self) -> bool:
        """Whether no job is left to send and none is in progress."""
        counts = self.states.counts()
        return counts["leased"] == 0 and (counts["planned"] == 0 or self._budget == 0)

    def _judge_servers(self) -> None:
        alive = [worker for worker in self.workers if worker.is_alive()]
        if not alive or self.finished:
            return
        early = time.monotonic() - self.started < self.options.wait
        nobody = not early and not any(worker.client.heard for worker in self.workers)
        if nobody or not any(worker.usable for worker in alive):
            self.problem = "; ".join(self._words(worker) for worker in alive)
            self.stopping.set()

    def _words(self, worker: Worker) -> str:
        health = worker.health
        words = health.unusable or health.last or "no usable answer yet: is ComfyUI running there?"
        return f"{worker.client.url}: {words}"
