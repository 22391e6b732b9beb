"""What went wrong in comparable projects, as tests that fail if it went wrong here. The list is of issue 5."""

import ast
import builtins
import csv
import hashlib
import io
import json
import os
import re
import subprocess
import sys
import threading
import tracemalloc
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from higfa_core.commands import main as cli
from higfa_core.plans.plan_file import PlanFile

from .batch import fake_comfy
from .batch.conftest import manifest_rows
from .batch.fake_comfy import FakeComfy, draw, image_row
from .sources.layouts.miniatures import CAR_NAMES, cars_devkit

ROOT = Path(__file__).parents[1]
WORKFLOW = ROOT / "workflows" / "api" / "miniature_augment.json"
# Alike but for what peers turn into one another.
NAMES = ("F/A-18", "F-16A/B", "Ram C/V Van", "Ram C_V Van", "Ram C V Van")
TYPED = ["--prompt", "a {class}, {style}", "--prompt", "{style}: {class}", "--styles", "photo,sketch,oil"]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def planes(tmp_path):
    """Five classes, four images each; file names that are parts of one another; two files with the same pixels."""
    rows = []
    for label, name in enumerate(NAMES):
        for number, stem in enumerate(("1", "11", "111", "copy of 1")):
            path = f"{NAMES[label - 1].replace('/', '')}/{stem}.png"
            (tmp_path / "planes" / path).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (label * 9, number % 3, 7)).save(tmp_path / "planes" / path)
            rows.append((path, name, "train"))
    with (tmp_path / "planes" / "list.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "split"), *rows])
    return tmp_path / "planes"


@pytest.fixture
def make_server(tmp_path):
    """Fake servers that keep the graphs they ran, in `jobs`: the job, and the image that came of it."""
    servers = []

    def make(**options):
        fake, end = FakeComfy(tmp_path / f"server {len(servers)}", seconds=0, **options), FakeComfy._end
        fake.jobs = []

        def remember(prompt_id, graph):
            (job,) = [node["inputs"]["job"] for node in graph.values() if node["class_type"] == "HiGFA_DatasetJob"]
            fake.jobs.append((json.loads(job), image_row(graph)[1]))
            end(fake, prompt_id, graph)

        fake._end = remember
        servers.append(fake)
        return fake

    yield make
    for fake in servers:
        fake.close()


def higfa(*words):
    return cli.main([str(word) for word in words])


def plan(folder, source, *options, code=0):
    words = ["--workflow", WORKFLOW, "--source", source, "--dataset-name", "planes", "--min-judge-confidence", "0"]
    assert higfa("plan", folder, *words, *options) == code
    return [json.loads(line) for line in (folder / "plan.jsonl").open("rb")] if code == 0 else None


def run(folder, *servers, options=(), code=0):
    urls = [part for server in servers for part in ("--server", server.url)]
    assert higfa("run", folder, "--poll", "0.002", *urls, *options) == code
    return manifest_rows(folder)[0] if (folder / "manifest.jsonl").exists() else []


def export(folder, out, format, code=0):
    assert higfa("export", folder, "--out", out, "--format", format) == code
    return out


def content(folder, pattern="*.png"):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob(pattern)}


def pixels_asked_for(server):
    """What decides an image, of each job that a server got: index -> all of it, upload names being content hashes."""
    return {job["index"]: {k: v for k, v in job.items() if k != "index"} for job, _ in server.jobs}


def test_1_resume_changes_the_data(planes, make_server, tmp_path):
    # SaSPA continues with one running generator; Diff-Mix draws its sources again.
    options = [*TYPED, "--contour-from", "other", "--replicas", 2]
    lines = plan(tmp_path / "calm", planes, *options)
    calm = make_server()
    rows = run(tmp_path / "calm", calm)
    folder = tmp_path / "interrupted"
    servers = [make_server(), make_server(), make_server()]
    for step, server in enumerate(servers):
        plan(folder, planes, *options)  # by the same command, as after a reboot
        run(folder, server, options=[] if step == 2 else ["--limit", 13])
        for index in folder.glob("jobs.sqlite*"):
            index.unlink()
    assert manifest_rows(folder)[0] == rows and content(folder) == content(tmp_path / "calm")
    assert [len(server.jobs) for server in servers] == [13, 13, 14]
    together = {index: job for server in servers for index, job in pixels_asked_for(server).items()}
    assert together == pixels_asked_for(calm) and len(together) == 40
    # Neither how many jobs there are nor in which order matters to any of them.
    for name in ("1.png", "2.png"):
        (planes / "new").mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(planes / "new" / name)
        with (planes / "list.csv").open("a", newline="") as file:
            csv.writer(file).writerow((f"new/{name}", "A new class", "train"))
    more = {job["key"]: job for job in plan(tmp_path / "more", planes, *options[:-1], 5)}
    assert len(more) == 110 and any(more[job["key"]]["index"] != job["index"] for job in lines)
    for job in lines:
        same = {name: value for name, value in more[job["key"]].items() if name != "index"}
        assert same == {name: value for name, value in job.items() if name != "index"}
        seed = [0, job["source"], job["class_name"], job["replica"]]
        digest = hashlib.sha256(json.dumps(seed, separators=(",", ":"), ensure_ascii=False).encode()).hexdigest()
        assert job["seed"] == int(digest[:16], 16) // 2


