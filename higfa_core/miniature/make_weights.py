"""Train every weight file of the miniature: `python run.py exec -- python -m higfa_core.miniature.make_weights`.

Stages, each of which resumes from its checkpoint in the work folder: vae, tiny (a second decoder), unet (with the text
encoder), control, and the classifiers: related (what the guide is pre-trained on), guide, judge. About 90 minutes
of one CPU core. `weak` and `oracle`, guides to compare with, do not ship: they stay in the work folder.
"""

import argparse
import json
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from .. import contour
from ..comfy.startup import start_comfyui
from . import birds, networks
from .guides import Guides
from .renders import render_set, to_pixels
from .shipped import WEIGHTS
from .trainer import Trainer

log = logging.getLogger(__name__)
RENDERS = 640 * len(birds.SPECIES)
VAE_STEPS, TINY_STEPS, UNET_STEPS, CONTROL_STEPS = 3000, 800, 6000, 1500
# Disjoint from the seeds of the classifiers (`.guides`). Demo sources use seeds below 1,000, and so does the guide;
# evaluation uses none of these (benchmarks/fidelity.py).
DATA_SEED = 1_000_000


def alphas_cumprod() -> torch.Tensor:
    """Stable Diffusion's noise schedule, ComfyUI's default: sqrt-linear betas 0.00085..0.012, 1000 steps."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0).float()


def save_weights(path: Path, weights: dict[str, torch.Tensor], **metadata: str) -> None:
    """fp16 safetensors, written to a temporary name first."""
    temporary = path.with_suffix(".tmp")
    save_file({k: v.detach().half().contiguous() for k, v in weights.items()}, temporary, metadata)
    temporary.replace(path)


def reset_comfy_layers(module: torch.nn.Module, zero: tuple[str, ...]) -> None:
    """ComfyUI's layers skip their initialisation; give them torch's, and zero the named output layers."""
    kinds = (torch.nn.Linear, torch.nn.Conv2d, torch.nn.GroupNorm, torch.nn.LayerNorm)
    for name, layer in module.named_modules():
        kind: Any = next((k for k in kinds if isinstance(layer, k)), None)
        if kind is not None:
            kind.reset_parameters(layer)
            if name.endswith(zero):
                for parameter in layer.parameters(recurse=False):
                    torch.nn.init.zeros_(parameter)


class Studio:
    """The stages; `work` holds renders, checkpoints and logs."""

    def __init__(self, work: Path, out: Path):
        self.work, self.out = work, out
        work.mkdir(parents=True, exist_ok=True)
        out.mkdir(parents=True, exist_ok=True)

    def data(self):
        path = self.work / "renders.npz"
        if not path.exists():
            images, masks, ids = render_set(DATA_SEED, RENDERS)
            temporary = self.work / "renders.tmp.npz"
            np.savez(temporary, images=images, masks=np.packbits(masks > 0, axis=-1), ids=ids)
            temporary.replace(path)
        stored = np.load(path)
        return stored["images"], np.unpackbits(stored["masks"], axis=-1), torch.from_numpy(stored["ids"])

    def vae(self):
        images = self.data()[0]
        net = networks.Autoencoder()

        def loss_of(step, generator):
            x = to_pixels(images[torch.randint(len(images), (16,), generator=generator).numpy()])
            with torch.autocast("cpu", torch.bfloat16):
                z = net.encode(x)
                y = net.decode(z + 0.05 * torch.randn(z.shape, generator=generator)).float()
            z = z.float()
            edges = sum(((y - x).diff(dim=d)).abs().mean() for d in (2, 3))
            return F.mse_loss(y, x) + F.l1_loss(y, x) + edges + 1e-3 * z.square().mean()

        trainer = Trainer(self.work, "vae", {"net": net}, VAE_STEPS, 1.5e-3, ema=0.99).run(loss_of)
        weights = trainer.weights("net")
        net.load_state_dict(weights)
        pixels = to_pixels(images[:1024])
        with torch.no_grad():
            z = torch.cat([net.encode(x) for x in pixels.split(64)])
            y = torch.cat([net.decode(v) for v in z.split(64)])
        log.info("vae reconstruction MSE %.5f on -1..1", F.mse_loss(y, pixels))
        scale = float(1 / z.std())
        flat = (z * scale).permute(0, 2, 3, 1).reshape(-1, networks.LATENT_CHANNELS)
        rgb = F.avg_pool2d(pixels, networks.DOWNSCALE).permute(0, 2, 3, 1).reshape(-1, 3)
        fit = torch.linalg.lstsq(torch.cat([flat, torch.ones(len(flat), 1)], 1), rgb).solution
        save_weights(
            self.out / "vae.safetensors", weights, scale_factor=str(scale),
            latent_rgb_factors=json.dumps(fit[:-1].tolist()), latent_rgb_factors_bias=json.dumps(fit[-1].tolist()),
        )  # fmt: skip

    def tiny(self):
        images = self.data()[0]
        encode, scale = self.autoencoder()
        net = networks.TinyDecoder()

        def loss_of(step, generator):
            x = to_pixels(images[torch.randint(len(images), (24,), generator=generator).numpy()])
            with torch.no_grad():
                z = encode.encode(x) * scale
            with torch.autocast("cpu", torch.bfloat16):
                y = net(z + 0.1 * torch.randn(z.shape, generator=generator)).float()
            edges = sum(((y - x).diff(dim=d)).abs().mean() for d in (2, 3))
            return F.mse_loss(y, x) + F.l1_loss(y, x) + edges

        trainer = Trainer(self.work, "tiny", {"net": net}, TINY_STEPS, 2e-3, ema=0.99).run(loss_of)
        save_weights(self.out / "tiny.safetensors", trainer.weights("net"))

    def autoencoder(self):
        from safetensors import safe_open

        net = networks.Autoencoder().requires_grad_(False)
        with safe_open(self.out / "vae.safetensors", framework="pt") as file:
            net.load_state_dict({k: file.get_tensor(k).float() for k in file.keys()})
            return net, float(file.metadata()["scale_factor"])

    @torch.no_grad()
    def latents(self, images):
        net, scale = self.autoencoder()
        parts = range(0, len(images), 128)
        return torch.cat([net.encode(to_pixels(images[i : i + 128])) * scale for i in parts])

    def unet(self):
        from . import models

        images, _, ids = self.data()
        latents = self.latents(images)
        net = models.build_unet()
        reset_comfy_layers(net, zero=("out_layers.3", "proj_out", "out.2"))
        text = networks.TextEncoder()
        noise = _Noise()

        def loss_of(step, generator):
            i = torch.randint(len(latents), (32,), generator=generator)
            words = ids[i].clone()
            words[torch.rand(len(i), generator=generator) < 0.12] = networks.PAD
            x, t, eps, weight = noise.add(latents[i], generator)
            with torch.autocast("cpu", torch.bfloat16):
                predicted = net(x, t, context=text(words)[0])
            return (weight * (predicted.float() - eps).square().mean((1, 2, 3))).mean()

        trainer = Trainer(self.work, "unet", {"net": net, "text": text}, UNET_STEPS, 8e-4, ema=0.998).run(loss_of)
        save_weights(self.out / "unet.safetensors", trainer.weights("net"))
        save_weights(self.out / "text.safetensors", trainer.weights("text"))

    def control(self):
        from safetensors.torch import load_file

        from . import models

        images, masks, ids = self.data()
        latents = self.latents(images)
        unet = models.build_unet().requires_grad_(False)
        unet_weights = {k: v.float() for k, v in load_file(self.out / "unet.safetensors").items()}
        unet.load_state_dict(unet_weights)
        text = networks.TextEncoder().requires_grad_(False)
        text.load_state_dict({k: v.float() for k, v in load_file(self.out / "text.safetensors").items()})
        net = models.build_controlnet()
        reset_comfy_layers(
            net, zero=("middle_block_out.0", "input_hint_block.14", *(f"zero_convs.{i}.0" for i in range(9)))
        )
        net.load_state_dict(unet_weights, strict=False)
        noise = _Noise()

        def loss_of(step, generator):
            i = torch.randint(len(latents), (24,), generator=generator)
            words = ids[i].clone()
            words[torch.rand(len(i), generator=generator) < 0.3] = networks.PAD
            picked = torch.from_numpy(images[i.numpy()]).float() / 255
            # Nine in ten hints hold only the bird, as the workflow makes them; the rest hold the whole scene.
            mask = torch.from_numpy(masks[i.numpy()]).float()
            mask[torch.rand(len(i), generator=generator) < 0.1] = 1.0
            hint = contour.extract(picked, "canny", blur=0.0, mask=mask).permute(0, 3, 1, 2)
            # Transform Contour draws lines up to two pixels wide; more than half of the hints are drawn so.
            wide = torch.rand(len(i), 1, 1, 1, generator=generator) < 0.6
            hint = torch.where(wide, F.max_pool2d(F.pad(hint, (0, 1, 0, 1)), 2, 1), hint)
            x, t, eps, weight = noise.add(latents[i], generator)
            with torch.autocast("cpu", torch.bfloat16):
                context = text(words)[0]
                control = net(x=x, hint=hint, timesteps=t, context=context)
                predicted = unet(x, t, context=context, control=_as_control(control))
            return (weight * (predicted.float() - eps).square().mean((1, 2, 3))).mean()

        trainer = Trainer(self.work, "control", {"net": net}, CONTROL_STEPS, 6e-4, ema=0.995).run(loss_of)
        save_weights(self.out / "controlnet.safetensors", trainer.weights("net"))

    def related(self):
        self.guides.related()

    def guide(self):
        self.guides.few_shot("mid", self.out / "guide.safetensors")

    def judge(self):
        self.guides.many_shot("judge", self.out / "judge.safetensors")

    def weak(self):
        self.guides.few_shot("weak", self.work / "weak.safetensors")

    def oracle(self):
        self.guides.many_shot("oracle", self.work / "oracle.safetensors")

    @property
    def guides(self) -> Guides:
        return Guides(self.work, self.autoencoder()[0])


class _Noise:
    """Variance-preserving noise with min-SNR-5 weights (Hang et al., arXiv 2303.09556) for eps prediction."""

    def __init__(self):
        self.alphas = alphas_cumprod()

    def add(self, latents, generator):
        t = torch.randint(1000, (len(latents),), generator=generator)
        a = self.alphas[t]
        eps = torch.randn(latents.shape, generator=generator)
        x = a.sqrt().view(-1, 1, 1, 1) * latents + (1 - a).sqrt().view(-1, 1, 1, 1) * eps
        snr = a / (1 - a)
        return x, t, eps, snr.clamp(max=5) / snr


def _as_control(control):
    """UNetModel consumes the lists it is given, so hand it copies."""
    return {k: list(v) for k, v in control.items()}


# The place of a stage seeds its weights.
STAGES = ("vae", "tiny", "unet", "related", "control", "guide", "judge", "weak", "oracle")
STUDY = ("weak", "oracle")


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    about = "folder for renders, checkpoints and logs, and for the guides that do not ship"
    parser.add_argument("--work", type=Path, required=True, help=about)
    parser.add_argument("--out", type=Path, default=WEIGHTS, help="folder for the weight files")
    parser.add_argument("--stages", nargs="+", choices=STAGES, help=f"default: all but {' and '.join(STUDY)}")
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout)
    start_comfyui()
    studio = Studio(args.work, args.out)
    for stage in args.stages or [stage for stage in STAGES if stage not in STUDY]:
        torch.manual_seed(STAGES.index(stage))
        getattr(studio, stage)()
    return 0


if __name__ == "__main__":
    sys.exit(main())
