"""Does training on the synthetic images help? A classifier for each condition, tested on fresh renders; paired by seed.

    python run.py exec -- python benchmarks/honest_guides.py              # once: the guides and the judge
    python run.py exec -- python benchmarks/evidence.py --rounds 30       # the images
    python run.py exec -- python benchmarks/downstream.py --choose        # the share of replaced images, on validation
    python run.py exec -- python benchmarks/downstream.py                 # rows, then the table; resumes
    python run.py exec -- python benchmarks/downstream.py --table

All conditions train the same network from the same pre-training (the related world) on the same five real images of
each species, for the same number of steps, and evaluate the average of the weights. A real image is replaced with a
synthetic one of its class with one probability for all conditions, chosen on validation renders with the images of
text + contour. Everything but `real` has strong standard augmentation: RandAugment, and Mixup or CutMix in half of the
batches. Rows go to benchmarks/results/downstream.csv as they come.

Rejection is at equal compute: text + contour makes ten images for HiGFA's eight, of which the guide keeps some.
"""

import argparse
import csv
import math
import sys
from collections import defaultdict
from statistics import fmean, stdev

import evidence
from evidence import WORK
from honest_guides import RESULTS, TRAINED
from miniature_world import start_comfyui

STEPS, BATCH, RATE, DECAY = 2000, 32, 2e-3, 0.99
REAL, SYNTHETIC = 5, 8  # images of a species
ROUNDS = 10  # of text + contour in a generation: for rejection at equal compute; the other conditions take eight
VALIDATION_SEED, MORE_SEED, TEST_SEED = 9_000_000, 9_100_000, 9_500_000
GRID, CHOSEN = (0.25, 0.5, 0.75), 0.25
RULES = {"threshold": 0.5, "best 75 %": 0.75, "best 50 %": 0.5, "best 25 %": 0.25}
CONDITIONS = ("real", "real, strong augmentation", "text", "contour", "weak", "mid", "oracle",
              *(f"contour, {rule} by mid" for rule in RULES), "more real images")  # fmt: skip
COLUMNS = ("condition", "generation", "training", "share", "synthetic", "accuracy")


def synthetic(condition, generation):
    """Float [N, 3, S, S] in -1..1 and labels of a condition's images; a generation is a block of the rounds."""
    import numpy as np
    import torch
    from PIL import Image

    from higfa_core.miniature import birds
    from higfa_core.miniature.renders import LOOK, to_look, to_pixels

    kind, _, rule = condition.partition(", ")
    if kind == "more real images":
        return shots(MORE_SEED + generation * SYNTHETIC, SYNTHETIC)
    if kind == "real":
        return torch.zeros(0, 3, LOOK, LOOK), torch.zeros(0, dtype=torch.int64)
    n, base = len(birds.SPECIES), evidence.SEEDS["evaluation"]
    first = generation * ROUNDS
    last = first + (ROUNDS if rule else SYNTHETIC)
    rows = [row for (name, _), row in evidence.read_rows(RESULTS / "evaluation.csv").items() if name == kind]
    rows = [row for row in rows if first <= (int(row["seed"]) - base) // n < last]
    if len(rows) != (last - first) * n:
        raise SystemExit(
            f"{len(rows)} of {(last - first) * n} images of {kind}: run evidence.py --rounds {last} first."
        )
    if rule:
        rows = kept(rows, rule.removesuffix(" by mid"))
    images = [Image.open(WORK / "evaluation" / kind / "train" / row["species"] / f"{row['seed']}.png") for row in rows]
    labels = [birds.CLASS_NAMES.index(row["species"]) for row in rows]
    return to_look(to_pixels(np.stack([np.asarray(image) for image in images]))), torch.tensor(labels)


def kept(rows, rule):
    """What the mid guide keeps of text + contour."""
    if rule == "threshold":
        return [row for row in rows if float(row["mid_p"]) >= RULES[rule]]
    groups = defaultdict(list)
    for row in rows:
        groups[row["species"]].append(row)
    ranked = (sorted(group, key=lambda row: -float(row["mid_p"])) for group in groups.values())
    return [row for group in ranked for row in group[: math.ceil(RULES[rule] * len(group))]]


def shots(seed, per_species):
    """Renders as the classifiers see them, and their species."""
    from higfa_core.miniature.guides import shots
    from higfa_core.miniature.renders import to_look

    pixels, labels = shots(seed, per_species)
    return to_look(pixels), labels


def train(real, made, share, seed, strong):
    """The network after STEPS, its weights averaged. `real` and `made`: (images, labels)."""
    import torch
    from timm.utils import ModelEmaV3

    from higfa_core.miniature.guides import Guides, StrongAugmentation
    from higfa_core.miniature.renders import augment

    (images, labels), (others, their) = real, made
    by_class = {int(k): (their == k).nonzero().flatten() for k in their.unique()}
    classes = int(labels.max()) + 1
    net = Guides(TRAINED, torch.nn.Identity()).pretrained(seed)
    average = ModelEmaV3(net, decay=DECAY, use_warmup=True)
    optimizer = torch.optim.AdamW(net.parameters(), RATE, weight_decay=0.05)
    vary = StrongAugmentation()
    generator = torch.Generator().manual_seed(seed)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = RATE * max(0.01, min(1, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / STEPS)))
        i = torch.randint(len(images), (BATCH,), generator=generator)
        replaced = torch.rand(BATCH, generator=generator) < share
        x, y = images[i].clone(), labels[i]
        for j in replaced.nonzero().flatten().tolist():
            if (choices := by_class.get(int(y[j]))) is not None:
                x[j] = others[choices[torch.randint(len(choices), (1,), generator=generator)]][0]
        x = augment(x, generator)
        smoothed = 0.9 * torch.nn.functional.one_hot(y, classes) + 0.1 / classes
        x, target = vary(x, y, seed=STEPS * seed + step) if strong else (x, smoothed)
        net.train()
        loss = -(target * net(x).log_softmax(1)).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        average.update(net, step)
    return average.module.eval()


