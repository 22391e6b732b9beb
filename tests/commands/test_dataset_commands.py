"""`higfa plan`, `run`, `status`, `filter` and `export` as they are typed."""

import json
import os
import re
import shutil
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from PIL import Image

from higfa_core.batch.states import States
from higfa_core.commands import main as cli
from higfa_core.plans.templates import TITLES
from higfa_core.store.manifest import Manifest
from higfa_core.wording import counted

from ..batch.conftest import manifest_rows
from ..batch.fake_comfy import FakeComfy

WORKFLOWS = Path(__file__).parents[2] / "workflows"
WORKFLOW = WORKFLOWS / "api" / "miniature_augment.json"
REAL = {"Auk": 2, "Gull": 3, "Tern": 5}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def birds(tmp_path):
    """2, 3 and 5 training images, one for validation."""
    paths = [f"train/{name}/{i}.png" for name, count in REAL.items() for i in range(count)]
    for number, path in enumerate([*paths, "val/Auk/0.png"]):
        (tmp_path / "birds" / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (number, 0, 0)).save(tmp_path / "birds" / path)
    return tmp_path / "birds"


@pytest.fixture
def server(tmp_path):
    fake = FakeComfy(tmp_path / "server", seconds=0)
    yield fake
    fake.close()


@pytest.fixture
def higfa(capsys):
    """Runs a command line; returns exit code, stdout, stderr."""

    def higfa(*words):
        capsys.readouterr()
        try:
            code = cli.main([str(word) for word in words])
        except SystemExit as stop:
            code = stop.code
        return code, *capsys.readouterr()

    return higfa


@pytest.fixture
def plan(higfa, birds, tmp_path):
    """Plans into tmp_path/"out" and returns (stdout, header, jobs); every image is accepted if nothing else is said."""

    def plan(*options, source=birds, rules=("--min-judge-confidence", "0")):
        code, out, err = higfa("plan", tmp_path / "out", "--workflow", WORKFLOW, "--source", source, *rules, *options)
        assert (code, err) == (0, "") or "--pilot" in options, err
        header = json.loads((tmp_path / "out" / "plan.json").read_text("utf-8"))
        return out, header, [json.loads(line) for line in (tmp_path / "out" / "plan.jsonl").open(encoding="utf-8")]

    return plan


@pytest.fixture
def run(higfa, server, tmp_path):
    """Runs tmp_path/"out" to a good end; returns the rows that count then."""

    def run(*options, code=0):
        found = higfa("run", tmp_path / "out", "--server", server.url, "--poll", "0.002", *options)
        assert found[0] == code, found
        return manifest_rows(tmp_path / "out")[0]

    return run


