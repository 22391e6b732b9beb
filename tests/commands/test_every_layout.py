"""Every layout from its folder to a finished dataset, as a user goes: plan, run, export, read by others."""

import io
import json
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from higfa_core.commands import export as export_cli
from higfa_core.commands import plan as plan_cli
from higfa_core.commands import run as run_cli
from higfa_core.plans.uploads import UPLOADS

from ..batch.fake_comfy import FakeComfy, image_row
from ..sources.layouts.miniatures import BUILDERS
from ..sources.layouts.test_native import TRUTH

WORKFLOW = Path(__file__).parents[2] / "workflows" / "api" / "miniature_augment.json"
REPLICAS = 2
MASK_VALUES = {"pets": (1, 3)}  # foreground and border of a trimap; elsewhere masks are uploaded as they are
BANNER = {"aircraft": 20}


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
    monkeypatch.setenv("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")


@pytest.fixture
def server(tmp_path):
    """A fake server that keeps the jobs it was sent, and with each the image that it made."""
    fake, end = FakeComfy(tmp_path / "server", seconds=0), FakeComfy._end
    fake.jobs = []

    def remember(prompt_id, graph):
        (job,) = [node["inputs"]["job"] for node in graph.values() if node["class_type"] == "HiGFA_DatasetJob"]
        fake.jobs.append((json.loads(job), image_row(graph)[1]))
        end(fake, prompt_id, graph)

    fake._end = remember
    yield fake
    fake.close()


def redraw(root):
    """Other noise into each file: the miniatures have the same pixels in files of the same name."""
    files = sorted(path for path in root.rglob("*") if path.suffix in (".jpg", ".png"))
    for number, path in enumerate(files):
        random = np.random.default_rng(number)
        with Image.open(path) as image:
            (width, height), grey = image.size, image.mode == "L"
        low, high, shape = (1, 4, (height, width)) if grey else (0, 256, (height, width, 3))
        Image.fromarray(random.integers(low, high, shape, dtype=np.uint8)).save(path)
    return [path.relative_to(root).as_posix() for path in files]


def forms(name, path):
    """A file as a server might be given it: the bytes, and the pixels whole, cropped, or as a mask."""
    pixels = np.asarray(Image.open(path))
    found = [path.read_bytes(), pixels, pixels[: len(pixels) - BANNER.get(name, 0)]]
    if pixels.ndim == 2:
        found.append(np.uint8(255) * np.isin(pixels, MASK_VALUES.get(name, ())))
    return {part if isinstance(part, bytes) else part.tobytes() for part in found}


def received(content):
    """What was uploaded, in all the forms in which it could be recognised."""
    return {content, np.asarray(Image.open(io.BytesIO(content))).tobytes()}


@pytest.mark.parametrize("name", tuple(BUILDERS))
def test_from_a_folder_to_a_dataset(name, miniature_layout, tmp_path, server, quick):
    root = miniature_layout(name, tmp_path / "real")
    images, classes, held_out, _ = TRUTH[name]
    files = redraw(root)
    folder = str(tmp_path / "made")
    options = ["--source", str(root), "--replicas", str(REPLICAS), "--min-judge-confidence", "0"]
    options += ["--prompt", "{class} {super}"]
    if not classes[0][2]:
        options += ["--super", "thing"]
    elif name.startswith("cars"):
        options[-1] = "{class}"  # the maker is not known of all of them
    assert plan_cli.main([folder, "--workflow", str(WORKFLOW), *options]) == 0
    assert run_cli.main([folder, "--server", server.url, "--poll", "0.002"]) == 0

    # Nothing but training images and their masks reached the server, each as what it is.
    allowed = {path for path, *_ in images} | {mask for *_, mask in images if mask}
    secret = set().union(*(forms(name, root / path) for path in files if path not in allowed))
    assert len(files) - len(allowed) >= held_out and secret
    assert not secret & set().union(*map(received, server.uploads.values()))
    labels, made = {}, Counter()
    for job, content in server.jobs:
        ((path, label, box, mask),) = [row for row in images if row[0] == job["contour_source"]]
        place, _, upload = job["image_file"].partition("/")
        assert place == UPLOADS and forms(name, root / path) & received(server.uploads[upload])
        shown = Image.open(io.BytesIO(server.uploads[upload]))
        assert shown.size == (64, 48)
        assert (job["box"] and tuple(job["box"])) == box
        assert bool(job["mask_file"]) == bool(mask)
        if mask:
            given = server.uploads[job["mask_file"].partition("/")[2]]
            wanted = forms(name, root / mask)
            if name in MASK_VALUES:
                assert set(np.unique(np.asarray(Image.open(io.BytesIO(given))))) == {0, 255}
                given = np.asarray(Image.open(io.BytesIO(given)).convert("L")).tobytes()
            assert given in wanted
        spoken, kind = classes[label][1], classes[label][2] or "thing"
        assert job["prompt"] == (spoken if name.startswith("cars") else f"{spoken} {kind}")
        labels[content] = label
        made[path] += 1
    assert made == dict.fromkeys((path for path, *_ in images), REPLICAS)
    counts = {label: REPLICAS * count for label, count in Counter(row[1] for row in images).items()}

    assert export_cli.main([folder, "--out", f"{folder} 1", "--format", "imagefolder"]) == 0
    read_by_torchvision(Path(f"{folder} 1"), classes, labels, counts)
    assert export_cli.main([folder, "--out", f"{folder} 2", "--format", "huggingface"]) == 0
    read_by_datasets(f"{folder} 2", classes, labels, counts, tmp_path / "cache")


def read_by_torchvision(out, classes, labels, counts):
    from torchvision.datasets import ImageFolder

    read = ImageFolder(out / "train")
    numbers = json.loads((out / "class_to_idx.json").read_text("utf-8"))
    assert sorted(numbers.values()) == list(range(len(classes)))
    found = [(Path(path).read_bytes(), numbers[read.classes[index]]) for path, index in read.samples]
    assert Counter(label for _, label in found) == counts
    assert all(labels[content] == label for content, label in found) and len(dict(found)) == sum(counts.values())


def read_by_datasets(out, classes, labels, counts, cache):
    from datasets import Image as Undecoded
    from datasets import load_dataset

    read = load_dataset(out, split="train", cache_dir=str(cache)).cast_column("image", Undecoded(decode=False))
    assert read.features["label"].names == [name for name, *_ in classes]
    assert Counter(read["label"]) == counts
    for row in read:
        assert labels[Path(row["image"]["path"]).read_bytes()] == row["label"]
        assert row["class_name"] == classes[row["label"]][0]
