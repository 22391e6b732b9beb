"""The miniature's classifiers: guides as weak as a user's, a strong one, and an independent judge.

The `mid` guide ships. It and the `weak` one start from a network that has seen a related world (`.related_world`),
which stands in for ImageNet, and then see ten images of each species: eight to train on, two to calibrate. The `oracle`
saw a hundred. The judge is another architecture, trained on renders of its own; no guide has seen any of them.
"""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch.nn import functional as F

from ..classifier import FineGrainedClassifier, Preprocess
from ..classifier.calibrate import fit_temperature
from . import birds, related_world
from .renders import SIZE, augment, render_set, to_pixels
from .shipped import worth
from .trainer import Trainer

log = logging.getLogger(__name__)
FEW_SHOT = "test_resnet"
SHOTS, HELD_OUT = 10, 2  # images per species, seeds 0 to 9: the demo's sources are the first eight of them
STEPS = {"mid": 1500, "weak": 300}
RELATED, PRETRAINING = 6_000, 600  # images and steps
# Architecture, first seed of its renders, renders per species, steps, seed of its weights.
MANY_SHOT = {
    "oracle": ("resnet10t", 2_000_000, 100, 900, 526),
    "judge": ("test_efficientnet", 3_000_000, 1_000, 1300, 527),
}
RELATED_SEED, FRESH_SEED = 5_000_000, 6_000_000  # ranges of seeds are disjoint, as are those of `.make_weights`
FRESH = 100  # renders per species that nothing was trained on
SPECIES = len(birds.SPECIES)
LOOK = Preprocess((SIZE, SIZE), (0.5,) * 3, (0.5,) * 3, "bilinear", 1.0)


def shots(seed: int, per_species: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Float [N, 3, 64, 64] in -1..1 and species [N]; drawn at 128 pixels and halved, as the demo's sources are."""
    drawn = [birds.render(k, seed + i, 2 * SIZE).image for i in range(per_species) for k in range(SPECIES)]
    return to_pixels(np.stack(drawn)), torch.arange(SPECIES).repeat(per_species)


def fresh() -> tuple[torch.Tensor, torch.Tensor]:
    """The renders on which accuracy is measured: see `shots`."""
    return shots(FRESH_SEED, FRESH)


def seen_by(classifier: FineGrainedClassifier, pixels: torch.Tensor) -> torch.Tensor:
    """Probabilities [N, K] of pixels as `shots` gives them."""
    return classifier.predict_proba((pixels.movedim(1, -1) + 1) / 2)


class Guides:
    """Trains them; `work` holds checkpoints and logs. `autoencoder` softens a part of what they are trained on."""

    def __init__(self, work: Path, autoencoder: torch.nn.Module):
        self.work, self.autoencoder = work, autoencoder

    def related(self) -> dict[str, torch.Tensor]:
        """The weights that recognise the marks, the background and the colour of related birds."""
        path = self.work / "related.safetensors"
        if path.exists():
            return load_file(path)
        drawn = [related_world.render(RELATED_SEED + i) for i in range(RELATED)]
        pixels = to_pixels(np.stack([image for image, _ in drawn]))
        targets = torch.from_numpy(np.stack([target for _, target in drawn]))
        marks, scenes = len(related_world.MARKS), len(birds.BACKGROUNDS)
        torch.manual_seed(0)
        net = _network(FEW_SHOT, marks + scenes + len(birds.COLOURS))

        def loss_of(step, generator):
            net.train()
            i = torch.randint(RELATED, (64,), generator=generator)
            out, wanted = net(self._softened(augment(pixels[i], generator), 0.25, generator)), targets[i]
            return (
                3 * F.binary_cross_entropy_with_logits(out[:, :marks], wanted[:, :marks])
                + 0.3 * F.cross_entropy(out[:, marks : marks + scenes], wanted[:, -2].long())
                + 0.3 * F.cross_entropy(out[:, marks + scenes :], wanted[:, -1].long())
            )

        Trainer(self.work, "related", {"net": net}, PRETRAINING, 2e-3, decay=0.05).run(loss_of)
        save_file(net.state_dict(), path)
        return net.state_dict()

    def few_shot(self, name: str, out: Path) -> None:
        """From the pre-trained weights and the few shots, calibrated on the held-out ones."""
        pixels, labels = shots(0, SHOTS)
        train = SPECIES * (SHOTS - HELD_OUT)
        related = self.related()
        torch.manual_seed(1)
        net = _network(FEW_SHOT, SPECIES)
        own = net.state_dict()  # of the last layer, which has other classes
        net.load_state_dict({k: related[k] if related[k].shape == v.shape else v for k, v in own.items()})

        def loss_of(step, generator):
            net.train()
            i = torch.randint(train, (32,), generator=generator)
            x = self._softened(augment(pixels[i], generator), 0.25, generator)
            return F.cross_entropy(net(x), labels[i], label_smoothing=0.05)

        Trainer(self.work, f"guide_{name}", {"net": net}, STEPS[name], 1e-3, decay=0.05).run(loss_of)
        net.eval()
        with torch.no_grad():
            temperature = fit_temperature(net(pixels[train:]), labels[train:])
        _save(FineGrainedClassifier(net, birds.CLASS_NAMES, LOOK, temperature, FEW_SHOT), out, "guide", SHOTS)

    def many_shot(self, name: str, out: Path) -> None:
        """From scratch, on as many renders as its recipe says."""
        arch, first, per_species, steps, seed = MANY_SHOT[name]
        pixels = to_pixels(render_set(first, per_species * SPECIES)[0])
        labels = torch.arange(len(pixels)) % SPECIES
        torch.manual_seed(seed)
        net = _network(arch, SPECIES)

        def loss_of(step, generator):
            net.train()
            i = torch.randint(len(pixels), (64,), generator=generator)
            x = self._softened(augment(pixels[i], generator), 0.5, generator)
            return F.cross_entropy(net(x), labels[i], label_smoothing=0.05)

        trainer = Trainer(self.work, name, {"net": net}, steps, 2e-3, ema=0.99, decay=0.05).run(loss_of)
        net.load_state_dict(trainer.weights("net"))
        role = "judge" if name == "judge" else "guide"
        _save(FineGrainedClassifier(net, birds.CLASS_NAMES, LOOK, arch=arch), out, role, per_species)

    @torch.no_grad()
    def _softened(self, x: torch.Tensor, share: float, generator: torch.Generator) -> torch.Tensor:
        """The first `share` of a batch as decoded from a noisy latent, as soft as an early estimate."""
        n = int(len(x) * share)
        autoencoder: Any = self.autoencoder
        z = autoencoder.encode(x[:n])
        noise = 0.15 * z.std() * torch.randn(z.shape, generator=generator)
        x[:n] = autoencoder.decode(z + noise).clamp(-1, 1)
        return x


def _network(arch: str, outputs: int) -> torch.nn.Module:
    import timm

    return timm.create_model(arch, pretrained=False, num_classes=outputs)


def _save(classifier: FineGrainedClassifier, out: Path, role: str, images_per_class: int) -> None:
    """In fp16, with its accuracy on fresh renders in the file."""
    pixels, labels = fresh()
    accuracy = float((seen_by(classifier, pixels).argmax(1) == labels).float().mean())
    about = {"role": role, "images_per_class": str(images_per_class), "fresh_accuracy": f"{accuracy:.4f}"}
    classifier.save(out, torch.float16, about | {"fresh_renders": str(len(labels))})
    log.info("%s: %s", out.name, worth(out))
