"""What the crash tests work on, the commands they kill, and what must be there in the end."""

from pathlib import Path

import torch
from PIL import Image

from higfa_core.plans.plan import Plan
from higfa_core.plans.plan_file import PlanFile, write_plan
from higfa_core.sources.layouts import read_dataset
from higfa_core.store.manifest import Manifest
from higfa_core.store.writer import export_images

ROOT = Path(__file__).parents[2]
WORKFLOW = ROOT / "workflows" / "api" / "miniature_augment.json"
CLASSES, IMAGES = ("a", "b"), 4
COMMANDS = ("plan", "filter", "export", "report", "train-classifier")
TRAINING = ("--arch", "test_resnet", "--steps", "6", "--batch-size", "2", "--image-size", "32", "--no-pretrained")


def build(root: Path) -> Path:
    """Images in `real`, and in `set` a dataset of eight of them, of which those with odd numbers are blurred."""
    for label, name in enumerate(CLASSES):
        for number in range(IMAGES):
            path = root / "real" / name / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = torch.rand(40, 40, 3, generator=torch.Generator().manual_seed(10 * label + number))
            Image.fromarray((noise * 255).byte().numpy()).save(path)
    about = {"workflow": {}, "workflow_digest": "", "dataset_name": "set", "options": {}}
    write_plan(root / "set", Plan(read_dataset(root / "real"), 1), **about)
    for index in range(8):
        noise = torch.rand(1, 16, 16, 3, generator=torch.Generator().manual_seed(index))
        image = torch.full_like(noise, 0.5) if index % 2 else noise
        export_images(image, root, "set", job=PlanFile(root / "set").job(index))
    return root


def command(name: str, place: Path, made: Path) -> list[str]:
    """The words of a command that works in `place`, where a copy of the dataset is in `set`."""
    words = {
        "plan": ("plan", place / "new", "--workflow", WORKFLOW, "--source", made / "real", "--replicas", "3"),
        "filter": ("filter", place / "set", "--min-sharpness", "100"),
        "export": ("export", place / "set", "--out", place / "out", "--format", "imagefolder"),
        "report": ("report", place / "set", "--source", made / "real"),
        "train-classifier": ("train-classifier", place / "real", "--out", place / "x.safetensors", *TRAINING),
    }
    return [str(word) for word in words[name]]


def result(name: str, place: Path) -> dict[str, bytes]:
    """The content of every file that the command makes or moves, but for what names the place itself."""
    folder = {"plan": "new", "export": "out", "train-classifier": "."}.get(name, "set")
    found = {}
    for path in sorted((place / folder).rglob("*")):
        if path.is_file() and path.name not in ("lock.sqlite", "image_hashes.txt"):
            found[path.relative_to(place).as_posix()] = path.read_bytes().replace(str(place).encode(), b"PLACE")
    return found


def check_order(place: Path) -> None:
    """Every image is where the manifest says, once, and nothing temporary is left."""
    rows = Manifest(place / "set").rows()
    folder = place / "set"
    found = [path for kind in ("train", "rejected") for path in folder.glob(f"{kind}/*/*")]
    images = {path.relative_to(folder).as_posix() for path in found}
    assert images == {row["file"] for row in rows} and len(rows) == 8
    left = [path for path in place.rglob("*") if ".part" in path.name]
    assert not left and not (place / "set" / "unlisted").exists(), left


def again(name: str, place: Path, made: Path, run) -> None:
    """Give the same command as somebody would after a crash; `run` returns its exit status."""
    words = command(name, place, made)
    if name == "export" and (place / "out").exists():
        words.append("--replace")
    if name == "train-classifier":
        if (place / "x.safetensors").exists() and not (place / "x.training").exists():
            return  # it had ended, but for its last words
        words.append("--resume")
    assert run(words) == 0, words
