import dataclasses
import hashlib
import json
import math
import threading
import time
from contextlib import closing

import pytest

from higfa_core.batch.client import Client
from higfa_core.batch.options import Options
from higfa_core.batch.runner import Run
from higfa_core.batch.states import States
from higfa_core.batch.worker import HUNG, IN_FLIGHT
from higfa_core.commands import run as run_cli
from higfa_core.plans.rules import Rules
from higfa_core.plans.uploads import UPLOADS

from .conftest import CLASSES, manifest_rows
from .fake_comfy import FAULTS, FakeComfy, draw

pytestmark = pytest.mark.slow

QUICK = Options(poll=0.002, patience=0.5, give_up=3.0, rest=0.2)


def run(folder, servers, options=QUICK, shard=(1, 1), watch=lambda run: None):
    """Run the plan in `folder`, for a minute at most; returns the run, closed."""
    end = time.monotonic() + 60

    def look(run):
        watch(run)
        if time.monotonic() > end:
            run.stopping.set()

    with closing(States(folder, shard)) as states:
        found = Run(states, [Client(server.url, timeout=5) for server in servers], options)
        found.go(look, every=0.01)
        found.counts, found.table, found.failures = states.counts(), states.table(), states.failures()
        ((found.losses,),) = states._all("SELECT SUM(losses) FROM jobs")
    return found