def test_2_identical_noise_everywhere(planes, make_server, tmp_path):
    # DistDiff creates a new generator with the same seed for each batch.
    plan(tmp_path / "d", planes, "--replicas", 4)
    servers = [make_server(), make_server()]
    run(tmp_path / "d", *servers)
    jobs = [job for server in servers for job, _ in server.jobs]
    assert len(jobs) == 80 == len({job["seed"] for job in jobs})
    assert len({(job["seed"], job["prompt"], job["image_file"]) for job in jobs}) == 80
    assert len({job["image_file"] for job in jobs}) == 15  # even where two sources have the same pixels
    for workflow in WORKFLOW.parent.glob("*.json"):  # and the sampler takes the job's seed
        graph = json.loads(workflow.read_text("utf-8"))
        (node,) = [name for name, about in graph.items() if about["class_type"] == "HiGFA_DatasetJob"]
        others = [about for about in graph.values() if about["class_type"] != "HiGFA_TrainClassifier"]
        noisy = [about for about in others if {"seed", "noise_seed"} & about["inputs"].keys()]
        assert noisy
        for about in noisy:
            assert about["inputs"].get("seed", about["inputs"].get("noise_seed")) == [node, 4], about


def test_3_class_name_lost_in_file_names(planes, make_server, tmp_path):
    # Diff-Mix turns " " and "/" into "_", and all "_" back into " "; others read labels off paths.
    plan(tmp_path / "d", planes)
    server = make_server()
    run(tmp_path / "d", server)
    names = {row[0]: row[1] for row in csv.reader((planes / "list.csv").open())}
    made = {content: names[job["source"]] for job, content in server.jobs}
    assert Counter(made.values()) == dict.fromkeys(NAMES, 4)
    out = export(tmp_path / "d", tmp_path / "hf", "huggingface")
    rows = [json.loads(line) for line in (out / "data" / "train" / "metadata.jsonl").open(encoding="utf-8")]
    assert {(out / "data" / "train" / r["file_name"]).read_bytes(): r["class_name"] for r in rows} == made
    out = export(tmp_path / "d", tmp_path / "coco", "coco")
    about = json.loads((out / "annotations.json").read_text("utf-8"))
    kinds, files = ({row["id"]: row for row in about[name]} for name in ("categories", "images"))
    pairs = [(files[a["image_id"]]["file_name"], kinds[a["category_id"]]["name"]) for a in about["annotations"]]
    assert {(out / "images" / file).read_bytes(): name for file, name in pairs} == made
    out = export(tmp_path / "d", tmp_path / "folders", "imagefolder")
    labels = json.loads((out / "class_to_idx.json").read_text("utf-8"))
    order = [about["name"] for about in json.loads((tmp_path / "d" / "plan.json").read_text("utf-8"))["classes"]]
    found = {data: order[labels[path.split("/")[0]]] for path, data in content(out / "train").items()}
    assert found == made and len(labels) == 5


