"""Servers as warm actors of a Ray cluster: `higfa run --engine ray`.

The driver's loop and records are unchanged, only requests take another route: driver -> actor -> ComfyUI. An actor owns
a URL that perhaps only its cluster can reach, or starts a ComfyUI on its GPU, and restarts it when it ends. Classes are
sent to the nodes by value: besides ComfyUI with this pack they need only Ray.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import transport as transport_module
from .client import Client, with_agent
from .transport import Answer, NoAnswer, Transport, read_address

PLACING_SECONDS = 60.0
# Ends with the actor, which holds its standard input, however the actor ends.
RUN_WITH_PARENT = """\
import os, runpy, sys, threading
threading.Thread(target=lambda: (os.read(0, 1), os._exit(1)), daemon=True).start()
sys.argv, sys.path[0] = sys.argv[1:], os.getcwd()
runpy.run_path(sys.argv[0], run_name="__main__")
"""


class ComfyActor:
    """Owns the server at `url`, or one that it starts from the folder `comfyui` of its node."""

    def __init__(self, url: str, comfyui: str, headers: Mapping[str, str]):
        self.url, self.comfyui, self.headers = url, comfyui, dict(headers)
        self.transport = Transport(url, headers) if url else None
        self.process: subprocess.Popen | None = None

    def place(self) -> str:
        """The server's name: its URL, else node and GPU. ValueError if there is no ComfyUI to start."""
        if not self.url:
            self._start()
        return read_address(self.url).name if self.url else f"ray://{_gpu()}"

    def answer(self, *request) -> tuple:
        """As `Transport.ask`, but with the answer as a tuple of three, and NoAnswer as a tuple of two."""
        if self.transport is None or (self.process is not None and self.process.poll() is not None):
            return "starting", self._start()
        try:
            return tuple(self.transport.ask(*request))
        except NoAnswer as silence:
            return silence.kind, silence.words

    def _start(self) -> str:
        """Start ComfyUI; returns a message about it, and about how the last one ended."""
        main = Path(self.comfyui, "main.py")
        if not main.is_file():
            raise ValueError(f"No main.py in {self.comfyui} on {_gpu()}. Give --comfyui the folder of ComfyUI there.")
        own = main.with_name("user") / f"higfa {_gpu()}".replace(":", " ")
        own.mkdir(parents=True, exist_ok=True)
        words = f"ComfyUI on {_gpu()} is being started (its log: {own / 'log.txt'})"
        if self.process is not None:
            last = (own / "log.txt").read_text("utf-8", "replace").rstrip().rpartition("\n")[2]
            words += f"; before, it ended with status {self.process.returncode}: {last}"
        port = _free_port()
        command = [sys.executable, "-c", RUN_WITH_PARENT, str(main), "--port", str(port), "--disable-auto-launch"]
        # ComfyUI empties its temporary folder and locks its database: several in one folder need their own.
        command += ["--temp-directory", str(own), "--database-url", "sqlite:///:memory:"]
        env = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}  # Ray says 1
        with open(own / "log.txt", "wb") as log:
            streams = {"stdin": subprocess.PIPE, "stdout": log, "stderr": subprocess.STDOUT}
            self.process = subprocess.Popen(command, cwd=self.comfyui, env=env, **streams)
        self.transport = Transport(f"http://127.0.0.1:{port}", self.headers)
        return words


class RayClient(Client):
    """A client whose requests an actor makes; `url` is the server's name only."""

    def __init__(self, url: str, actor: Any, timeout: float):
        self._start(url, timeout)
        self.actor = actor

    def _answer(self, path, body, headers, seconds, most, cut) -> Answer:
        import ray
        from ray.exceptions import RayError, RayTaskError

        try:
            answer = ray.get(self.actor.answer.remote(path, body, headers, seconds, most, cut), timeout=2 * seconds)
        except RayTaskError:  # a fault of the actor's code, not of the cluster
            raise
        except RayError as error:
            raise NoAnswer("broken", f"its actor does not answer: {str(error).partition(chr(10))[0]}") from error
        if len(answer) == 2:
            raise NoAnswer(*answer)
        return Answer(*answer)


@contextmanager
def ray_clients(
    address: str | None,
    servers: Sequence[str],
    comfyui: str | None,
    timeout: float = 30.0,
    headers: Mapping[str, str] | None = None,
    placing_seconds: float = PLACING_SECONDS,
) -> Iterator[list[RayClient]]:
    """Clients for `servers`, and for a ComfyUI on each GPU when its folder on the nodes is given.

    `address`: of the cluster; None means RAY_ADDRESS, else a cluster on this machine, which is started if needed.
    `headers`: sent with every request, by the actors. `placing_seconds`: how long an actor may wait for its GPU.
    """
    try:
        import ray
    except ImportError:
        raise ValueError("--engine ray needs Ray: pip install higfa[ray]") from None
    for url in servers:
        read_address(url)  # a bad one is refused here
    started = not ray.is_initialized()
    if started:
        _connect(address)
    actors = []
    try:
        actors += _start_actors(servers, os.path.abspath(comfyui) if comfyui else "", with_agent(headers))
        yield _placed(actors, timeout, placing_seconds)
    finally:
        for actor in actors:
            ray.kill(actor)
        if started:
            ray.shutdown()


def _connect(address: str | None) -> None:
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # no telemetry unless enabled
    try:
        ray.init(address, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError) as error:
        remedy = (
            "Check that it runs (ray status) with this version of Ray. Set RAY_AUTH_MODE=token if it needs a token."
        )
        raise ValueError(f"Cannot connect to the Ray cluster at {address} ({error}). {remedy}") from error


def _start_actors(servers: Sequence[str], comfyui: str, headers: Mapping[str, str]) -> list:
    import ray
    from ray.cloudpickle import register_pickle_by_value

    gpus = int(ray.cluster_resources().get("GPU", 0)) if comfyui else 0
    if comfyui and not gpus:
        raise ValueError("The Ray cluster has no GPU to start ComfyUI on. Name running servers with --server URL.")
    if not servers and not comfyui:
        raise ValueError("--engine ray needs servers. Add --server URL, or --comfyui FOLDER to start one on each GPU.")
    for module in (transport_module, sys.modules[__name__]):
        register_pickle_by_value(module)
    remote = ray.remote(num_cpus=0, max_restarts=-1)(ComfyActor)
    owners = [remote.remote(url, "", headers) for url in servers]
    return owners + [remote.options(num_gpus=1).remote("", comfyui, headers) for _ in range(gpus)]


def _placed(actors: list, timeout: float, seconds: float) -> list[RayClient]:
    """Clients of the actors that got a GPU; GPUs in use by others are skipped."""
    import ray
    from ray.exceptions import RayError

    places = {actor.place.remote(): actor for actor in actors}
    ready, late = ray.wait(list(places), num_returns=len(places), timeout=seconds)
    if late:
        print(f"{len(late)} of {len(places)} actors found no free GPU; see ray status", file=sys.stderr)
    if not ready:
        raise ValueError("No GPU of the Ray cluster is free. Wait for the other jobs there.")
    for place in late:
        ray.kill(places[place])
    try:
        return [RayClient(ray.get(place), places[place], timeout) for place in ready]
    except RayError as error:
        raise ValueError(str(getattr(error, "cause", error))) from error


def _gpu() -> str:
    """Node and GPU of the calling actor."""
    import ray

    return f"{ray.util.get_node_ip_address()}:{ray.get_runtime_context().get_accelerator_ids()['GPU'][0]}"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
