"""`higfa tune` with a fake server, whose judge likes what the test says."""

import io
import json
from pathlib import Path

import pytest
from PIL import Image

from higfa_core.commands.tune import main
from higfa_core.miniature.sources import draw_sources
from higfa_core.plans.balance import spread
from higfa_core.plans.plan_file import PlanFile
from higfa_core.plans.rules import Rules
from higfa_core.plans.workflow import EXPORT, GUIDANCE, find_node, with_values

from ..batch import fake_comfy

WORKFLOW = Path(__file__).resolve().parents[2] / "workflows/api/miniature_augment.json"
GRAPH = json.loads(WORKFLOW.read_text("utf-8"))
EXPORTING = find_node(GRAPH, EXPORT)
LIKED = {0: 0.4, 0.25: 0.45, 0.5: 0.81, 1: 0.9, 2: 0.95}  # eta -> the judge's probability


class Judged(fake_comfy.FakeComfy):
    def _write(self, graph, count, jobs=None):
        guidance, export = (graph[find_node(graph, kind)]["inputs"] for kind in (GUIDANCE, EXPORT))
        p = LIKED[guidance["eta"]]
        who = "judge_" if "judge" in export else ""
        self.scores = {f"{who}confidence": p, f"{who}rank": 1 if p > 0.5 else 2, f"{who}margin": 0.0}
        assert Rules.pick(export) == Rules()  # a pilot accepts everything
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fake_comfy, "tiny_png", lambda key: grey(guidance["eta"]))
            super()._write(graph, count, jobs)


def grey(eta):
    """An image that is the lighter the stronger the guidance was."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (int(100 + 20 * eta),) * 3).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    """higfa tune with options -> exit code, what it said as JSON or the error, and how many prompts it sent."""
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    draw_sources(tmp_path / "birds", 2)
    server = Judged(tmp_path / "output", seconds=0)

    def run(*options, workflow=WORKFLOW):
        before = len(server.posted)
        words = [tmp_path / "output/pilot", "--workflow", workflow, "--source", tmp_path / "birds", "--json", *options]
        code = main([*map(str, words), "--server", server.url, "--poll", "0.002"])
        out, err = capsys.readouterr()
        return code, (json.loads(out) if out else {}), err, len(server.posted) - before

    yield run
    server.close()


def test_the_gentlest_setting_is_written_into_the_workflow(call, tmp_path):
    judged = ("--judge", "judge.safetensors", "--jobs", "4")
    code, said, err, sent = call(*judged, "--target", "0.8", "--write", str(tmp_path / "tuned.json"))
    assert code == 0 and sent == 20, err
    assert said["chosen"] == {"eta": 0.5} and said["judged_by"] == "judge"
    assert [(row["eta"], row["probability"]) for row in said["settings"]] == sorted(LIKED.items())
    assert [row["moved"] for row in said["settings"]] == [0, 5, 10, 20, 40]
    assert [row["repaired"] for row in said["settings"]] == [0, 0, 4, 4, 4]
    written = json.loads((tmp_path / "tuned.json").read_text("utf-8"))
    assert written[find_node(written, GUIDANCE)]["inputs"]["eta"] == 0.5
    assert "flatters" not in err and "Take eta 0.5" in err
    assert Image.open(said["picture"]).width > 1000
    plans = [PlanFile(tmp_path / f"output/pilot/eta_{eta:g}") for eta in LIKED]
    seeds = [[plan.parse(line).seed for line in plan.lines()] for plan in plans]
    assert all(found == seeds[0] for found in seeds) and len(set(seeds[0])) == 4
    assert len({plan.header["workflow_digest"] for plan in plans}) == 5
    # Again: nothing is made twice, and another target is answered from what is there.
    code, said, _, sent = call(*judged, "--target", "0.93")
    assert (code, said["chosen"], sent) == (0, {"eta": 2.0}, 0)


def without(*names):
    """The workflow without these inputs of Export Dataset."""
    inputs = {k: v for k, v in GRAPH[EXPORTING]["inputs"].items() if k not in names}
    return {**GRAPH, EXPORTING: {**GRAPH[EXPORTING], "inputs": inputs}}


def test_the_judge_of_the_workflow_is_asked(call):
    code, said, err, _ = call("--jobs", "2", "--eta", "1")
    assert code == 0 and said["judged_by"] == "judge" and "flatters" not in err


def test_a_guide_alone_is_told_that_it_flatters(call, tmp_path):
    (tmp_path / "alone.json").write_text(json.dumps(without("judge")), "utf-8")
    code, said, err, _ = call("--jobs", "2", "--eta", "1", workflow=tmp_path / "alone.json")
    assert code == 0 and said["judged_by"] == "guide" and "flatters its own images" in err
    code, _, err, _ = call("--jobs", "2", "--eta", "1", "--judge", "judge.safetensors")
    assert code == 1 and "was made without a judge" in err


def test_starts_are_tried_with_every_eta(call):
    _, said, _, sent = call("--jobs", "2", "--eta", "0.5", "1", "--start-percent", "0.6", "0.8")
    points = [(row["eta"], row["start_percent"]) for row in said["settings"]]
    assert points == [(0, 0.8), (0.5, 0.8), (0.5, 0.6), (1, 0.8), (1, 0.6)] and sent == 10


def test_too_many_images_and_what_cannot_be_tuned_are_refused_before_anything_is_made(call, tmp_path):
    code, _, err, sent = call("--jobs", "13")
    assert (code, sent) == (1, 0) and "5 settings of 13 images are more than 64. Use --jobs 12" in err
    code, _, err, _ = call("--eta", "11")
    assert code == 1 and "Invalid eta: 11" in err
    linked = with_values(GRAPH, GUIDANCE, {"eta": ["2", 4]})
    (tmp_path / "linked.json").write_text(json.dumps(linked), "utf-8")
    code, _, err, _ = call(workflow=tmp_path / "linked.json")
    assert code == 1 and "gets eta from another node" in err
    (tmp_path / "blind.json").write_text(json.dumps(without("classifier", "judge")), "utf-8")
    code, _, err, sent = call(workflow=tmp_path / "blind.json")
    assert (code, sent) == (1, 0) and "neither a judge nor a classifier" in err


@pytest.mark.parametrize(("jobs", "used"), [(1, 1), (5, 5), (16, 16), (20, 16)])
def test_pilots_are_spread_over_the_classes(jobs, used):
    counts = spread({f"class {i}": 3 for i in range(16)} | {"empty": 0}, jobs)
    assert sum(counts.values()) == jobs and sum(map(bool, counts.values())) == used
    assert max(counts.values()) - min(c for c in counts.values() if c) <= 1
