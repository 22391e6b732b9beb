"""The pull loop: jobs of a plan -> ComfyUI servers -> images and manifest rows in the dataset's folder.

One thread a server keeps at most two prompts there and polls. What counts is the manifest: when a prompt has left
a server's queue, its rows are looked for in the folder's own manifest (the server may write right into it) and
else in the server's, by HTTP; images are then fetched. Neither the history nor the queue of a server is believed
when it says that something is there.
"""

from __future__ import annotations

import threading
import time
from pathlib import Path

from ..plans.rules import Rules
from ..plans.uploads import UPLOADS, upload_files
from ..plans.workflow import fill_in
from ..settings import HIDDEN, settings_of
from .client import Client, PromptRejected, ServerError
from .collector import Collector
from .options import Foreman
from .states import Lease

IN_FLIGHT = 2  # one runs, one waits: a server that dies loses little, a fast one never idles
LOSSES = 10  # a prompt may be lost through no fault of its own, as the one that waits when the other kills the server
BAD_STREAK = 5  # different jobs in a row that fail: it is the server
HUNG = "a prompt runs on although it was interrupted: restart this server"


class Unreadable(ValueError):
    """The source image of a job."""


class Worker(threading.Thread):
    """Keeps one server busy."""

    def __init__(self, run: Foreman, client: Client, alone: bool):
        super().__init__(name=f"higfa {client.url}", daemon=True)
        self.run_, self.client, self.states, self.options = run, client, run.states, run.options
        self.collector = Collector(client, run.states)
        self.flights: dict[int, Lease] = {}
        self.done = self.errors = 0
        self.note, self.unfit = "", ""
        self.crash: BaseException | None = None
        self._alone, self._silent = alone, False
        self._answered = self._since = time.monotonic()
        self._seen: dict[str, str] = {}  # prompt id -> state, since when it is so
        self._stuck: set[str] = set()  # prompts that were cancelled and run on
        self._remark = ""
        self._bad: set[int] = set()
        self._uploaded: dict[str, list[str]] = {}
        self._rest_until = 0.0

    def silent_for(self) -> float:
        """Seconds since the server last answered."""
        return time.monotonic() - self._answered

    def run(self) -> None:
        try:
            while not self.run_.stopping.is_set() and not self._idle_for_good():
                if not self._round():
                    self.run_.stopping.wait(self.options.poll)
            self._leave()
        except BaseException as error:  # handed to the main thread, which raises it
            self.crash = error
            self.run_.stopping.set()

    def _idle_for_good(self) -> bool:
        return not self.flights and self.run_.finished

    def _round(self) -> bool:
        """One look at the server; returns whether something happened."""
        try:
            happened = self._adopt() | self._fill() | self._poll()
            if self._silent and not happened:
                self.client.system_stats()
            self._hear()
            self._check_time()
        except ServerError as error:
            self.note, self._silent, happened = str(error), True, False
            self._uploaded.clear()  # it may come back with an empty input folder
            if self.silent_for() > self.options.patience:
                self._drop_flights()
        return happened

    def _hear(self) -> None:
        now = time.monotonic()
        if self._silent:  # a server that does not answer is not one that hangs
            self._since += now - max(self._since, self._answered)
        self._answered, self._silent, self.note = now, False, self._remark

    def _check_time(self) -> None:
        if self._stuck:
            self._stuck = {prompt_id for prompt_id in self._stuck if self.client.status(prompt_id) == "running"}
            if not self._stuck:
                self._remark, self.unfit = "", "" if self.unfit == HUNG else self.unfit
        late = 0 < self.options.job_timeout < time.monotonic() - self._since
        if late and (self.flights or self._stuck):
            self._time_out()

    def _time_out(self) -> None:
        """For too long nothing has happened to our prompts: the server hangs, or works for others."""
        running = [lease for lease in self.flights.values() if self._seen.get(lease.prompt_id) == "running"]
        reason = f"no image after {self.options.job_timeout:g} s (--job-timeout)"
        if self._stuck:
            self.unfit = self.unfit or HUNG
        if running or self._stuck or not self._alone:
            self._clear_away(running, reason)
        self._remark = reason if running or self._stuck else f"our prompts only wait there: {reason}"
        self._since = time.monotonic()

    def _clear_away(self, running: list[Lease], reason: str) -> None:
        """Stop what runs, which is an error of the job, and give back what waits."""
        self._cancel()
        if running:
            self._stuck.update(lease.prompt_id for lease in self.flights.values())
        for lease in running:
            if self.collector.collect(lease.key):  # it hangs after the image
                self._finish(lease)
            else:
                self._error(lease, reason)
        self._drop_flights()
        if not self._alone:  # others get the jobs first
            self._rest_until = time.monotonic() + self.options.rest

    def _adopt(self) -> bool:
        leases = self.states.adopt(self.client.url)
        self.flights |= {lease.idx: lease for lease in leases}
        return bool(leases)

    def _fill(self) -> bool:
        happened = False
        while len(self.flights) < IN_FLIGHT and self._takes_jobs():
            if self._silent:
                self.client.system_stats()  # raises while the server is silent: it gets no job
            lease = self.run_.next_job(self.client.url)
            if lease is None:
                break
            happened = True
            self._send(lease)
        return happened

    def _takes_jobs(self) -> bool:
        return not self.unfit and not self._stuck and time.monotonic() >= self._rest_until

    def _send(self, lease: Lease) -> None:
        try:
            if self.collector.collect(lease.key):  # made by someone else meanwhile, or before a crash
                self._finish(lease)
                return
            graph = self._graph(lease)
        except ServerError:
            self.run_.give_back()
            self.states.release(lease.idx)
            raise
        except Unreadable as error:  # no server can help
            self.states.error(lease.idx, str(error), cap=1)
            return
        self.flights[lease.idx] = lease
        try:
            self.client.submit(graph, lease.prompt_id)
        except PromptRejected as error:
            del self.flights[lease.idx]
            if not self.done:  # it has never accepted this workflow
                self.unfit = str(error)
                self.run_.give_back()
                self.states.release(lease.idx)
            else:
                self._error(lease, str(error))

    def _graph(self, lease: Lease) -> dict:
        plan = self.states.plan
        job = plan.parse(lease.body)
        if job.contour_source not in self._uploaded:
            root = Path(plan.header["dataset"]["root"])
            try:
                files = upload_files(root, plan.source(job.contour_source))
            except (OSError, ValueError) as error:
                raise Unreadable(str(error)) from error
            self._uploaded[job.contour_source] = [self.client.upload(*file, UPLOADS) for file in files]
        names = self._uploaded[job.contour_source]
        job = type(job)(**{**vars(job), "image_file": names[0], "mask_file": names[1] if len(names) > 1 else ""})
        widgets = {rule.name: plan.header["rules"][rule.name] for rule in settings_of(Rules) if rule.tier != HIDDEN}
        return fill_in(plan.header["workflow"], job, plan.header["dataset_name"], widgets)

    def _poll(self) -> bool:
        happened, seen = False, {}
        for lease in list(self.flights.values()):
            state = self.client.status(lease.prompt_id)
            if state in ("waiting", "running"):
                seen[lease.prompt_id] = state
                continue
            happened = True
            if self.collector.collect(lease.key):
                self._finish(lease)
            elif state == "lost":
                self._forget(lease)
                self.states.lost(lease.idx, LOSSES)
                self.run_.give_back()
            elif state == "failed":
                self._error(lease, self.client.error(lease.prompt_id) or "the server reports an error")
            else:
                self.client.free()  # a cached result without its files must not be handed out again
                self._error(lease, "the server says it is done, but there is no image in its dataset")
        if seen != self._seen:
            self._seen, self._since = seen, time.monotonic()
        return happened

    def _finish(self, lease: Lease) -> None:
        self._forget(lease)
        self.collector.forget(lease.key)
        self._bad.clear()
        self._rest_until, self._remark = 0.0, ""
        self.states.apply_rules(lease.idx)
        self.states.done(lease.idx)
        self.done += 1
        if self.options.free_every and self.done % self.options.free_every == 0:
            self.client.free()

    def _error(self, lease: Lease, reason: str) -> None:
        self._forget(lease)
        self.errors += 1
        self._uploaded.clear()  # it may lack what it was given
        if not self.states.error(lease.idx, reason, self.options.attempts):
            self.run_.give_back()
        self._bad.add(lease.idx)
        if len(self._bad) >= BAD_STREAK:
            self._bad.clear()
            if self._alone or self._rest_until:
                self.unfit = f"{BAD_STREAK} jobs in a row failed, the last with: {reason}"
            else:
                self._rest_until = time.monotonic() + self.options.rest

    def _forget(self, lease: Lease) -> None:
        self.flights.pop(lease.idx, None)

    def _drop_flights(self) -> None:
        for lease in list(self.flights.values()):
            self._forget(lease)
            self.states.release(lease.idx)
            self.run_.give_back()

    def _cancel(self) -> None:
        if self.flights:
            self.client.cancel(lease.prompt_id for lease in self.flights.values())

    def _leave(self) -> None:
        """Stopped from outside: take our prompts off the server, and give the jobs back."""
        try:
            self._cancel()
        except ServerError as error:
            self.note = str(error)
        self._drop_flights()
