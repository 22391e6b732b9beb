"""Readers of the records that the pack itself writes: plans, jobs, manifests, lists. Each target is a function of the
folder it may write to that returns a strategy of inputs and the reader that is called with each."""

import hashlib
import json
from contextlib import closing

import torch
from hypothesis import strategies as st
from PIL import Image

from higfa_core.batch.states import States
from higfa_core.commands.plan import read_workflow
from higfa_core.contour import ContourTransform, TransformParams, apply, transform_batch, transform_boxes
from higfa_core.exports.base import Options
from higfa_core.exports.export import export
from higfa_core.plans.inputs import load_job
from higfa_core.plans.plan import Job, Plan
from higfa_core.plans.plan_file import PlanFile, planned_keys, write_plan
from higfa_core.plans.prompts import Prompts
from higfa_core.plans.rules import Rules
from higfa_core.plans.workflow import digest, fill_in, find_node
from higfa_core.settings import settings_of
from higfa_core.sources import held_out
from higfa_core.sources.image_hashes import ImageHashes
from higfa_core.sources.layouts import read_dataset
from higfa_core.sources.options import parse_layout
from higfa_core.sources.source import ClassInfo
from higfa_core.store.manifest import Manifest
from higfa_core.store.writer import export_images

from .strategies import TEXTS, as_json, damaged, damaged_bytes, json_files, values

WORKFLOW = "workflows/api/miniature_augment.json"


def dataset(home):
    """A plan in `home/set` over the images in `home/real`, with an accepted, a rejected and a masked image."""
    for name in ("a/0", "a/1", "b/0", "b/1"):
        (home / "real" / name).parent.mkdir(parents=True, exist_ok=True)
        shade = sum(map(ord, name)) % 200
        Image.new("RGB", (8, 8), (shade, 9, 200 - shade)).save(home / "real" / f"{name}.png")
    plan, folder = Plan(read_dataset(home / "real")), home / "set"
    write_plan(folder, plan, workflow={}, workflow_digest="", dataset_name="set", options={})
    for index in range(3):
        job, image = PlanFile(folder).job(index), torch.rand(1, 8, 8, 3)
        transform = [TransformParams(((1, 0, 0), (0, 1, 0), (0, 0, 1)), 8, 8).to_dict()]
        export_images(image, home, "set", job=job, rules=Rules(min_sharpness=1e9 * (index == 2)), transform=transform)
    return folder


def lines_of(path):
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def written(rows):
    """Lines of JSON of rows, some of which are damaged."""
    return b"".join(row if isinstance(row, bytes) else as_json(row) + b"\n" for row in rows)


def jsonl(samples):
    """The bytes of a file of `samples`, one a line, of which some lines are damaged."""
    line = damaged(samples).map(as_json).map(lambda data: data + b"\n") | damaged_bytes([as_json(samples[0]) + b"\n"])
    return st.lists(line | st.sampled_from(samples), min_size=1, max_size=4).map(written)


def plan(home):
    folder = dataset(home)
    header, lines = json.loads((folder / "plan.json").read_bytes()), lines_of(folder / "plan.jsonl")
    parts = st.tuples(st.just("header"), json_files([header])) | st.tuples(st.just("jobs"), jsonl(lines))

    def read(part):
        kind, data = part
        head = data if kind == "header" else as_json(header | {"jobs_sha256": hashlib.sha256(data).hexdigest()})
        (folder / "plan.json").write_bytes(head)
        (folder / "plan.jsonl").write_bytes(data if kind == "jobs" else written(lines))
        found = PlanFile(folder)
        for line in found.lines():
            job = found.parse(line)
            found.source(job.contour_source)
        found.rules.given(), found.image_keys(), planned_keys(folder), len(found)

    return parts, read


def job(home):
    folder = dataset(home)
    sample = json.loads(PlanFile(folder).job(0).to_json())
    whole = sample | {"dataset": "real", "image_file": "", "mask_file": "", "box": [1, 2, 3, 4], "size": None}
    other = whole | {"image_file": "real/a/0.png", "mask_file": "real/a/0.png"}

    def read(data):
        found = Job.from_json(data.decode("utf-8", "surrogatepass"))
        assert Job.from_json(found.to_json()) == found
        load_job(home, found)

    texts = json_files([whole, other]).filter(lambda data: not data.startswith((b"\xff\xfe", b"\xfe\xff")))
    return texts.map(lambda data: data.decode("utf-8", "replace").encode()), read


def manifest(home):
    folder = dataset(home)
    rows = lines_of(folder / "manifest.jsonl")

    def read(data):
        (folder / "manifest.jsonl").write_bytes(data)
        found = Manifest(folder)
        found.rows(), found.missing(), found.status({"a": 2}), found.info()
        for row in found.rows():
            found.is_intact(row)

    return jsonl(rows), read


def index(home):
    """What `run` and `status` make of the plan and the manifest."""
    folder = dataset(home)
    rows = lines_of(folder / "manifest.jsonl")

    def read(data):
        (folder / "manifest.jsonl").write_bytes(data)
        with closing(States(folder)) as states:
            states.counts(), states.table(), states.failures(), states.disk_estimate()

    return jsonl(rows), read


