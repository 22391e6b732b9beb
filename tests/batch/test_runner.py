import dataclasses
import hashlib
import json
from contextlib import closing

import pytest

from higfa_core.batch.client import Client
from higfa_core.batch.runner import Options, Run
from higfa_core.batch.worker import IN_FLIGHT
from higfa_core.dataset.rules import Rules
from higfa_core.dataset.states import States
from higfa_core.dataset.uploads import UPLOADS

from .conftest import CLASSES, manifest_rows
from .fake_comfy import FAULTS, draw

QUICK = Options(poll=0.002, patience=0.5, give_up=3.0, rest=0.2)


def run(folder, servers, options=QUICK, shard=(1, 1)):
    """Run the plan in ``folder``; returns the run, closed."""
    with closing(States(folder, shard)) as states:
        found = Run(states, [Client(server.url, timeout=5) for server in servers], options)
        found.go(every=0.01)
        found.counts, found.table, found.failures = states.counts(), states.table(), states.failures()
    return found


def files(folder):
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*.png"))


@pytest.mark.parametrize("shared", [True, False])
def test_every_job_is_made_once_wherever_the_server_writes(tmp_path, make_plan, make_server, shared):
    folder = tmp_path / "out" / "planes"
    plan = make_plan(folder)
    server = make_server(tmp_path / "out" if shared else None, seconds=0.05)
    found = run(folder, [server])
    assert found.counts == {"planned": 0, "leased": 0, "done": 40, "failed": 0, "spare": 0} and not found.problem
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


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("seed", range(2))
def test_all_faults_at_once_lose_and_double_nothing(tmp_path, make_plan, make_server, count, seed):
    make_plan(tmp_path / "calm", 10)
    calm = run(tmp_path / "calm", [make_server(seconds=0)])
    assert calm.counts["done"] == 200 == manifest_rows(tmp_path / "calm")[1], (calm.counts, calm.failures, calm.problem)
    make_plan(tmp_path / "planes", 10)
    servers = [make_server(faults=FAULTS, share=0.3, times=2, seed=seed + 10 * i, seconds=0.001) for i in range(count)]
    found = run(tmp_path / "planes", servers, Options(attempts=9, poll=0.002, patience=0.5, give_up=5))
    assert found.counts["done"] == 200, (found.counts, found.problem, found.failures, [vars(w) for w in found.workers])
    rows, lines = manifest_rows(tmp_path / "planes")
    assert lines == len(rows) == 200
    assert rows == manifest_rows(tmp_path / "calm")[0]
    assert len(set().union(*(server.seen_faults for server in servers))) > 5


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
    assert found.counts["done"] == 40 and "No answer" in found.workers[0].note


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


@pytest.mark.parametrize("count", [1, 3])
def test_quotas_take_the_shortest_prefix_of_each_class(tmp_path, make_plan, make_server, count):
    quota = dict.fromkeys(CLASSES[:3], 4) | {"x": 0}
    plan = make_plan(
        tmp_path / "planes", {name: 4 * n for name, n in quota.items()}, {k: n for k, n in quota.items() if n}
    )
    servers = [make_server(accepted=good, faults=FAULTS, share=0.2, seed=i) for i in range(count)]
    found = run(tmp_path / "planes", servers, Options(attempts=9, poll=0.002, patience=0.5, give_up=5))
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
    assert found.counts["spare"] == len(plan) - len(wanted) and found.counts["planned"] == 0
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
