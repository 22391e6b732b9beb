"""The miniature's classifiers: guides as weak as a user's, a strong one, and an independent judge.

The `mid` guide ships. It and the `weak` one start from a network that has seen a related world (`.related_world`),
which stands in for ImageNet, and then see five images of each species: four to train on, one to calibrate. The `oracle`
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
from .renders import LOOK, SIZE, SPECIES, augment, render_set, to_look, to_pixels
from .shipped import worth
from .trainer import Trainer

log = logging.getLogger(__name__)
FEW_SHOT = "test_resnet"
SHOTS, HELD_OUT = 5, 1  # images per species, seeds 0 to 4: the first of the demo's sources
STEPS = {"mid": 1500, "weak": 400}
RELATED, PRETRAINING = 6_000, 600  # images and steps
# Architecture, first seed of its renders, renders per species, steps, seed of its weights.
MANY_SHOT = {
    "oracle": ("resnet10t", 2_000_000, 100, 900, 526),
    "judge": ("test_efficientnet", 3_000_000, 500, 2000, 527),
}
RELATED_SEED, FRESH_SEED = 5_000_000, 6_000_000  # ranges of seeds are disjoint, as are those of `.make_weights`
FRESH = 100  # renders per species that nothing was trained on
PREPROCESS = Preprocess((LOOK, LOOK), (0.5,) * 3, (0.5,) * 3, "bilinear", 1.0)


def shots(seed: int, per_species: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Float [N, 3, 128, 128] in -1..1 and species [N]."""
    drawn = [birds.render(k, seed + i, SIZE).image for i in range(per_species) for k in range(SPECIES)]
    return to_pixels(np.stack(drawn)), torch.arange(SPECIES).repeat(per_species)


def fresh() -> tuple[torch.Tensor, torch.Tensor]:
    """The renders on which accuracy is measured: see `shots`."""
    return shots(FRESH_SEED, FRESH)


def seen_by(classifier: FineGrainedClassifier, pixels: torch.Tensor) -> torch.Tensor:
    """Probabilities [N, K] of pixels as `shots` gives them."""
    return classifier.predict_proba((pixels.movedim(1, -1) + 1) / 2)