def content(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def images(folder):
    """Everything but the index over the manifest, which any command may make."""
    return {name: data for name, data in content(folder).items() if "sqlite" not in name}


@pytest.mark.parametrize(
    ("options", "counts", "quota"),
    [
        ("", (2, 3, 5), None),
        ("--replicas 3", (6, 9, 15), None),
        ("--per-class 4", (4, 4, 4), None),
        ("--fill-to 4", (2, 1, 0), None),
        ("--fill-to 5 --only-rare 3", (3, 0, 0), None),
        ("--replicas 2 --only-rare 5", (4, 6, 0), None),
        ("--per-class 2 --accepted", (6, 6, 6), (2, 2, 2)),
        ("--fill-to 4 --accepted --max-tries 5", (10, 5, 0), (2, 1, 0)),
    ],
)
def test_how_many(plan, options, counts, quota):
    out, header, jobs = plan(*options.split())
    assert header["counts"] == dict(zip(REAL, counts)) and header["quota"] == (quota and dict(zip(REAL, quota)))
    assert Counter(job["class_name"] for job in jobs) == {n: c for n, c in zip(REAL, counts) if c}
    assert f"jobs: {sum(counts)} in {counted(sum(map(bool, counts)), 'class')}" in out
    assert (f"{sum(quota)} accepted images" in out) if quota else "accepted" not in out
    assert not any(path.startswith("val") for job in jobs for path in (job["source"], job["contour_source"]))


def test_prompts_from_options_files_and_lists(plan, tmp_path):
    (tmp_path / "prompts.txt").write_text("# studio\n\n{class} by {background}, {style}\n", "utf-8")
    (tmp_path / "styles.txt").write_text("oil\nink, wet\n", "utf-8")
    _, header, jobs = plan(
        *("--replicas", 30, "--prompt", "a {class}", "--prompt", "a {super}: {class}", "--super", "bird"),
        *("--prompts", tmp_path / "prompts.txt", "--backgrounds", f"the sea, {'x' * 300}", "--styles"),
        tmp_path / "styles.txt",
    )
    styled = {f"Auk by {place}, {style}" for place in ("the sea", "x" * 300) for style in ("oil", "ink, wet")}
    wanted = {"a Auk", "a bird: Auk", *styled}
    assert {job["prompt"] for job in jobs if job["class_name"] == "Auk"} == wanted
    assert header["options"]["super"] == "bird" and header["options"]["prompt"] == ["a {class}", "a {super}: {class}"]


def test_super_class_of_the_layout_and_its_options(plan, miniature_layout, tmp_path):
    cub = miniature_layout("cub", tmp_path / "a")
    _, header, jobs = plan("--prompt", "{class}, a {super}", source=cub)
    assert {job["prompt"] for job in jobs} == {"Black footed Albatross, a bird", "Laysan Albatross, a bird"}
    _, _, jobs = plan("--prompt", "{class}, a {super}", "--super", "fowl", "--replace", source=cub)
    assert {job["prompt"] for job in jobs} == {"Black footed Albatross, a fowl", "Laysan Albatross, a fowl"}
    planes = miniature_layout("aircraft", tmp_path / "b")
    _, header, jobs = plan("--layout-option", "level=family", "--layout", "aircraft", "--replace", source=planes)
    assert [about["name"] for about in header["classes"]] == ["Boeing 707", "F-16", "F/A-18"]
    _, header, jobs = plan("--layout-option", "split=trainval", "--replace", source=planes)
    assert len(jobs) == 6 and [about["name"] for about in header["classes"]] == ["707-320", "F-16A/B", "F/A-18"]


def test_contour_seed_and_licences(plan, run, higfa, miniature_layout, tmp_path):
    _, header, same = plan()
    assert header["licences"] == {"sources": "", "checkpoint": ""}
    assert all(job["contour_source"] == job["source"] for job in same)
    said = ("--source-license", "mine alone", "--checkpoint-license", "OpenRAIL-M")
    _, header, other = plan("--contour-from", "other", "--plan-seed", 7, *said, "--replace")
    for job in other:
        assert job["contour_source"] != job["source"]
        assert job["contour_source"].split("/")[1] == job["source"].split("/")[1] == job["class_name"]
    assert not {job["seed"] for job in same} & {job["seed"] for job in other}
    assert header["licences"] == {"sources": "mine alone", "checkpoint": "OpenRAIL-M"}
    run()
    assert higfa("export", tmp_path / "out", "--out", tmp_path / "e", "--format", "coco")[0] == 0
    card = (tmp_path / "e" / "README.md").read_text("utf-8")
    assert "mine alone" in card and "OpenRAIL-M" in card
    _, header, _ = plan("--replace", source=miniature_layout("hugging_face", tmp_path))
    assert header["licences"]["sources"] == "cc-by-4.0"


RULES = {
    "min_confidence": 0.1,
    "require_top1": True,
    "min_margin": 0.2,
    "min_judge_confidence": 0.3,
    "min_contour_agreement": 0.6,
    "min_sharpness": 50.0,
}


def test_rules_of_the_workflow_are_the_plans(higfa, birds, tmp_path):
    graph = json.loads(WORKFLOW.read_text("utf-8"))
    (export,) = [about["inputs"] for about in graph.values() if about["class_type"] == "HiGFA_ExportDataset"]
    export |= RULES

    def rules(*options):
        (tmp_path / "w.json").write_text(json.dumps(graph))
        words = ("--workflow", tmp_path / "w.json", "--source", birds, "--replace", *options)
        code, _, err = higfa("plan", tmp_path / "out", *words)
        return json.loads((tmp_path / "out" / "plan.json").read_text("utf-8"))["rules"] if code == 0 else err

    others = {"require_judge_top1": False, "min_judge_margin": 0.0, "max_duplicate_bits": -1}
    assert rules() == RULES | others
    changed = {"require_top1": False, "min_sharpness": 0.0, "min_judge_margin": 0.4}
    given = ("--no-require-top1", "--min-sharpness", 0, "--min-judge-margin", 0.4)
    assert rules(*given) == RULES | others | changed
    export["min_sharpness"] = ["7", 0]
    assert "gets min_sharpness from another node" in rules() and "Add --min-sharpness" in rules()
    assert rules("--min-sharpness", 9)["min_sharpness"] == 9


def test_a_guide_that_accepts_its_own_images_is_told_so_and_a_judge_is_planned(plan, higfa, server, tmp_path):
    out, header, jobs = plan("--replicas", "1")
    assert "no evidence" not in out  # nobody accepts
    out, _, _ = plan("--replicas", "1", "--replace", rules=("--min-confidence", "0.5", "--min-judge-confidence", "0"))
    assert out.count("accepted by the guide that steered the images: its probability is no evidence") == 1
    code, out, _ = higfa("run", tmp_path / "out", "--server", server.url, "--poll", "0.002")
    assert code == 0 and out.count("no evidence after guidance") == 1
    out, judged, same = plan(
        *("--replicas", "1", "--replace", "--judge", "judge.safetensors", "--min-judge-confidence", "0.5"),
        *("--keep-judge-share", "0.9"),
    )
    assert "no evidence" not in out and same == jobs and judged["workflow_digest"] == header["workflow_digest"]
    assert judged["rules"] == header["rules"] | {"min_judge_confidence": 0.5, "keep_judge_share": 0.9}
    nodes = judged["workflow"].keys() - header["workflow"].keys()
    assert [judged["workflow"][node]["inputs"]["classifier_name"] for node in nodes] == ["judge.safetensors"]


def test_a_class_without_training_images(plan, run, higfa, tmp_path):
    rows = ["path,label,split", "1.png,1,train", "2.png,2,val", "3.png,3,train"]
    (tmp_path / "table").mkdir()
    for number in "123":
        Image.new("RGB", (8, 8), (int(number), 0, 0)).save(tmp_path / "table" / f"{number}.png")
    (tmp_path / "table" / "t.csv").write_text("\n".join(rows))
    out, header, _ = plan("--fill-to", 3, source=tmp_path / "table")
    assert header["counts"] == {"1": 2, "2": 0, "3": 2} and "labels were renumbered: 1 -> 0, 2 -> 1, 3 -> 2" in out
    assert {row["class_name"]: row["label"] for row in run()} == {"1": 0, "3": 2}
    assert higfa("status", tmp_path / "out")[0] == 0
    assert higfa("export", tmp_path / "out", "--out", tmp_path / "e", "--format", "imagefolder")[0] == 0
    assert json.loads((tmp_path / "e" / "class_to_idx.json").read_text()) == {"1": 0, "2": 1, "3": 2}


def test_dry_run_writes_nothing(higfa, birds, tmp_path):
    before = content(tmp_path)
    words = ("--workflow", WORKFLOW, "--source", birds, "--replicas", 2, "--dry-run")
    code, out, err = higfa("plan", tmp_path / "out", *words)
    assert (code, err) == (0, "") and content(tmp_path) == before and not (tmp_path / "out").exists()
    assert "jobs: 20 in 3 classes, 4 to 10 per class" in out and "held out and never used: 1" in out
    assert "'a photo of an Auk'" in out and "no plan was written" in out


def test_pilot_estimates_and_the_run_resumes_it(plan, run, server, tmp_path):
    out, _, _ = plan("--replicas", 30, "--pilot", 4, "--server", server.url)
    assert "4 of 300, 4 of 4 images accepted" in out and "4 images in" in out and "left at this rate" in out
    rows, _ = manifest_rows(tmp_path / "out")
    size = sum(row["bytes"] for row in rows) / 4
    assert f"{size / 1024:.0f} KiB per image, {size * 300 / 1024**3:.2f} GiB for 300 jobs" in out
    assert sorted(row["plan_index"] for row in rows) == [0, 1, 2, 3]
    plan("--replicas", 2, "--replace")
    assert len(run()) >= 20 and len(server.posted) == 20  # the first of each class are the same jobs


def test_the_same_plan_again_another_plan_and_replace(plan, run, higfa, server, birds, tmp_path):
    plan("--per-class", 2)
    before = {row["key"]: row for row in run()}
    kept = images(tmp_path / "out")
    plan("--per-class", 2)
    assert images(tmp_path / "out") == kept
    words = ("plan", tmp_path / "out", "--workflow", WORKFLOW, "--source", birds, "--min-judge-confidence", 0)
    code, _, err = higfa(*words, "--per-class", 3)
    assert code == 1 and "holds another plan (other" in err and "--replace" in err and err.count("\n") == 1
    assert images(tmp_path / "out") == kept
    plan("--per-class", 3, "--replace")
    after = {row["key"]: row for row in run()}
    assert len(after) == 9 == len(server.posted) and before.items() <= after.items()
    plan("--per-class", 1, "--accepted", "--max-tries", 3, "--replace")  # the same jobs, fewer wanted
    assert "\n3 of 3 accepted images" in higfa("status", tmp_path / "out")[1]
    plan("--per-class", 4, "--accepted", "--max-tries", 2, "--replace")
    assert Counter(row["class_name"] for row in run()) == dict.fromkeys(REAL, 4)


def test_more_wanted_of_the_same_jobs(plan, run, server):
    plan("--per-class", 1, "--accepted", "--max-tries", 3)
    assert len(run()) == 3
    plan("--per-class", 3, "--replace")
    assert len(run()) == 9 == len(server.posted)


def flawed(tmp_path, flaw):
    graph = json.loads(WORKFLOW.read_text("utf-8"))
    (job,) = [node for node, about in graph.items() if about["class_type"] == "HiGFA_DatasetJob"]
    (export,) = [node for node, about in graph.items() if about["class_type"] == "HiGFA_ExportDataset"]
    if flaw in ("no job", "no export"):
        del graph[job if flaw == "no job" else export]
    elif flaw == "two exports":
        graph["99"] = graph[export]
    elif flaw == "no labels":
        del graph[export]["inputs"]["job"]
    elif flaw == "no images":
        del graph[export]["inputs"]["images"]
    elif flaw == "other images":
        graph[export]["inputs"]["images"] = ["1", 0]
    text = {"no JSON": "{", "a list": "[1]", "half": '{"1": {"class_type": "X"}}'}.get(flaw) or json.dumps(graph)
    (tmp_path / "flawed.json").write_text(text)
    return tmp_path / "flawed.json"


@pytest.mark.parametrize(
    ("flaw", "message"),
    [
        ("no job", "must have one HiGFA_DatasetJob node, but has 0"),
        ("no export", "must have one HiGFA_ExportDataset node, but has 0"),
        ("two exports", "must have one HiGFA_ExportDataset node, but has 2"),
        ("no labels", "Connect Dataset Job's job output"),
        ("no images", "Connect the images"),
        ("other images", "do not depend on Dataset Job"),
        ("no JSON", "Cannot read the workflow"),
        ("a list", "not a workflow in API format. Export it with File > Export"),
        ("half", "not a workflow in API format. Export it with File > Export"),
    ],
)
def test_workflows_that_cannot_be_planned(higfa, birds, tmp_path, flaw, message):
    check_refused(higfa("plan", tmp_path / "out", "--source", birds, "--workflow", flawed(tmp_path, flaw)), message)
    assert not (tmp_path / "out").exists()


def check_refused(answer, message):
    code, _, err = answer
    assert code == 1 and err.startswith("error: ") and err.count("\n") == 1, answer
    assert re.search(message, err)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ["--workflow", WORKFLOWS / f"{TITLES['miniature_augment']}.json"],
            r"in the canvas format.*File > Export \(API\)",
        ),
        (["--workflow", "absent.json"], "Cannot read the workflow absent.json"),
        (["--source", "absent"], "No dataset folder"),
        (["--source", "SOURCE/val"], "'val' is a validation or test split"),
        (["--source", "SOURCE/train/Auk"], "No class folders"),
        (["--replicas", 0], "Invalid replicas: 0. Choose a whole number from 1 to 100,000"),
        (["--per-class", -3], "Invalid per_class: -3"),
        (["--max-tries", 0], "Invalid max_tries: 0"),
        (["--fill-to", 2], "every class has enough real images"),
        (["--only-rare", 2], "every class has enough real images"),
        (["--prompt", "a bird"], "names no class"),
        (["--prompt", "a {class"], "Write a literal brace twice"),
        (["--prompt", "a {species}"], r"unknown placeholder: \{species\}. Use \{class\}"),
        (["--prompt", "{class}, a {super}"], "'Auk' has no super-class"),
        (["--prompt", "{class} at {background}"], "no backgrounds are given"),
        (["--styles", "oil,ink"], "no prompt has {style}"),
        (["--prompts", "absent.txt"], "Cannot read the list absent.txt"),
        (["--prompts", os.devnull], "has no entries"),
        (["--layout", "tiles"], "No layout 'tiles'. Choose auto"),
        (["--layout", "cub"], "No CUB-200-2011 set in"),
        (["--layout-option", "level=family"], "has no option 'level'"),
        (["--min-confidence", 2], "Invalid min_confidence: 2.0"),
        (["--max-duplicate-bits", 65], "Invalid max_duplicate_bits: 65. Choose a whole number from -1 to 64"),
        (["--pilot", 1, "--server", "nowhere:1"], "A server must be http://HOST"),
    ],
)
def test_bad_input_is_one_clear_line(higfa, birds, tmp_path, options, message):
    options = [str(option).replace("SOURCE", str(birds)) for option in options]
    words = ("plan", tmp_path / "out", "--workflow", WORKFLOW, "--source", birds, *options)
    check_refused(higfa(*words), message)
    assert not (tmp_path / "out").exists()


