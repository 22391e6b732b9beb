"""The weight files of the miniature, and what its classifiers say of themselves."""

from pathlib import Path

from safetensors import safe_open

WEIGHTS = Path(__file__).with_name("weights")
GUIDE, JUDGE = WEIGHTS / "guide.safetensors", WEIGHTS / "judge.safetensors"


def worth(path: Path) -> str:
    """How good a classifier is and what it has seen, from its file, for people; empty where that says nothing."""
    with safe_open(path, framework="np") as file:
        about = file.metadata() or {}
    if "fresh_accuracy" not in about:
        return ""
    right = f"right on {float(about['fresh_accuracy']):.0%} of fresh renders"
    return f"{about['role']}: {right}, trained on {int(about['images_per_class']):,} images per species"
