"""Wall time of HiGFA KSampler over the stock KSampler with ControlNet, on the miniature.

    python run.py exec -- python benchmarks/overhead.py

Same steps and seeds, interleaved, median of the ratios of the rounds; and the share spent in the classifier part
(decode, classify, gradient). Guidance and contours (drawn birds, warped) are those of miniature_augment.json;
`--contour square` gives a contour of no bird, about which the classifier stays unsure: the most expensive case.
`--processor-time` compares the time on the CPU, for a machine that has more to do.
"""

import argparse
import statistics
import sys
import time
from dataclasses import replace

from fidelity import SEEDS, contours_for, settings_of_workflow
from miniature_world import higfa_guider, load_world, start_comfyui, stock_guider


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--contour", choices=("birds", "square"), default="birds")
    parser.add_argument("--processor-time", action="store_true")
    args = parser.parse_args()
    clock = time.process_time if args.processor_time else time.perf_counter
    start_comfyui()
    import torch

    from higfa_core.guidance.settings import Guidance
    from higfa_core.miniature import birds

    world = load_world()
    names = [birds.CLASS_NAMES[i] for i in range(args.batch)]
    species, (_, guidance, warp) = list(range(args.batch)), settings_of_workflow()
    _, _, lines = contours_for(species, [SEEDS["tune"] + i for i in species], warp)
    if args.contour == "square":
        lines = torch.zeros(args.batch, 128, 128, 3)
        lines[:, 40:90, 40] = lines[:, 40:90, 90] = lines[:, 40, 40:90] = lines[:, 90, 40:90] = 1.0
    runs = {}
    with torch.inference_mode():
        text, empty = world.encode([f"a photo of a {n}" for n in names]), world.encode([""] * args.batch)
        both, both_empty = world.with_contour(text, lines), world.with_contour(empty, lines)
        runs["stock, contour on positive and negative"] = lambda: stock_guider(world, both, both_empty, 3.0)
        runs["stock, contour on positive"] = lambda: stock_guider(world, both, empty, 3.0)
        for preset, interval in (("relax", 1), ("constant", 1), ("relax", 2), ("relax", 3)):
            settings = replace(Guidance.pick(guidance), preset=preset, branch_interval=interval)
            more = f", branch_interval {interval}" if interval > 1 else ""
            runs[f"HiGFA, {preset}{more}"] = lambda s=settings: higfa_guider(world, both, empty, 3.0, names, s)
        times, shares = {k: [] for k in runs}, {k: [] for k in runs}
        for turn in range(args.rounds + 1):
            noise = torch.randn(args.batch, 4, 16, 16, generator=torch.Generator().manual_seed(turn))
            for name, make in runs.items():
                guider = make()
                began = clock()
                world.sample(guider, noise, args.steps, "dpmpp_2m", "karras", turn)
                took = clock() - began
                if turn:  # the first round warms up
                    times[name].append(took)
                    trace = getattr(guider, "trace", None)
                    shares[name].append(trace.classifier_seconds / took if trace else 0.0)
    what = f"batch {args.batch}, contour: {args.contour}, dpmpp_2m karras, {world.model.load_device}"
    print(f"{args.rounds} rounds, {args.steps} steps, {what}\n")
    print("| run | s / image | ratio to stock (both) | ratio to stock (positive) | classifier part |")
    print("|---|---|---|---|---|")
    first, second = (times[k] for k in list(runs)[:2])
    for name, took in times.items():
        ratios = [statistics.median(t / b for t, b in zip(took, base, strict=True)) for base in (first, second)]
        share = statistics.median(shares[name])
        print(
            f"| {name} | {statistics.median(took) / args.batch:.3f} | {ratios[0]:.2f} | {ratios[1]:.2f} | {share:.0%} |"
        )


if __name__ == "__main__":
    sys.exit(main())