def test_other_bad_input(higfa, birds, tmp_path):
    check_refused(higfa("plan", tmp_path / "out", "--workflow", WORKFLOW), "Add --source FOLDER, or --input-dir")
    shutil.copy(birds / "train" / "Auk" / "0.png", tmp_path / "file")
    words = ("plan", tmp_path / "file", "--workflow", WORKFLOW, "--source", birds)
    check_refused(higfa(*words), "file")
    for path in sorted((birds / "train" / "Auk").iterdir())[1:]:
        path.unlink()
    words = ("plan", tmp_path / "out", *words[2:])
    check_refused(higfa(*words, "--contour-from", "other"), "'Auk' has one image")
    assert not (tmp_path / "out").exists()
    for options in (["--replicas", 1, "--per-class", 2], ["--pilot", 0], ["--layout-option", "x"]):
        code, _, err = higfa(*words, *options)
        assert code == 2 and str(options[0]) in err and err.count("\n") == 1
    for command in ("run", "status", "filter", "export"):
        more = ("--out", tmp_path / "e", "--format", "coco") if command == "export" else ()
        code, out, err = higfa(command, tmp_path / "out", *more)
        assert code == 1 and err.count("\n") == 1 and str(tmp_path / "out") in err and not out
    assert higfa("run", tmp_path / "out", "--shard", "3/2")[0] == 2


