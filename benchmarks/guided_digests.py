"""Digests of guided runs on the miniature: two trees that print the same lines compute the same, bit for bit.

    python run.py exec -- python benchmarks/guided_digests.py --out now.pt
    python run.py exec -- python benchmarks/guided_digests.py --tree ../other --against now.pt

Runs the nodes of any checkout (`--tree`) through ComfyUI's own loader, so that the layout of its modules does not
matter. Each line names a run, the digest of its latents and of its trace's calls; `--against` adds how far the
latents are from those of another tree (RMS of the difference, as a share of the RMS of the image).
"""

import argparse
import asyncio
import hashlib
import json
import os
import sys
from pathlib import Path

from miniature_world import ROOT, start_comfyui

SETTINGS = {"seed": 7, "steps": 8, "cfg": 3.0, "sampler_name": "euler", "scheduler": "karras", "denoise": 1.0}
PRESETS = ("relax", "constant", "boost", "custom")
CURVES = {"text_a0": 0.5, "text_a1": 0.9, "contour_a0": 0.3, "contour_a1": 0.9, "b": 0.7, "gamma": 0.5}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tree", type=Path, default=ROOT, help="a checkout of this pack; default: this one")
    parser.add_argument("--only", default="", help="runs whose name holds this text")
    parser.add_argument("--out", type=Path, help="file for the latents")
    parser.add_argument("--against", type=Path, help="latents of another tree, written with --out")
    args = parser.parse_args()
    start_comfyui()
    import comfy.utils
    import torch

    comfy.utils.set_progress_bar_enabled(False)
    torch.use_deterministic_algorithms(True)
    world = World(load_pack(args.tree.resolve()))
    earlier = torch.load(args.against, weights_only=True) if args.against else {}
    latents = {}
    for name, run in runs(world):
        if args.only not in name:
            continue
        with torch.inference_mode():
            latents[name], trace = run()
        line = f"{name:70} {digest(latents[name].numpy().tobytes())} {digest(calls(trace).encode())}"
        if args.against:
            line += f" {relative(latents[name], earlier.get(name))}"
        print(line, flush=True)
    if args.out:
        torch.save(latents, args.out)


def load_pack(tree: Path) -> dict:
    """Node id -> class of the pack in that folder, and of ComfyUI."""
    import nodes

    if not asyncio.run(nodes.load_custom_node(str(tree))):
        raise SystemExit(f"{tree} holds no pack that ComfyUI can load: see the log above")
    return nodes.NODE_CLASS_MAPPINGS


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()[:12]


def calls(trace) -> str:
    """The classifier's output and effect at each guided call."""
    return json.dumps(trace.to_dict()["calls"], sort_keys=True)


def relative(result, expected) -> str:
    if expected is None or expected.shape != result.shape:
        return "nothing to compare with"
    return f"{float((result - expected).square().mean().sqrt() / expected.square().mean().sqrt()):.1e}"


class World:
    """The miniature as nodes give it, and the three ways in."""

    def __init__(self, nodes):
        import torch

        self.nodes = nodes
        self.model, self.clip, self.vae, self.control, self.classifier, names, _ = nodes[
            "HiGFA_LoadMiniature"
        ].execute()
        self.names = names.splitlines()
        self.text, self.empty = self.prompt(f"a photo of a {self.names[2]}"), self.prompt("")
        lines = torch.zeros(2, 1, 128, 128, 3)
        lines[0, :, 40:90, 40] = lines[0, :, 40:90, 90] = lines[0, :, 40, 40:90] = lines[0, :, 90, 40:90] = 1.0
        lines[1, :, 64] = 1.0
        self.lines = lines
        self.positive, self.negative = self.contour(self.text, self.empty, 0)

    def prompt(self, text):
        return self.nodes["CLIPTextEncode"]().encode(self.clip, text)[0]

    def contour(self, positive, negative, which, strength=1.0):
        apply = self.nodes["ControlNetApplyAdvanced"]().apply_controlnet
        return apply(positive, negative, self.control, self.lines[which], strength, 0.0, 1.0)

    def area(self, positive):
        corner = self.nodes["ConditioningSetArea"]().append(self.prompt(self.names[5]), 64, 64, 0, 32, 1.0)[0]
        return self.nodes["ConditioningCombine"]().combine(positive, corner)[0]

    def settings(self, **settings):
        inputs = self.nodes["HiGFA_Guidance"].define_schema().inputs
        return self.nodes["HiGFA_Guidance"].execute(**{i.id: i.default for i in inputs} | settings)[0]

    def latent(self, batch, mask=None):
        import torch

        samples = torch.randn(batch, 8, 16, 16, generator=torch.Generator().manual_seed(3)) if mask is not None else (
            torch.zeros(batch, 8, 16, 16))  # fmt: skip
        return {"samples": samples, **({} if mask is None else {"noise_mask": mask})}

    def ksampler(self, model=None, conds=None, batch=2, names=2, mask=None, sampler=(), **settings):
        """(latents, trace) of HiGFA KSampler."""
        positive, negative = conds or (self.positive, self.negative)
        given = self.names[names] if isinstance(names, int) else names
        node = self.nodes["HiGFA_KSampler"]
        inputs = {"model": model or self.model, "positive": positive, "negative": negative, "vae": self.vae}
        inputs |= {"latent_image": self.latent(batch, mask), "classifier": self.classifier, "class_name": given}
        inputs |= {**SETTINGS, **dict(sampler), "guidance": self.settings(**settings)}
        if not node.GET_SCHEMA().is_input_list:  # older checkouts
            latent, slot, *_ = node.execute(**inputs)
        else:
            (latent,), (slot,), _ = node.execute(**{name: [value] for name, value in inputs.items()})
        return latent["samples"], slot.trace

    def guider(self, model=None, conds=None, batch=2, mask=None, sampler=(), **settings):
        """The same with HiGFA Guider and SamplerCustomAdvanced."""
        s = {**SETTINGS, **dict(sampler)}
        model, (positive, negative) = model or self.model, conds or (self.positive, self.negative)
        guider, slot = self.nodes["HiGFA_Guider"].execute(
            model, positive, self.vae, self.classifier, self.names[2], s["cfg"], negative, self.settings(**settings)
        )
        import comfy.sample
        import comfy.samplers

        latent = self.latent(batch, mask)["samples"]
        noise = comfy.sample.prepare_noise(latent, s["seed"])
        sigmas = comfy.samplers.KSampler(
            model, s["steps"], model.load_device, s["sampler_name"], s["scheduler"], 1.0
        ).sigmas
        sampler = comfy.samplers.sampler_object(s["sampler_name"])
        return guider.sample(noise, latent, sampler, sigmas, mask, disable_pbar=True, seed=s["seed"]), slot.trace

    def patched(self, model=None, conds=None, batch=2, mask=None, sampler=(), **settings):
        """The same with Guide Model with Classifier and the stock KSampler, the contour on both branches."""
        guided, slot = self.nodes["HiGFA_GuideModel"].execute(
            model or self.model, self.vae, self.classifier, self.names[2], self.settings(**settings)
        )
        return self.stock(guided, conds, batch, mask, sampler), slot.trace

    def stock(self, model=None, conds=None, batch=2, mask=None, sampler=()):
        """Latents of the stock KSampler."""
        positive, negative = conds or (self.positive, self.negative)
        latent = self.nodes["KSampler"]().sample(
            model or self.model, positive=positive, negative=negative, latent_image=self.latent(batch, mask),
            **{**SETTINGS, **dict(sampler)},
        )[0]  # fmt: skip
        return latent["samples"]


