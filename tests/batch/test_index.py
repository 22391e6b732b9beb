"""The index over plan and manifest, and verdicts while several processes judge."""

import dataclasses
import os
import shutil
import sqlite3
import threading
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
import torch
from PIL import Image

from higfa_core.batch.index import Index
from higfa_core.batch.states import States
from higfa_core.commands import filter as filter_cli
from higfa_core.plans.plan import Plan
from higfa_core.plans.plan_file import HEADER, PlanFile, write_plan
from higfa_core.plans.rules import Rules
from higfa_core.plans.shards import Shard
from higfa_core.review.filtering import decide_by_hand, refilter
from higfa_core.sources.layouts import read_dataset
from higfa_core.store import rows
from higfa_core.store.manifest import Manifest
from higfa_core.store.writer import export_images, open_manifest

from .conftest import manifest_rows


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    open_manifest.cache_clear()


@pytest.fixture
def plan(tmp_path):
    """Plans over two classes of two images each into tmp_path/"set"; returns that folder."""
    for name in ("a/0", "a/1", "b/0", "b/1"):
        path = tmp_path / "real" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(path)

    def plan(replicas=1, **options):
        made = Plan(read_dataset(tmp_path / "real"), replicas)
        write_plan(tmp_path / "set", made, workflow={}, workflow_digest="", dataset_name="set", options={}, **options)
        return tmp_path / "set"

    return plan


def make(folder, numbers, masks=False, rules=Rules()):
    """The images of these jobs as Export Dataset writes them: noise, the quieter the higher the number."""
    for number in numbers:
        job = dataclasses.replace(PlanFile(folder).job(number), size=(16, 16), mask_file="mask.png" if masks else "")
        noise = torch.rand(1, 16, 16, 3, generator=torch.Generator().manual_seed(number)) / (number + 1)
        mask = torch.ones(1, 16, 16) if masks else None
        export_images(noise, folder.parent, folder.name, job=job, mask=mask, rules=rules)


def accepted(folder):
    """Numbers of the jobs whose images are accepted; every image is where its row says, and only there."""
    rows, _ = manifest_rows(folder)
    found = {path.relative_to(folder).as_posix() for path in folder.glob("*/*/*.png")}
    assert found == {row["file"] for row in rows}
    assert all(row["file"].startswith("train/" if row["accepted"] else "rejected/") for row in rows)
    return {row["plan_index"] for row in rows if row["accepted"]}


def test_a_missing_mask_is_made_again(plan):
    folder = plan()
    make(folder, range(4), masks=True)
    with closing(States(folder)) as states:
        assert states.counts()["done"] == 4
    (folder / manifest_rows(folder)[0][0]["mask"]).unlink()
    with closing(States(folder)) as states:
        assert (states.counts()["planned"], states.counts()["done"]) == (1, 3)
    shutil.rmtree(folder / "masks")
    with closing(States(folder)) as states:
        assert states.counts()["planned"] == 4
        make(folder, range(4), masks=True)
        states.ingest()
        assert all(states.is_whole(row["key"]) for row in manifest_rows(folder)[0])
    assert filter_cli.main([str(folder)]) == 0


def test_a_file_number_of_64_bits(plan, monkeypatch):
    folder, stat = plan(), Path.stat
    make(folder, range(3))

    def far(path, **options):
        info = stat(path, **options)
        return os.stat_result((info.st_mode, 2**63 + 5, *info[2:])) if path.name == "manifest.jsonl" else info

    monkeypatch.setattr(Path, "stat", far)
    for count in (3, 4):
        make(folder, range(count))
        with closing(States(folder)) as states:
            assert states.counts()["done"] == count


def test_an_index_of_an_older_version_is_built_again(plan):
    folder = plan()
    make(folder, range(3))
    with closing(sqlite3.connect(folder / "jobs.sqlite")) as old:
        old.executescript("CREATE TABLE jobs (idx, key); CREATE TABLE meta (name TEXT PRIMARY KEY, value);"
                          "INSERT INTO meta VALUES ('plan', 'other')")  # fmt: skip
    with closing(States(folder)) as states:
        assert states.counts()["done"] == 3