class StrongAugmentation:
    """RandAugment, and Mixup or CutMix in half of the batches; label smoothing."""

    def __init__(self):
        from timm.data.mixup import Mixup
        from torchvision.transforms.v2 import RandAugment

        self.randaugment = RandAugment(num_ops=2, magnitude=7)
        self.mixup = Mixup(0.2, 1.0, prob=0.5, switch_prob=0.5, label_smoothing=0.1, num_classes=SPECIES)

    def __call__(self, x: torch.Tensor, labels: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Images [B, 3, H, W] in -1..1, labels [B] -> images, shares of the classes [B, K]. Seeds torch and NumPy."""
        torch.manual_seed(seed)
        np.random.seed(seed % 2**32)
        bytes_ = ((x + 1) * 127.5).round().byte()
        return self.mixup(torch.stack([self.randaugment(image) for image in bytes_]).float() / 127.5 - 1, labels)


class Guides:
    """Trains them; `work` holds checkpoints and logs. `autoencoder` softens a part of what they are trained on."""

    def __init__(self, work: Path, autoencoder: torch.nn.Module):
        self.work, self.autoencoder = work, autoencoder

    def related(self) -> dict[str, torch.Tensor]:
        """The weights that recognise the marks, the background and the colour of related birds."""
        path = self.work / "related.safetensors"
        if path.exists():
            return load_file(path)
        drawn = [related_world.render(RELATED_SEED + i, SIZE) for i in range(RELATED)]
        images = np.stack([image for image, _ in drawn])
        targets = torch.from_numpy(np.stack([target for _, target in drawn]))
        marks, scenes = len(related_world.MARKS), len(birds.BACKGROUNDS)
        torch.manual_seed(0)
        net = _network(FEW_SHOT, marks + scenes + len(birds.COLOURS))

        def loss_of(step, generator):
            net.train()
            i = torch.randint(RELATED, (64,), generator=generator)
            out, wanted = net(self._seen(to_pixels(images[i.numpy()]), 0.25, generator)), targets[i]
            return (
                3 * F.binary_cross_entropy_with_logits(out[:, :marks], wanted[:, :marks])
                + 0.3 * F.cross_entropy(out[:, marks : marks + scenes], wanted[:, -2].long())
                + 0.3 * F.cross_entropy(out[:, marks + scenes :], wanted[:, -1].long())
            )

        Trainer(self.work, "related", {"net": net}, PRETRAINING, 2e-3, decay=0.05).run(loss_of)
        save_file(net.state_dict(), path)
        return net.state_dict()

    def pretrained(self, seed: int) -> torch.nn.Module:
        """A network for the species that has seen the related world; `seed` draws its last layer."""
        related = self.related()
        torch.manual_seed(seed)
        net = _network(FEW_SHOT, SPECIES)
        own = net.state_dict()  # of the last layer, which has other classes
        net.load_state_dict({k: related[k] if related[k].shape == v.shape else v for k, v in own.items()})
        return net

    def few_shot(self, name: str, out: Path) -> None:
        """From the pre-trained weights and the few shots, as strongly augmented as a user's; calibrated on the held-out
        ones."""
        pixels, labels = shots(0, SHOTS)
        seen, train = to_look(pixels), SPECIES * (SHOTS - HELD_OUT)
        net, vary = self.pretrained(seed=1), StrongAugmentation()

        def loss_of(step, generator):
            net.train()
            i = torch.randint(train, (32,), generator=generator)
            x, target = vary(augment(seen[i], generator), labels[i], seed=step)
            return -(target * net(x).log_softmax(1)).sum(1).mean()

        trainer = Trainer(self.work, f"guide_{name}", {"net": net}, STEPS[name], 2e-3, ema=0.99, decay=0.05)
        net.load_state_dict(trainer.run(loss_of).weights("net"))
        net.eval()
        with torch.no_grad():
            temperature = fit_temperature(net(seen[train:]), labels[train:])
        _save(FineGrainedClassifier(net, birds.CLASS_NAMES, PREPROCESS, temperature, FEW_SHOT), out, "guide", SHOTS)

    def many_shot(self, name: str, out: Path) -> None:
        """From scratch, on as many renders as its recipe says."""
        arch, first, per_species, steps, seed = MANY_SHOT[name]
        images = render_set(first, per_species * SPECIES)[0]
        labels = torch.arange(len(images)) % SPECIES
        torch.manual_seed(seed)
        net = _network(arch, SPECIES)

        def loss_of(step, generator):
            net.train()
            i = torch.randint(len(images), (64,), generator=generator)
            x = self._seen(to_pixels(images[i.numpy()]), 0.5, generator)
            return F.cross_entropy(net(x), labels[i], label_smoothing=0.05)

        trainer = Trainer(self.work, name, {"net": net}, steps, 2e-3, ema=0.99, decay=0.05).run(loss_of)
        net.load_state_dict(trainer.weights("net"))
        role = "judge" if name == "judge" else "guide"
        _save(FineGrainedClassifier(net, birds.CLASS_NAMES, PREPROCESS, arch=arch), out, role, per_species)

    @torch.no_grad()
    def _seen(self, x: torch.Tensor, share: float, generator: torch.Generator) -> torch.Tensor:
        """A batch, varied and reduced; the first `share` as soft as an early estimate: decoded from a noisy latent."""
        x, n = augment(x, generator), int(len(x) * share)
        autoencoder: Any = self.autoencoder
        z = autoencoder.encode(x[:n])
        noise = 0.15 * z.std() * torch.randn(z.shape, generator=generator)
        x[:n] = autoencoder.decode(z + noise).clamp(-1, 1)
        return to_look(x)


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