def table(text):
    """Class -> its numbers, of what `higfa status` prints."""
    cells = [line.split() for line in text.splitlines()]
    return {row[0]: [int(cell) for cell in row[1:]] for row in cells if len(row) == 7 and row[1].isdigit()}


def test_status_with_and_without_a_plan(plan, run, higfa, tmp_path):
    plan("--fill-to", 4)
    assert table(higfa("status", tmp_path / "out")[1]) == {
        "Auk": [2, 0, 0, 2, 0, 0],
        "Gull": [1, 0, 0, 1, 0, 0],
        "total": [3, 0, 0, 3, 0, 0],
    }
    rows = run("--limit", 2)  # the classes take turns
    code, out, err = higfa("status", tmp_path / "out")
    assert (code, err) == (0, "") and table(out)["Auk"] == [2, 1, 1, 1, 0, 0] and "2 of 3 jobs" in out
    (tmp_path / "out" / rows[0]["file"]).unlink()
    assert table(higfa("status", tmp_path / "out")[1])["total"] == [3, 1, 1, 2, 0, 0]
    run()
    (tmp_path / "out" / "plan.json").unlink()
    _, out, _ = higfa("status", tmp_path / "out")
    assert [line.split() for line in out.splitlines()] == [
        line.split() for line in ("class written accepted", "Auk 2 2", "Gull 1 1", "total 3 3")
    ]


