"""Guides as weak as a user's: pre-trained on a related world, then trained on ten images of each species.

    python run.py exec -- python benchmarks/honest_guides.py

`mid` and `weak` see the same 160 images (8 of each species to train on, 2 to calibrate) for 1,500 and 300 steps. The
judge is another architecture, trained on 16,000 renders of its own. Stages are resumable and skipped when their file
is there; everything is kept in .higfa/evidence, and the accuracy on 1,600 fresh renders in benchmarks/results.
"""

import argparse
import csv
import logging
import sys

from miniature_world import ROOT, start_comfyui

RESULTS = ROOT / "benchmarks/results"
WORK = ROOT / ".higfa/evidence"
ARCH = "test_resnet"
SHOTS, HELD_OUT = 10, 2  # images of a species; the demo's sources are the first eight of them
GUIDES = {"mid": 1500, "weak": 300}  # steps
RELATED_SEED, RELATED, PRETRAINING = 5_000_000, 6_000, 600
FRESH_SEED, FRESH = 6_000_000, 100  # renders of a species that nothing was trained or tuned on


def guide_path(name):
    return WORK / f"guide_{name}.safetensors"


def renders(seed, per_species):
    """float [N, 3, 64, 64] in -1..1 and species [N]; drawn at 128 pixels and halved, as the sources are."""
    import numpy as np
    import torch

    from higfa_core.miniature import birds
    from higfa_core.miniature.make_weights import to_pixels

    images = np.stack([birds.render(k, seed + i, 128).image for i in range(per_species) for k in range(16)])
    return to_pixels(images), torch.arange(16).repeat(per_species)


def softened(autoencoder, x, share, generator):
    """The first `share` of a batch as decoded from a noisy latent, as soft as an early estimate."""
    import torch

    n = int(len(x) * share)
    with torch.no_grad():
        z = autoencoder.encode(x[:n])
        x[:n] = autoencoder.decode(z + 0.15 * z.std() * torch.randn(z.shape, generator=generator)).clamp(-1, 1)
    return x


def pretrain(autoencoder):
    """The weights that recognise the marks, the background and the colour of related birds."""
    import numpy as np
    import related_world
    import timm
    import torch
    from torch.nn import functional as F

    from higfa_core.miniature import birds
    from higfa_core.miniature.make_weights import Trainer, augment, to_pixels

    path = WORK / "related.pt"
    if path.exists():
        return torch.load(path)
    drawn = [related_world.render(RELATED_SEED + i) for i in range(RELATED)]
    pixels = to_pixels(np.stack([image for image, _ in drawn]))
    targets = torch.from_numpy(np.stack([target for _, target in drawn]))
    marks, scenes = len(related_world.MARKS), len(birds.BACKGROUNDS)
    torch.manual_seed(0)
    net = timm.create_model(ARCH, pretrained=False, num_classes=marks + scenes + len(birds.COLOURS))

    def loss_of(step, generator):
        net.train()
        i = torch.randint(RELATED, (64,), generator=generator)
        out, wanted = net(softened(autoencoder, augment(pixels[i], generator), 0.25, generator)), targets[i]
        return (
            3 * F.binary_cross_entropy_with_logits(out[:, :marks], wanted[:, :marks])
            + 0.3 * F.cross_entropy(out[:, marks : marks + scenes], wanted[:, -2].long())
            + 0.3 * F.cross_entropy(out[:, marks + scenes :], wanted[:, -1].long())
        )

    Trainer(WORK, "related", {"net": net}, PRETRAINING, 2e-3, decay=0.05).run(loss_of)
    torch.save(net.state_dict(), path)
    return net.state_dict()


def make_guide(name, steps, autoencoder):
    """A classifier from the pre-trained weights and the few shots, calibrated on the held-out ones."""
    import timm
    import torch
    from torch.nn import functional as F

    from higfa_core.classifier import FineGrainedClassifier, Preprocess
    from higfa_core.miniature import birds
    from higfa_core.miniature.make_weights import Trainer, augment
    from higfa_core.training.calibrate import fit_temperature

    pixels, labels = renders(0, SHOTS)
    train = 16 * (SHOTS - HELD_OUT)
    related = pretrain(autoencoder)
    torch.manual_seed(1)
    net = timm.create_model(ARCH, pretrained=False, num_classes=16)
    fresh = net.state_dict()
    net.load_state_dict({k: related[k] if related[k].shape == v.shape else v for k, v in fresh.items()})

    def loss_of(step, generator):
        net.train()
        i = torch.randint(train, (32,), generator=generator)
        x = softened(autoencoder, augment(pixels[i], generator), 0.25, generator)
        return F.cross_entropy(net(x), labels[i], label_smoothing=0.05)

    Trainer(WORK, f"guide_{name}", {"net": net}, steps, 1e-3, decay=0.05).run(loss_of)
    net.eval()
    with torch.no_grad():
        temperature = fit_temperature(net(pixels[train:]), labels[train:])
    look = Preprocess((64, 64), (0.5,) * 3, (0.5,) * 3, "bilinear", 1.0)
    FineGrainedClassifier(net, birds.CLASS_NAMES, look, temperature, arch=ARCH).save(guide_path(name))


def accuracy_row(name, classifier, pixels, labels):
    """What it gets right on fresh renders: the species, and each mark with its three siblings' help or without."""
    from higfa_core.training.calibrate import expected_calibration_error

    p = classifier.predict_proba((pixels.movedim(1, -1) + 1) / 2)
    seen = p.argmax(1)
    marks = {f"{mark}": ((seen >> bit & 1) == (labels >> bit & 1)) for mark, bit in zip(MARKS, (3, 2, 1, 0))}
    shown = {"species": seen == labels} | marks
    row = {k: round(float(right.float().mean()), 4) for k, right in shown.items()}
    return {"classifier": name, "arch": classifier.arch, "renders": len(labels), **row,
            "ece": round(float(expected_calibration_error(p.double(), labels)), 4)}  # fmt: skip


MARKS = ("bill", "tail", "wing bars", "crown")


def main():
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout)
    start_comfyui()
    from fidelity import load_judge

    from higfa_core.classifier import FineGrainedClassifier
    from higfa_core.miniature import make_weights

    WORK.mkdir(parents=True, exist_ok=True)
    autoencoder, _ = make_weights.Studio(WORK, make_weights.SHIPPED).autoencoder()
    for name, steps in GUIDES.items():
        if not guide_path(name).exists():
            make_guide(name, steps, autoencoder)
    files = {"oracle": make_weights.SHIPPED / "guide.safetensors"} | {name: guide_path(name) for name in GUIDES}
    classifiers = {name: FineGrainedClassifier.load(path) for name, path in files.items()} | {"judge": load_judge()}
    pixels, labels = renders(FRESH_SEED, FRESH)
    rows = [accuracy_row(name, classifier, pixels, labels) for name, classifier in classifiers.items()]
    RESULTS.mkdir(exist_ok=True)
    with (RESULTS / "guides.csv").open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0], lineterminator="\n")
        table.writeheader()
        table.writerows(rows)
    for row in rows:
        print(row)


if __name__ == "__main__":
    sys.exit(main())
