"""How good the miniature's guides and its judge are: the two that ship, and the two guides that the study makes.

    python run.py exec -- python benchmarks/honest_guides.py

`mid` ships; `weak` and `oracle` are made once, by the stages of higfa_core/miniature/make_weights.py, and kept in
.higfa/train. Writes their accuracy on 3,200 fresh renders into benchmarks/results/guides.csv.
"""

import argparse
import csv
import logging
import sys

from miniature_world import ROOT, start_comfyui

RESULTS = ROOT / "benchmarks/results"
TRAINED = ROOT / ".higfa/train"


def guide_path(name):
    from higfa_core.miniature import shipped

    return shipped.GUIDE if name == "mid" else TRAINED / f"{name}.safetensors"


def marks_right(seen, wanted):
    """Mark -> which of the species seen have it as the wanted ones do; both are species [N]."""
    import torch

    from higfa_core.miniature import birds

    has = torch.tensor([[mark in species.marks for mark in birds.MARKS] for species in birds.SPECIES])
    return dict(zip(birds.MARKS, (has[seen] == has[wanted]).T, strict=True))


def accuracy_row(name, classifier, pixels, labels):
    """What it gets right on fresh renders: the species, and each mark with its three siblings' help or without."""
    from higfa_core.classifier.calibrate import expected_calibration_error
    from higfa_core.miniature.guides import seen_by

    p = seen_by(classifier, pixels)
    seen = p.argmax(1)
    found = {"species": seen == labels} | marks_right(seen, labels)
    row = {k: round(float(right.float().mean()), 4) for k, right in found.items()}
    return {"classifier": name, "arch": classifier.arch, "renders": len(labels), **row,
            "ece": round(float(expected_calibration_error(p.double(), labels)), 4)}  # fmt: skip


def main():
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout)
    start_comfyui()
    from higfa_core.classifier import FineGrainedClassifier
    from higfa_core.miniature import guides, make_weights, shipped

    studio = make_weights.Studio(TRAINED, shipped.WEIGHTS)
    for name in make_weights.STUDY:
        if not guide_path(name).exists():
            getattr(studio, name)()
    files = {name: guide_path(name) for name in ("oracle", "mid", "weak")} | {"judge": shipped.JUDGE}
    pixels, labels = guides.fresh()
    rows = [accuracy_row(name, FineGrainedClassifier.load(file), pixels, labels) for name, file in files.items()]
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / "guides.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0], lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    for row in rows:
        print(row)


if __name__ == "__main__":
    sys.exit(main())