def accuracy(net, pixels, labels):
    import torch

    with torch.inference_mode():
        return float((torch.cat([net(x) for x in pixels.split(256)]).argmax(1) == labels).float().mean())


def measure(condition, generation, training, share, test):
    made = synthetic(condition, generation)
    net = train(shots(0, REAL), made, share, 1000 * generation + training, condition != "real")
    return (condition, generation, training, share, len(made[1]), round(accuracy(net, *test), 4))


def write(path, row):
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(COLUMNS)
        writer.writerow(row)
    print(row, flush=True)


def read(path):
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def table(rows, bases=("real, strong augmentation", "contour", "contour, best 50 % by mid")):
    """A line per condition: mean accuracy, and paired differences with Student's 95 % interval."""
    found = defaultdict(dict)
    for row in rows:
        found[row["condition"]][row["generation"], row["training"]] = 100 * float(row["accuracy"])
    head = ["condition", "trainings", "right on fresh renders", *(f"against {base}" for base in bases)]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for condition, values in found.items():
        cells = [condition, str(len(values)), f"{fmean(values.values()):.1f} %"]
        for base in bases:
            pairs = [values[key] - found[base][key] for key in values.keys() & found.get(base, {}).keys()]
            cells.append(interval(pairs) if len(pairs) > 1 and base != condition else "")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def interval(gaps):
    from scipy.stats import t

    half = t.ppf(0.975, len(gaps) - 1) * stdev(gaps) / len(gaps) ** 0.5
    return f"{fmean(gaps):+.1f} ({fmean(gaps) - half:+.1f} to {fmean(gaps) + half:+.1f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--generations", type=int, default=3)
    parser.add_argument("--trainings", type=int, default=3)
    parser.add_argument("--conditions", nargs="+", choices=CONDITIONS, default=CONDITIONS)
    parser.add_argument("--choose", action="store_true", help="try the shares of replaced images on validation renders")
    parser.add_argument("--table", action="store_true", help="only print the table of the rows that exist")
    args = parser.parse_args()
    path = RESULTS / ("downstream_share.csv" if args.choose else "downstream.csv")
    if not args.table:
        start_comfyui()
        test = shots(VALIDATION_SEED if args.choose else TEST_SEED, 40 if args.choose else 100)
        wanted = [(c, CHOSEN) for c in args.conditions] if not args.choose else [("contour", share) for share in GRID]
        for training in range(args.trainings):
            for generation in range(1 if args.choose else args.generations):
                for condition, share in wanted:
                    keys = [(r["condition"], r["generation"], r["training"], r["share"]) for r in read(path)]
                    if (condition, str(generation), str(training), str(share)) not in keys:
                        write(path, measure(condition, generation, training, share, test))
    print(table(read(path)) if not args.choose else "\n".join(map(str, read(path))))


if __name__ == "__main__":
    sys.exit(main())
