"""The names of many classes: sent once, as a file, and no longer with every prompt."""

import json
from contextlib import closing

import pytest
from PIL import Image

from higfa_core.batch.client import Client
from higfa_core.batch.delivery import Delivery
from higfa_core.batch.options import Options
from higfa_core.batch.runner import Run
from higfa_core.batch.states import States
from higfa_core.plans.plan_file import PlanFile
from higfa_core.plans.uploads import MANY

from .conftest import manifest_rows
from .fake_comfy import jobs_of

NAMES = [f"{number:03} {'a long name, as those of species are ' * 4}".strip() for number in range(120)]


@pytest.fixture
def sources(tmp_path):
    """More names than a prompt carries, an image each."""
    for number, name in enumerate(NAMES):
        (tmp_path / "many" / name).mkdir(parents=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "many" / name / "0.png")
    return tmp_path / "many"


@pytest.fixture
def folder(tmp_path, make_plan):
    make_plan(tmp_path / "planes", dict.fromkeys(NAMES[:6], 1))
    return tmp_path / "planes"


def lists_of(server):
    return [name for name in server.uploads if name.startswith("classes-")]


@pytest.mark.parametrize("batch", [1, 4])
def test_many_names_are_sent_once_and_every_prompt_is_small(folder, make_server, batch):
    server, sizes = make_server(), []
    end = server._end

    def note(prompt_id, graph):
        sizes.append(len(json.dumps(graph)))
        assert all(list(job.classes) == NAMES for job in jobs_of(graph, server.uploads))
        return end(prompt_id, graph)

    server._end = note
    with closing(States(folder)) as states:
        Run(states, [Client(server.url)], Options(poll=0.002, batch=batch)).go(every=0.01)
        assert states.counts()["done"] == 6
    assert len(lists_of(server)) == 1 and len(json.dumps(NAMES)) > MANY > max(sizes)
    assert sorted(row["label"] for row in manifest_rows(folder)[0]) == list(range(6))


def test_a_server_that_lost_its_files_gets_the_names_again(folder, make_server):
    server, plan = make_server(), PlanFile(folder)
    delivery, (line, *_) = Delivery(Client(server.url), plan), plan.lines()
    first = delivery.graph([delivery.job(line.decode())])
    server.uploads.clear()
    assert delivery.graph([delivery.job(line.decode())]) == first and not server.uploads
    delivery.forget()
    assert delivery.graph([delivery.job(line.decode())]) == first and lists_of(server)


def test_a_list_that_is_too_large_is_named(folder, make_server):
    server, plan = make_server(), PlanFile(folder)
    server.methods, server.answer_as = ("POST",), lambda handler: handler.answer({}, 413)
    with pytest.raises(Exception, match=r"list of class names has 0\.0 MB.*--max-upload-size"):
        Delivery(Client(server.url), plan).job(next(plan.lines()).decode())
