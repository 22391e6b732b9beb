"""A finished dataset as Export Dataset and `higfa plan` leave it, over a small set of real images."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from higfa_core.plans.plan import Plan
from higfa_core.plans.rules import Rules
from higfa_core.sources.source import ClassInfo, SourceDataset, SourceImage
from higfa_core.store.writer import export_images

# Not in sorted order; a slash; no ASCII; the last one gets no image.
CLASSES = ("F-16A/B", "鴉 crow", "001.Gull", "Empty")
WORKFLOW = {
    "1": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sd15.safetensors"}},
    "2": {"class_type": "ControlNetLoader", "inputs": {"control_net_name": "canny.pth"}},
}


class Guide:
    """Sure of what is dark: the probability of the class that is asked for is 1 - brightness."""

    class_names = CLASSES

    def index(self, name):
        self.asked = CLASSES.index(name)
        return self.asked

    def predict_proba(self, images):
        found = torch.zeros(len(images), len(CLASSES))
        found[:, self.asked] = 1 - images.mean((1, 2, 3))
        found[:, (self.asked + 1) % len(CLASSES)] = images.mean((1, 2, 3))
        return found


@pytest.fixture
def root(tmp_path):
    """Real images: two of each class but the last, the same file names in each; one has a banner, one is turned."""
    root = tmp_path / "planes"
    rng = np.random.default_rng(0)
    for label in range(3):
        (root / f"c{label}").mkdir(parents=True)
        for number in range(2):
            picture = Image.fromarray(rng.integers(0, 255, (16, 24, 3), dtype=np.uint8))
            exif = Image.Exif()
            if (label, number) == (1, 0):
                exif[0x0112] = 6
            picture.save(root / f"c{label}" / f"{number}.jpg", exif=exif)
    trimap = np.full((16, 24), 2, np.uint8)
    trimap[4:8, 3:9] = 1
    Image.fromarray(trimap).save(root / "trimap.png")
    return root


@pytest.fixture
def sources():
    real = {
        f"c{label}/{number}.jpg": SourceImage(f"c{label}/{number}.jpg", CLASSES[label], label)
        for label in range(3)
        for number in range(2)
    }
    real["c0/0.jpg"] = SourceImage("c0/0.jpg", CLASSES[0], 0, box=(2.0, 3.0, 10.0, 8.0), crop_bottom=4)
    real["c2/1.jpg"] = SourceImage("c2/1.jpg", CLASSES[2], 2, "trimap.png", (1,), (3.0, 4.0, 6.0, 4.0))
    return tuple(real.values())


@pytest.fixture
def jobs(root, sources):
    dataset = SourceDataset(root, "by hand", "a test", tuple(ClassInfo(n, n) for n in CLASSES), sources)
    return list(Plan(dataset, 2))


@pytest.fixture
def dataset(tmp_path, root, sources, jobs):
    """12 jobs, an image each; those of odd plan index in class 0 are rejected. Class 2's have masks."""
    folder = tmp_path / "made" / "higfa"
    _make(folder, jobs)
    _write_plan(folder, root, sources)
    return folder


@pytest.fixture
def make():
    """Writes the images of jobs into a dataset folder."""
    return _make


def _make(folder, jobs, **options):
    generator = torch.Generator().manual_seed(5)
    for job in jobs:
        image = torch.rand(1, 16, 24, 3, generator=generator) * 0.4
        if job.label == 0 and job.replica:
            image += 0.5
        mask = torch.zeros(1, 16, 24)
        mask[:, 2:10, 5:17] = 1
        given = {"classifier": Guide(), "mask": mask if job.label == 2 else None, "metadata": {"prompt": '{"9": {}}'}}
        given |= {"rules": Rules(min_confidence=0.5), "versions": {"higfa": "0.1.0"}, **options}
        masked = replace(job, mask_file="mask.png") if job.label == 2 else job  # else: a blank one
        export_images(image, folder.parent, folder.name, job=masked, **given)


def _write_plan(folder, root, sources):
    plan = {
        "version": 1,
        "jobs": 0,
        "jobs_sha256": "",
        "dataset_name": "planes",
        "workflow_digest": "",
        "dataset": {"name": "planes", "root": str(root), "layout": "by hand", "evidence": "a test", "licence": "CC0"},
        "classes": [{"name": n, "prompt": n, "super_class": "bird" if n != "F-16A/B" else ""} for n in CLASSES],
        "options": {"templates": ["a photo of a {class}"]},
        "rules": {"min_confidence": 0.5, "max_duplicate_bits": -1},
        "licences": {"sources": "research only", "checkpoint": "OpenRAIL-M"},
        "workflow": WORKFLOW,
        "sources": {
            s.path: {"label": s.label, "mask": s.mask, "mask_values": list(s.mask_values), "box": s.box}
            | {"crop_bottom": s.crop_bottom}
            for s in sources
        },
        "quota": None,
    }
    (folder / "plan.json").write_text(json.dumps(plan), "utf-8")


@pytest.fixture
def rows(dataset):
    """Manifest rows of the accepted images in plan order, straight from the file."""
    found = [json.loads(line) for line in (dataset / "manifest.jsonl").open(encoding="utf-8")]
    return sorted((row for row in found if row["accepted"]), key=lambda row: row["plan_index"])