def files(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.png"))


@pytest.mark.parametrize("shared", [True, False])
def test_every_job_is_made_once_wherever_the_server_writes(tmp_path, make_plan, make_server, shared):
    folder = tmp_path / "out" / "planes"
    plan = make_plan(folder)
    server = make_server(tmp_path / "out" if shared else None, seconds=0.05)
    found = run(folder, [server])
    assert found.counts == {"planned": 0, "leased": 0, "done": 40, "failed": 0, "surplus": 0} and not found.problem
    rows, lines = manifest_rows(folder)
    assert lines == len(rows) == len(plan) == len(set(server.posted)) == len(server.posted)
    assert sorted(row["plan_index"] for row in rows) == list(range(40))
    for row in rows:
        data = (folder / row["file"]).read_bytes()
        assert len(data) == row["bytes"] and hashlib.sha256(data).hexdigest() == row["sha256"]
    assert files(folder) == sorted(row["file"] for row in rows)
    assert server.deepest == IN_FLIGHT
    assert len(server.uploads) == 20 and all(name.endswith(".png") for name in server.uploads)


def test_uploads_are_the_source_files_and_the_jobs_name_them(tmp_path, make_plan, make_server, sources):
    make_plan(tmp_path / "planes", {"x": 5})
    server = make_server()
    seen = []
    end = server._end
    server._end = lambda prompt_id, graph: (seen.append(graph), end(prompt_id, graph))[1]
    run(tmp_path / "planes", [server])
    for graph in seen:
        (job,) = [json.loads(n["inputs"]["job"]) for n in graph.values() if n["class_type"] == "HiGFA_DatasetJob"]
        place, _, name = job["image_file"].partition("/")
        assert place == UPLOADS and server.uploads[name] == (sources / job["contour_source"]).read_bytes()


def test_short_jobs_do_not_wait_for_the_next_poll(tmp_path, make_plan, make_server):
    plan = make_plan(tmp_path / "planes")
    found = run(tmp_path / "planes", [make_server()], dataclasses.replace(QUICK, poll=20.0))
    assert found.counts["done"] == len(plan) == 40  # within the minute that `run` gives it


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("shared", [True, False])
def test_a_server_that_always_fails_once(tmp_path, make_plan, make_server, fault, shared):
    make_plan(tmp_path / "calm", {"x": 10, "F-16A": 3})
    run(tmp_path / "calm", [make_server()])
    folder = tmp_path / "out" / "planes"
    make_plan(folder, {"x": 10, "F-16A": 3})
    server = make_server(tmp_path / "out" if shared else None, faults=(fault,), share=0.4)
    found = run(folder, [server])
    assert found.counts["done"] == 13 and fault in server.seen_faults, (found.counts, found.problem, found.failures)
    assert manifest_rows(folder)[0] == manifest_rows(tmp_path / "calm")[0]
    if fault in ("no history", "twice"):
        assert len(server.posted) == 13  # what is in the manifest is not made again


def test_an_answer_that_gets_lost_does_not_double_the_prompt(tmp_path, make_plan, make_server):
    plan, server = make_plan(tmp_path / "planes"), make_server(seconds=0.02)
    server.lost_answers = 3
    assert run(tmp_path / "planes", [server]).counts["done"] == len(plan)
    assert not server.lost_answers and len(server.posted) == len(set(server.posted)) == len(plan)


@pytest.mark.parametrize(("count", "seed", "batch"), [(1, 0, 1), (3, 1, 1), (1, 1, 3), (3, 0, 8)])
def test_all_faults_at_once_lose_and_double_nothing(tmp_path, make_plan, make_server, clock, count, seed, batch):
    make_plan(tmp_path / "calm", 10)
    calm = run(tmp_path / "calm", [make_server(seconds=0)])
    assert calm.counts["done"] == 200 == manifest_rows(tmp_path / "calm")[1], (calm.counts, calm.failures, calm.problem)
    make_plan(tmp_path / "planes", 10)
    faults, seeds = (*FAULTS, "hangs", "die between"), range(seed, seed + 10 * count, 10)
    share = 0.3 / batch**0.5  # a prompt has the faults of all of its jobs
    servers = [make_server(faults=faults, share=share, times=2, seed=seed, seconds=0.001) for seed in seeds]
    for server in servers:
        clock.fly(server)
    options = Options(attempts=9, poll=0.002, patience=0.5, give_up=5, rest=0.02, batch=batch)
    found = run(tmp_path / "planes", servers, options)
    assert found.counts["done"] == 200, (found.counts, found.problem, found.failures, [vars(w) for w in found.workers])
    rows, lines = manifest_rows(tmp_path / "planes")
    assert lines == len(rows) == 200
    assert rows == manifest_rows(tmp_path / "calm")[0]
    seen = set().union(*(server.seen_faults for server in servers))
    assert len(seen) > 6 and "hangs" in seen


def test_a_slow_server_gets_less_and_holds_nobody_up(tmp_path, make_plan, make_server):
    make_plan(tmp_path / "planes", 2)
    slow, *quick = make_server(seconds=1.0), make_server(seconds=0.02), make_server(seconds=0.02)
    run(tmp_path / "planes", [slow, *quick])
    assert all(2 * len(slow.posted) < len(server.posted) for server in quick)
    assert sum(len(server.posted) for server in [slow, *quick]) == 40


def test_a_server_that_never_comes_back_gives_its_jobs_to_others(tmp_path, make_plan, make_server):
    make_plan(tmp_path / "planes", 2)
    dead, alive = make_server(seconds=0.01), make_server(seconds=0.01)
    end = dead._end
    dead._end = lambda *item: (end(*item), dead.die(1e9) if len(dead.history) == 3 else None)
    found = run(tmp_path / "planes", [dead, alive])
    assert found.counts["done"] == 40 and "No answer" in found.workers[0].health.note


def test_a_job_that_never_works_fails_after_its_attempts_and_the_rest_goes_on(tmp_path, make_plan, make_server):
    make_plan(tmp_path / "planes")
    server = make_server()
    server._fault = lambda key: tries.append(key) or ("error" if draw(key) < 0.1 else None)
    tries = []
    found = run(tmp_path / "planes", [server])
    bad = {key for key in tries if draw(key) < 0.1}
    assert bad and [tries.count(key) for key in bad] == [3] * len(bad) and len(tries) == 40 + 2 * len(bad)
    assert found.counts["failed"] == len(bad) and found.counts["done"] == 40 - len(bad)
    assert all("Node 3 (KSampler): OutOfMemoryError: no memory" in reason for _, reason in found.failures)
    with closing(States(tmp_path / "planes")) as states:
        assert states.retry_failed() == len(bad)
    server._fault = lambda key: None
    assert run(tmp_path / "planes", [server]).counts["done"] == 40


def test_a_server_on_which_everything_fails_stops_the_run_and_keeps_the_plan(tmp_path, make_plan, make_server):
    make_plan(tmp_path / "planes", 20)
    server = make_server()
    server.always = "error"
    found = run(tmp_path / "planes", [server])
    assert "5 jobs in a row failed" in found.problem and "no memory" in found.problem
    assert found.counts["planned"] > 380 and len(server.posted) < 30


def test_no_server_at_all_ends_with_a_reason(tmp_path, make_plan, make_server):
    make_plan(tmp_path / "planes")
    server = make_server()
    server.close()
    found = run(tmp_path / "planes", [server], Options(poll=0.01, patience=0.1, give_up=0.3))
    assert "is ComfyUI running there?" in found.problem and found.counts["planned"] == 40


def test_an_unreadable_source_fails_its_jobs_only(tmp_path, make_plan, make_server, sources):
    make_plan(tmp_path / "planes")
    (sources / "x" / "0.png").unlink()
    found = run(tmp_path / "planes", [make_server()])
    assert found.counts["failed"] == 2 and found.counts["done"] == 38
    assert all("0.png" in reason for _, reason in found.failures)


def test_a_limit_stops_and_the_next_run_goes_on(tmp_path, make_plan, make_server):
    make_plan(tmp_path / "planes")
    server = make_server()
    assert run(tmp_path / "planes", [server], Options(limit=7, poll=0.002)).counts["done"] == 7
    assert run(tmp_path / "planes", [server]).counts["done"] == 40
    assert len(server.posted) == 40


def test_shards_are_disjoint_and_complete(tmp_path, make_plan, make_server):
    make_plan(tmp_path / "planes")
    server, done = make_server(), []
    for part in (1, 2, 3):
        done.append(run(tmp_path / "planes", [server], shard=(part, 3)).counts["done"])
    assert sum(done) == 40 == len(server.posted) and min(done) > 5


def good(key):
    return draw("good", key) < 0.5


@pytest.mark.parametrize(("count", "batch"), [(1, 1), (3, 1), (1, 3), (3, 3), (1, 8), (3, 8)])
def test_quotas_take_the_shortest_prefix_of_each_class(tmp_path, make_plan, make_server, count, batch):
    quota = dict.fromkeys(CLASSES[:3], 4) | {"x": 0}
    plan = make_plan(
        tmp_path / "planes", {name: 4 * n for name, n in quota.items()}, {k: n for k, n in quota.items() if n}
    )
    share = 0.2 / batch**0.5  # a prompt has the faults of all of its jobs
    servers = [make_server(accepted=good, faults=FAULTS, share=share, seed=i) for i in range(count)]
    options = Options(attempts=9, poll=0.002, patience=0.5, give_up=5, batch=batch)
    found = run(tmp_path / "planes", servers, options)
    rows, _ = manifest_rows(tmp_path / "planes")
    wanted = set()
    with closing(States(tmp_path / "planes")) as states:
        keys = dict(states._all("SELECT idx, key FROM jobs"))
    for name, number in quota.items():
        accepted = 0
        for job in plan:
            if job.class_name == name and accepted < number:
                wanted.add(keys[job.index])
                accepted += good(keys[job.index])
    assert {row["key"] for row in rows} == wanted
    assert found.counts["surplus"] == len(plan) - len(wanted) and found.counts["planned"] == 0
    assert [row["accepted"] for row in found.table] == [4, 4, 4]


def test_a_quota_that_cannot_be_met_uses_all_tries_and_says_so(tmp_path, make_plan, make_server):
    make_plan(tmp_path / "planes", {"x": 6}, {"x": 3})
    found = run(tmp_path / "planes", [make_server(accepted=lambda key: False)])
    assert found.counts["done"] == 6
    assert [(row["quota"], row["written"], row["accepted"]) for row in found.table] == [(3, 6, 0)]


def test_rules_of_the_plan_move_what_the_server_accepted(tmp_path, make_plan, make_server):
    make_plan(tmp_path / "planes", rules=Rules(min_confidence=0.5))
    run(tmp_path / "planes", [make_server()])
    rows, _ = manifest_rows(tmp_path / "planes")
    assert len(rows) == 40 and 5 < sum(row["accepted"] for row in rows) < 35
    for row in rows:
        assert row["accepted"] == (row["scores"]["confidence"] >= 0.5)
        assert row["file"].startswith("train/" if row["accepted"] else "rejected/")
    assert files(tmp_path / "planes") == sorted(row["file"] for row in rows)


def test_deleted_and_torn_files_are_made_again(tmp_path, make_plan, make_server):
    folder = tmp_path / "out" / "planes"
    make_plan(folder)
    server = make_server(tmp_path / "out")
    run(folder, [server])
    rows, _ = manifest_rows(folder)
    (folder / rows[0]["file"]).unlink()
    (folder / rows[1]["file"]).write_bytes(b"torn")
    assert run(folder, [server]).counts["done"] == 40
    assert len(server.posted) == 42 and manifest_rows(folder)[0] == rows
    assert all((folder / row["file"]).stat().st_size == row["bytes"] for row in rows)


def test_states_are_rebuilt_from_the_manifest(tmp_path, make_plan, make_server):
    make_plan(tmp_path / "planes")
    server = make_server()
    run(tmp_path / "planes", [server], Options(limit=25, poll=0.002))
    for file in (tmp_path / "planes").glob("jobs.sqlite*"):
        file.unlink()
    assert run(tmp_path / "planes", [server]).counts["done"] == 40
    assert len(server.posted) == 40


def test_ctrl_c_takes_the_jobs_off_the_server_and_keeps_what_is_made(tmp_path, make_plan, make_server):
    make_plan(tmp_path / "planes")
    server = make_server(seconds=0.02)

    def stop(run):
        if server.history:
            raise KeyboardInterrupt

    with closing(States(tmp_path / "planes")) as states:
        with pytest.raises(KeyboardInterrupt):
            Run(states, [Client(server.url)], QUICK).go(stop, every=0.01)
        assert states.counts()["leased"] == 0 and not server.pending
    assert run(tmp_path / "planes", [server]).counts["done"] == 40


def test_a_plan_with_other_rules_judges_what_is_there_again(tmp_path, make_plan, make_server):
    folder, server = tmp_path / "planes", make_server()
    make_plan(folder)
    run(folder, [server])
    for rules in (Rules(min_confidence=0.5), Rules(min_confidence=0.9), Rules()):
        header = json.loads((folder / "plan.json").read_text("utf-8"))
        header["rules"] = dataclasses.asdict(rules)
        (folder / "plan.json").write_text(json.dumps(header), "utf-8")
        run(folder, [server])
        rows, _ = manifest_rows(folder)
        assert all(row["accepted"] == (row["scores"]["confidence"] >= rules.min_confidence) for row in rows)
        assert files(folder) == sorted(row["file"] for row in rows)
    assert len(server.posted) == 40


@pytest.fixture
def calm(tmp_path, make_plan, make_server):
    """The rows of an undisturbed run over ten jobs, for which there is a plan in tmp_path/"planes", too."""
    for name in ("calm", "planes"):
        make_plan(tmp_path / name, {"x": 10})
    run(tmp_path / "calm", [make_server(seconds=0)])
    return manifest_rows(tmp_path / "calm")[0]


def hang_at(server, bad, times=math.inf):
    """The job with the key `bad` hangs so many times; returns the keys that the server tries, as it does."""
    tries = []
    server._fault = lambda key: tries.append(key) or ("hangs" if key == bad and tries.count(key) <= times else None)
    return tries


def check_made(tmp_path, wanted, server):
    rows, lines = manifest_rows(tmp_path / "planes")
    assert rows == wanted and lines == len(rows) == manifest_rows(server.output / "planes")[1]


def test_a_job_that_hangs_fails_and_the_rest_is_made(tmp_path, make_server, calm, clock):
    server, bad = make_server(), calm[4]["key"]
    tries = hang_at(server, bad)
    clock.fly(server)
    found = run(tmp_path / "planes", [server])
    assert [reason for _, reason in found.failures] == ["no image after 3600 s (--job-timeout)"]
    assert found.counts["done"] == 9 and tries.count(bad) == 3 == found.workers[0].errors and len(tries) == 12
    check_made(tmp_path, [row for row in calm if row["key"] != bad], server)


@pytest.mark.parametrize("kind", ["hangs", "hangs and is unresponsive", "works for a stranger"])
def test_a_server_that_ends_nothing_gives_its_jobs_to_the_other(tmp_path, make_server, calm, clock, kind):
    hung, good = make_server(), make_server()
    hung.always, hung.unresponsive = "hangs", "unresponsive" in kind
    if kind == "works for a stranger":
        hung.hang()
    good.hang()  # until the other was given up
    clock.fly(hung, lambda server: server.hung and not server.interrupted)
    options = dataclasses.replace(QUICK, rest=300.0, give_up=60.0)

    def release(run):
        if hung.interrupted and good.hung:
            good.come_round()

    found = run(tmp_path / "planes", [hung, good], options, watch=release)
    assert found.counts["done"] == 10 and not found.losses
    assert [worker.errors for worker in found.workers] == [int(kind != "works for a stranger"), 0]
    assert len(hung.posted) == 2 and sorted(hung.posted) == sorted(hung.interrupted) and not hung.pending
    assert hung.hung == (kind != "hangs") and len(good.posted) == 10
    check_made(tmp_path, calm, good)


def test_a_lone_server_that_is_unresponsive_ends_the_run(tmp_path, make_server, calm, capsys):
    server = make_server()
    server.always, server.unresponsive = "hangs", True
    command = [str(tmp_path / "planes"), "--server", server.url, "--job-timeout", "0.2", "--poll", "0.01"]
    bound = threading.Timer(30, server.die, [math.inf])
    bound.daemon = True
    bound.start()
    assert run_cli.main([*command, "--give-up", "1"]) == 1
    bound.cancel()
    assert f"{server.url}: {HUNG}" in capsys.readouterr().err
    with closing(States(tmp_path / "planes")) as states:
        assert states.counts()["planned"] == 10
        assert sorted(states._all("SELECT attempts FROM jobs"))[-2:] == [(0,), (1,)]
    assert len(server.posted) == 2


def test_a_unresponsive_server_that_is_restarted_gets_jobs_again(tmp_path, make_server, calm, clock):
    server, other = make_server(), make_server()
    server.always, server.unresponsive = "hangs", True
    other.hang()
    clock.fly(server)
    notes = set()

    def restart(run):
        notes.add(run.workers[0].health.unusable)
        if HUNG in notes and server.always:
            server.always = None
            server.die(silence=0)
        if server.history and other.hung:
            other.come_round()

    found = run(tmp_path / "planes", [server, other], dataclasses.replace(QUICK, rest=0.01), watch=restart)
    assert found.counts["done"] == 10 and not found.workers[0].health.unusable and server.history
    assert manifest_rows(tmp_path / "planes") == (calm, 10)


def test_a_lone_server_that_works_for_a_stranger_is_waited_for(tmp_path, make_server, calm, clock):
    server, notes = make_server(), set()
    server.hang()
    clock.fly(server)

    def release(run):
        notes.add(run.workers[0].health.note)
        if server.hung and sum(clock.ahead.values()) > 20 * 3600:
            server.come_round()

    found = run(tmp_path / "planes", [server], watch=release)
    assert (
        found.counts["done"] == 10 == len(server.posted) and not server.interrupted and not found.workers[0].health.note
    )
    assert any("only wait there" in note for note in notes)
    check_made(tmp_path, calm, server)


def test_no_limit(tmp_path, make_server, calm, clock):
    server, interrupted = make_server(), []
    server.always = "hangs"
    clock.fly(server)

    def stop(run):
        if sum(clock.ahead.values()) > 20 * 3600 and not run.stopping.is_set():
            interrupted.append(list(server.interrupted))
            run.stopping.set()

    run(tmp_path / "planes", [server], dataclasses.replace(QUICK, job_timeout=0), watch=stop)
    assert interrupted == [[]]


def test_time_in_which_a_job_ended_or_the_server_was_silent_does_not_count(tmp_path, make_server, calm, clock):
    server, end, looks = make_server(seconds=0.05), FakeComfy._end, []
    tries = hang_at(server, calm[4]["key"])
    clock.fly(server, lambda server: server.silent_until)

    def slowly(*item):
        clock.skip(1500)  # the two jobs in flight may end between two looks: together less than --job-timeout
        end(server, *item)

    def silence(run):
        if server.hung and not server.silent_until and not looks:
            server.silent_until = math.inf
        elif server.silent_until and sum(clock.ahead.values()) > 20 * 3600:
            server.silent_until = 0.0
            looks.append(server.looks)
        elif server.hung and looks and server.looks > looks[0] + 20:
            server.come_round()

    server._end = slowly
    found = run(tmp_path / "planes", [server], Options(poll=0.002, patience=math.inf), watch=silence)
    assert found.counts["done"] == 10 == len(tries) and looks and not server.interrupted
    check_made(tmp_path, calm, server)


def test_the_time_of_a_job_begins_when_it_does(tmp_path, make_server, calm, clock):
    server, looks = make_server(), [0]
    server.hang()
    (first,) = [row["key"] for row in calm if row["plan_index"] == 0]
    hang_at(server, first)
    clock.fly(server, lambda server: False)
    steps = [lambda: clock.skip(3000), server.come_round, lambda: clock.skip(3000), server.come_round]

    def step(run):
        if server.hung and server.looks > looks[-1] + 20:
            steps.pop(0)()
            looks.append(server.looks)

    found = run(tmp_path / "planes", [server], watch=step)
    assert found.counts["done"] == 10 and not steps and not server.interrupted and not found.workers[0].health.note


def test_time_without_a_job_does_not_count(tmp_path, make_server, calm, clock):
    server, other = make_server(seconds=0.05), make_server()
    server.hang()
    other.hang()
    clock.fly(server, lambda server: len(server.posted) == 2)

    def release(run):
        for held, when in ((server, server.interrupted), (other, server.history)):
            if when and held.hung:
                held.come_round()

    found = run(tmp_path / "planes", [server, other], dataclasses.replace(QUICK, rest=20 * 3600), watch=release)
    assert found.counts["done"] == 10 and server.history and sorted(server.interrupted) == sorted(server.posted[:2])


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_image_of_a_prompt_that_was_stopped_is_neither_lost_nor_made_again(tmp_path, make_server, calm, clock, when):
    server = make_server()
    tries = hang_at(server, calm[4]["key"])
    server.before, server.unresponsive = int(when == "before"), when == "after"
    clock.fly(server, lambda server: server.hung and not server.interrupted)

    def release(run):
        if server.unresponsive and server.hung and run.workers[0].errors:
            server.come_round()

    attempts, errors = (1, 0) if when == "before" else (2, 1)
    found = run(tmp_path / "planes", [server], dataclasses.replace(QUICK, attempts=attempts), watch=release)
    assert found.counts["done"] == 10 == len(tries) and found.workers[0].errors == errors and server.interrupted
    check_made(tmp_path, calm, server)


def test_a_job_stopped_between_its_images_is_completed(tmp_path, make_server, calm, clock):
    server = make_server(batch=2)
    server.before = 1
    tries = hang_at(server, calm[4]["key"], times=1)
    clock.fly(server)
    found = run(tmp_path / "planes", [server])
    assert found.counts["done"] == 10 and len(tries) == 11 and found.workers[0].errors == 1
    rows, lines = manifest_rows(tmp_path / "planes")
    assert lines == 20 and [row["key"] for row in rows[::2]] == [row["key"] for row in calm]


@pytest.mark.parametrize("seconds", ["-1", "nan"])
def test_a_limit_must_be_a_time(tmp_path, make_server, calm, capsys, seconds):
    server = make_server()
    assert run_cli.main([str(tmp_path / "planes"), "--server", server.url, "--job-timeout", seconds]) == 1
    assert f"0 for no limit, got {seconds}" in capsys.readouterr().err and not server.posted
