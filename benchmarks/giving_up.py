"""What `give_up_below` saves, and which images it loses: the first evaluation against the judge's final word.

    python run.py exec -- python benchmarks/giving_up.py

Runs the images of miniature_augment.json on the tuning seeds without giving any up. The probability of the class at
the first evaluation says which of them a limit would have ended there; the judge, whether Export Dataset would have
accepted them in the end. Time is the processor's, of sampling alone, and as if each image were sampled by itself: in a
batch, one that is given up saves decoding and its third branch, and the rest only once all others are given up too.
"""

import argparse
import json
import sys
import time

from fidelity import BATCH, SEEDS, contours_for, load_judge, settings_of_workflow
from miniature_world import ROOT, higfa_guider, load_world, noise_for, start_comfyui

LIMITS = (0.01, 0.02, 0.05, 0.1, 0.2)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=192, help="a multiple of the number of species in a batch")
    args = parser.parse_args()
    start_comfyui()
    found, after = [], []
    world, judge = load_world(), load_judge()
    for start in range(0, args.images, BATCH):
        images, share = batch(world, judge, start)
        found += images
        after.append(share)
        print(f"{len(found)}/{args.images}", flush=True)
    report(found, sum(after) / len(after))


def batch(world, judge, start):
    """(probability at the first evaluation, whether it is accepted) of one image of each species, and the share of the
    time that comes after that evaluation."""
    import torch

    from higfa_core.guidance.settings import Guidance
    from higfa_core.miniature import birds

    sampler, guidance, warp = settings_of_workflow()
    seeds = [SEEDS["tune"] + start + i for i in range(BATCH)]
    names = list(birds.CLASS_NAMES[:BATCH])
    clock = []
    with torch.inference_mode():
        text, empty = world.encode([f"a photo of a {n}" for n in names]), world.encode([""] * BATCH)
        both = world.with_contour(text, contours_for(range(BATCH), seeds, warp)[2])
        guider = higfa_guider(world, both, empty, sampler["cfg"], names, Guidance.pick(guidance))
        guider.slot.watch = lambda trace, sigma: clock.append((time.process_time(), len(trace.calls)))
        run = sampler["steps"], sampler["sampler_name"], sampler["scheduler"]
        latent = world.sample(guider, noise_for(seeds), *run, seeds[0])
        p = judge.predict_proba(world.vae.decode(latent))[range(BATCH), range(BATCH)]
    (began, _), (ended, _) = clock[0], clock[-1]
    first = next(moment for moment, calls in clock if calls)
    accepted = (p >= least_judged()).tolist()
    return list(zip(guider.trace.calls[0].probability, accepted, strict=True)), (ended - first) / (ended - began)


def least_judged():
    """What the workflow's Export Dataset asks of the judge."""
    graph = json.loads((ROOT / "workflows/api/miniature_augment.json").read_text())
    (node,) = [node["inputs"] for node in graph.values() if node["class_type"] == "HiGFA_ExportDataset"]
    return node["min_judge_confidence"]


def report(found, after):
    good, count = sum(accepted for _, accepted in found), len(found)
    print(f"\n{count} images on the tuning seeds, {good} accepted (judge at least {least_judged():g}); ")
    print(f"{after:.0%} of the time of sampling comes after the first evaluation\n")
    print("| give_up_below | given up | of them accepted in the end | time saved | accepted images an hour |")
    print("|---|---|---|---|---|")
    for limit in LIMITS:
        gone = [accepted for p, accepted in found if p < limit]
        saved = len(gone) / count * after
        rate = (good - sum(gone)) / max(good, 1) / (1 - saved)
        print(f"| {limit:g} | {len(gone)} ({len(gone) / count:.0%}) | {sum(gone)} | {saved:.0%} | {rate:.2f}x |")


if __name__ == "__main__":
    sys.exit(main())
