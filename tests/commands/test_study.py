"""`higfa study` with a fake server, whose judge says what the test expects in the table."""

import csv
import json
from pathlib import Path

import pytest
import yaml
from PIL import Image
from scipy.stats import ttest_rel

from higfa_core.checking.verdict import wilson
from higfa_core.commands.study import main
from higfa_core.evaluation.study import Result, paired_p, paired_right, read_study
from higfa_core.miniature.sources import draw_sources
from higfa_core.plans.workflow import EXPORT, GUIDANCE, find_node

from ..batch.fake_comfy import FakeComfy, draw, jobs_of

WORKFLOW = Path(__file__).resolve().parents[2] / "workflows/api/miniature_augment.json"
STUDY = {
    "workflow": str(WORKFLOW),
    "source": "birds",
    "judge": "judge.safetensors",
    "images": 6,
    "seeds": [3, 4],
    "base": "contour",
    "conditions": {
        "HiGFA": {"HiGFA Guidance": {"eta": 1.0}},
        "contour": {"HiGFA_Guidance": {"eta": 0.0}},
        "few steps": {"HiGFA Guidance": {"eta": 1.0}, "HiGFA KSampler": {"steps": 3}},
    },
}


def liked(eta, key):
    """What the judge thinks of a job: the guidance repairs some and breaks some."""
    p = draw("judge", key)
    return min(1.0, p + 0.4) if eta and draw("helped", key) > 0.2 else p * (0.9 if eta else 1)


class Judged(FakeComfy):
    def _write(self, graph, count, jobs=None):
        eta = graph[find_node(graph, GUIDANCE)]["inputs"]["eta"]
        p = liked(eta, jobs_of(graph)[0].key)
        self.scores = {"judge_confidence": p, "judge_rank": 1 if p > 0.5 else 2, "contour_agreement": 0.5}
        super()._write(graph, count, jobs)


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    draw_sources(tmp_path / "birds", 2)
    server = Judged(tmp_path / "output", seconds=0)

    def run(*options, **changes):
        (tmp_path / "study.yaml").write_text(yaml.safe_dump(STUDY | changes))
        before = len(server.posted)
        words = [tmp_path / "study.yaml", tmp_path / "output/mine", "--json", "--server", server.url, "--poll", "0.002"]
        code = main([*map(str, words), *options])
        out, err = capsys.readouterr()
        return code, (json.loads(out) if out else {}), err, len(server.posted) - before

    yield run
    server.close()


def results(tmp_path):
    with (tmp_path / "output/mine/results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_every_image_is_a_row_and_differences_are_paired(call, tmp_path):
    code, said, err, sent = call()
    assert code == 0 and sent == 3 * 2 * 6 == said["rows"] == said["wanted"], err
    rows = results(tmp_path)
    groups = {name: [row for row in rows if row["condition"] == name] for name in STUDY["conditions"]}
    assert [len(found) for found in groups.values()] == [12, 12, 12]
    jobs = [[(r["plan_seed"], r["job"], r["seed"], r["class_name"]) for r in found] for found in groups.values()]
    assert jobs[0] == jobs[1] == jobs[2] and len(set(jobs[0])) == 12
    before, after = ([int(row["right"]) for row in groups[name]] for name in ("contour", "HiGFA"))
    assert {float(row["moved"]) for row in groups["contour"]} == {0.0}
    assert all(float(row["moved"]) > 0 for row in groups["HiGFA"])
    page = (tmp_path / "output/mine/study.md").read_text("utf-8")
    lines = {line.split(" | ")[0].strip("| "): line.split(" | ") for line in page.splitlines() if line[:2] == "| "}
    low, high = wilson(sum(after), 12)
    assert lines["HiGFA"][2] == f"{sum(after) / 12:.1%} ({low:.1%} to {high:.1%})"
    assert lines["HiGFA"][3].startswith(f"{100 * (sum(after) - sum(before)) / 12:+.1f} (".replace("+", r"\+"))
    assert int(lines["HiGFA"][5]) == sum(b > a for a, b in zip(before, after))
    assert int(lines["HiGFA"][6]) == sum(b < a for a, b in zip(before, after))
    assert lines["contour"][3] == "" and "of 2" in page
    for name in ("differences.png", "images.jpg"):
        assert f"![{name}]({name})" in page and Image.open(tmp_path / "output/mine" / name).width > 600


def test_it_resumes_and_grows(call, tmp_path):
    assert call(seeds=[3])[3] == 18
    first = results(tmp_path)
    code, _, _, sent = call("--table")
    assert (code, sent) == (0, 0) and results(tmp_path) == first  # a seed that was not begun has no row
    code, _, _, sent = call()
    assert (code, sent) == (0, 18)
    assert [row for row in results(tmp_path) if row["plan_seed"] == "3"] == first
    lost = next((tmp_path / "output/mine/HiGFA/seed_3/train").rglob("*.png"))
    lost.unlink()
    assert call("--table")[1]["rows"] == 35  # what is not whole is no result
    assert call()[3] == 1 and len(results(tmp_path)) == 36
    assert call(images=7)[1]["rows"] == 42


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"base": "none"}, "base 'none' is none of the conditions HiGFA, contour, few steps"),
        ({"colour": 1}, "is no study: .*colour"),
        ({"images": "many"}, r"is no study: Expected `int`, got `str` - at `\$.images`"),
        ({"seeds": [1, 1]}, "seeds different numbers"),
        ({"seeds": [-1]}, "seeds must be from 0"),
        ({"judge": "", "workflow": "unjudged.json"}, "A study needs a judge"),
        ({"conditions": {"contour": {"Guidance": {}}}}, "has 0 nodes 'Guidance', not one. It has: .*HiGFA Guidance"),
        ({"conditions": {"contour": {"HiGFA Guidance": {"etta": 1}}}}, "has no 'etta'. It has: eta"),
        ({"conditions": {"contour": {"HiGFA KSampler": {"seed": 1}}}}, "gets seed from another node"),
        ({"conditions": {"contour": {}, "same": {}}}, "'contour' and 'same' make the same images"),
    ],
)
def test_what_is_no_study_is_refused_before_anything_is_made(call, changes, fault, tmp_path):
    graph = json.loads(WORKFLOW.read_text("utf-8"))
    del graph[find_node(graph, EXPORT)]["inputs"]["judge"]
    (tmp_path / "unjudged.json").write_text(json.dumps(graph))
    code, _, err, sent = call(**changes)
    assert (code, sent) == (1, 0)
    with pytest.raises(AssertionError, match=fault):
        raise AssertionError(err)


def test_a_file_that_is_no_yaml(tmp_path):
    (tmp_path / "x.yaml").write_text("a: [")
    with pytest.raises(ValueError, match="x.yaml is no study"):
        read_study(tmp_path / "x.yaml")


def test_intervals_are_those_of_the_paired_tests():
    def row(condition, job, p):
        return Result(condition, 0, job, "a", 0, int(p > 0.5), p, None, None, None)

    base = [row("a", i, draw("a", i)) for i in range(30)]
    other = [row("b", i, min(1.0, draw("a", i) * 0.7 + 0.4 * draw("b", i))) for i in range(5, 40)]
    found, test = paired_p(base, other), ttest_rel([r.p for r in other[:25]], [r.p for r in base[5:]])
    assert found.pairs == 25
    assert (found.low, found.high) == pytest.approx(tuple(test.confidence_interval(0.95)))
    right = paired_right(base, other)
    assert right.low <= right.mean <= right.high and right.pairs == 25
