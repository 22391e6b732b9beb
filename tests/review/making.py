"""A small dataset as Export Dataset writes it, with scores that a test chooses."""

import hashlib
import io
import json

from PIL import Image

from higfa_core.files.paths import folder_name
from higfa_core.store.manifest import Manifest

from ..batch.fake_comfy import ROW_FIELDS

CLASSES = ["Auk", "<img src=x onerror='window.hurt = true'>"]


def png(number, side=32):
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (7 * number % 256, 90, 160)).save(buffer, "PNG")
    return buffer.getvalue()


def make_dataset(folder, scores, **values):
    """`folder` with an image for each of `scores`, the classes taking turns."""
    manifest = Manifest(folder)
    manifest.start(tuple(CLASSES))
    for number, found in enumerate(scores):
        key, name = hashlib.sha256(str(number).encode()).hexdigest(), CLASSES[number % 2]
        row = dict.fromkeys(ROW_FIELDS) | {"key": key, "index": 0, "batch": 1, "class_name": name, "label": number % 2}
        row |= {"file": f"train/{folder_name(name)}/{key[:16]}-0.png", "accepted": True, "reason": "", "seed": number}
        row |= {"scores": found, "plan_index": number, "width": 32, "height": 32, "rules": {}, **values}
        manifest.write(row, png(number))
    return manifest


def accepted(folder):
    """Numbers of the images in the training set, by the manifest, all of them in their places."""
    manifest = Manifest(folder)
    assert manifest.missing() == []
    assert all(row["file"].startswith("train/" if row["accepted"] else "rejected/") for row in manifest.rows())
    return [row["seed"] for row in manifest.rows() if row["accepted"]]


def last_rows(folder, count):
    return [json.loads(line) for line in (folder / "manifest.jsonl").read_text("utf-8").splitlines()[-count:]]
