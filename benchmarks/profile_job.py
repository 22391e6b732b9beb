"""Where the time of a job goes, from `higfa run` to its row in the manifest.

    python run.py exec -- python benchmarks/profile_job.py
    python run.py exec -- python benchmarks/profile_job.py --batch 8

The embedded workflow on a ComfyUI server of this machine. Server: what its messages say, node by node, and how long it
had nothing to do; together that is the time that passes. Runner: what it does meanwhile, request by request, how late
it notices that a prompt has ended, and its processor time. Parts of 2 % or less of a job are summed up.
"""

import argparse
import asyncio
import contextlib
import io
import json
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from pathlib import Path

from throughput import WORKFLOW, server

from higfa_core.batch.client import Client
from higfa_core.batch.options import Options
from higfa_core.batch.states import States
from higfa_core.commands import plan as plan_command
from higfa_core.commands.run import run_plan
from higfa_core.commands.shell import Speech
from higfa_core.miniature.sources import draw_sources

SMALL = 0.02  # of the time of a job
REQUESTS = {
    "upload": "sends sources",
    "submit": "sends prompts",
    "status": "asks how they stand",
    "read_output": "reads the server's files",
}


class TimedClient(Client):
    """Adds up the seconds of each kind of request, and notes when a prompt was seen to have ended."""

    def __init__(self, url):
        super().__init__(url)
        self.seconds, self.requests, self.noticed = Counter(), Counter(), {}

    def status(self, prompt_id):
        state = super().status(prompt_id)
        if state == "done":
            self.noticed.setdefault(prompt_id, time.perf_counter())
        return state


def _timed(name):
    plain = getattr(TimedClient, name)

    def method(self, *args, **kwargs):
        began = time.perf_counter()
        try:
            return plain(self, *args, **kwargs)
        finally:
            self.seconds[name] += time.perf_counter() - began
            self.requests[name] += 1

    return method


for _name in REQUESTS:
    setattr(TimedClient, _name, _timed(_name))


class Listener(threading.Thread):
    """What a server says of the prompts of one client: (seconds, kind, data) of each message."""

    def __init__(self, url, client_id):
        super().__init__(daemon=True)
        self.address, self.messages = f"{url.replace('http', 'ws', 1)}/ws?clientId={client_id}", []
        self.connected = threading.Event()

    def run(self):
        asyncio.run(self._listen())

    async def _listen(self):
        import aiohttp

        async with aiohttp.ClientSession() as session, session.ws_connect(self.address, max_msg_size=0) as socket:
            async for message in socket:
                if message.type == aiohttp.WSMsgType.TEXT:
                    values = message.json()
                    self.messages.append((time.perf_counter(), values["type"], values["data"]))
                    self.connected.set()


def server_parts(messages, kinds):
    """Seconds by part from the first prompt to the end of the last, and when each prompt ended. `kinds`: of nodes."""
    seconds, ended = defaultdict(float), {}
    since, part = None, ""
    for now, kind, data in messages:
        if kind == "execution_start":
            following = "before its first node"
        elif kind == "executing" and data["node"] is not None:
            following = kinds[data["node"]]
        elif kind == "execution_success":
            following, ended[data["prompt_id"]] = "has nothing to do", now
        else:
            continue
        if since is not None:
            seconds[part] += now - since
        since, part = now, following
    return dict(seconds), ended


def table(title, parts, wall, jobs):
    print(f"\n| {title} | s a job | share |\n|---|---|---|")
    rest = 0.0
    for name, seconds in sorted(parts.items(), key=lambda item: -item[1]):
        if seconds <= SMALL * wall:
            rest += seconds
        else:
            print(f"| {name} | {seconds / jobs:.3f} | {seconds / wall:.1%} |")
    print(f"| {SMALL:.0%} or less each | {rest / jobs:.3f} | {rest / wall:.1%} |")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=16)
    parser.add_argument("--batch", type=int, default=1, help="jobs in a prompt")
    args = parser.parse_args()
    kinds = {node: about["class_type"] for node, about in json.loads(WORKFLOW.read_text("utf-8")).items()}
    with tempfile.TemporaryDirectory() as place, server(Path(place)) as url:
        base = Path(place)
        draw_sources(base / "drawn", 2)
        client = TimedClient(url)
        listener = Listener(url, client.client_id)
        listener.start()
        if not listener.connected.wait(30):
            sys.exit(f"{url} says nothing on its websocket.")
        for name, jobs in (("warm", args.batch), ("timed", args.jobs)):
            folder = base / "output" / name
            words = [folder, "--workflow", WORKFLOW, "--source", base / "drawn", "--replicas", "9", "--leaks", "off"]
            words += ["--plan-seed", len(name) + jobs]
            with contextlib.redirect_stdout(io.StringIO()):
                assert plan_command.main([str(word) for word in words]) == 0
            client.seconds.clear(), client.requests.clear(), listener.messages.clear()
            began, processor = time.perf_counter(), time.process_time()
            with contextlib.redirect_stdout(io.StringIO()), contextlib.closing(States(folder)) as states:
                options = Options(limit=jobs, batch=args.batch)
                assert run_plan(states, [client], options, Speech(False), quiet=True)[0] == 0
            took, processor = time.perf_counter() - began, time.process_time() - processor
    seconds, ended = server_parts(listener.messages, kinds)
    wall = sum(seconds.values())
    late = [client.noticed[prompt_id] - at for prompt_id, at in ended.items() if prompt_id in client.noticed]
    print(f"{args.jobs} jobs, {args.batch} in a prompt: {took:.1f} s, {wall:.1f} s of them on the server")
    table("server", seconds, wall, args.jobs)
    asked = {f"{words} ({client.requests[name]} times)": client.seconds[name] for name, words in REQUESTS.items()}
    table("runner, meanwhile", {**asked, "processor": processor, "before and after": took - wall}, wall, args.jobs)
    print(f"\nAn ended prompt is noticed after {statistics.median(late):.3f} s (median), {max(late):.3f} s at most.")


if __name__ == "__main__":
    sys.exit(main())
