"""Trains a classifier of the miniature's 16 species on 10 images each with `higfa train-classifier`, and tests it.

    python run.py exec -- python benchmarks/train_classifier.py [--repeat]

Two of the ten images are held out by the command (to stop, to choose, to calibrate). Accuracy and ECE below are those
of fresh renders with seeds that nothing was trained or tuned on. --repeat trains a second time and compares the files.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

IMAGES_PER_CLASS = 10
TEST_SEED = 6_000_000  # the miniature trains from 1,000,000 on and is checked at 4,000,000; see its train.py
TRAINING = {
    "--arch": "test_resnet",
    "--image-size": "64",
    "--steps": "1600",
    "--batch-size": "16",
    "--seed": "0",
}
CHUNK = 64


def train(folder, out, options):
    """(seconds, CPU seconds) of the command."""
    command = [
        sys.executable,
        "-m",
        "higfa_core.commands.main",
        "train-classifier",
        folder,
        "--out",
        out,
        "--no-pretrained",
    ]
    command += [word for pair in options.items() for word in pair]
    print("$ higfa", *command[3:], flush=True)
    started, used = time.perf_counter(), cpu_seconds()
    subprocess.run(list(map(str, command)), cwd=ROOT, check=True)
    return time.perf_counter() - started, cpu_seconds() - used


def cpu_seconds():
    spent = os.times()
    return spent.children_user + spent.children_system


def test(file, per_class):
    """Accuracy and ECE at temperature 1 and at the calibrated one, on `per_class` fresh renders of each species."""
    import torch

    from higfa_core.classifier import FineGrainedClassifier
    from higfa_core.classifier.calibrate import expected_calibration_error
    from higfa_core.miniature import birds, sources

    classifier = FineGrainedClassifier.load(file)
    species = [k for k in range(len(birds.SPECIES)) for _ in range(per_class)]
    views = [birds.render(k, TEST_SEED + i, sources.SIZE).image for i, k in enumerate(species)]
    labels = torch.tensor([classifier.index(birds.CLASS_NAMES[k]) for k in species])
    logits = []
    with torch.no_grad():
        for start in range(0, len(views), CHUNK):
            batch = torch.stack([torch.from_numpy(view) for view in views[start : start + CHUNK]])
            logits.append(classifier.logits(batch.movedim(-1, 1).float() / 255))
    logits = torch.cat(logits)
    accuracy = float((logits.argmax(1) == labels).double().mean())
    t = classifier.temperature
    before, after = (expected_calibration_error((logits / x).softmax(1), labels) for x in (1.0, t))
    return accuracy, t, before, after


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeat", action="store_true", help="train twice and compare the files")
    parser.add_argument("--steps", help="instead of the standard number, for a quick look")
    parser.add_argument("--test-images", type=int, default=100, help="fresh renders of each species (100)")
    args = parser.parse_args()
    options = {**TRAINING, **({"--steps": args.steps} if args.steps else {})}
    from higfa_core.miniature import sources

    with tempfile.TemporaryDirectory() as work:
        sources.draw_sources(Path(work, "birds"), IMAGES_PER_CLASS)
        files = [Path(work, f"run{i}.safetensors") for i in range(1 + args.repeat)]
        for file in files:
            seconds, cpu = train(Path(work, "birds"), file, options)
            accuracy, t, before, after = test(file, args.test_images)
            print(f"trained in {seconds:.0f} s ({cpu:.0f} s of processor time, {os.cpu_count()} cores)")
            print(f"test accuracy on {16 * args.test_images} fresh renders: {accuracy:.1%}")
            print(f"ECE before calibration {before:.3f}, after {after:.3f} (temperature {t:.3f})")
            print(f"sha256 {hashlib.sha256(file.read_bytes()).hexdigest()}", flush=True)
        if args.repeat:
            same = files[0].read_bytes() == files[1].read_bytes()
            print("the two files are", "identical" if same else "DIFFERENT")
            return 0 if same else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