def test_status_says_whether_a_run_is_at_work_and_how_fast(plan, run, higfa, tmp_path):
    folder = tmp_path / "out"
    plan("--per-class", 2)
    assert f"stopped. To resume: higfa run {folder}" in higfa("status", folder)[1]
    run("--limit", 4)
    rows = [json.loads(line) for line in (folder / "manifest.jsonl").open(encoding="utf-8")]
    for minute, row in enumerate(rows):
        row["created"] = f"2026-01-01T00:{minute:02}:00+00:00"
    (folder / "manifest.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    with closing(States(folder)):  # as a run that is at work
        assert "running, 60 images per hour, 2 min left" in higfa("status", folder)[1]
        found = json.loads(higfa("status", folder, "--json")[1])
    assert found["running"] and found["images_per_hour"] == 60 and (found["done"], found["goal"]) == (4, 6)
    assert "stopped" in higfa("status", folder)[1]
    run()
    assert higfa("status", folder)[1].endswith("complete\n")


def test_results_as_json(birds, higfa, server, tmp_path):
    folder = tmp_path / "out"

    def result(*words):
        code, out, err = higfa(*words, "--json")
        assert code == 0 and out.count("\n") == 1
        return json.loads(out), err

    asked = ("plan", folder, "--workflow", WORKFLOW, "--source", birds, "--min-judge-confidence", 0, "--per-class", 2)
    planned, _ = result(*asked, "--dry-run")
    assert not planned["written"] and not folder.exists()
    planned, err = result(*asked)
    assert planned["jobs"] == 6 and planned["classes"]["Tern"] == {"images": 5, "jobs": 2, "quota": None}
    assert f"To run it: higfa run {folder}" in err
    ran, err = result("run", folder, "--server", server.url, "--poll", "0.002", "--quiet")
    assert (ran["done"], ran["goal"], ran["accepted"], ran["failed"], ran["below_quota"]) == (6, 6, 6, [], [])
    assert "6 of 6" in err and "per hour" not in err  # quiet: no progress
    status, err = result("status", folder)
    assert [row["name"] for row in status["classes"]] == list(REAL) and not status["running"] and "total" in err
    exported, _ = result("export", folder, "--out", tmp_path / "e", "--format", "imagefolder")
    assert exported["classes"] == {name: {"synthetic": 2, "real": 0} for name in REAL}
    assert exported["folder"] == str(tmp_path / "e")
    filtered, _ = result("filter", folder, "--min-confidence", 2 / 3)
    counts = filtered["accepted_now"], filtered["rejected_now"], filtered["others"]
    assert filtered["rules"] == {"min_confidence": 2 / 3} and sum(filtered["outcomes"].values()) == 6
    assert counts == (0, filtered["outcomes"]["confidence"], 0)
    assert result("filter", folder, "--fresh")[0]["accepted_now"] == counts[1]
    report, _ = result("report", folder)
    assert Path(report["report"]).is_file() and (report["planned"], report["written"], report["accepted"]) == (6, 6, 6)


def near(row, earlier, bits):
    return any(bin(int(row["scores"]["phash"], 16) ^ int(e["scores"]["phash"], 16)).count("1") <= bits for e in earlier)


def judged(rows, least=0.0, bits=-1):
    """Keys that pass, by hand: classes in plan order, duplicates of any that passed the rest."""
    good, passed = set(), {}
    for row in sorted(rows, key=lambda row: row["plan_index"]):
        if row["scores"]["confidence"] >= least:
            if not near(row, passed.setdefault(row["class_name"], []), bits):
                good.add(row["key"])
            passed[row["class_name"]].append(row)
    return good


def bits_of_some(rows, least):
    """The smallest `--max-duplicate-bits` that takes some away: the images are random, and others for each workflow."""
    return next(bits for bits in range(64) if len(judged(rows, least, bits)) < len(judged(rows, least)))


def accepted(folder):
    """Keys that are accepted; every image is where its row says, with the score and rule that decided."""
    rows, _ = manifest_rows(folder)
    assert {name for name in content(folder) if name.endswith(".png")} == {row["file"] for row in rows}
    for row in rows:
        assert row["file"].startswith("train/" if row["accepted"] else "rejected/")
        assert row["accepted"] or row["reason"]
    return {row["key"] for row in rows if row["accepted"]}


def test_filter(plan, run, higfa, tmp_path):
    plan("--replicas", 4)
    rows, folder = run(), tmp_path / "out"
    bits = bits_of_some(rows, 0.4)
    assert len(accepted(folder)) == 40 and 0 < len(judged(rows, 0.4, bits)) < len(judged(rows, 0.4)) < 40
    before = images(folder)
    code, out, _ = higfa("filter", folder, "--min-confidence", 0.4, "--dry-run")
    assert code == 0 and images(folder) == before
    assert f"{40 - len(judged(rows, 0.4))} would change: 0 accepted now" in out
    assert higfa("filter", folder, "--min-confidence", 0.4)[0] == 0
    assert accepted(folder) == judged(rows, 0.4)
    assert higfa("filter", folder, "--max-duplicate-bits", bits)[0] == 0  # on top
    assert accepted(folder) == judged(rows, 0.4, bits)
    run()  # by the same rules: nothing to do, nothing undone
    assert accepted(folder) == judged(rows, 0.4, bits)
    assert higfa("filter", folder, "--fresh", "--min-confidence", 0.7)[0] == 0
    assert accepted(folder) == judged(rows, 0.7)
    for row in manifest_rows(folder)[0]:
        if not row["accepted"]:
            score = row["scores"]["confidence"]
            assert row["reason"] == f"confidence {score:.4g} is below 0.7" and row["rules"] == {"min_confidence": 0.7}
    assert higfa("filter", folder, "--fresh")[0] == 0
    assert len(accepted(folder)) == 40 and images(folder).keys() == before.keys()
    check_refused(higfa("filter", folder, "--min-margin", 0.1), "The rules need margin, which come from a classifier")
    check_refused(higfa("filter", folder, "--min-confidence", 2), "Invalid min_confidence")
    (folder / rows[0]["file"]).unlink()
    check_refused(higfa("filter", folder, "--min-confidence", 0.4), "Missing: 1 file")
    assert len(manifest_rows(folder)[0]) == 40 == sum(row["accepted"] for row in manifest_rows(folder)[0])


def test_filters_of_a_dataset_from_the_canvas_add_up(plan, run, higfa, tmp_path):
    plan("--replicas", 4)
    rows, folder = run(), tmp_path / "out"
    Manifest(folder).start(tuple(REAL))
    for name in ("plan.json", "plan.jsonl"):
        (folder / name).unlink()
    bits = bits_of_some(rows, 0.4)
    assert higfa("filter", folder, "--min-confidence", 0.4)[0] == 0
    assert higfa("filter", folder, "--max-duplicate-bits", bits)[0] == 0
    assert accepted(folder) == judged(rows, 0.4, bits)
    assert higfa("export", folder, "--out", tmp_path / "e", "--format", "imagefolder")[0] == 0


def test_a_filter_reopens_a_quota_and_the_next_run_fills_it_by_the_new_rule(plan, run, higfa, server, tmp_path):
    _, _, jobs = plan("--per-class", 2, "--accepted", "--max-tries", 8)
    assert len(run()) == 6
    assert higfa("filter", tmp_path / "out", "--min-confidence", 0.6)[0] == 0
    few = len(accepted(tmp_path / "out"))
    assert few < 6
    rows = run()
    assert accepted(tmp_path / "out") == judged(rows, 0.6)
    assert Counter(row["class_name"] for row in rows if row["accepted"]) == dict.fromkeys(REAL, 2)
    for name in REAL:  # no more tries than were needed: the last one made is the second that passes
        made = [row for row in sorted(rows, key=lambda row: row["plan_index"]) if row["class_name"] == name]
        assert made[-1]["accepted"] or len(made) == 2
    assert len(server.posted) == len(rows) < len(jobs)
    assert higfa("filter", tmp_path / "out", "--min-confidence", 1)[0] == 0
    assert len(run(code=1)) == len(jobs)  # all tries used, and said so
    _, _, err = higfa("run", tmp_path / "out", "--server", server.url)
    assert "classes below their quota: Auk, Gull, Tern; all tries are used" in err


def test_two_shards_are_one_dataset(plan, higfa, server, tmp_path):
    _, _, jobs = plan("--replicas", 3)
    parts = []
    for shard in ("1/2", "2/2"):
        code, out, _ = higfa("run", tmp_path / "out", "--server", server.url, "--poll", "0.002", "--shard", shard)
        parts.append(int(re.search(r"(\d+) of \1, ", out)[1]))
    assert sum(parts) == 30 and min(parts) > 5
    rows, _ = manifest_rows(tmp_path / "out")
    assert sorted(row["plan_index"] for row in rows) == list(range(30)) and len(server.posted) == 30
    assert "30 of 30 jobs" in higfa("status", tmp_path / "out")[1]
    code, out, _ = higfa("export", tmp_path / "out", "--out", tmp_path / "e", "--format", "imagefolder")
    assert code == 0 and "30 images of 3 classes" in out
    found = Counter(path.parent.name for path in (tmp_path / "e" / "train").rglob("*.png"))
    assert found == {name: 3 * count for name, count in REAL.items()}


def test_exports_of_a_replaced_plan_are_its_own_images(plan, run, higfa, server, tmp_path):
    folder, prompts = tmp_path / "out", ("WRONG {class}", "a {class}")
    plan("--prompt", prompts[0], "--per-class", 2)
    wrong = {row["key"] for row in run()}
    _, header, jobs = plan("--prompt", prompts[1], "--per-class", 1, "--replace")
    export = ("export", folder, "--format", "imagefolder", "--out")
    check_refused(
        higfa(*export, tmp_path / "e"), r"No accepted image in .* but 6 of other plans \(--all-images includes"
    )
    right = {row["key"] for row in run()} - wrong
    code, out, _ = higfa("status", folder)
    assert code == 0 and "3 of 3 jobs" in out and "6 accepted images of other plans" in out

    def exported(*options):
        code, out, err = higfa(*export, tmp_path / "e", "--replace", *options)
        assert (code, err) == (0, "")
        assert ("left out: 6 accepted images of other plans" in out) == (not options)
        return {json.loads(line)["key"] for line in (tmp_path / "e" / "manifest.jsonl").open(encoding="utf-8")}

    assert exported() == right and len(right) == 3
    assert exported("--all-images") == right | wrong
    lost = next(row for row in manifest_rows(folder)[0] if row["key"] in wrong)
    (folder / lost["file"]).unlink()  # no run makes it again, and no filter needs it
    code, out, _ = higfa("filter", folder, "--min-confidence", 1)
    assert code == 0 and "6 of other plans, left unchanged" in out and "3 changed" in out
    assert higfa("filter", folder, "--fresh")[0] == 0 and exported() == right
    for file in folder.glob("jobs.sqlite*"):
        file.unlink()
    assert "6 accepted images of other plans" in higfa("status", folder)[1]
    (folder / lost["file"]).parent.mkdir(exist_ok=True)
    plan("--prompt", prompts[0], "--per-class", 2, "--replace")
    assert {row["key"] for row in run()} == right | wrong and exported("--all-images") == right | wrong
    assert "3 accepted images of other plans" in higfa("status", folder)[1]


def test_shards_in_folders_of_their_own_are_one_dataset(plan, higfa, server, tmp_path):
    _, _, jobs = plan("--per-class", 4, "--accepted", "--max-tries", 3)
    server.accepted = lambda key: int(key[:8], 16) % 10 < 7
    parts = [shutil.copytree(tmp_path / "out", tmp_path / f"part {number}") for number in (1, 2)]
    for number, part in enumerate(parts, 1):
        higfa("run", part, "--server", server.url, "--poll", "0.002", "--shard", f"{number}/2")
    made = [{row["plan_index"] for row in manifest_rows(part)[0]} for part in parts]
    assert not made[0] & made[1]
    keys = {row["key"] for part in parts for row in manifest_rows(part)[0] if row["accepted"]}
    code, out, err = higfa("export", *parts, "--out", tmp_path / "e", "--format", "imagefolder")
    assert (code, err) == (0, "") and f"{len(keys)} images of 3 classes" in out
    assert {json.loads(line)["key"] for line in (tmp_path / "e" / "manifest.jsonl").open(encoding="utf-8")} == keys
    for part in parts:  # into one folder: the images, and all rows
        for kind in ("train", "rejected"):
            if (part / kind).is_dir():
                shutil.copytree(part / kind, tmp_path / "out" / kind, dirs_exist_ok=True)
        with open(tmp_path / "out" / "manifest.jsonl", "ab") as manifest:
            manifest.write((part / "manifest.jsonl").read_bytes())
    code, out, _ = higfa("run", tmp_path / "out", "--server", server.url, "--poll", "0.002")
    rows = {row["key"]: row for row in manifest_rows(tmp_path / "out")[0]}
    full = Counter(row["class_name"] for row in rows.values() if row["accepted"])
    assert code == 0 and "12 of 12" in out and full == dict.fromkeys(REAL, 4) and keys <= rows.keys()
