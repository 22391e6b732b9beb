"""A run in the terminal: live with rich, or as plain lines if stderr is not a terminal."""

from __future__ import annotations

import sys
import time
from collections import deque
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..batch.runner import Run
from .progress import PLAIN_EVERY, WINDOW, progress, spoken_time, wanted

CLASSES = 12  # shown live; the worst ones


class View:
    """Shows a `.runner.Run`; a context manager whose call is the run's `watch`."""

    def __init__(self, console: Console | None = None):
        self.console = console or Console(file=sys.stderr)
        self._live = Live(console=self.console, refresh_per_second=4, transient=True, auto_refresh=False)
        self._seen: deque[tuple[float, int]] = deque()
        self._last = -PLAIN_EVERY

    def __enter__(self) -> View:
        if self.console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._live.stop()

    def __call__(self, run: Run) -> None:
        now, table = time.monotonic(), run.states.table()
        done, goal, accepted, written = progress(table)
        self._seen.append((now, done))
        while now - self._seen[0][0] > WINDOW:
            self._seen.popleft()
        heard = any(worker.client.heard for worker in run.workers)
        pace = self._pace(done, goal) if heard else "no server has answered yet"
        line = f"{done} of {goal}, {pace}, accepted {accepted} of {written}"
        if self.console.is_terminal:
            bar = ProgressBar(total=max(goal, 1), completed=done, width=40)
            self._live.update(Group(Text(line), bar, _servers(run), _classes(table)), refresh=True)
        elif now - self._last >= PLAIN_EVERY or run.stopping.is_set():
            self._last = now
            self.console.print(line, highlight=False, soft_wrap=True)
            for worker in run.workers:
                if note := worker.health.unusable or worker.health.note:
                    self.console.print(f"  {worker.client.url}: {note}", markup=False, highlight=False, soft_wrap=True)

    def _pace(self, done: int, goal: int) -> str:
        (start, first), (end, last) = self._seen[0], self._seen[-1]
        if last <= first:
            return "no rate yet"
        rate = (last - first) / (end - start)
        return f"{rate * 3600:.0f} per hour, {spoken_time((goal - done) / rate)} left"


def _servers(run: Run) -> Table:
    table = Table("server", "done", "in progress", "errors", "", box=None)
    for worker in run.workers:
        note = Text(worker.health.unusable or worker.health.note, style="red")
        table.add_row(Text(worker.client.url), str(worker.done), str(len(worker.flights)), str(worker.errors), note)
    return table


def _classes(rows: list[dict]) -> Table:
    table = Table("class", "wanted", "written", "accepted", "failed", box=None)
    worst = sorted(rows, key=lambda row: row["accepted"] / row["written"] if row["written"] else 2.0)
    for row in worst[:CLASSES]:
        table.add_row(Text(row["name"]), *map(str, (wanted(row), row["written"], row["accepted"], row["failed"])))
    if len(rows) > CLASSES:
        table.add_row(f"and {len(rows) - CLASSES} more")
    return table
