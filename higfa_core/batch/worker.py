"""The pull loop: jobs of a plan -> ComfyUI servers -> images and manifest rows in the dataset's folder.

One thread per server keeps at most two prompts there and polls. Only the manifest counts: when a prompt has left a
server's queue, its rows are looked up in the folder's own manifest (the server may write directly into it) or else in
the server's, by HTTP; images are then fetched. A server's history calling a prompt done means nothing.
"""

from __future__ import annotations

import time

from ..plans.plan import Job
from .answers import Means, ServerError
from .client import Client, PromptRejected
from .delivery import Unreadable
from .options import RunContext
from .prompts import Prompts
from .states import Lease

QUICKEST = 0.01  # seconds between two looks at a server
IN_FLIGHT = 2  # one runs, one waits: a server that dies loses little, a fast one never idles
HUNG = "a prompt keeps running although it was interrupted: restart this server"


class Worker(Prompts):
    """Keeps one server busy."""

    def __init__(self, context: RunContext, client: Client, alone: bool):
        super().__init__(context, client, alone)
        self.crash: BaseException | None = None
        self._since = time.monotonic()
        self._seen: dict[str, str] = {}  # prompt id -> last known state
        self._stuck: set[str] = set()  # prompts that keep running although cancelled
        self._blind, self._looked = False, time.monotonic()  # at the last try; when it last told of our prompts

    @property
    def usable(self) -> bool:
        """Whether it may still take jobs."""
        return self.is_alive() and not self.health.unusable and self.health.silent_for() <= self.options.give_up

    @property
    def answers(self) -> bool:
        """Whether it may take jobs now: jobs are not left to a silent server."""
        return self.usable and self.client.heard and not self.health.silent

    def run(self) -> None:
        try:
            while not self.context.stopping.is_set() and not self._idle_for_good():
                if not self._round():
                    self.context.stopping.wait(self._pause())
            self._leave()
        except BaseException as error:  # handed to the main thread, which raises it
            self.crash = error
            self.context.stopping.set()

    def _pause(self) -> float:
        """Seconds until the next look: short at first, so that a short prompt is noticed in an eighth of its time."""
        return min(self.options.poll, max(QUICKEST, (time.monotonic() - self._since) / 8))

    def _idle_for_good(self) -> bool:
        return not self.flights and self.context.finished

    def _round(self) -> bool:
        """One poll of the server; returns whether anything happened."""
        happened = False
        try:
            if not self.health.quiet:
                happened = self._look() | self._fill()
                if self.health.silent and not happened and not self.health.unusable:
                    self.client.system_stats()
                self._hear()
                self._check_time()
        except ServerError as error:
            self.health.trouble(error, proven=self.done > 0)
            self.delivery.forget()  # it may return with an empty input folder
        unseen = time.monotonic() - self._looked if self._blind or self.health.quiet else 0.0
        if self.health.unusable or unseen > self.options.patience:
            self._drop_flights()
        return happened

    def _look(self) -> bool:
        """Check on our prompts; returns whether one ended."""
        self._blind = True
        happened = self._adopt() | self._poll()
        self._blind, self._looked = False, time.monotonic()
        return happened

    def _hear(self) -> None:
        # A server that does not answer is not hanging.
        self._since += min(self.health.fine(), time.monotonic() - self._since)

    def _check_time(self) -> None:
        if self._stuck:
            self._stuck = {prompt_id for prompt_id in self._stuck if self.client.status(prompt_id) == "running"}
            if not self._stuck:
                self.health.remark = ""
                self.health.unusable = "" if self.health.unusable == HUNG else self.health.unusable
        late = 0 < self.options.job_timeout < time.monotonic() - self._since
        if late and (self.flights or self._stuck):
            self._time_out()

    def _time_out(self) -> None:
        """Our prompts have made no progress for too long: the server hangs, or works for others."""
        running = [lease for lease in self.flights.values() if self._seen.get(lease.prompt_id) == "running"]
        reason = f"no image after {self.options.job_timeout:g} s (--job-timeout)"
        if self._stuck:
            self.health.unusable = self.health.unusable or HUNG
        if running or self._stuck or not self._alone:
            self._clear_away(running, reason)
        self.health.remark = reason if running or self._stuck else f"our prompts only wait there: {reason}"
        self._since = time.monotonic()

    def _clear_away(self, running: list[Lease], reason: str) -> None:
        """Stop the running jobs, which counts as an error of theirs, and give back the waiting ones."""
        self._cancel()
        if running:
            self._stuck.update(lease.prompt_id for lease in self.flights.values())
        if left := self._unfinished(running):  # else it hung after making the images
            self._failed(left, reason)
        self._drop_flights()
        if not self._alone:  # others get the jobs first
            self.health.rest(self.options.rest)

    def _adopt(self) -> bool:
        leases = self.states.adopt(self.client.url)
        self.flights |= {lease.idx: lease for lease in leases}
        return bool(leases)

    def _fill(self) -> bool:
        happened = False
        while len(self._prompts()) < IN_FLIGHT and self._takes_jobs():
            if self.health.silent:
                self.client.system_stats()  # raises while the server is silent: it gets no job
            leases = self.context.next_jobs(self)
            if not leases:
                break
            happened = True
            try:
                self._send(leases)
            except ServerError as error:
                self.health.back_off(error)
                raise
        return happened

    def _takes_jobs(self) -> bool:
        return not (self.health.unusable or self._stuck or self.health.resting)

    def _send(self, leases: list[Lease]) -> None:
        """Send jobs as one prompt; those that cannot be sent, or are there already, are left out."""
        todo, wanted, jobs = list(leases), [], {}
        try:
            while todo:
                if (job := self._prepared(todo[0])) is not None:
                    jobs[job.index] = job
                    wanted.append(todo[0])
                todo.pop(0)
            together = self._with_companions(wanted, jobs) if wanted else []
        except ServerError:
            for lease in (*wanted, *todo[1:]):
                self.context.hand_back(lease)
            raise
        if wanted:
            self._submit(self.delivery.graph(together), wanted)

    def _prepared(self, lease: Lease) -> Job | None:
        """The job, once its source is at the server; None where it has ended already, one way or the other."""
        try:
            if self.collector.collect(lease.key):  # made by another driver in the meantime, or before a crash
                self._finish(lease)
                return None
            return self.delivery.job(lease.body)
        except ServerError as error:
            self._not_taken(lease, error)
        except Unreadable as error:  # no server can help
            self.states.error(lease.idx, str(error), cap=1)
        return None

    def _with_companions(self, leases: list[Lease], jobs: dict[int, Job]) -> list[Job]:
        """The jobs of a prompt, with those that shared an earlier one which was cut after them."""
        for line in self.states.lines(leases):
            if self.delivery.plan.parse(line).index not in jobs:
                try:
                    job = self.delivery.job(line)
                    jobs[job.index] = job
                except Unreadable:
                    continue
                except ServerError as error:
                    if error.means is not Means.JOB:
                        raise
        return [jobs[index] for index in sorted(jobs)]

    def _submit(self, graph: dict, leases: list[Lease]) -> None:
        prompt_id = leases[0].prompt_id
        if not self.flights:
            self._since = time.monotonic()  # idle time does not count
        self.flights |= {lease.idx: lease for lease in leases}
        self._doubtful.add(prompt_id)
        try:
            self.client.submit(graph, prompt_id)
        except PromptRejected as error:
            self._forget(*leases)
            self._rejected(leases, error)
        except ServerError as error:
            if not error.refused:
                raise  # it may have the prompt nevertheless
            self._forget(*leases)
            self._not_taken_together(leases, error)
        else:
            self.size.sent(prompt_id)
            self._doubtful.discard(prompt_id)
            self.health.took_job()

    def _poll(self) -> bool:
        happened, seen = False, {}
        for prompt_id, leases in self._prompts().items():
            state = self.client.status(prompt_id)
            if state in ("waiting", "running"):
                seen[prompt_id] = state
                self._doubtful.discard(prompt_id)
                continue
            happened = True
            self._end(prompt_id, leases, state)
        if seen != self._seen:
            self._seen, self._since = seen, time.monotonic()
        return happened

    def _leave(self) -> None:
        """Stopped from outside: remove our prompts from the server, and give the jobs back."""
        try:
            self._cancel()
        except ServerError as error:
            self.health.note = str(error)
        self._drop_flights()
