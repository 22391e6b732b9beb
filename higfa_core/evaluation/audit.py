"""All measures of a synthetic dataset against the real images it was made for."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from ..checking.sample import class_indices
from ..checking.verdict import wilson
from ..classifier.model import FineGrainedClassifier
from ..sources.image_hashes import UNREADABLE, ImageHashes
from ..sources.leaks import identical, near
from ..training.data import Labelled
from ..training.judge import names_of
from ..wording import counted
from . import measures, spectrum
from .features import look
from .marks import marks_of
from .pair import Pair
from .settings import EvaluationSettings

# name -> what it is; the order is that of the sheet
MEASURES = {
    "images": "synthetic images",
    "classes_without_images": "classes of the real set that have no synthetic image",
    "label_error": "share of the synthetic images that the judge sees as another class",
    "label_error_low": "lower end of its 95 % interval (Wilson)",
    "label_error_high": "upper end of its 95 % interval (Wilson)",
    "judge_error_on_real": "the same share among real images: what of it is the judge's own",
    "guide_error": "share that the guide sees as another class",
    "guide_minus_judge": "how much more often the guide is for an image than the judge: flattery",
    "precision": "share of the synthetic images that look like real ones",
    "recall": "share of the real images that the synthetic ones reach",
    "density": "real neighbourhoods that a synthetic image is in, 1 for real ones",
    "coverage": "share of the real images with a synthetic one in their neighbourhood",
    "vendi": "effective number of different synthetic images",
    "vendi_real": "the same of as many real images (all, if there are fewer)",
    "class_vendi": "effective number of different synthetic images in a class, mean of the classes",
    "class_vendi_real": "the same of as many real images of each class",
    "kernel_distance": "squared distance of the two distributions (KID with these features)",
    "kernel_distance_real": "the same between two halves of the real images: what is noise",
    "authenticity": "share not closer to a real image than that is to its own neighbour; about 0.5 is new",
    "copies_of_real": "synthetic images that are, or nearly are, a real training image",
    "copies_of_held_out": "synthetic images that are, or nearly are, a held-out image: a leak",
    "duplicates": "synthetic images that are, or nearly are, an earlier synthetic one",
    "spectrum_gap": "mean difference of the power at each frequency, in dB",
    "spectrum_gap_high": "mean difference at the upper half of the frequencies, in dB; below 0 is blur",
    "marked": "share of the synthetic images that say in the file that they are generated",
    "marked_real": "share of the real images that say so: they are not real",
}


@dataclass
class Audit:
    """The measures by name (None: not measured, and `notes` say why), and what they are made from."""

    measures: dict[str, float | None]
    looked_with: str
    judged_by: str
    notes: list[str] = field(default_factory=list)
    classes: dict[str, dict[str, float]] = field(default_factory=dict)
    images: list[dict] = field(default_factory=list)
    decibels: Tensor = field(default_factory=lambda: torch.zeros(0))
    distances: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Networks:
    """Who looks: the judge and the guide where there are any, and whose features are measured."""

    features: FineGrainedClassifier
    judge: FineGrainedClassifier | None = None
    guide: FineGrainedClassifier | None = None


def audit(
    pair: Pair, networks: Networks, settings: EvaluationSettings, progress: Callable[[int, int], None] = lambda *_: None
) -> Audit:
    """Measure everything. ValueError for an unreadable image, or a judge or guide that lacks one of the classes.

    Args:
        progress: called with the number of images seen and of all that will be, by all networks.
    """
    indices = {net: class_indices(pair.class_names, net) for net in (networks.judge, networks.guide) if net}
    seen = _look_at_all(pair, networks, progress)
    found = Audit(dict.fromkeys(MEASURES), _features_words(networks, seen), _judge_words(networks))
    counts = Counter(pair.labels)
    found.measures["images"] = len(pair.made)
    found.measures["classes_without_images"] = sum(label not in counts for label in range(len(pair.class_names)))
    found.images = [{"file": str(x.image.path), "class": pair.class_names[x.image.label]} for x in pair.made]
    _judge(found, pair, networks, seen, indices)
    real, made = (seen[networks.features, kind].features for kind in ("real", "made"))
    _distributions(found, real, made, settings)
    _within_classes(found, pair, real, made, settings)
    _closest(found, pair, real, made)
    _copies(found, pair)
    _spectra(found, pair, settings)
    _provenance(found, pair)
    return found


def _look_at_all(pair: Pair, networks: Networks, progress: Callable[[int, int], None]) -> dict:
    """(network, kind of images) -> what it sees in them; each network sees each image once."""
    kinds = {"made": [item.image for item in pair.made], "real": pair.real, "judged": pair.judged}
    wanted = {(networks.features, "made"): 0, (networks.features, "real"): 0}
    wanted |= {(net, "made"): 0 for net in (networks.judge, networks.guide) if net}
    wanted |= {(networks.judge, "judged"): 0} if networks.judge else {}
    if pair.judged is pair.real and networks.judge is networks.features:
        wanted.pop((networks.features, "judged"), None)
    total, done = sum(len(kinds[kind]) for _, kind in wanted), 0

    def step(images: int) -> None:
        nonlocal done
        done += images
        progress(done, total)

    seen = {(net, kind): look(net, _loader(kinds[kind]), len(kinds[kind]), step) for net, kind in wanted}
    if networks.judge and (networks.judge, "judged") not in seen:
        seen[networks.judge, "judged"] = seen[networks.judge, "real"]
    return seen


def _loader(images: Sequence[Labelled]) -> Callable[[int], Tensor]:
    return lambda number: images[number].load()


def _judge(found: Audit, pair: Pair, networks: Networks, seen: dict, indices: dict) -> None:
    """Label errors: the share of images whose most probable class is another one."""
    labels, errors = torch.tensor(pair.labels), {}
    for name, net in (("judge", networks.judge), ("guide", networks.guide)):
        if not net:
            continue
        known = torch.tensor(indices[net])
        p = seen[net, "made"].probabilities
        best, target = p.argmax(1), known[labels]
        errors[name] = float((best != target).double().mean())
        for image, row, best_class, wanted in zip(found.images, p, best.tolist(), target.tolist()):
            image |= {f"{name}_sees": net.class_names[best_class], f"{name}_right": best_class == wanted}
            image[f"{name}_probability"] = float(row[wanted])
    if networks.judge:
        wrong = sum(not image["judge_right"] for image in found.images)
        low, high = wilson(wrong, len(found.images))
        truth = torch.tensor(indices[networks.judge])[torch.tensor([item.label for item in pair.judged])]
        mistaken = seen[networks.judge, "judged"].probabilities.argmax(1) != truth
        found.measures |= {"label_error": errors["judge"], "label_error_low": low, "label_error_high": high}
        found.measures["judge_error_on_real"] = float(mistaken.double().mean())
        if pair.judged is pair.real:
            found.notes.append(
                "No real image is held out, so the judge's own error is that on training images: it may have seen them."
            )
    else:
        found.notes.append("No judge: label errors were not measured. Give --judge FILE, a network that did not guide.")
    if "guide" in errors:
        found.measures["guide_error"] = errors["guide"]
        found.notes.append("The guide steered these images: after guidance its probability is no evidence.")
    if len(errors) == 2:
        found.measures["guide_minus_judge"] = errors["judge"] - errors["guide"]


def _distributions(found: Audit, real: Tensor, made: Tensor, settings: EvaluationSettings) -> None:
    """Both sets as a whole."""
    k, m = settings.neighbours, found.measures
    if min(len(real), len(made)) > k:
        whole = measures.manifolds(real, made, k)
        m |= {"precision": whole.precision, "recall": whole.recall}
        m |= {"density": whole.density, "coverage": whole.coverage}
    else:
        found.notes.append(f"Precision, recall, density and coverage need more than {k} images of both kinds.")
    order = torch.randperm(len(real), generator=torch.Generator().manual_seed(settings.seed))
    sample = real[order[: len(made)]]
    m |= {"vendi": measures.vendi(made), "vendi_real": measures.vendi(sample)}
    if len(sample) < len(made):
        few, many = counted(len(real), "real image"), counted(len(made), "synthetic one")
        found.notes.append(f"Only {few} for {many}: vendi_real would be higher with as many.")
    if min(len(real), len(made)) > 1:
        m["kernel_distance"] = measures.kernel_distance(real, made)
    if len(real) > 3:
        first, second = order[: len(real) // 2], order[len(real) // 2 :]
        m["kernel_distance_real"] = measures.kernel_distance(real[first], real[second])


def _within_classes(found: Audit, pair: Pair, real: Tensor, made: Tensor, settings: EvaluationSettings) -> None:
    """Counts, errors and diversity of each class; of synthetic and real images as many, for the diversity."""
    of_real, of_made = torch.tensor([x.label for x in pair.real]), torch.tensor(pair.labels)
    vendis = []
    for label, name in enumerate(pair.class_names):
        images = [image for image in found.images if image["class"] == name]
        row: dict[str, float] = {"real": int((of_real == label).sum()), "synthetic": len(images)}
        if images and "judge_right" in images[0]:
            row["label_error"] = sum(not image["judge_right"] for image in images) / len(images)
        n = int(min(row["real"], row["synthetic"]))
        if n > 1:
            both = []
            for features in (made[of_made == label], real[of_real == label]):
                generator = torch.Generator().manual_seed(settings.seed)
                both.append(measures.vendi(features[torch.randperm(len(features), generator=generator)[:n]]))
            row |= {"vendi": both[0], "vendi_real": both[1]}
            vendis.append(both)
        found.classes[name] = row
    if not vendis:
        found.notes.append("No class has two images of both kinds, so their diversity within a class is not known.")
    if vendis:
        mean = torch.tensor(vendis).mean(0).tolist()
        found.measures |= {"class_vendi": mean[0], "class_vendi_real": mean[1]}


def _closest(found: Audit, pair: Pair, real: Tensor, made: Tensor) -> None:
    """The nearest real image of every synthetic one, and what is new."""
    apart, which = measures.nearest(made, real)
    found.distances["synthetic to real"] = apart
    for image, distance, number in zip(found.images, apart.tolist(), which.tolist()):
        image |= {"nearest_real": str(pair.real[number].path), "distance": distance}
    if len(real) > 1:
        new = measures.authentic(made, real)
        found.measures["authenticity"] = float(new.double().mean())
        found.distances["real to real"] = measures.radii(real, 1)
        for image, own in zip(found.images, new.tolist()):
            image["authentic"] = own


def _copies(found: Audit, pair: Pair) -> None:
    """Files that are identical or nearly so, by content and by perceptual hash with a look at the pixels."""
    made = [image["file"] for image in found.images]
    kinds = dict.fromkeys((str(item.path) for item in pair.real), "real")
    kinds |= dict.fromkeys(map(str, pair.held_out), "held out")
    paths = [*made, *kinds]
    hashes = dict(zip(paths, ImageHashes().of(Path(), paths)))
    if damaged := [path for path in paths if hashes[path].bits == UNREADABLE]:
        raise ValueError(f"Cannot read image {damaged[0]}. Replace or remove the file.")
    places, copies = {path: number for number, path in enumerate(made)}, {}
    # Real images are of one kind, those held out of another, and every synthetic image is of its own.
    every = kinds | {path: path for path in made}
    for path, other, _ in [*identical(hashes, every), *near(Path(), hashes, every)]:
        if path in places and (other not in places or places[other] < places[path]):
            copies.setdefault(path, {})[kinds.get(other, "synthetic")] = other
    for image in found.images:
        image |= {f"copy_of_{kind.replace(' ', '_')}": other for kind, other in copies.get(image["file"], {}).items()}
    names = {"copies_of_real": "real", "copies_of_held_out": "held out", "duplicates": "synthetic"}
    found.measures |= {name: sum(kind in of for of in copies.values()) for name, kind in names.items()}


def _spectra(found: Audit, pair: Pair, settings: EvaluationSettings) -> None:
    """The power of both sets at every frequency, at the side that the smallest image allows."""
    made = [item.image for item in pair.made]
    side = min(settings.side, *(min(image.load().shape[1:3]) for image in (*pair.real, *made))) // 2 * 2
    real, fake = ([spectrum.radial_power(image.load()[0], side) for image in images] for images in (pair.real, made))
    found.decibels = spectrum.gap(real, fake)
    found.measures["spectrum_gap"] = float(found.decibels.abs().mean())
    found.measures["spectrum_gap_high"] = spectrum.high(found.decibels)


def _provenance(found: Audit, pair: Pair) -> None:
    """Marks of generated images, in both sets."""
    of_made = [marks_of(item.image.path) for item in pair.made]
    of_real = [marks_of(item.path) for item in pair.real]
    for image, marks in zip(found.images, of_made):
        image["marks"] = sorted(marks)
    found.measures["marked"] = sum(map(bool, of_made)) / len(of_made)
    found.measures["marked_real"] = sum(map(bool, of_real)) / len(of_real)
    kinds = Counter(mark for marks in of_made for mark in marks)
    found.notes.append(f"Marks: {', '.join(f'{mark} {n}' for mark, n in kinds.most_common()) or 'none'}.")


def _features_words(networks: Networks, seen: dict) -> str:
    net = networks.features
    size = seen[net, "made"].features.shape[1]
    who = "the judge's" if net is networks.judge else "the guide's" if net is networks.guide else "those"
    return f"{who}: the {size} numbers that the last layer of {net.source} ({net.arch}) is given"


def _judge_words(networks: Networks) -> str:
    if networks.guide:
        return names_of(networks.guide, networks.judge)
    return f"judge {networks.judge.source} ({networks.judge.arch})" if networks.judge else "no judge"
