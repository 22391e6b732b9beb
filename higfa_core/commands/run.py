"""`higfa run`: make the images of a plan on one or many ComfyUI servers; started again, it goes on."""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections.abc import Sequence
from contextlib import closing, nullcontext
from pathlib import Path

from ..batch.client import Client, ServerError
from ..batch.options import Options
from ..batch.runner import Run
from ..batch.states import States
from .view import View, progress, spoken_time


def main(argv: Sequence[str] | None = None) -> int:
    args = _parse(argv)
    try:
        with closing(States(args.folder, args.shard)) as states:
            if args.retry_failed and (count := states.retry_failed()):
                print(f"{count} failed jobs are planned again")
            with _clients(args) as clients:
                return run_plan(states, clients, _options(args))
    except (ServerError, ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted: what is made stays, the same command goes on from there", file=sys.stderr)
        return 130


def run_plan(states: States, clients: Sequence[Client], options: Options) -> int:
    """Run and report; 0 when everything that was wanted is there (or the limit of this run reached)."""
    (done_before, _, _, written_before), started = progress(states.table()), time.monotonic()
    run = Run(states, clients, options)
    with View() as view:
        run.go(view, every=2 * options.poll)
    table = states.table()
    done, goal, accepted, written = progress(table)
    made, seconds = written - written_before, time.monotonic() - started
    print(f"{states.folder}: {done} of {goal}, {accepted} of {written} images accepted")
    if made:
        left = ""
        if goal > done > done_before:
            left = f", {spoken_time((goal - done) * seconds / (done - done_before))} for the rest at this pace"
        print(f"{made} images in {spoken_time(seconds)}{left}")
    if short := [row["name"] for row in table if (row["quota"] or 0) > row["accepted"] and not row["planned"]]:
        tries = "all tries used"
        if states.shard.parts > 1:
            tries = "all tries of this shard used; higfa run without --shard goes on with the others'"
        print(f"{len(short)} classes stay below their quota, {tries}: {', '.join(short[:5])}", file=sys.stderr)
    for idx, reason in states.failures()[:5]:
        print(f"job {idx} failed: {reason}", file=sys.stderr)
    if failed := states.counts()["failed"]:
        print(f"{failed} jobs failed; --retry-failed tries them again", file=sys.stderr)
    if run.problem:
        print(f"stopped, no server is fit: {run.problem}", file=sys.stderr)
    reached = done >= goal or (options.limit is not None and not run.problem)
    return 0 if reached and not failed and not short else 1


def add_server_arguments(parser: argparse.ArgumentParser) -> None:
    """The options that say which servers, for the commands that need one."""
    parser.add_argument(
        "--server",
        action="append",
        metavar="URL",
        help="a ComfyUI server; repeat it for more (default: port 8188 here)",
    )
    parser.add_argument("--attempts", type=int, default=3, metavar="N", help="tries of a job that fails (default: 3)")


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="higfa run", description=__doc__.partition(": ")[2])
    parser.add_argument("folder", type=Path, help="the folder that higfa plan made")
    add_server_arguments(parser)
    parser.add_argument("--limit", type=int, metavar="N", help="stop after N jobs; the next run goes on")
    parser.add_argument("--shard", type=_shard, default=(1, 1), metavar="I/N", help="only the I-th of N disjoint parts")
    parser.add_argument("--retry-failed", action="store_true", help="plan jobs again that failed for good")
    parser.add_argument(
        "--patience", type=float, default=30, metavar="S", help="seconds until a silent server loses its jobs"
    )
    parser.add_argument(
        "--give-up", type=float, default=600, metavar="S", help="seconds until silence of all ends the run"
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
    parser.add_argument("--poll", type=float, default=Options.poll, help=argparse.SUPPRESS)  # for tests
    return parser.parse_args(argv)


def _options(args: argparse.Namespace) -> Options:
    names = ("attempts", "limit", "poll", "patience", "give_up", "job_timeout", "free_every")
    return Options(**{name: getattr(args, name) for name in names})


def _clients(args: argparse.Namespace):
    if args.engine == "ray":
        from ..batch.ray_engine import ray_clients

        return ray_clients(args.ray_address, args.server or [], args.comfyui)
    if args.ray_address or args.comfyui:
        raise ValueError("--ray-address and --comfyui say how --engine ray works: add it")
    return nullcontext([Client(url) for url in args.server or ["http://127.0.0.1:8188"]])


def _shard(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise argparse.ArgumentTypeError(f"{text!r} is not I/N with 1 <= I <= N")
    return int(found[1]), int(found[2])


if __name__ == "__main__":
    sys.exit(main())
