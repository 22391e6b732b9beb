"""Drivers that are killed while they work: processes of their own, against fake servers in this one."""

import hashlib
import os
import random
import subprocess
import sys
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from higfa_core.batch.client import Client
from higfa_core.batch.options import Options
from higfa_core.batch.runner import Run
from higfa_core.batch.states import States
from higfa_core.files.held import create_held
from higfa_core.store.manifest import Manifest

from .conftest import manifest_rows

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
FAULTS = ("die before", "die after", "drop", "no history", "error")


@pytest.fixture(autouse=True)
def made(monkeypatch):
    """Key of a job -> how often any server made its image."""
    counts, write = Counter(), Manifest.write
    monkeypatch.setattr(
        Manifest, "write", lambda self, row, data: (counts.update([row["key"]]), write(self, row, data))[1]
    )
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)  # a kill, unlike a power cut, loses nothing written
    return counts


@pytest.fixture
def drive():
    """Starts `higfa run` in a process of its own."""
    started = []

    def start(folder, servers, *options):
        command = [sys.executable, "-m", "higfa_core.commands.run", str(folder), "--poll", "0.01", *options]
        command += [part for server in servers for part in ("--server", server.url)]
        started.append(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def posted(servers):
    return sum(len(server.posted) for server in servers)


def kill_after(process, servers, posts, delay=0.0, seconds=0.012):
    """kill -9 once so many more prompts were posted; a job that begins just before it takes `seconds`."""
    target, end = posted(servers) + posts, time.monotonic() + 20
    while posted(servers) < target:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end
        time.sleep(0.001)
    for server in servers:
        server.seconds = seconds
    time.sleep(delay)
    process.kill()
    assert process.wait() != 0, "it had ended by itself"
    for server in servers:
        server.seconds = 0.012


def finish(process):
    words, _ = process.communicate(timeout=60)
    assert process.returncode == 0, words


def check_whole(folder, calm, made):
    """Every image once, made once, as in the undisturbed run; nothing half-written."""
    rows, lines = manifest_rows(folder)
    assert lines == len(rows) == len(calm) and rows == calm
    assert set(made.values()) == {1} and made.keys() == {row["key"] for row in rows}
    for row in rows:
        data = (folder / row["file"]).read_bytes()
        assert len(data) == row["bytes"] and hashlib.sha256(data).hexdigest() == row["sha256"]
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    kept = {"manifest.jsonl", "plan.json", "plan.jsonl", "jobs.sqlite", "lock.sqlite"}
    assert found == {row["file"] for row in rows} | kept


@pytest.fixture
def calm_rows(tmp_path, make_plan, make_server, made):
    """The manifest of a plan that nothing disturbed."""

    def run(counts):
        make_plan(tmp_path / "calm", counts)
        with closing(States(tmp_path / "calm")) as states:
            server = make_server(tmp_path / "calm output", seconds=0)
            Run(states, [Client(server.url)], Options(poll=0.001)).go(every=0.01)
        made.clear()
        return manifest_rows(tmp_path / "calm")[0]

    return run


@pytest.mark.parametrize(("count", "shared"), [(1, True), (3, False)])
def test_twenty_kills_lose_and_double_nothing(tmp_path, make_plan, make_server, drive, calm_rows, made, count, shared):
    calm = calm_rows(10)
    assert len(calm) == 200
    folder, draw = tmp_path / "out" / "planes", random.Random(count)
    make_plan(folder, 10)
    output = tmp_path / "out" if shared else None
    servers = [make_server(output, faults=FAULTS, share=0.1, seed=i, seconds=0.012) for i in range(count)]
    for n in range(20):
        if n % 4 == 0:  # and one more while it starts
            process = drive(folder, servers)
            kill_after(process, servers, 0, draw.uniform(0.3, 0.6))
        # A long job is still at work when the next driver comes.
        seconds = draw.choice([0.012, 1.0])
        kill_after(drive(folder, servers), servers, draw.randint(1, 6), draw.uniform(0, 0.03), seconds)
        assert len(made) < 200
    finish(drive(folder, servers))
    check_whole(folder, calm, made)
    assert len(set().union(*(server.seen_faults for server in servers))) > 4


@pytest.mark.parametrize("batch", [3, 8])
def test_kills_lose_and_double_no_job_of_a_prompt(tmp_path, make_plan, make_server, drive, calm_rows, made, batch):
    calm, draw = calm_rows(10), random.Random(batch)
    make_plan(tmp_path / "planes", 10)
    faults = ("die between", "die before", "drop", "error")
    server = make_server(faults=faults, share=0.02, seed=batch, seconds=0.03)
    for _ in range(6):
        process = drive(tmp_path / "planes", [server], "--batch", str(batch))
        kill_after(process, [server], draw.randint(1, 2), draw.uniform(0, 0.05), seconds=0.03)
    assert len(made) < 200
    finish(drive(tmp_path / "planes", [server], "--batch", str(batch)))
    made = dict.fromkeys(made, 1)  # of a prompt that was cut, all jobs go again, and those that are there stay
    check_whole(tmp_path / "planes", calm, made)
    assert batch in server.prompts and server.seen_faults - {None}


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_kills_do_not_overrun_a_quota(tmp_path, make_plan, make_server, drive, made, batch):
    draw, quota = random.Random(batch), {"F-16A": 20, "F-16B": 9}
    make_plan(tmp_path / "planes", dict.fromkeys(quota, 30), quota=quota)
    server = make_server(faults=("die between", "error"), share=0.02, seed=batch, seconds=0.03)
    for _ in range(3):
        process = drive(tmp_path / "planes", [server], "--batch", str(batch))
        kill_after(process, [server], draw.randint(1, 2), draw.uniform(0, 0.05), seconds=0.03)
    finish(drive(tmp_path / "planes", [server], "--batch", str(batch)))
    rows, lines = manifest_rows(tmp_path / "planes")
    assert lines == len(rows) == 29 and Counter(row["class_name"] for row in rows) == quota and len(server.prompts) > 3


def test_two_drivers_at_once_share_the_work(tmp_path, make_plan, make_server, drive, calm_rows, made):
    calm = calm_rows(4)
    make_plan(tmp_path / "planes", 4)
    servers = [make_server(seconds=0.04), make_server(seconds=0.04)]
    for process in [drive(tmp_path / "planes", servers) for _ in range(2)]:
        finish(process)
    check_whole(tmp_path / "planes", calm, made)
    assert posted(servers) == 80
    with closing(States(tmp_path / "planes")) as states:
        done = dict(states._all("SELECT driver, COUNT(*) FROM jobs GROUP BY driver"))
    assert len(done) == 2 and min(done.values()) > 5


@pytest.mark.parametrize(("silence", "patience"), [(1.5, "30"), (1e9, "0.5")])
def test_a_driver_killed_while_a_server_is_down(
    tmp_path, make_plan, make_server, drive, calm_rows, made, silence, patience
):
    calm = calm_rows(2)
    folder = tmp_path / "out" / "planes"
    make_plan(folder, 2)
    servers = [make_server(tmp_path / "out"), make_server(tmp_path / "out")]
    kill_after(drive(folder, servers), servers[:1], 6)
    while servers[0].pending or servers[0].running:
        time.sleep(0.001)
    servers[0].die(silence)  # what it made since nobody has asked for
    kill_after(drive(folder, servers), servers, 3)
    finish(drive(folder, servers, "--patience", patience))
    check_whole(folder, calm, made)
    assert posted(servers) == 40


def test_what_a_dead_driver_was_writing_is_removed(tmp_path, make_plan, make_server, drive):
    make_plan(tmp_path / "planes", 1)
    server = make_server()
    process = drive(tmp_path / "planes", [server])
    kill_after(process, [server], 1)
    place = tmp_path / "planes" / "train" / "x"
    place.mkdir(parents=True, exist_ok=True)
    dead, alive = (place / f".x.png.{pid}.0a0a0a0a.part" for pid in (process.pid, os.getpid()))
    dead.write_bytes(b"half")
    held = create_held(alive)
    finish(drive(tmp_path / "planes", [server]))
    assert list((tmp_path / "planes").rglob("*.part")) == [alive]
    os.close(held)


def test_the_driver_starts_without_heavy_libraries():
    code = "import sys, higfa_core.commands.run; print({'torch', 'numpy', 'cv2', 'ray'} & {*sys.modules})"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout == "set()\n"
