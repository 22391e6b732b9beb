"""The jobs on one server, and their outcome: done, tried again, left to other servers, or failed."""

from __future__ import annotations

import threading

from .answers import Means, ServerError
from .client import Client, PromptRejected
from .collector import Collector
from .delivery import Delivery
from .health import Health
from .options import RunContext
from .size import BatchSize
from .states import Lease

LOSSES = 10  # a prompt may be lost through no fault of its own, such as one that waits while another kills the server
BAD_STREAK = 5  # different jobs failing in a row: the server is at fault
LOST_STREAK = 3 * LOSSES  # prompts lost in a row: more than a job that kills the server, and the one beside it, explain


class Prompts(threading.Thread):
    """The prompts on one server. `refused`: jobs that failed here and that other servers should try."""

    def __init__(self, context: RunContext, client: Client, alone: bool):
        super().__init__(name=f"higfa {client.url}", daemon=True)
        self.context, self.client, self.states, self.options = context, client, context.states, context.options
        self.collector = Collector(client, self.states, self.options.give_up)
        self.delivery, self.health = Delivery(client, self.states.plan), Health(self.options.poll)
        self.flights: dict[int, Lease] = {}
        self.size = BatchSize(context.options.batch)
        self.refused: dict[int, str] = {}
        self.unsendable: set[int] = set()  # those that this server can never take
        self.done = self.errors = 0
        self._alone = alone
        self._doubtful: set[str] = set()  # prompts whose arrival is unconfirmed
        self._bad: set[int] = set()
        self._lost_in_a_row = 0
        self._rested = False

    def _prompts(self) -> dict[str, list[Lease]]:
        """The prompts in progress: prompt id -> its jobs."""
        found: dict[str, list[Lease]] = {}
        for lease in self.flights.values():
            found.setdefault(lease.prompt_id, []).append(lease)
        return found

    def _end(self, prompt_id: str, leases: list[Lease], state: str) -> None:
        """A prompt is over: its jobs are done, or tried again, in smaller prompts if they shared one."""
        left = self._unfinished(leases)
        self.size.ended(prompt_id, 0 if left else len(leases))
        if not left:
            return
        if state == "lost":
            self._lost(left)
        elif state == "failed":
            reason = self.client.error(prompt_id) or "the server reports an error"
            self._failed(left, self.delivery.explain(left[0].body, reason))
        else:
            self.client.free()  # a cached result without its files must not be handed out again
            self._failed(left, "the server reports success, but there is no image in its dataset")

    def _unfinished(self, leases: list[Lease]) -> list[Lease]:
        """The jobs whose images are missing; the others are done."""
        left = []
        for lease in leases:
            if self.collector.collect(lease.key):
                self._finish(lease)
            else:
                left.append(lease)
        return left

    def _not_taken_together(self, leases: list[Lease], error: ServerError) -> None:
        if error.means is Means.JOB and len(leases) > 1:
            self._divide(leases)
            return
        for lease in leases[1:]:
            self.context.hand_back(lease)
        self._not_taken(leases[0], error)

    def _not_taken(self, lease: Lease, error: ServerError) -> None:
        """The server never got the job: the error does not count, unless no server can take the job."""
        if error.means is not Means.JOB:
            self.context.hand_back(lease)
            raise error
        self.refused[lease.idx] = str(error)
        self.unsendable.add(lease.idx)
        if self.context.others_may_take(self, lease.idx):
            self.context.hand_back(lease)
        else:
            self.states.error(lease.idx, str(error), cap=1)

    def _rejected(self, leases: list[Lease], error: PromptRejected) -> None:
        if error.always or not self.done:  # it has never accepted this workflow
            self.health.unusable = str(error)
            for lease in leases:
                self.context.hand_back(lease)
        else:
            self._failed(leases, str(error))

    def _failed(self, leases: list[Lease], reason: str) -> None:
        if len(self.states.lines(leases)) == 1:
            self._error(leases[0], reason)
        elif all([self._is_left_to_others(lease, reason) for lease in leases]):
            self._forget(*leases)
            for lease in leases:
                self.context.hand_back(lease)
            self._count_bad(leases[0], reason)
        else:
            self._divide(leases)

    def _divide(self, leases: list[Lease]) -> None:
        """A prompt with several jobs failed, which says nothing about any single one."""
        self._forget(*leases)
        self.delivery.forget()  # the server may have lost the uploads
        self.size.failed(len(leases))
        self.states.divide(leases)
        for _ in leases:
            self.context.give_back()

    def _finish(self, lease: Lease) -> None:
        self._forget(lease)
        self.collector.forget(lease.key)
        self._bad.clear()
        self._rested, self._lost_in_a_row = False, 0
        self.health.end_rest()
        self.states.apply_rules(lease.idx)
        self.states.done(lease.idx)
        self.done += 1
        if self.options.free_every and self.done % self.options.free_every == 0:
            self.client.free()

    def _lost(self, leases: list[Lease]) -> None:
        """The server does not know the prompt (any more). One that never arrived does not count as lost."""
        arrived = leases[0].prompt_id not in self._doubtful
        self._forget(*leases)
        for lease in leases:
            if arrived and not self._is_left_to_others(lease, "the server lost it"):
                self.states.lost(lease.idx, LOSSES)
                self.context.give_back()
            else:
                self.context.hand_back(lease)
        self._lost_in_a_row += arrived
        if self._lost_in_a_row >= LOST_STREAK:
            self.health.unusable = f"it lost {LOST_STREAK} prompts in a row: does it run out of memory?"

    def _error(self, lease: Lease, reason: str) -> None:
        self._forget(lease)
        self.errors += 1
        self.delivery.forget()  # it may have lost the uploads
        if self._is_left_to_others(lease, reason):
            self.context.hand_back(lease)
        elif not self.states.error(lease.idx, reason, self.options.attempts):
            self.context.give_back()
        self._count_bad(lease, reason)

    def _is_left_to_others(self, lease: Lease, reason: str) -> bool:
        """Whether a failure may be the server's fault, as it has made nothing yet, and others can try the job."""
        self.refused[lease.idx] = reason
        return not self.done and self.context.others_may_take(self, lease.idx)

    def _count_bad(self, lease: Lease, reason: str) -> None:
        self._bad.add(lease.idx)
        if len(self._bad) >= BAD_STREAK:
            self._bad.clear()
            if self._alone or self._rested:
                self.health.unusable = f"{BAD_STREAK} jobs in a row failed, the last with: {reason}"
            else:
                self._rested = True
                self.health.rest(self.options.rest)

    def _forget(self, *leases: Lease) -> None:
        for lease in leases:
            self.flights.pop(lease.idx, None)
            self._doubtful.discard(lease.prompt_id)

    def _drop_flights(self) -> None:
        for lease in list(self.flights.values()):
            self._forget(lease)
            self.context.hand_back(lease)

    def _cancel(self) -> None:
        if self.flights:
            self.client.cancel(self._prompts())
