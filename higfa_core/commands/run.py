"""`higfa run`: make the images of a plan on one or many ComfyUI servers; started again, it resumes."""

from __future__ import annotations

import argparse
import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, nullcontext
from pathlib import Path

from ..batch.client import Client
from ..batch.headers import VARIABLE, read_headers
from ..batch.options import Options
from ..batch.runner import Run
from ..batch.size import LARGEST
from ..batch.states import States
from ..plans.acceptance import acceptance
from ..wording import counted
from .progress import Progress, progress, spoken_time
from .shell import Parser, Speech, add_json_option, command, hint
from .view import View


@command(safe="Every image that manifest.jsonl names is whole, and the same command resumes.")
def main(argv: Sequence[str] | None = None) -> int:
    args = _parse(argv)
    speech = Speech(args.json)
    with closing(States(args.folder, args.shard)) as states:
        if args.retry_failed and (count := states.retry_failed()):
            speech.say(f"{counted(count, 'failed job')} planned again")
        with _clients(args) as clients:
            code, result = run_plan(states, clients, _options(args), speech, args.quiet)
    speech.result(**result)
    return code


def run_plan(
    states: States, clients: Sequence[Client], options: Options, speech: Speech, quiet: bool = False
) -> tuple[int, dict]:
    """Run and report the result; returns the exit code, 0 if everything wanted exists or the limit of this run is
    reached, and the result for programs."""
    before, started = progress(states.table()), time.monotonic()
    run = Run(states, clients, options)
    with nullcontext() if quiet else View() as view:
        run.go(view or (lambda run: None), every=2 * options.poll)
    table, failures, seconds = states.table(), states.failures(), time.monotonic() - started
    after = progress(table)
    short = [row["name"] for row in table if (row["quota"] or 0) > row["accepted"] and not row["planned"]]
    speech.say(
        f"{states.folder}: {after.done} of {after.goal}, {after.accepted} of {counted(after.written, 'image')} accepted"
    )
    if after.written > before.written:
        made = counted(after.written - before.written, "image")
        speech.say(f"{made} in {spoken_time(seconds)}{_rest(before, after, seconds)}")
    if after.written and (worth := acceptance(states.plan.header["workflow"], states.rules)):
        speech.say(worth)
    for worker in run.workers if options.batch is None else ():
        how = "made most images per second" if worker.size.is_found else "so far, still being measured"
        speech.say(f"{worker.client.url}: {counted(worker.size.value, 'job')} per prompt {how}")
    for trouble in (*_troubles(states, short, failures, run.problem), *_unused(run)):
        print(trouble, file=sys.stderr)
    reached = after.done >= after.goal or (options.limit is not None and not run.problem)
    result = {"folder": states.folder, **after._asdict(), "seconds": round(seconds, 1)}
    result |= {"failed": [{"job": idx, "reason": reason} for idx, reason in failures]}
    result |= {"below_quota": short, "problem": run.problem}
    return 0 if reached and not failures and not short else 1, result


def _rest(before: Progress, after: Progress, seconds: float) -> str:
    """How long the rest will take at this run's rate, in words."""
    if not after.goal > after.done > before.done:
        return ""
    return f", {spoken_time((after.goal - after.done) * seconds / (after.done - before.done))} left at this rate"


def _troubles(states: States, short: list[str], failures: list[tuple[int, str]], problem: str) -> Iterator[str]:
    """What kept the run from making everything, in words."""
    if short:
        tries = "all tries are used up"
        if states.shard.parts > 1:
            tries = "all tries of this shard are used up. A run without --shard uses those of the other shards"
        more = f" and {len(short) - 5} more" if len(short) > 5 else ""
        yield f"classes below their quota: {', '.join(short[:5])}{more}; {tries}."
    for idx, reason in failures[:5]:
        yield f"job {idx} failed: {reason}"
    if failures:
        yield f"failed jobs: {len(failures)}. To try them again: {hint('run', states.folder, '--retry-failed')}"
    if problem:
        yield f"stopped, no usable server: {problem}"


def _unused(run: Run) -> Iterator[str]:
    """The servers that were unusable while others made everything."""
    for worker in run.workers:
        if worker.health.unusable and not run.problem:
            yield f"{worker.client.url} got no more jobs: {worker.health.unusable}"