def dataset_json(home):
    folder = dataset(home)
    sample = json.loads((folder / "dataset.json").read_bytes())

    def read(data):
        (folder / "dataset.json").write_bytes(data)
        found = Manifest(folder)
        found.info(), found.status()
        found.start(("a", "b"))

    return json_files([sample, {"classes": None}]), read


def exported(home):
    """An export of a dataset whose manifest and plan somebody changed."""
    folder = dataset(home)
    rows, header = lines_of(folder / "manifest.jsonl"), json.loads((folder / "plan.json").read_bytes())
    images = {row["file"]: (folder / row["file"]).read_bytes() for row in rows}
    shapes = st.sampled_from(["imagefolder", "huggingface", "coco", "lists"])
    parts = st.tuples(shapes, jsonl(rows) | st.just(written(rows)), damaged([header]) | st.just(header))

    def read(part):
        kind, data, head = part
        for file, content in images.items():
            (folder / file).write_bytes(content)
        (folder / "manifest.jsonl").write_bytes(data)
        (folder / "plan.json").write_bytes(as_json(head))
        export([folder], home / "out", kind, Options(real=True), replace=True)

    return parts, read


def held_out_list(home):
    root = dataset(home).parent / "real"
    found = read_dataset(root)

    def read(data):
        (root / "held_out.txt").write_bytes(data)
        held_out.without(found, held_out.listed(found))
        held_out.add(root, ["a/1.png"])

    return damaged_bytes([b"a/0.png\nb/1.png\n", b"a\\0.png\r\n", "b/\u00e9.png\n".encode()]), read


def image_hashes(home):
    root = dataset(home).parent / "real"
    kept = home / "image_hashes.txt"
    hashes = ImageHashes(kept)
    hashes.of(root, ["a/0.png", "b/0.png"])
    hashes.keep()
    sample = kept.read_bytes()

    def read(data):
        kept.write_bytes(data)
        again = ImageHashes(kept)
        again.of(root, ["a/0.png", "a/1.png"])
        again.keep()

    return damaged_bytes([sample]), read


def workflow(home):
    with open(WORKFLOW, "rb") as file:
        graph = json.load(file)
    sample = PlanFile(dataset(home)).job(0)

    def read(data):
        (home / "workflow.json").write_bytes(data)
        found = read_workflow(home / "workflow.json")
        digest(found, find_node(found, "HiGFA_ExportDataset"))
        fill_in(found, [sample], "set")

    return json_files([graph], most=2), read


def words(home):
    """Prompt templates, layout options and settings, as people type them."""
    parts = '{class} {super} {background} { } {0} {class!r} {class:>9} a " ='.split()
    text = st.text(max_size=20) | st.sampled_from(TEXTS) | st.lists(st.sampled_from([*parts, " "])).map("".join)
    rules = [item.name for item in settings_of(Rules)]
    typed = st.dictionaries(st.sampled_from(rules), values, max_size=3)

    def read(part):
        template, layout, given, scores = part
        prompts = Prompts((template,), ("a lake",) if "{background}" in template else ())
        prompts.render(ClassInfo("a", "a", "bird"), 1, 7)
        read_dataset(home / "real", **parse_layout(layout))
        Rules.recorded(given)
        Rules.pick(given).judge(scores)

    dataset(home)
    measured = {f"{who}{name}": 0.5 for who in ("", "judge_") for name in ("confidence", "margin")}
    found = st.just(measured | {"rank": 1, "judge_rank": 1, "contour_agreement": 0.5, "sharpness": 9.0, "phash": "0f"})
    return st.tuples(text | st.just("{class}"), text | st.just("auto"), typed, found), read


def transform(home):
    """Transform parameters of a row, and ranges as the node is given them; what they make is finite."""
    sample = ContourTransform(elastic=0.02, perspective=0.1).sample(3, 0, 24, 32, size=(16, 16)).to_dict()
    names = [item.name for item in settings_of(ContourTransform)]
    inside = {item.name: st.floats(item.low, item.high) for item in settings_of(ContourTransform)}
    ranges = st.dictionaries(st.sampled_from(names), values, max_size=3) | st.fixed_dictionaries({}, optional=inside)
    contour = (torch.rand(1, 24, 32, 3) > 0.9).float()

    def read(part):
        kind, given = part
        if kind == "params":
            params = TransformParams.from_dict(given)
            assert TransformParams.from_dict(params.to_dict()) == params
            assert torch.isfinite(transform_boxes([[1, 2, 9, 8]], params)).all()
            if max(params.height, params.width) <= 64 and params.source_size == (24, 32):
                assert torch.isfinite(apply(contour, params)[0]).all()
        else:
            images, masks, _ = transform_batch(contour, ContourTransform.pick(given), 7, size=(16, 16))
            assert torch.isfinite(images).all() and torch.isfinite(masks).all()

    return st.tuples(st.just("params"), damaged([sample])) | st.tuples(st.just("ranges"), ranges), read


TARGETS = {
    "plan": plan,
    "job": job,
    "manifest": manifest,
    "index": index,
    "dataset.json": dataset_json,
    "held_out": held_out_list,
    "image hashes": image_hashes,
    "workflow": workflow,
    "words": words,
    "transform": transform,
    "export": exported,
}