def test_4_unstable_class_order(make_server, tmp_path):
    # SaSPA and Diff-Mix: list(set(names)), another order in each process.
    source, plans = cars_devkit(tmp_path), []
    for seed in ("1", "2", "3"):
        folder = tmp_path / seed
        words = [
            sys.executable,
            "-m",
            "higfa_core.commands.main",
            "plan",
            folder,
            "--workflow",
            WORKFLOW,
            "--source",
            source,
        ]
        words += ["--dataset-name", "cars", "--min-judge-confidence", "0", *TYPED]
        subprocess.run(words, cwd=ROOT, env=os.environ | {"PYTHONHASHSEED": seed}, check=True, capture_output=True)
        plans.append([(folder / name).read_bytes() for name in ("plan.json", "plan.jsonl")])
    assert plans[0] == plans[1] == plans[2]
    assert [about["name"] for about in json.loads(plans[0][0])["classes"]] == CAR_NAMES != sorted(CAR_NAMES)
    server = make_server()
    run(tmp_path / "1", server)
    assert all(job["classes"] == CAR_NAMES and CAR_NAMES[job["label"]] == job["class_name"] for job, _ in server.jobs)
    assert higfa("filter", tmp_path / "1", "--fresh") == 0
    for format, file in (("imagefolder", "class_to_idx.json"), ("lists", "mix.json"), ("webdataset", "shards.json")):
        about = json.loads((export(tmp_path / "1", tmp_path / format, format) / file).read_text("utf-8"))
        wanted = {n.replace("/", "%2F"): i for i, n in enumerate(CAR_NAMES)} if format == "imagefolder" else CAR_NAMES
        assert about.get("classes", about) == wanted


def test_5_string_replace_for_prompts(tmp_path, capsys):
    # SaSPA replaces "bird" in a sentence: without the word the class is lost, "birdhouse" is hit.
    for name in ("001.Black_footed_Albatross", "bird {super}", "n02085620-Chihuahua"):
        (tmp_path / "birds" / name).mkdir(parents=True)
        noise = np.random.default_rng(len(name)).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(noise).save(tmp_path / "birds" / name / "1.png")
    plan(tmp_path / "d", tmp_path / "birds", "--prompt", "a bird on a birdhouse", code=1)
    assert "names no class. Put {class} where the name goes" in capsys.readouterr().err
    assert not (tmp_path / "d").exists()
    template = "a {class} on a birdhouse, a bird, {background}, {{class}}"
    jobs = plan(tmp_path / "d", tmp_path / "birds", "--prompt", template, "--backgrounds", "a {class} sign")
    rest = "on a birdhouse, a bird, a {class} sign, {class}"
    assert {job["class_name"]: job["prompt"] for job in jobs} == {
        "001.Black_footed_Albatross": f"a Black footed Albatross {rest}",
        "bird {super}": f"a bird {{super}} {rest}",
        "n02085620-Chihuahua": f"a Chihuahua {rest}",
    }


def test_6_join_by_substring(planes, make_server, tmp_path):
    # SaSPA joins by "first 40 characters of the stem in the file name": 1 is in 11.
    plan(tmp_path / "d", planes, "--replicas", 2)
    server = make_server()
    run(tmp_path / "d", server)
    made = {content: job["source"] for job, content in server.jobs}
    assert len(made) == 40
    out = export(tmp_path / "d", tmp_path / "lists", "lists")
    pairs = json.loads((out / "mix.json").read_text("utf-8"))["pairs"]
    assert len(pairs) == 20 and all(len(found) == 2 for found in pairs.values())
    assert {(out / path).read_bytes(): source for source, found in pairs.items() for path in found} == made
    pairs = json.loads((out / "saspa.json").read_text("utf-8"))
    assert {Path(path).read_bytes(): source for source, found in pairs.items() for path in found} == made


def test_7_failure_looks_like_success(planes, make_server, tmp_path, capsys):
    # SaSPA: out of memory ends the loop, and what follows goes on with what is there.
    folder = tmp_path / "d"
    plan(folder, planes)
    server, keys = make_server(), PlanFile(folder).image_keys()
    bad = set(sorted(keys)[:4])  # five in a row would be taken for the server's fault
    server._fault = lambda key: "error" if key in bad else None
    rows = run(folder, server, code=1)
    err = capsys.readouterr().err
    assert f"failed jobs: {len(bad)}. To try them again: higfa run {folder} --retry-failed" in err
    assert "KSampler): OutOfMemoryError: no memory" in err
    assert {row["key"] for row in rows} == keys - bad and len(content(folder)) == 20 - len(bad)
    assert higfa("status", folder) == 0
    out = capsys.readouterr().out
    assert re.search(rf"total +20 +{20 - len(bad)} +{20 - len(bad)} +0 +0 +{len(bad)}\n", out) and "no memory" in out
    assert run(folder, server, code=1) == rows  # still not a success
    for fault in ("empty", "drop"):
        other = make_server()
        other.always = fault
        plan(tmp_path / fault, planes, "--replicas", 1)
        assert run(tmp_path / fault, other, options=["--attempts", 1], code=1) == []
    gone = make_server()
    gone.close()
    assert run(tmp_path / "empty", gone, options=["--give-up", 0.05, "--patience", 0.01], code=1) == []
    export(tmp_path / "empty", tmp_path / "nothing", "imagefolder", code=1)
    server._fault = lambda key: None
    assert len(run(folder, server, options=["--retry-failed"])) == 20
    plan(folder, planes, "--per-class", 2, "--accepted", "--max-tries", 2, "--replace")
    assert higfa("filter", folder, "--min-confidence", 1) == 0
    run(folder, server, code=1)  # a quota that is not met is none either
    run(folder, server, options=["--limit", 1], code=1)
    assert "classes below their quota: " in capsys.readouterr().err


