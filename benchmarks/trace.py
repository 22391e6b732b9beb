"""The plot of a guided run in docs/method.md.

    python run.py exec -- python benchmarks/trace.py --picture docs/trace.png

Four images of the miniature, the contour of a real image warped, the sampler settings of miniature_augment.json.
"""

import argparse
import sys

from fidelity import SEEDS, contours_for, settings_of_workflow
from miniature_world import higfa_guider, load_world, noise_for, start_comfyui

SPECIES = (1, 4, 7, 14)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", default="trace.png")
    args = parser.parse_args()
    start_comfyui()
    import torch
    from torchvision.utils import save_image

    from higfa_core.guidance.settings import Guidance
    from higfa_core.miniature import birds
    from higfa_core.plots.trace_plot import plot_trace

    sampler, guidance, warp = settings_of_workflow()
    world, names = load_world(), [birds.CLASS_NAMES[s] for s in SPECIES]
    seeds = [SEEDS["evaluation"] + s for s in SPECIES]
    _, _, moved = contours_for(SPECIES, seeds, warp)
    noise = noise_for(seeds)
    with torch.inference_mode():
        text, empty = world.encode([f"a photo of a {n}" for n in names]), world.encode([""] * len(names))
        guider = higfa_guider(
            world, world.with_contour(text, moved), empty, sampler["cfg"], names, Guidance(**guidance)
        )
        world.sample(guider, noise, sampler["steps"], sampler["sampler_name"], sampler["scheduler"], seeds[0])
    save_image(plot_trace(guider.trace).movedim(-1, 1), args.picture)
    print(guider.trace.summary())


if __name__ == "__main__":
    sys.exit(main())
