"""Wall time of HiGFA KSampler over the stock KSampler with ControlNet.

    python run.py exec -- python benchmarks/overhead.py
    python run.py exec -- python benchmarks/overhead.py --networks sd15 --steps 20 --rounds 3    # for a GPU

Same steps and seeds, interleaved, median of the ratios of the rounds; and the share spent in the classifier part
(decode, classify, gradient). On the miniature, guidance and contours (drawn birds, warped) are those of
miniature_augment.json; `--contour square` gives a contour of no bird, about which the classifier stays unsure: the
most expensive case, as are random weights in SD 1.5's architectures (`--networks sd15`; `narrow`: a tenth as wide).
`--processor-time` compares the time on the CPU, for a machine that has more to do.
"""

import argparse
import statistics
import sys
import time
from dataclasses import replace

from fidelity import SEEDS, contours_for, settings_of_workflow
from miniature_world import higfa_guider, load_world, start_comfyui, stock_guider

CFG = 3.0
BASES = ("stock, contour on positive and negative", "stock, contour on positive")
OPTIONS = (
    {},
    {"preset": "constant"},
    {"branch_interval": 2},
    {"branch_interval": 3},
    {"control_interval": 3},
    {"branch_interval": 3, "control_interval": 3},
)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--networks", choices=("miniature", "sd15", "narrow"), default="miniature")
    parser.add_argument("--contour", choices=("birds", "square"), default="birds")
    parser.add_argument("--processor-time", action="store_true")
    args = parser.parse_args()
    start_comfyui()
    import torch

    with torch.inference_mode():
        times, shares, where = race(args, time.process_time if args.processor_time else time.perf_counter)
    drawn = f"contour: {args.contour}, " if args.networks == "miniature" else ""
    what = f"{args.networks}, batch {args.batch}, {drawn}dpmpp_2m karras, {where}"
    print(f"{args.rounds} rounds, {args.steps} steps, {what}\n")
    print("| run | s / image | ratio to stock (both) | ratio to stock (positive) | classifier part |")
    print("|---|---|---|---|---|")
    for name, took in times.items():
        ratios = [statistics.median(t / b for t, b in zip(took, times[base], strict=True)) for base in BASES]
        share = statistics.median(shares[name])
        print(
            f"| {name} | {statistics.median(took) / args.batch:.3f} | {ratios[0]:.2f} | {ratios[1]:.2f} | {share:.0%} |"
        )


def race(args, clock):
    """Run -> seconds of its rounds, and the classifier's share of them; and the device."""
    world, names, lines, guidance = setting(args)
    runs = kinds_of_run(world, names, lines, guidance)
    times, shares = {k: [] for k in runs}, {k: [] for k in runs}
    for turn in range(args.rounds + 1):
        noise = world.noise(args.batch, turn)
        for name, make in runs.items():
            guider = make()
            began = clock()
            world.sample(guider, noise, args.steps, "dpmpp_2m", "karras", turn).cpu()
            took = clock() - began
            if turn:  # the first round warms up
                times[name].append(took)
                trace = getattr(guider, "trace", None)
                shares[name].append(trace.classifier_seconds / took if trace else 0.0)
    return times, shares, world.model.load_device


def setting(args):
    """World, class names, contours and guidance."""
    import torch

    from higfa_core.guidance.settings import Guidance
    from higfa_core.miniature import birds

    _, guidance, warp = settings_of_workflow()
    if args.networks == "miniature":
        world, species = load_world(), list(range(args.batch))
        names = [birds.CLASS_NAMES[i] for i in species]
        lines = contours_for(species, [SEEDS["tune"] + i for i in species], warp)[2]
    else:
        from random_world import RANDOM_CLASSES, random_world

        quick = args.networks == "narrow"
        world = random_world(128 if quick else 512, quick)
        names = RANDOM_CLASSES[: args.batch]
        lines = torch.zeros(args.batch, 8 * world.side, 8 * world.side, 3)
    if args.contour == "square" or args.networks != "miniature":
        low, high = 5 * lines.shape[1] // 16, 11 * lines.shape[1] // 16
        lines = torch.zeros_like(lines)
        lines[:, low:high, low] = lines[:, low:high, high] = lines[:, low, low:high] = lines[:, high, low:high] = 1.0
    return world, names, lines, Guidance.pick(guidance)


def kinds_of_run(world, names, lines, guidance):
    """Name -> a function that makes its guider."""
    text, empty = world.encode([f"a photo of a {n}" for n in names]), world.encode([""] * len(names))
    both, both_empty = world.with_contour(text, lines), world.with_contour(empty, lines)
    runs = {BASES[0]: lambda: stock_guider(world, both, both_empty, CFG)}
    runs[BASES[1]] = lambda: stock_guider(world, both, empty, CFG)
    for options in OPTIONS:
        settings = replace(guidance, **{"preset": "relax", **options})
        more = "".join(f", {name} {value}" for name, value in options.items() if name != "preset")
        runs[f"HiGFA, {settings.preset}{more}"] = lambda s=settings: higfa_guider(world, both, empty, CFG, names, s)
    return runs


if __name__ == "__main__":
    sys.exit(main())