def add_server_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that name servers, for the commands that need one."""
    parser.add_argument(
        "--server",
        action="append",
        metavar="URL",
        help="a ComfyUI server; repeat it for more (default: port 8188 here)",
    )
    parser.add_argument(
        "--header",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help=f"goes with every request, for a login before the servers; repeat it for more (secrets: one on each line "
        f"of the environment variable {VARIABLE}, out of the shell's history)",
    )
    parser.add_argument("--attempts", type=int, default=3, metavar="N", help="tries per failing job (default: 3)")


def http_clients(args: argparse.Namespace) -> list[Client]:
    """A client for each server of `add_server_arguments`."""
    return [Client(url, headers=_headers(args)) for url in args.server or [Client().url]]


def _headers(args: argparse.Namespace) -> dict[str, str]:
    return read_headers(args.header, os.environ.get(VARIABLE, ""))


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser("run", about=__doc__)
    parser.add_argument("folder", type=Path, help="the folder that higfa plan made")
    add_server_arguments(parser)
    parser.add_argument("--limit", type=int, metavar="N", help="stop after N jobs; the next run resumes")
    parser.add_argument("--shard", type=_shard, default=(1, 1), metavar="I/N", help="only the I-th of N disjoint parts")
    parser.add_argument("--retry-failed", action="store_true", help="plan permanently failed jobs again")
    parser.add_argument(
        "--wait",
        type=float,
        default=Options.wait,
        metavar="S",
        help="seconds to wait for the first answer of any server before the run ends; raise it if servers are still "
        "starting (default: %(default)g)",
    )
    parser.add_argument(
        "--patience", type=float, default=30, metavar="S", help="seconds until a silent server loses its jobs"
    )
    parser.add_argument(
        "--give-up", type=float, default=600, metavar="S", help="seconds until trouble with all of them ends the run"
    )
    parser.add_argument(
        "--job-timeout",
        type=float,
        default=Options.job_timeout,
        metavar="S",
        help="seconds until a server that neither begins nor ends a job loses its jobs; the one that runs is stopped "
        "and counts as failed (default: %(default)g; 0: no limit)",
    )
    parser.add_argument(
        "--free-every", type=int, default=0, metavar="N", help="have servers free memory after N jobs each"
    )
    parser.add_argument(
        "--engine", choices=["http", "ray"], default="http", help="ray: servers as actors of a Ray cluster"
    )
    parser.add_argument("--ray-address", metavar="ADDRESS", help="the cluster (default: this machine)")
    parser.add_argument("--comfyui", metavar="FOLDER", help="with ray: the ComfyUI on its nodes, started on each GPU")
    parser.add_argument(
        "--batch",
        type=_batch,
        default=1,
        metavar="N",
        help="jobs in one prompt, which HiGFA KSampler samples together where that is exact; auto: measured, as many "
        "as make most images a second (default: 1)",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress, only the summary and what went wrong")
    add_json_option(parser)
    parser.add_argument("--poll", type=float, default=Options.poll, help=argparse.SUPPRESS)  # for tests
    return parser.parse_args(argv)


def _options(args: argparse.Namespace) -> Options:
    names = ("attempts", "limit", "poll", "wait", "patience", "give_up", "job_timeout", "free_every", "batch")
    return Options(**{name: getattr(args, name) for name in names})


def _clients(args: argparse.Namespace):
    if args.engine == "ray":
        try:
            from ..batch.ray_engine import ray_clients
        except ModuleNotFoundError as error:
            raise ValueError(
                "--engine ray is not part of this installation (the registry's has none). Use a clone of the "
                "repository, or start the servers yourself and name each with --server."
            ) from error
        return ray_clients(args.ray_address, args.server or [], args.comfyui, headers=_headers(args))
    if args.ray_address or args.comfyui:
        raise ValueError("--ray-address and --comfyui apply to --engine ray only. Add it.")
    return nullcontext(http_clients(args))


def _batch(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdecimal() or not 1 <= int(text) <= LARGEST:
        raise argparse.ArgumentTypeError(f"{text!r} is not 1 to {LARGEST}, or auto")
    return int(text)


def _shard(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N with 1 <= I <= N")
    return int(found[1]), int(found[2])


if __name__ == "__main__":
    sys.exit(main())