def test_two_drivers_that_judge_one_class_at_once(plan):
    folder = plan(20, rules=Rules(max_duplicate_bits=24))
    calm = Path(shutil.copytree(folder, folder.with_name("calm")))
    make(calm, range(80))
    States(calm).close()
    assert 4 < len(accepted(calm)) < 76
    start, crashes = threading.Barrier(2), []

    def judge(states):
        try:
            states.ingest()
            start.wait()
            for number in range(2):
                states.apply_rules(number)
        except Exception as error:
            crashes.append(error)

    with closing(States(folder)) as first, closing(States(folder)) as second:
        make(folder, range(80))
        threads = [threading.Thread(target=judge, args=(states,)) for states in (first, second)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not crashes and accepted(folder) == accepted(calm)
        assert sum(row["accepted"] for row in first.table()) == len(accepted(calm))


def test_a_filter_while_a_run_is_at_work_holds_for_the_rest_of_it(plan):
    folder = plan(3, rules=Rules(min_sharpness=1))
    make(folder, range(8))
    with closing(States(folder)) as run:
        for least in (10000, 1000, 0, 0):
            (lease,) = run.lease("server")
            if least or lease.idx == 10:
                options = [f"--min-sharpness={least}"] if least else ["--fresh"]
                assert filter_cli.main([str(folder), *options]) == 0
            make(folder, [lease.idx], rules=Rules(min_sharpness=10**9))  # the node's verdict is the driver's to revise
            run.ingest()
            run.apply_rules(lease.idx)
            run.done(lease.idx)
            scores = {row["plan_index"]: row["scores"]["sharpness"] for row in manifest_rows(folder)[0]}
            assert accepted(folder) == {number for number, score in scores.items() if score >= least}
            assert 0 < len(accepted(folder)) < len(scores) or not least
            assert run.plan.header["rules"]["min_sharpness"] == least  # what the next prompts carry
            assert sum(row["accepted"] for row in run.table()) == len(accepted(folder))


def test_a_run_waits_for_a_filter_that_is_at_work(plan, monkeypatch):
    folder, replace = plan(3, rules=Rules(min_sharpness=1)), os.replace
    make(folder, range(12))
    with closing(States(folder)) as run:
        judge = threading.Thread(target=run.apply_rules, args=(0,))

        def meanwhile(old, new):
            if Path(new).name == HEADER and judge.ident is None:  # the filter records its rules
                judge.start()
                judge.join(0.3)
                assert judge.is_alive()
            replace(old, new)

        monkeypatch.setattr(os, "replace", meanwhile)
        assert filter_cli.main([str(folder), "--min-sharpness=1000"]) == 0
        judge.join()
    rows = manifest_rows(folder)[0]
    assert accepted(folder) == {row["plan_index"] for row in rows if row["scores"]["sharpness"] >= 1000}


def test_a_plan_that_is_replaced_under_a_run_stops_it(plan):
    folder = plan(1)
    make(folder, [0])
    with closing(States(folder)) as run:
        plan(2, replace=True)
        with pytest.raises(ValueError, match="now holds another plan. Start higfa run again"):
            run.apply_rules(0)


def test_images_that_came_without_a_driver_are_judged_by_the_next_one(plan):
    folder = plan(2, rules=Rules(min_sharpness=1000))
    States(folder).close()
    make(folder, range(8))  # pressing Run: that node's rules ask nothing
    scores = {row["plan_index"]: row["scores"]["sharpness"] for row in manifest_rows(folder)[0]}
    with closing(States(folder)) as states:
        assert accepted(folder) == {number for number, score in scores.items() if score >= 1000} != set(scores)
        (folder / manifest_rows(folder)[0][0]["file"]).unlink()
        assert filter_cli.main([str(folder), "--fresh"]) == 1  # it is missing
        states.apply_rules(0)  # and ends no run


@pytest.mark.parametrize("parts", [1, 2, 3, 8])
def test_shards_deal_every_class_out_alike(parts):
    shards = [Shard(part, parts) for part in range(1, parts + 1)]
    for label in range(10):
        hands = [[number for number in range(60) if shard.has(label, number)] for shard in shards]
        assert sorted(number for hand in hands for number in hand) == list(range(60))
        assert max(map(len, hands)) - min(map(len, hands)) <= 1
        for quota in range(25):
            assert [shard.share(label, quota) for shard in shards] == [sum(n < quota for n in hand) for hand in hands]
    firsts = Counter(shard.part for label in range(24) for shard in shards if shard.has(label, 0))
    assert set(firsts.values()) == {24 // parts}  # sets with one job a class are shared out as well


@pytest.mark.parametrize("shard", [(0, 2), (3, 2)])
def test_shards_that_are_none(plan, shard):
    with pytest.raises(ValueError, match=f"got {shard[0]}/{shard[1]}"):
        States(plan(), shard)


def test_a_quota_counts_what_a_person_has_left(plan):
    folder = plan(3, quota={"a": 2, "b": 2})
    make(folder, [0, 1, 2, 3])

    def of_class_a():
        with closing(States(folder)) as index:
            index.apply_rules(0)
            (row,) = (row for row in index.table() if row["name"] == "a")
            return row["accepted"], row["surplus"]

    assert of_class_a() == (2, 4)
    first = next(row for row in open_manifest(folder).rows() if row["class_name"] == "a")
    decide_by_hand(open_manifest(folder), [(first["key"], 0)], False)
    assert of_class_a() == (1, 0)  # tries are planned again
    refilter(folder, {"min_sharpness": 1e-6})  # other rules, which the running index reads: they leave it
    assert of_class_a() == (1, 0)
    decide_by_hand(open_manifest(folder), [(first["key"], 0)], None)
    assert of_class_a() == (2, 4)


def test_status_looks_again_where_a_file_was_removed(plan):
    folder = plan()
    make(folder, range(4))
    with closing(States(folder)) as states:
        assert states.counts()["done"] == 4
    with closing(Index(folder, thorough=False)) as index:
        assert index.counts()["done"] == 4
    next((folder / "train").rglob("*.png")).unlink()
    with closing(States(folder)):  # one that runs would look itself: it is not disturbed
        next((folder / "train").rglob("*.png")).unlink()
        with closing(Index(folder, thorough=False)) as index:
            assert index.counts()["done"] == 3
    with closing(Index(folder, thorough=False)) as index:
        assert index.counts()["done"] == 3
    with closing(States(folder)) as states:  # a run always looks
        assert states.counts()["done"] == 2


@pytest.mark.parametrize("block", [1, 100, 700, 1 << 20])
def test_a_manifest_is_read_in_parts(plan, monkeypatch, block):
    folder = plan()
    make(folder, range(4))
    (folder / "manifest.jsonl").write_bytes((folder / "manifest.jsonl").read_bytes() + b'{"torn": ')
    whole = Manifest(folder).rows()
    monkeypatch.setattr(rows, "BLOCK", block)
    assert len(whole) == 4 and Manifest(folder).rows() == whole
    with closing(States(folder)) as states:
        assert states.counts()["done"] == 4
