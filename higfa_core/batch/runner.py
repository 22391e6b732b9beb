"""The pull loop: jobs of a plan -> ComfyUI servers -> images and manifest rows in the dataset's folder.

One thread a server keeps at most two prompts there and polls. What counts is the manifest: when a prompt has left
a server's queue, its rows are looked for in the folder's own manifest (the server may write right into it) and
else in the server's, by HTTP; images are then fetched. Neither the history nor the queue of a server is believed
when it says that something is there.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ..dataset.files import write_atomic
from ..dataset.states import LEASE_SECONDS, Lease, States
from ..dataset.store import append_line, parse_row
from ..dataset.uploads import UPLOADS, upload_files
from ..workflow import fill_in
from .client import Client, PromptRejected, ServerError

IN_FLIGHT = 2  # one runs, one waits: a server that dies loses little, a fast one never idles
LOSSES = 10  # a prompt may be lost through no fault of its own, as the one that waits when the other kills the server
NODE_RULES = (
    "min_confidence",
    "require_top1",
    "min_margin",
    "min_judge_confidence",
    "min_contour_agreement",
    "min_sharpness",
)
BAD_STREAK = 5  # different jobs in a row that fail: it is the server


class Unreadable(ValueError):
    """The source image of a job."""


@dataclass(frozen=True)
class Options:
    """How to run. Times in seconds; ``attempts``: of each job; ``limit``: jobs to send at most in this run.

    ``patience``: how long a silent server keeps its jobs, ``give_up``: how long all may be silent. ``free_every``:
    jobs after which a server is asked to give memory back (0: never).
    """

    attempts: int = 3
    limit: int | None = None
    poll: float = 0.25
    patience: float = 30.0
    give_up: float = 600.0
    rest: float = 300.0
    free_every: int = 0

    def __post_init__(self):
        if self.attempts < 1 or (self.limit is not None and self.limit < 1):
            raise ValueError(f"attempts and limit must be at least 1, got {self.attempts} and {self.limit}")


class Run:
    """A run of the plan in ``states`` over several servers."""

    def __init__(self, states: States, clients: Sequence[Client], options: Options = Options()):
        if not clients:
            raise ValueError("A run needs at least one server: add --server http://127.0.0.1:8188")
        if twice := {c.url for c in clients if [d.url for d in clients].count(c.url) > 1}:
            raise ValueError(f"The server {min(twice)} is given twice")
        self.states, self.options = states, options
        self.stopping = threading.Event()
        self.workers = [Worker(self, client) for client in clients]
        self.started, self.problem = time.monotonic(), ""
        self._budget, self._lock = options.limit, threading.Lock()

    def go(self, watch: Callable[[Run], None] = lambda run: None, every: float = 0.5) -> None:
        """Run until nothing is left, every server is unfit, or Ctrl-C; ``watch`` is called ``every`` seconds."""
        urls = [worker.client.url for worker in self.workers]
        self.states.expire_dead(urls)
        renewed = time.monotonic()
        for worker in self.workers:
            worker.start()
        try:
            while any(worker.is_alive() for worker in self.workers):
                if time.monotonic() - renewed > LEASE_SECONDS / 6:
                    self.states.renew()
                    self.states.expire_dead(urls)
                    renewed = time.monotonic()
                self._judge_servers()
                watch(self)
                self.stopping.wait(every)
        finally:
            self.stopping.set()
            for worker in self.workers:
                worker.join()
            watch(self)
        for worker in self.workers:
            if worker.crash is not None:
                raise worker.crash

    def next_job(self, server: str) -> Lease | None:
        """A job for ``server``, unless the limit of this run is reached."""
        with self._lock:
            if self.stopping.is_set() or self._budget == 0:
                return None
            lease = self.states.lease(server)
            if lease is not None and self._budget is not None:
                self._budget -= 1
            return lease

    def give_back(self) -> None:
        """A job that was leased has not ended: it does not count against the limit."""
        with self._lock:
            self._budget = None if self._budget is None else self._budget + 1

    @property
    def finished(self) -> bool:
        """Whether no job is left to send and none is under way."""
        counts = self.states.counts()
        return counts["leased"] == 0 and (counts["planned"] == 0 or self._budget == 0)

    def _judge_servers(self) -> None:
        alive = [worker for worker in self.workers if worker.is_alive()]
        silent = [worker for worker in alive if worker.silent_for() > self.options.give_up]
        unfit = [worker for worker in alive if worker.unfit]
        if alive and len(silent) + len(unfit) >= len(alive):
            self.problem = "; ".join(f"{w.client.url}: {w.unfit or w.note}" for w in alive)
            self.stopping.set()


@dataclass
class Flight:
    """A job at a server."""

    lease: Lease
    since: float = field(default_factory=time.monotonic)


class Worker(threading.Thread):
    """Keeps one server busy."""

    def __init__(self, run: Run, client: Client):
        super().__init__(name=f"higfa {client.url}", daemon=True)
        self.run_, self.client, self.states, self.options = run, client, run.states, run.options
        self.flights: dict[int, Flight] = {}
        self.done = self.errors = 0
        self.note, self.unfit = "", ""
        self.crash: BaseException | None = None
        self._answered = time.monotonic()
        self._bad: set[int] = set()
        self._uploaded: dict[str, list[str]] = {}
        self._rows: dict[str, dict[int, dict]] = {}
        self._offset = 0
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
            if self.note and not happened:
                self.client.system_stats()
            self._answered, self.note = time.monotonic(), ""
        except ServerError as error:
            self.note, happened = str(error), False
            if self.silent_for() > self.options.patience:
                self._drop_flights()
        return happened

    def _adopt(self) -> bool:
        leases = self.states.adopt(self.client.url)
        self.flights |= {lease.idx: Flight(lease) for lease in leases}
        return bool(leases)

    def _fill(self) -> bool:
        happened = False
        while len(self.flights) < IN_FLIGHT and not self.unfit and time.monotonic() >= self._rest_until:
            if self.note:
                self.client.system_stats()  # raises while the server is silent: it gets no job
            lease = self.run_.next_job(self.client.url)
            if lease is None:
                break
            happened = True
            self._send(lease)
        return happened

    def _send(self, lease: Lease) -> None:
        try:
            if self._collect(lease.key):  # made by someone else meanwhile, or before a crash
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
        self.flights[lease.idx] = Flight(lease)
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
        widgets = {name: plan.header["rules"][name] for name in NODE_RULES}
        return fill_in(plan.header["workflow"], job, plan.header["dataset_name"], widgets)

    def _poll(self) -> bool:
        happened = False
        for flight in list(self.flights.values()):
            lease = flight.lease
            state = self.client.status(lease.prompt_id)
            if state in ("waiting", "running"):
                continue
            happened = True
            if self._collect(lease.key):
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
        return happened

    # --- results

    def _collect(self, key: str) -> bool:
        """Whether all images of a job are in the dataset's folder, after fetching what only the server has."""
        self.states.ingest()
        if self.states.is_whole(key):
            return True
        self._read_server_manifest()
        rows = self._rows.get(key, {})
        if not rows or set(rows) < set(range(rows[min(rows)]["batch"])):
            return False
        self.states.ingest()  # a shared folder has it by now
        if not self.states.is_whole(key):
            for row in rows.values():
                if not self._fetch(row):
                    return False
            self.states.ingest()
        return self.states.is_whole(key)

    def _read_server_manifest(self) -> None:
        name = self.states.plan.header["dataset_name"]
        data = self.client.read_output("manifest.jsonl", name, self._offset)
        if data is None:
            self._offset, self._rows = 0, {}
            return
        lines = data.split(b"\n")[:-1]
        self._offset += sum(len(line) + 1 for line in lines)
        for row in filter(None, map(parse_row, lines)):
            self._rows.setdefault(row["key"], {})[row["index"]] = row

    def _fetch(self, row: Mapping) -> bool:
        for path in filter(None, (row["mask"], row["file"])):
            folder, _, name = path.rpartition("/")
            data = self.client.read_output(name, f"{self.states.plan.header['dataset_name']}/{folder}")
            if data is None or (path == row["file"] and not _is_that(data, row)):
                return False
            write_atomic(self.states.folder / path, data)
        line = json.dumps(row, ensure_ascii=False, allow_nan=False).encode() + b"\n"
        append_line(self.states.folder / "manifest.jsonl", line)
        return True

    def _finish(self, lease: Lease) -> None:
        self._forget(lease)
        self._bad.clear()
        self.states.apply_rules(lease.idx)
        self.states.done(lease.idx)
        self.done += 1
        if self.options.free_every and self.done % self.options.free_every == 0:
            self.client.free()

    def _error(self, lease: Lease, reason: str) -> None:
        self._forget(lease)
        self.errors += 1
        if not self.states.error(lease.idx, reason, self.options.attempts):
            self.run_.give_back()
        self._bad.add(lease.idx)
        if len(self._bad) >= BAD_STREAK:
            self._bad.clear()
            if len(self.run_.workers) == 1 or self._rest_until:
                self.unfit = f"{BAD_STREAK} jobs in a row failed, the last with: {reason}"
            else:
                self._rest_until = time.monotonic() + self.options.rest

    def _forget(self, lease: Lease) -> None:
        self.flights.pop(lease.idx, None)
        self._rows.pop(lease.key, None)

    def _drop_flights(self) -> None:
        for idx in list(self.flights):
            del self.flights[idx]
            self.states.release(idx)
            self.run_.give_back()

    def _leave(self) -> None:
        """Stopped from outside: take our prompts off the server, and give the jobs back."""
        if not self.flights:
            return
        try:
            self.client.cancel(flight.lease.prompt_id for flight in self.flights.values())
        except ServerError as error:
            self.note = str(error)
        self._drop_flights()


def _is_that(data: bytes, row: Mapping) -> bool:
    return len(data) == row["bytes"] and hashlib.sha256(data).hexdigest() == row["sha256"]
