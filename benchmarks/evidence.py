"""What each part of the method buys with a guide as weak as a user's: one row per image, paired by seed.

    python run.py exec -- python benchmarks/honest_guides.py              # once: the weak guide and the oracle
    python run.py exec -- python benchmarks/evidence.py                   # rows, then the table
    python run.py exec -- python benchmarks/evidence.py --seeds tune --conditions mid:eta=0.5 mid:preset=constant
    python run.py exec -- python benchmarks/evidence.py --table           # only the table of the rows that exist
    python run.py exec -- python benchmarks/evidence.py --measures        # coverage, diversity, spectrum of them
    python run.py exec -- python benchmarks/evidence.py --quick           # two minutes: is the order still so?

A condition is text, contour (text + contour) or the name of a guide, then settings of HiGFA Guidance as NAME=VALUE.
All conditions share noise, sources and warped contours. The sources are the five images of each species that the
guides were trained on. Rows are added to benchmarks/results/<seeds>.csv as they come, so that the same command
resumes; images go to .higfa/evidence. Settings are tried on the tuning seeds only.
"""

import argparse
import csv
import shutil
import sys
from collections import defaultdict
from pathlib import Path
from tempfile import TemporaryDirectory

from honest_guides import RESULTS, guide_path, marks_right
from miniature_world import ROOT, higfa_guider, load_world, noise_for, start_comfyui, stock_guider

WORK = ROOT / ".higfa/evidence"
SEEDS = {"evaluation": 90_000, "tune": 80_000, "quick": 70_000}
SOURCES = 5
SHIPPED = ("text", "contour", "weak", "mid", "oracle")
GUIDES = ("weak", "mid", "oracle")
FRESH_SEED, FRESH_REAL = 8_000_000, 20
MEASURED = ("images", "label_error", "precision", "recall", "density", "coverage", "class_vendi", "class_vendi_real",
            "kernel_distance", "kernel_distance_real", "authenticity", "spectrum_gap_high", "duplicates")  # fmt: skip
COLUMNS = ("condition", "seed", "species", "judge_right", "judge_p", "weak_p", "mid_p", "oracle_p", "moved")


def warped(species, source, seeds, warp):
    """The contours of that source of every species, warped by each image's own seed."""
    import numpy as np
    import torch

    from higfa_core import contour
    from higfa_core.miniature import birds

    views = [birds.render(s, source, 128) for s in species]
    images = torch.from_numpy(np.stack([v.image for v in views])).float() / 255
    masks = torch.from_numpy(np.stack([v.mask for v in views])).float() / 255
    lines = contour.extract(images, "canny", blur=0.0, mask=masks)
    names = ("flip", "rotation", "scale_min", "scale_max", "translation", "perspective", "elastic")
    transform = contour.ContourTransform(**{name: warp[name] for name in names})
    pairs = [(lines[i : i + 1], masks[i : i + 1]) for i in range(len(seeds))]
    return torch.cat([contour.transform_batch(x, transform, s, mask=m)[0] for (x, m), s in zip(pairs, seeds)])


