"""Files that parse but hold something else, or were tampered with: one clear error, nothing written outside."""

import json
import shutil

import pytest
from PIL import Image

from higfa_core.commands import main as cli
from higfa_core.plans.plan import Job, Plan
from higfa_core.plans.plan_file import PlanFile, write_plan
from higfa_core.sources.layouts import read_dataset
from higfa_core.store.manifest import Manifest
from higfa_core.store.writer import export_images

DEEP = '{"a":' * 100_000 + "1" + "}" * 100_000
TEXTS = {
    "nothing": "",
    "null": "null",
    "a list": "[]",
    "a number": "7",
    "a text": '"x"',
    "deep": DEEP,
    "deep list": "[" * 100_000,
    "cut short": '{"version": 1',
    "another object": '{"a": 1}',
    "NaN": '{"version": NaN}',
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A plan over two classes with two of its four images made, and its sources."""
    import torch

    root = tmp_path_factory.mktemp("damage")
    for name in ("a/0", "a/1", "b/0", "b/1"):
        (root / "real" / name).parent.mkdir(parents=True, exist_ok=True)
        shade = sum(map(ord, name)) % 200
        Image.new("RGB", (8, 8), (shade, 9, 200 - shade)).save(root / "real" / f"{name}.png")
    plan = Plan(read_dataset(root / "real"))
    write_plan(root / "set", plan, workflow={}, workflow_digest="", dataset_name="set", options={})
    for index in range(2):
        export_images(torch.full((1, 8, 8, 3), 0.25 + index / 2), root, "set", job=PlanFile(root / "set").job(index))
    return root


@pytest.fixture
def folder(made, tmp_path):
    return shutil.copytree(made / "set", tmp_path / "set")


def one_line(capsys, *command):
    """Run a command that must fail; its only line on stderr."""
    assert cli.main([str(part) for part in command]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize(("name", "command"), [("plan.json", "status"), ("dataset.json", "filter")])
def test_a_file_that_is_something_else_is_named(folder, capsys, name, command, text):
    (folder / name).write_text(text)
    assert f"{folder / name} is damaged (" in one_line(capsys, command, folder)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"classes": None}, "classes must be array, got null"),
        ({"classes": [{"name": 5}]}, "classes[0].name must be str, got int"),
        ({"jobs": -1}, "jobs must be int >= 0"),
        ({"rules": {"min_confidence": "high"}}, "rules[...] must be bool | float, got str"),
        ({"rules": {"min_beauty": 1.0}}, "unknown rule: min_beauty"),
        ({"quota": {"a": "many"}}, "quota[...] must be int, got str"),
        ({"dataset": {"name": "x"}}, "dataset lacks root"),
        ({"sources": {"../../x.png": {"label": 0}}}, "sources has the path '../../x.png'"),
        ({"sources": {"C:\\x.png": {"label": 0}}}, "sources has the path 'C:\\\\x.png'"),
        ({"sources": {"a/0.png": {"label": 0, "mask": "/etc/passwd"}}}, "sources has the path '/etc/passwd'"),
        ({"sources": {"a/0.png": {"label": 9}}}, "label is 9, expected below 2"),
        ({"workflow": {"1": []}}, "workflow[...] must be object, got array"),
        ({"version": 2}, "has version 2, expected 1"),
    ],
)
def test_a_field_of_a_plan_is_named(folder, capsys, change, words):
    header = json.loads((folder / "plan.json").read_text())
    (folder / "plan.json").write_text(json.dumps(header | change))
    assert words in one_line(capsys, "status", folder)


@pytest.mark.parametrize(
    "line", [*TEXTS.values(), '{"index": 0}', '{"index": true, "key": 1}'], ids=[*TEXTS, "fields", "types"]
)
def test_a_line_of_a_plan_that_is_something_else(folder, line):
    lines = (folder / "plan.jsonl").read_bytes().splitlines()
    (folder / "plan.jsonl").write_bytes(b"\n".join([line.encode(), *lines[1:], b""]))
    with pytest.raises(ValueError, match=r"plan.jsonl is damaged \(.*Make the plan again"):
        PlanFile(folder).job(0)


def test_a_line_of_another_plan(folder):
    lines = (folder / "plan.jsonl").read_text().splitlines()
    for name, value in (("source", "z/9.png"), ("class_name", "z")):
        (folder / "plan.jsonl").write_text("\n".join([json.dumps(json.loads(lines[0]) | {name: value}), *lines[1:]]))
        PlanFile.job.__globals__["_kept_lines"].cache_clear()
        with pytest.raises(ValueError, match="job 0: its class or its source is not in plan.json"):
            PlanFile(folder).job(0)


@pytest.mark.parametrize("line", [*list(TEXTS.values())[1:], '{"key": "x", "index": "y"}'])
def test_a_damaged_row_is_named_and_skipped(folder, capsys, caplog, line):
    good = (folder / "manifest.jsonl").read_bytes()
    first, rest = good.split(b"\n", 1)
    (folder / "manifest.jsonl").write_bytes(first + b"\n" + line.encode() + b"\n" + rest)
    assert len(Manifest(folder)) == 2
    assert f"{folder / 'manifest.jsonl'}, line 2 is damaged (" in caplog.text
    caplog.clear()
    assert cli.main(["status", str(folder)]) == 0 and "line 2 is damaged (" in caplog.text
    assert "2 of 4 jobs" in capsys.readouterr().out
    assert cli.main(["filter", str(folder), "--min-sharpness", "0"]) == 0
    assert cli.main(["export", str(folder), "--out", str(folder.parent / "out"), "--format", "imagefolder"]) == 0


@pytest.mark.parametrize(
    "change",
    [
        {"file": "../../outside.png"},
        {"file": "/outside.png"},
        {"file": "C:/outside.png"},
        {"file": "train/../../outside.png"},
        {"file": "train\\..\\outside.png"},
        {"file": "plan.json"},
        {"mask": "../outside.png"},
        {"index": 2**40},
        {"batch": 10**9},
        {"accepted": "yes"},
        {"class_name": None},
        {"scores": {"confidence": "high"}},
        {"bytes": -1},
    ],
)
def test_a_row_that_leads_astray_is_no_row(folder, change):
    lines = (folder / "manifest.jsonl").read_text().splitlines()
    (folder / "manifest.jsonl").write_text(json.dumps(json.loads(lines[0]) | change) + "\n" + lines[1] + "\n")
    before = {path: path.read_bytes() for path in folder.parent.rglob("*.png")}
    assert len(Manifest(folder)) == 1
    assert cli.main(["filter", str(folder), "--min-sharpness", "1"]) == 0
    assert {path.name for path in folder.parent.rglob("*.png")} == {path.name for path in before}


JOB = {
    "dataset": "d",
    "index": 0,
    "key": "0" * 64,
    "class_name": "a",
    "label": 0,
    "classes": ["a"],
    "source": "a/0.png",
}
JOB |= {"contour_source": "a/0.png", "prompt": "p", "seed": 1, "replica": 0}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"source": "../x"}, "'source' must be a relative path"),
        ({"contour_source": "C:\\x.png"}, "'contour_source' must be a relative path"),
        ({"image_file": "/etc/passwd"}, "'image_file' must be a relative path"),
        ({"mask_file": "a\u0000b"}, "'mask_file' must be a relative path"),
        ({"box": 5}, "'box' must be 4 numbers"),
        ({"box": [1, 2, 3, True]}, "'box' must be 4 numbers"),
        ({"box": [1, 2, 3, {}]}, "'box' must be 4 numbers"),
        ({"size": {"a": 1, "b": 2}}, "'size' must be 2 numbers"),
        ({"seed": 2**70}, "seed must be in"),
        ({"classes": [["a"]]}, "'classes' must be a list of names"),
        ({"label": True}, "'label' must be int"),
    ],
)
def test_a_field_of_a_job_is_named(change, words):
    with pytest.raises(ValueError, match="Job") as failure:
        Job.from_json(json.dumps(JOB | change))
    assert words in str(failure.value)


@pytest.mark.parametrize("text", [*TEXTS.values(), '{"a": "\udc80"}'], ids=[*TEXTS, "surrogate"])
def test_a_job_that_is_something_else(text):
    with pytest.raises(ValueError, match="Job ") as failure:
        Job.from_json(text)
    assert len(str(failure.value)) < 500


@pytest.mark.parametrize(
    "line", ["/abs.png", "../x.png", "C:\\x.png", "a/\0.png", "x" * 5000, "a/missing.png", "\\\\host\\share\\x.png"]
)
def test_a_line_of_held_out_that_cannot_be_meant(made, tmp_path, line):
    shutil.copytree(made / "real", tmp_path / "real")
    (tmp_path / "real" / "held_out.txt").write_text(f"a/0.png\n{line}\n")
    with pytest.raises(ValueError, match=r"held_out.txt.*Correct"):
        read_dataset(tmp_path / "real")