def patches() -> dict:
    """Name -> function of a MODEL: nodes of ComfyUI that change the branches, their mix, or what comes after."""
    from comfy_extras import nodes_apg, nodes_freelunch, nodes_model_advanced, nodes_nag, nodes_pag

    return {
        "PAG": lambda m: nodes_pag.PerturbedAttentionGuidance.execute(m, 2.0)[0],
        "APG": lambda m: nodes_apg.APG.execute(m, 0.5, 5.0, -0.3)[0],
        "RescaleCFG": lambda m: nodes_model_advanced.RescaleCFG().patch(m, 0.7)[0],
        "NAG": lambda m: nodes_nag.NAGuidance.execute(m, 5.0, 0.5, 1.5)[0],
        "FreeU": lambda m: nodes_freelunch.FreeU_V2.execute(m, 1.3, 1.4, 0.9, 0.2)[0],
    }


def runs(world):
    """(name, function) of each run."""
    entries = {"KSampler": world.ksampler, "Guider": world.guider, "Guide Model": world.patched}

    def run(entry, sampler=(), **options):
        words = [f"{k}={v}" for k, v in {**dict(sampler), **options}.items() if isinstance(v, str | int | float)]
        options = CURVES | options if options.get("preset") == "custom" else options
        return " ".join([f"{entry}:", *words]), lambda: entries[entry](sampler=sampler, **options)

    for preset in PRESETS:
        for cfg in (3.0, 1.0):
            for scale in (1.0, 0.5, 0.0):
                for composition in ("nested", "joint"):
                    settings = {"preset": preset, "contour_scale": scale, "composition": composition, "eta": 1.0}
                    yield run("KSampler", {"cfg": cfg}, **settings)
        yield run("Guider", preset=preset, eta=1.0)
        yield run("Guide Model", preset=preset, eta=1.0)
    for entry in entries:
        yield run(entry, eta=0.0)
        yield run(entry, {"steps": 30, "sampler_name": "dpmpp_2m"}, batch=1)
        yield run(entry, {"sampler_name": "heun"}, eta=1.0)
    for settings in (
        {"views": 2}, {"micro_batch": 1}, {"interval": 1, "smoothing": 0.0}, {"max_evals": 2}, {"parallel": 1.0},
        {"label_sharpness": 0.5}, {"rms_cap": 0.01}, {"p_stop": 0.01}, {"start_percent": 0.0, "end_sigma": 0.0},
    ):  # fmt: skip
        yield run("KSampler", eta=1.0, **settings)
    yield run("KSampler", {"steps": 60}, batch=1)
    yield from conditionings(world)
    for name, patch in patches().items():
        for entry in entries:
            for options in ({}, {"preset": "constant"}, {"contour_scale": 0.5}):
                label, patched = run(entry, **options, eta=1.0, model=patch(world.model))
                yield f"{label} {name}", patched


def conditionings(world):
    """Runs with other prompts, contours, classes and masks."""
    import torch

    mask = torch.zeros(1, 128, 128)
    mask[..., 64:] = 1.0
    two = world.contour(world.positive, world.negative, 1, 0.7)
    lines = "\n".join(world.names[:4])
    cases = {
        "no contour": {"conds": (world.text, world.empty)},
        "two contours": {"conds": two},
        "two contours, scale 0.5": {"conds": two, "contour_scale": 0.5},
        "area prompt": {"conds": (world.area(world.positive), world.negative)},
        "area prompt, scale 0.5": {"conds": (world.area(world.positive), world.negative), "contour_scale": 0.5},
        "four classes": {"names": lines, "batch": 4},
        "a mixture": {"names": f"{world.names[2]}:0.7 | {world.names[3]}:0.3"},
        "inpainting": {"mask": mask},
    }
    for name, options in cases.items():
        yield f"KSampler: {name}", lambda options=options: world.ksampler(eta=1.0, **options)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
