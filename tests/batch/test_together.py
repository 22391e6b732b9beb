"""Several jobs in one prompt: who goes with whom, and what happens to the others when one fails."""

from contextlib import closing

import pytest

from higfa_core.batch.client import Client
from higfa_core.batch.options import Options
from higfa_core.batch.runner import Run
from higfa_core.batch.size import BatchSize
from higfa_core.batch.states import States
from higfa_core.plans.workflow import image_key

from .conftest import manifest_rows
from .fake_comfy import jobs_of

QUICK = {"poll": 0.002, "patience": 0.5, "give_up": 3.0, "rest": 0.2}


def drive(folder, servers, watch=lambda run: None, **options):
    with closing(States(folder)) as states:
        run = Run(states, [Client(server.url) for server in servers], Options(**QUICK, **options))
        run.go(watch, every=0.01)
        run.counts, run.failures = states.counts(), states.failures()
    return run


def record(server):
    """The jobs of each prompt that begins, by their index in the plan."""
    prompts, end = [], server._end

    def note(prompt_id, graph):
        prompts.append([job.index for job in jobs_of(graph)])
        return end(prompt_id, graph)

    server._end = note
    return prompts


@pytest.fixture
def folder(tmp_path, make_plan):
    make_plan(tmp_path / "planes", {"x": 10})
    return tmp_path / "planes"


def test_jobs_go_in_the_order_of_the_plan(folder, make_server):
    server = make_server()
    prompts = record(server)
    assert drive(folder, [server], batch=4).counts["done"] == 10
    assert prompts == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


def test_an_image_that_fails_fails_alone(folder, make_server):
    server = make_server()
    prompts = record(server)
    with closing(States(folder)) as states:
        bad = image_key(states.plan.job(6).key, states.plan.header["workflow_digest"])
    server._fault = lambda key: "error" if key == bad else None
    found = drive(folder, [server], batch=4, attempts=2)
    assert [idx for idx, _ in found.failures] == [6] and found.counts["done"] == 9
    assert sorted(prompts) == [[0, 1, 2, 3], [4, 5], [4, 5, 6, 7], [6], [6], [6, 7], [7], [8, 9]]


def test_a_run_that_was_cut_makes_the_same_prompts(folder, make_server):
    server = make_server(faults=("die between",))
    prompts, cut = record(server), []
    server._fault = lambda key: "die between" if not cut else None

    def stop(run):
        if server.prompts:
            cut.append(1)
            run.stopping.set()

    drive(folder, [server], stop, batch=4)
    assert drive(folder, [server], batch=2).counts["done"] == 10
    # Those of the first two prompts go together again, although two jobs are done; then the new size holds.
    assert prompts == [[0, 1, 2, 3], [0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert manifest_rows(folder)[1] == 10


def test_a_server_that_makes_nothing_does_not_divide_what_others_can_make(folder, make_server):
    broken, good = make_server(), make_server(seconds=0.02)
    broken.always = "error"
    found = drive(folder, [broken, good], batch=4)
    assert found.counts["done"] == 10 and sorted(good.prompts) == [2, 4, 4] and not found.failures


def test_a_limit_is_kept(folder, make_server):
    assert drive(folder, [make_server()], batch=4, limit=6).counts["done"] == 6


def test_a_quota_is_not_overrun(tmp_path, make_plan, make_server):
    make_plan(tmp_path / "planes", {"x": 10, "F-16A": 10}, quota={"x": 3, "F-16A": 5})
    server = make_server()
    drive(tmp_path / "planes", [server], batch=8)
    rows, _ = manifest_rows(tmp_path / "planes")
    assert len(rows) == 8 and max(server.prompts) > 1


class TestBatchSize:
    @pytest.mark.parametrize("slow_above", [1, 2, 8, 64])
    def test_it_doubles_while_that_pays(self, slow_above):
        size = BatchSize(None)
        while not size.is_found:
            size.made(size.value, max(1.0, size.value / slow_above))
        assert size.value == slow_above

    def test_it_stays_below_a_size_that_failed(self):
        size = BatchSize(None)
        for _ in range(6):
            size.made(size.value, 1.0)
        assert size.value == 8
        size.failed(8)
        assert size.value == 4 and size.is_found

    def test_one_that_is_told_does_not_change(self):
        size = BatchSize(8)
        size.failed(8)
        size.made(8, 1.0)
        assert size.value == 8 and size.is_found