class Torn(io.FileIO):
    """A disk that is full after half of what is written."""

    def write(self, data):
        super().write(bytes(data)[: len(data) // 2])
        raise OSError(28, "No space left on device")


def test_8_half_written_files(planes, make_server, tmp_path, monkeypatch):
    # SaSPA and Diff-Mix open every PNG afterwards, and delete the broken ones.
    folder, server, opened = tmp_path / "d", make_server(), io.open
    plan(folder, planes)
    writes, every, names, open_descriptor = [], 3, {}, os.open

    def remember(path, *args, **options):
        descriptor = open_descriptor(path, *args, **options)
        names[descriptor] = str(path)
        return descriptor

    def open_torn(file, mode="r", *args, **options):
        ours = threading.current_thread().name.startswith("higfa ") or threading.current_thread().name == "MainThread"
        if ours and ".png" in str(names.get(file, file)) and set("wax+") & set(mode) and "b" in mode:
            writes.append(file)
            if len(writes) % every == 0:
                return Torn(file, "w")
        return opened(file, mode, *args, **options)

    def check(folder):
        for data in content(folder).values():
            with Image.open(io.BytesIO(data)) as image:
                image.load()

    monkeypatch.setattr(os, "open", remember)
    for target in (io, builtins):
        monkeypatch.setattr(target, "open", open_torn)
    for _ in range(5):
        run(folder, server, code=1)
        check(folder)
    assert writes and len(content(folder)) == 10  # two of three
    every = 2
    export(folder, tmp_path / "e", "imagefolder", code=1)
    assert not (tmp_path / "e").exists() and not list(tmp_path.glob("e.part*"))
    assert higfa("filter", folder, "--min-confidence", 0.8) == 1  # moves images
    check(folder)
    for target in (io, builtins):
        monkeypatch.setattr(target, "open", opened)
    assert higfa("filter", folder, "--fresh") == 0
    # What a power cut may leave all the same is found and made again.
    rows = manifest_rows(folder)[0]
    torn = folder / rows[0]["file"]
    torn.write_bytes(torn.read_bytes()[:99])
    with (folder / "manifest.jsonl").open("ab") as file:
        file.write(b'{"key": "12')
    export(folder, tmp_path / "e", "imagefolder", code=1)
    assert higfa("run", folder, "--server", server.url, "--poll", "0.002") == 0
    check(export(folder, tmp_path / "e", "imagefolder"))
    assert len(content(tmp_path / "e")) == 20 == len(content(folder))


FLAG = re.compile(r"(?<![\w-])--[a-z][\w-]*")


def helps(capsys):
    """Command -> the options that its parser knows."""
    found = {}
    for command in cli.COMMANDS:
        with pytest.raises(SystemExit):
            cli.main([command, "--help"])
        found[command] = set(FLAG.findall(capsys.readouterr().out))
    return found


def messages(file):
    """All text that a module raises or prints."""
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        if isinstance(node, ast.Raise) or (isinstance(node, ast.Call) and getattr(node.func, "id", "") == "print"):
            yield from (part.value for part in ast.walk(node) if isinstance(getattr(part, "value", None), str))


def test_9_published_flags_do_not_match(capsys):
    # Diff-Mix documents --model-path, its parser has --model_path; one script reads an option nobody defines.
    known = helps(capsys)
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md"), *(ROOT / "web" / "docs").glob("*.md")]
    text = "\n".join(page.read_text("utf-8") for page in pages).replace("\\\n", " ")
    lines = re.findall(rf"\bhigfa ({'|'.join(known)})\b([^\n`|]*)", text)
    assert len(lines) > 1
    for command, rest in lines:
        assert set(FLAG.findall(rest)) <= known[command], (command, rest)
    ours = set().union(*known.values())
    foreign = {"--head"}  # of Ray
    for file in [*(ROOT / "higfa_core" / "dataset").rglob("*.py"), *(ROOT / "higfa_core" / "batch").rglob("*.py")]:
        for said in messages(file):
            assert set(FLAG.findall(said)) <= ours | foreign, (file, said)


@pytest.mark.slow
def test_10_results_kept_in_memory_and_labels_dropped(planes, make_server, tmp_path, monkeypatch):
    # DiffuseMix holds all results until the end, and writes a flat folder without labels.
    def large_png(key):
        noise = np.random.default_rng(int(key[:8], 16)).integers(0, 256, (256, 256, 3), dtype=np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(noise).save(buffer, "PNG", compress_level=0)
        return buffer.getvalue()

    monkeypatch.setattr(fake_comfy, "tiny_png", large_png)
    plan(tmp_path / "d", planes, "--replicas", 4)
    server, folder = make_server(), tmp_path / "d"
    server.jobs = Counted(folder)
    export(folder, tmp_path / "too early", "imagefolder", code=1)  # imports what it needs
    tracemalloc.start()
    try:
        run(folder, server)
        used = {"run": tracemalloc.get_traced_memory()[1]}
        for format in ("imagefolder", "huggingface", "coco", "lists", "webdataset"):
            tracemalloc.reset_peak()
            export(folder, tmp_path / format, format)
            used[format] = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    on_disk = server.jobs.on_disk
    assert len(on_disk) == 80 and all(count >= made - 1 for made, count in enumerate(on_disk))  # two prompts in flight
    total = sum(len(data) for data in content(folder).values())
    assert total > 15e6 and max(used.values()) < total / 2, used
    for format in ("imagefolder", "huggingface", "coco", "lists"):
        out = tmp_path / format
        rows = [json.loads(line) for line in (out / "manifest.jsonl").open(encoding="utf-8")]
        assert sorted(row["file"] for row in rows) == sorted(content(out)) and len(rows) == 80
        assert Counter(row["class_name"] for row in rows) == dict.fromkeys(NAMES, 16)
        assert all(row["label"] is not None for row in rows)


class Counted(list):
    """Of the jobs that a server makes it keeps only how many images are in the folder by then."""

    def __init__(self, folder):
        self.folder, self.on_disk = folder, []

    def append(self, _):
        self.on_disk.append(len(list(self.folder.rglob("*.png"))))


def test_11_filter_decision_not_stored(planes, make_server, tmp_path, capsys):
    # SaSPA logs the first ten rejects, ALIA stores bare indices.
    plan(tmp_path / "d", planes, "--replicas", 2, "--min-confidence", 0.3)
    server, folder = make_server(), tmp_path / "d"
    rows = run(folder, server)
    scores = {row["key"]: draw(row["key"]) for row in rows}  # as the server measured them
    for threshold in (0.3, 0.6, 0.45):
        if threshold != 0.3:
            assert higfa("filter", folder, "--min-confidence", threshold) == 0
        rows, rejected = manifest_rows(folder)[0], 0
        for row in rows:
            score = scores[row["key"]]
            assert row["scores"]["confidence"] == score and row["accepted"] == (score >= threshold)
            if not row["accepted"]:
                rejected += 1
                assert row["reason"] == f"confidence {score:.4g} is below {threshold:g}"
                assert row["rules"] == {"min_confidence": threshold}
        assert len(rows) == 40 and 10 < rejected < 40 or threshold == 0.3
        assert json.loads((folder / "plan.json").read_text("utf-8"))["rules"]["min_confidence"] == threshold
    assert len(server.jobs) == 40  # nothing was made again
    # The last word on an image is the same as if the rule had been there from the start.
    plan(tmp_path / "straight", planes, "--replicas", 2, "--min-confidence", 0.45)
    straight = run(tmp_path / "straight", make_server())
    plain = [[{k: v for k, v in row.items() if k != "rules"} for row in found] for found in (rows, straight)]
    assert [(row["key"], row["accepted"], row["file"]) for row in plain[0]] == [
        (row["key"], row["accepted"], row["file"]) for row in plain[1]
    ]
    out = export(folder, tmp_path / "hf", "huggingface")
    for line in (out / "data" / "train" / "metadata.jsonl").open(encoding="utf-8"):
        row = json.loads(line)
        assert row["confidence"] == scores[row["key"]] >= 0.45
