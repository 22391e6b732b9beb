"""From a job to a server's workflow, after uploading its source, and the names of many classes, there."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

from ..plans.plan import Job
from ..plans.plan_file import PlanFile
from ..plans.rules import Rules
from ..plans.uploads import UPLOADS, classes_file, upload_files
from ..plans.workflow import fill_in
from ..settings import HIDDEN, settings_of
from .answers import Means, ServerError
from .client import Client


class Unreadable(ValueError):
    """The source image of a job is unreadable."""


class Delivery:
    """Prepares the jobs of a plan for one server."""

    def __init__(self, client: Client, plan: PlanFile):
        self.client, self.plan = client, plan
        self._uploaded: dict[str, list[str]] = {}  # path of a source -> names of its files at the server
        self._classes: str | None = None  # name of their file at the server, "" where prompts carry them

    def job(self, line: str) -> Job:
        """The job of a line of the plan, once its source is at the server. Unreadable, or ServerError."""
        job = self.plan.parse(line)
        if self._classes is None:
            file = classes_file(self.plan.classes)
            self._classes = self._send(*file, "The list of class names") if file else ""
        if job.contour_source not in self._uploaded:
            self._uploaded[job.contour_source] = self._upload(job)
        image, *mask = self._uploaded[job.contour_source]
        return dataclasses.replace(job, image_file=image, mask_file=mask[0] if mask else "")

    def graph(self, jobs: Sequence[Job]) -> dict:
        """The workflow for jobs that `job` gave."""
        rules = (rule.name for rule in settings_of(Rules) if rule.tier != HIDDEN)
        header = self.plan.header
        widgets = {name: header["rules"][name] for name in rules}
        return fill_in(header["workflow"], jobs, header["dataset_name"], widgets, self._classes or "")

    def forget(self) -> None:
        """Forget the uploads: the server may have lost them."""
        self._uploaded.clear()
        self._classes = None

    def explain(self, line: str, reason: str) -> str:
        """A server's reason for a failed job, in which the names of uploaded files become the user's own."""
        path = self.plan.parse(line).contour_source
        return re.sub(rf"\S*{UPLOADS}[/\\][0-9a-f]{{32}}\.\w+", lambda _: str(self._place(path)), reason)

    def _upload(self, job: Job) -> list[str]:
        path = self._place(job.contour_source)
        try:
            files = upload_files(path.parents[job.contour_source.count("/")], self.plan.source(job.contour_source))
        except (OSError, ValueError) as error:
            raise Unreadable(f"{path} cannot be sent ({error}). Replace it, or plan without it.") from error
        return [self._send(name, content, path) for name, content in files]

    def _send(self, name: str, content: bytes, what: object) -> str:
        try:
            return self.client.upload(name, content, UPLOADS)
        except ServerError as error:
            if error.means is Means.JOB:
                error.args = (f"{what} has {len(content) / 1e6:.1f} MB: {error}",)
            raise

    def _place(self, source: str) -> Path:
        return Path(self.plan.header["dataset"]["root"], source)
