"""What other people's code says about known features: the values that tests/evaluation compares ours with.

    pip install --target FOLDER prdc==0.2 vendi-score==0.0.3 torchmetrics==1.9.0 torch-fidelity==0.4.0
    PYTHONPATH=FOLDER python run.py exec -- python benchmarks/metric_oracles.py

Those packages are no dependency of the tests: prdc and vendi-score are no longer maintained.
"""

import argparse
import json
from importlib.metadata import version
from pathlib import Path

import numpy as np

OUT = Path(__file__).resolve().parent.parent / "tests/evaluation/oracles.json"
PACKAGES = ("prdc", "vendi-score", "torchmetrics", "torch-fidelity")


def features(seed: int, count: int, size: int) -> np.ndarray:
    """[count, size] of numbers that every machine can make: a seed's Philox stream, moved by the seed."""
    stream = np.random.Generator(np.random.Philox(seed)).integers(-1000, 1000, (count, size))
    return stream / 1000 + 0.3 * seed


def main():
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    import prdc
    import torch
    from torch_fidelity.metric_kid import kernel_mmd
    from torchmetrics.image.kid import poly_mmd
    from vendi_score import vendi

    cases = []
    for n, m, size, k in ((40, 30, 8, 3), (60, 90, 16, 5), (30, 24, 64, 5)):
        real, made = features(0, n, size), features(1, m, size)
        first, second = torch.from_numpy(real), torch.from_numpy(made)
        same = min(n, m)  # torch-fidelity's estimator is for two sets of one size
        cases.append(
            {
                "case": [n, m, size, k],
                "prdc": prdc.compute_prdc(real_features=real, fake_features=made, nearest_k=k),
                "vendi": float(vendi.score_X(made / np.linalg.norm(made, axis=1, keepdims=True), normalize=False)),
                "torchmetrics": float(poly_mmd(first[:same], second[:same], degree=3, gamma=None, coef=1.0)),
                "torch_fidelity": float(kernel_mmd(real[:same], made[:same])),
            }
        )
    OUT.write_text(json.dumps({"packages": {p: version(p) for p in PACKAGES}, "cases": cases}, indent=1) + "\n")
    print(OUT)


if __name__ == "__main__":
    main()