class Bench:
    """The miniature, the guides and the judge; makes a round, which is one image of every species."""

    def __init__(self, phase, folder, guides=GUIDES, images=WORK):
        from fidelity import load_judge, settings_of_workflow

        from higfa_core.classifier import FineGrainedClassifier
        from higfa_core.comfy.patchers import attach_patcher

        self.phase, self.images, self.world = phase, images, load_world()
        self.sampler, self.guidance, self.warp = settings_of_workflow()
        self.guides = {name: attach_patcher(FineGrainedClassifier.load(guide_path(name))) for name in guides}
        self.judge = load_judge()
        self.path = folder / f"{phase}.csv"
        self.rows = read_rows(self.path)

    def make(self, condition, number):
        """Generate and record the images of a round, unless their rows are there."""
        import torch

        from higfa_core.miniature import birds

        n = len(birds.SPECIES)
        seeds = [SEEDS[self.phase] + n * number + i for i in range(n)]
        if (condition, seeds[-1]) in self.rows:
            return
        names = list(birds.CLASS_NAMES)
        with torch.inference_mode():
            text = self.world.encode([f"a photo of a {name}" for name in names])
            empty = self.world.encode([""] * n)
            moved = warped(range(n), number % SOURCES, seeds, self.warp)
            both = self.world.with_contour(text, moved)
            guider = self._guider(condition, text, both, empty, names)
            noise = noise_for(seeds)
            s = self.sampler
            latent = self.world.sample(guider, noise, s["steps"], s["sampler_name"], s["scheduler"], seeds[0])
            images = self.world.vae.decode(latent).float().clamp(0, 1).clone()
        self._record(condition, seeds, names, images)

    def _guider(self, condition, text, both, empty, names):
        from higfa_core.guidance.settings import Guidance

        kind, *given = condition.replace(":", " ").split()
        if kind in ("text", "contour"):
            return stock_guider(self.world, text if kind == "text" else both, empty, self.sampler["cfg"])
        values = {**self.guidance, **dict(pair.split("=") for pair in given)}
        settings = Guidance(**{k: type(getattr(Guidance(), k))(v) for k, v in values.items()})
        self.world.classifier = self.guides[kind]
        return higfa_guider(self.world, both, empty, self.sampler["cfg"], names, settings)

    def _record(self, condition, seeds, names, images):
        import numpy as np
        import torch
        from PIL import Image

        classes = torch.arange(len(seeds))
        p = {name: guide.predict_proba(images)[classes, classes] for name, guide in self.guides.items()}
        judged = self.judge.predict_proba(images)
        rows = []
        for i, seed in enumerate(seeds):
            path = self._image(condition, names[i], seed)
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray((images[i] * 255).round().byte().numpy()).save(path)
            base = self._image("contour", names[i], seed)
            before = np.asarray(Image.open(base), float) if base.exists() else None
            apart = (
                "" if before is None else round(float(np.abs(np.asarray(Image.open(path), float) - before).mean()), 3)
            )
            row = (condition, seed, names[i], int(judged[i].argmax() == i), round(float(judged[i, i]), 4))
            theirs = (round(float(p[name][i]), 4) if name in p else "" for name in GUIDES)
            rows.append((*row, *theirs, apart))
        new = not self.path.exists()
        with self.path.open("a", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            if new:
                table.writerow(COLUMNS)
            table.writerows(rows)
        self.rows |= {(row[0], row[1]): dict(zip(COLUMNS, row)) for row in rows}

    def _image(self, condition, name, seed):
        return self.images / self.phase / condition.replace(":", " ") / "train" / name / f"{seed}.png"


def species_count():
    from higfa_core.miniature import birds

    return len(birds.SPECIES)


def read_rows(path):
    """(condition, seed) -> row."""
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        return {(row["condition"], int(row["seed"])): row for row in csv.DictReader(file)}


def table(rows):
    """A line per condition, compared with text + contour on the same seeds."""
    from higfa_core.checking.verdict import Reading, loss, wilson

    by_condition = defaultdict(dict)
    for (condition, seed), row in rows.items():
        by_condition[condition][seed] = row
    base = by_condition.get("contour", {})
    lines = [
        "| condition | n | judge sees the species | error | its own guide is for it | guide minus judge | repaired | "
        "broken | points against text + contour | moved |",
        "|" + "---|" * 10,
    ]
    for condition, found in by_condition.items():
        right = {seed: bool(int(row["judge_right"])) for seed, row in found.items()}
        low, high = wilson(sum(right.values()), len(right))
        share = sum(right.values()) / len(right)
        cells = [condition, str(len(right)), f"{share:.1%} ({low:.1%} to {high:.1%})", f"{1 - share:.1%}"]
        kind = condition.split(":")[0]
        if kind in GUIDES:
            believed = sum(float(row[f"{kind}_p"]) >= 0.5 for row in found.values()) / len(found)
            cells += [f"{believed:.1%}", f"{100 * (believed - share):+.1f}"]
        else:
            cells += ["", ""]
        both = sorted(found.keys() & base.keys()) if condition != "contour" else []
        if both:
            before = Reading("", tuple(bool(int(base[seed]["judge_right"])) for seed in both), ())
            after = Reading("", tuple(right[seed] for seed in both), ())
            cost = loss(before, after)
            repaired = sum(not a and b for a, b in zip(before.right, after.right))
            broken = sum(a and not b for a, b in zip(before.right, after.right))
            points = f"{-100 * cost.points:+.1f} ({-100 * cost.high:+.1f} to {-100 * cost.low:+.1f})"
            apart = [float(found[seed]["moved"]) for seed in both if found[seed]["moved"] != ""]
            cells += [str(repaired), str(broken), points, f"{sum(apart) / len(apart):.2f}" if apart else ""]
        else:
            cells += ["", "", "", ""]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def quick(folder, rounds):
    """Without the guides that do not ship, into `folder`: 0 if HiGFA repairs more of text + contour than it breaks."""
    start_comfyui()
    bench = Bench("quick", folder, guides=("mid",), images=folder)
    for number in range(rounds):
        for condition in ("text", "contour", "mid"):
            bench.make(condition, number)
    print(table(bench.rows))
    right = {key: int(row["judge_right"]) for key, row in bench.rows.items()}
    gained = [right["mid", seed] - right["contour", seed] for kind, seed in right if kind == "mid"]
    print(f"repaired {gained.count(1)}, broken {gained.count(-1)}")
    return 0 if gained.count(1) > 2 * gained.count(-1) else 1


def by_species(rows):
    """Images of each species that the judge sees as such: text + contour, to HiGFA with the mid guide; losses first."""
    right = defaultdict(lambda: defaultdict(int))
    for row in rows.values():
        right[row["species"]][row["condition"]] += int(row["judge_right"])
    ranked = sorted(right.items(), key=lambda item: item[1]["mid"] - item[1]["contour"])
    return ", ".join(f"{name} {found['contour']} to {found['mid']}" for name, found in ranked)


def rejection(rows):
    """Text + contour, of which the guide keeps what it likes: how much is left, how right, and of how many species."""
    from math import ceil

    found = [row for row in rows.values() if row["condition"] == "contour"]
    lines = [
        "| guide | rule | kept | judge sees the species | species left | right images per 100 made |",
        "|" + "---|" * 6,
    ]
    for guide in ("weak", "mid"):
        groups = defaultdict(list)
        for row in found:
            groups[row["species"]].append(row)
        kept = {"p at least 0.5": [row for row in found if float(row[f"{guide}_p"]) >= 0.5]}
        for share in (0.75, 0.5, 0.25):
            best = [
                sorted(g, key=lambda row: -float(row[f"{guide}_p"]))[: ceil(share * len(g))] for g in groups.values()
            ]
            kept[f"best {share:.0%} of each species"] = [row for some in best for row in some]
        for rule, some in kept.items():
            right = sum(int(row["judge_right"]) for row in some)
            share, species = f"{len(some)} of {len(found)}", len({row["species"] for row in some})
            cells = (guide, rule, share, f"{right / len(some):.1%}", f"{species} of {len(groups)}")
            lines.append(f"| {' | '.join(cells)} | {100 * right / len(found):.0f} |")
    return "\n".join(lines)


LADDER = ("mid:eta=0", "mid:eta=0.25", "mid:eta=0.5", "mid:eta=1", "mid")


def pilots(rows, draws=1000, jobs=12):
    """What `higfa tune` would take from pilots of 12 of the ladder's jobs, and what that costs on the others."""
    import random

    from higfa_core.evaluation.tuning import Rung, TuneSettings, choose

    by_seed = defaultdict(dict)
    for (condition, seed), row in rows.items():
        by_seed[seed][condition] = row
    seeds = sorted(seed for seed, found in by_seed.items() if all(condition in found for condition in LADDER))
    if len(seeds) < 4 * jobs:
        return ""

    def rung(condition, some):
        found = [by_seed[seed][condition] for seed in some]
        columns = [[float(row[name]) for row in found] for name in ("judge_p", "judge_right", "moved")]
        return Rung({condition: 0.0}, tuple(columns[0]), tuple(map(bool, columns[1])), tuple(columns[2]))

    draw, taken, losses = random.Random(0), defaultdict(int), []
    for _ in range(draws):
        pilot = draw.sample(seeds, jobs)
        rest = [seed for seed in seeds if seed not in pilot]
        (name,) = choose([rung(condition, pilot) for condition in LADDER], TuneSettings()).rung.values
        taken[name] += 1
        shares = {c: sum(int(by_seed[s][c]["judge_right"]) for s in rest) / len(rest) for c in LADDER}
        losses.append(100 * (max(shares.values()) - shares[name]))
    near = sum(loss <= 2 for loss in losses) / draws
    picks = ", ".join(f"{name} {count / draws:.0%}" for name, count in taken.items())
    mean = sum(losses) / draws
    words = f"{mean:.1f} points below the best, within 2 in {near:.0%}"
    return f"pilots of {jobs} from {len(seeds)} jobs take {picks}; {words}"


def measures(phase, conditions, last):
    """The measures of `higfa evaluate` for the images of each condition, against 20 fresh renders of each species."""
    from fidelity import load_judge
    from PIL import Image

    from higfa_core.evaluation.audit import Networks, audit
    from higfa_core.evaluation.pair import read_pair
    from higfa_core.evaluation.settings import EvaluationSettings
    from higfa_core.miniature import birds

    real = WORK / "fresh"
    for species, name in enumerate(birds.CLASS_NAMES):
        (real / "train" / name).mkdir(parents=True, exist_ok=True)
        for i in range(FRESH_REAL):
            path = real / "train" / name / f"{i}.png"
            if not path.exists():
                Image.fromarray(birds.render(species, FRESH_SEED + i).image).save(path)
    judge, rows = load_judge(), []
    for condition in conditions:
        pair = read_pair(real, linked(WORK / phase / condition.replace(":", " "), last))
        sheet = audit(pair, Networks(judge, judge), EvaluationSettings(side=128))
        found = {name: sheet.measures[name] for name in MEASURED} | right_marks(sheet.images)
        rounded = {k: v if v is None or isinstance(v, int) else round(v, 4) for k, v in found.items()}
        rows.append({"condition": condition, **rounded})
        print(rows[-1], flush=True)
    with (RESULTS / f"{phase}_measures.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def linked(folder, last):
    """A folder with the images of earlier seeds alone."""
    apart = WORK / "measured" / folder.name
    shutil.rmtree(apart, ignore_errors=True)
    for path in folder.rglob("*.png"):
        if int(path.stem) < last:
            place = apart / path.relative_to(folder)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.hardlink_to(path)
    return apart


def right_marks(images):
    """Share of the images in which the judge sees each mark as it should be."""
    import torch

    from higfa_core.miniature.birds import CLASS_NAMES

    wanted, seen = (torch.tensor([CLASS_NAMES.index(x[key]) for x in images]) for key in ("class", "judge_sees"))
    return {mark: float(right.float().mean()) for mark, right in marks_right(seen, wanted).items()}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", choices=SEEDS, default="evaluation")
    parser.add_argument(
        "--rounds", type=int, default=12, help="one image of each species a round; others are left out of the table"
    )
    parser.add_argument("--conditions", nargs="+", metavar="CONDITION", help=f"default: {' '.join(SHIPPED)}")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="FOLDER", help="of the rows")
    parser.add_argument("--table", action="store_true", help="only print the table of the rows that exist")
    parser.add_argument("--measures", action="store_true", help="coverage, diversity and so on of the images made")
    parser.add_argument("--quick", action="store_true", help="two rounds on other seeds: exit 1 if the order is wrong")
    args = parser.parse_args()
    if args.quick:
        with TemporaryDirectory() as folder:
            return quick(Path(folder), min(args.rounds, 2))
    last = SEEDS[args.seeds] + args.rounds * species_count()
    if args.measures:
        return measures(args.seeds, args.conditions or SHIPPED, last)
    if args.seeds == "evaluation" and args.conditions and set(args.conditions) - set(SHIPPED):
        parser.error("settings are tried on --seeds tune, never on the evaluation seeds")
    if not args.table:
        start_comfyui()
        bench = Bench(args.seeds, args.out)
        for number in range(args.rounds):  # round by round: whatever is there is paired
            for condition in args.conditions or SHIPPED:
                bench.make(condition, number)
            print(f"round {number + 1} of {args.rounds}", flush=True)
    rows = {key: row for key, row in read_rows(args.out / f"{args.seeds}.csv").items() if key[1] < last}
    print(table(rows), rejection(rows), pilots(rows), by_species(rows), sep="\n\n")


if __name__ == "__main__":
    sys.exit(main())
