"""How often does an independent judge see the intended species? Text only, text + contour, HiGFA; same seeds and steps.

    python run.py exec -- python benchmarks/fidelity.py

Guide and judge are the ones that ship: the guide has seen ten images of each species; the judge is another
architecture, trained on 16,000 renders of its own that no guide has seen. Sources, contour warps and noise come from
the evaluation seeds; settings were chosen on `--seeds tune`, never on these.
"""

import argparse
import json
import sys
import time

from miniature_world import ROOT, higfa_guider, load_world, noise_for, start_comfyui, stock_guider

SEEDS = {"evaluation": 10_000, "tune": 20_000}
BATCH = 32  # one image of each species


def settings_of_workflow():
    """Steps, cfg, sampler and guidance as miniature_augment.json has them: what is measured is what is shipped."""
    graph = json.loads((ROOT / "workflows/api/miniature_augment.json").read_text())
    by_class = {node["class_type"]: node["inputs"] for node in graph.values()}
    return by_class["HiGFA_KSampler"], by_class["HiGFA_Guidance"], by_class["HiGFA_TransformContour"]


def contours_for(species, seeds, warp):
    """Real image -> foreground contour -> its warp, as the workflow does, for each image of a batch."""
    import numpy as np
    import torch

    from higfa_core import contour
    from higfa_core.miniature import birds

    views = [birds.render(s, seed, 128) for s, seed in zip(species, seeds, strict=True)]
    images = torch.from_numpy(np.stack([v.image for v in views])).float() / 255
    masks = torch.from_numpy(np.stack([v.mask for v in views])).float() / 255
    lines = contour.extract(images, "canny", blur=0.0, mask=masks)
    ranges = {
        k: warp[k] for k in ("flip", "rotation", "scale_min", "scale_max", "translation", "perspective", "elastic")
    }
    moved = [
        contour.transform_batch(lines[i : i + 1], contour.ContourTransform(**ranges), seed, mask=masks[i : i + 1])[0]
        for i, seed in enumerate(seeds)
    ]
    return images, lines, torch.cat(moved)


def load_judge():
    from higfa_core.classifier import FineGrainedClassifier
    from higfa_core.miniature import shipped

    return FineGrainedClassifier.load(shipped.JUDGE)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=192, help="images for each method, a multiple of 32")
    parser.add_argument("--seeds", choices=SEEDS, default="evaluation")
    parser.add_argument("--methods", nargs="+", default=["text only", "text + contour", "HiGFA"])
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="NAME=VALUE", help="guidance settings to try, with tune"
    )
    parser.add_argument("--picture", help="write source, contour, warp and the three results of eight species as a PNG")
    args = parser.parse_args()
    if args.set and args.seeds == "evaluation":
        parser.error("settings are tried on --seeds tune, never on the evaluation seeds")
    start_comfyui()
    import torch

    from higfa_core.guidance.settings import Guidance
    from higfa_core.miniature import birds

    sampler, guidance, warp = settings_of_workflow()
    tried = {k: v if not v.replace(".", "").isdigit() else float(v) for k, v in (s.split("=") for s in args.set)}
    cfg = tried.pop("cfg", sampler["cfg"])
    merged = {**guidance, **tried}
    settings = Guidance(**{k: type(getattr(Guidance(), k))(v) for k, v in merged.items()})
    world, judge = load_world(), load_judge()
    right = {m: [] for m in args.methods}
    guided = {m: [] for m in args.methods}
    seconds = dict.fromkeys(args.methods, 0.0)
    rows = []
    for start in range(0, args.images, BATCH):
        species = list(range(BATCH))
        seeds = [SEEDS[args.seeds] + start + i for i in species]
        names = [birds.CLASS_NAMES[s] for s in species]
        images, lines, moved = contours_for(species, seeds, warp)
        noise = noise_for(seeds)
        with torch.inference_mode():
            text, empty = world.encode([f"a photo of a {n}" for n in names]), world.encode([""] * BATCH)
            both = world.with_contour(text, moved)
            decoded = {}
            for method in args.methods:
                guider = (
                    higfa_guider(world, both, empty, cfg, names, settings)
                    if method == "HiGFA"
                    else stock_guider(world, text if method == "text only" else both, empty, cfg)
                )
                began = time.perf_counter()
                latent = world.sample(
                    guider, noise, sampler["steps"], sampler["sampler_name"], sampler["scheduler"], seeds[0]
                )
                seconds[method] += time.perf_counter() - began
                decoded[method] = world.vae.decode(latent)
                target = torch.tensor(species)
                right[method] += (judge.predict_proba(decoded[method]).argmax(1) == target).tolist()
                guided[method] += (world.classifier.predict_proba(decoded[method]).argmax(1) == target).tolist()
        rows.append((images, lines, moved, decoded))
        print(f"{start + BATCH}/{args.images}", {m: round(sum(r) / len(r), 3) for m, r in right.items()}, flush=True)
    report(args, right, guided, seconds, judge, world)
    if args.picture:
        picture(rows[0], args.picture)


def report(args, right, guided, seconds, judge, world):
    from higfa_core.miniature import shipped
    from higfa_core.training.judge import names_of

    n = args.images
    print(f"\n{names_of(world.classifier, judge)}; {n} images per method, {args.seeds} seeds")
    print("; ".join(shipped.worth(path) for path in (shipped.GUIDE, shipped.JUDGE)) + "\n")
    print("| method | judge sees the species | guide sees it | error of the judge | s / image |")
    print("|---|---|---|---|---|")
    for m, r in right.items():
        p = sum(r) / n
        half = 1.96 * (p * (1 - p) / n) ** 0.5
        g = sum(guided[m]) / n
        print(f"| {m} | {p:.1%} ± {half:.1%} | {g:.1%} | {1 - p:.1%} | {seconds[m] / n:.2f} |")
    if "HiGFA" in right:
        wrong = {m: 1 - sum(r) / n for m, r in right.items()}
        for m in wrong:
            if m != "HiGFA":
                print(f"\nHiGFA's error is {wrong['HiGFA'] / max(wrong[m], 1e-9):.2f} of that of {m}.")


def picture(row, path, count=8):
    """One species per line: source, contour, warped contour, text only, text + contour, HiGFA."""
    import numpy as np
    from PIL import Image

    images, lines, moved, decoded = row
    columns = [images, lines, moved, *decoded.values()]
    picked = [i * 5 % 32 for i in range(count)]  # five apart, so that all marks come and go

    def tile(x):
        pixels = (x.clamp(0, 1) * 255).round().byte().cpu().numpy()
        return np.asarray(Image.fromarray(pixels).resize((128, 128), Image.Resampling.BOX))

    grid = np.full((count * 132, len(columns) * 132, 3), 255, np.uint8)
    for y, i in enumerate(picked):
        for x, column in enumerate(columns):
            grid[y * 132 + 2 : y * 132 + 130, x * 132 + 2 : x * 132 + 130] = tile(column[i])
    Image.fromarray(grid).save(path, optimize=True)


if __name__ == "__main__":
    sys.exit(main())
