"""docs/reproduce.md: its study files and commands, in their order, on miniatures of the three sets, with networks of
random weights and a server that answers as ComfyUI does."""

import csv
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

from higfa_core.classifier import FineGrainedClassifier
from higfa_core.commands import check_classifier
from higfa_core.commands import main as cli
from higfa_core.sources.layouts import read_dataset

from ..batch.fake_comfy import FakeComfy, draw, jobs_of
from ..sources.layouts import miniatures

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "reproduce.md").read_text("utf-8")
COMMANDS = re.findall(r"^python run\.py higfa (.+)$", PAGE, re.M)


def aircraft(folder):
    """The miniature with a second training image of each variant, so that one can be held out."""
    root = miniatures.aircraft(folder)
    for label, twin in enumerate(("0034309", "1025794", "0000003")):
        miniatures.draw(root / "data" / "images" / f"200000{label}.jpg", seed=40 + label, size=(64, 68))
        for file in (*root.glob("data/images*_train*.txt"), root / "data" / "images_box.txt"):
            lines = file.read_text("utf-8").splitlines()
            more = [line.replace(twin, f"200000{label}") for line in lines if line.startswith(twin)]
            file.write_text("\n".join([*lines, *more, ""]), "utf-8")
    return root


SETS = {"cub": miniatures.cub, "aircraft": aircraft, "cars": miniatures.cars_devkit}
KINDS = {"cub": "bird", "aircraft": "aircraft", "cars": "car"}
FOLDERS = dict(re.findall(r"`input/([\w-]+)` .*\[(\w+)\.yaml\]", PAGE))
# What is smaller here than there; the networks are named by architecture alone, so nothing is downloaded.
SMALLER = {"resnet50.a1_in1k": "test_resnet", "convnext_tiny.in12k_ft_in1k": "test_convnext", "448": "32"}
BRIEF = ("--no-pretrained", "--steps", "2", "--batch-size", "2", "--validation-share", "0.5")


class Judged(FakeComfy):
    """Its judge and its guide like images more or less; no two runs of a job differ."""

    def _write(self, graph, count, jobs=None):
        key = jobs_of(graph)[0].key
        for who in ("", "judge_"):
            p = draw(who, key)
            self.scores |= {f"{who}confidence": p, f"{who}rank": 1 if p > 0.3 else 2, f"{who}margin": 0.1}
        super()._write(graph, count, jobs)


@pytest.fixture
def comfy(tmp_path, monkeypatch):
    """ComfyUI's folder; the working directory is that of the pack in it, with a study that is smaller."""
    home, pack = tmp_path / "ComfyUI", tmp_path / "ComfyUI" / "custom_nodes" / "ComfyUI-HiGFA"
    for name in ("input", "output", "models/higfa_classifiers"):
        (home / name).mkdir(parents=True)
    for name in ("docs/reproduce", "workflows/api"):
        shutil.copytree(ROOT / name, pack / name)
    for file in (pack / "docs/reproduce").glob("*.yaml"):
        study = yaml.safe_load(file.read_text("utf-8"))
        file.write_text(yaml.safe_dump(study | {"images": 4, "seeds": study["seeds"][:2]}), "utf-8")
    monkeypatch.setattr("os.fsync", lambda descriptor: None)
    monkeypatch.chdir(pack)
    return home


def words_of(command, name, url):
    """A command of the page for one of the sets, on a small scale."""
    command = command.replace("input/CUB_200_2011", f"input/{folder_of(name)}").replace("http://127.0.0.1:8188", url)
    command = command.replace("{a class} bird", "{a class} " + KINDS[name])
    words = [SMALLER.get(word, word) for word in shlex.split(re.sub(r"\bcub(?=[_.])", name, command))]
    brief = BRIEF if words[0] == "train-classifier" else ()
    return [*words, *brief, *["--poll", "0.002"] * (words[0] in ("tune", "study", "run"))]


def folder_of(name):
    return next(folder for folder, one in FOLDERS.items() if one == name)


def test_the_page_has_every_set():
    assert sorted(FOLDERS.values()) == sorted(SETS) and len(COMMANDS) == 10
    asked = {command.split()[0] for command in COMMANDS}
    assert {"train-classifier", "check-classifier", "tune", "study", "plan", "run", "evaluate", "export"} == asked


@pytest.mark.parametrize("name", SETS)
def test_every_command_in_its_order(name, comfy, capsys):
    root = SETS[name](comfy / "input")
    assert FOLDERS[root.name] == name
    server = Judged(comfy / "output", seconds=0)
    try:
        for command in COMMANDS:
            words = words_of(command, name, server.url)
            if words[0] == "check-classifier":  # needs the checkpoint: its words are read
                found = check_classifier._parse(words[1:])
                assert found.classifier.is_file() and found.folder.samefile(root)
            else:
                assert cli.main(words) == 0, (command, capsys.readouterr().err)
    finally:
        server.close()
    checked(name, comfy)


def checked(name, comfy):
    """What the commands left behind is what the page says."""
    real, made = comfy / "input" / folder_of(name), comfy / "output"
    trained = [comfy / f"models/higfa_classifiers/my_classifier{part}.safetensors" for part in ("", ".judge")]
    guide, judge = map(FineGrainedClassifier.load, trained)
    assert guide.class_names == judge.class_names == read_dataset(real).class_names and guide.arch != judge.arch
    study = yaml.safe_load(Path("docs/reproduce", f"{name}.yaml").read_text("utf-8"))
    assert study["prompt"].endswith(f" {KINDS[name]}")
    conditions = study["conditions"]
    with (made / f"{name}_study" / "results.csv").open(newline="") as file:
        rows = [row["condition"] for row in csv.DictReader(file)]
    assert len(rows) == 4 * 2 * len(conditions) and {*rows} == {*conditions}
    rules = json.loads((made / f"{name}_synthetic" / "plan.json").read_text("utf-8"))["rules"]
    assert rules["keep_judge_share"] == 0.8 and rules["min_judge_confidence"] == rules["min_confidence"] == 0
    jobs = [json.loads(line) for line in (made / f"{name}_synthetic" / "plan.jsonl").read_text("utf-8").splitlines()]
    held = set((real / "held_out.txt").read_text("utf-8").split("\n")) - {""}
    assert held and not held & {job["source"] for job in jobs}
    assert all(job["prompt"].endswith(f" {KINDS[name]}") for job in jobs)
    assert json.loads(next((made / f"{name}_synthetic_evaluation").glob("*.json")).read_text("utf-8"))
    assert (made / f"{name}_with_synthetic.safetensors").is_file()
