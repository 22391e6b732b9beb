"""Train every weight file of the miniature: `python run.py exec -- python -m higfa_core.miniature.make_weights`.

Stages, each resumable and skipped when its weight file is newer than its inputs: data, vae, unet (with the text
encoder), guide, control, judge. About 90 minutes on two CPU cores. The judge is only for measuring and stays in
the work folder, outside the repository.
"""

import argparse
import json
import logging
import math
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from .. import classifier as classifiers
from .. import contour
from ..comfy.startup import start_comfyui
from . import birds, networks

log = logging.getLogger(__name__)
SIZE = 64
RENDERS = 16_000
# Disjoint seed ranges. Demo sources use seeds below 1,000; evaluation uses none of these (benchmarks/fidelity.py).
DATA_SEED, GUIDE_SEED, JUDGE_SEED, CHECK_SEED = 1_000_000, 2_000_000, 3_000_000, 4_000_000
GUIDE_IMAGES_PER_CLASS = 100
SHIPPED = Path(__file__).with_name("weights")


def alphas_cumprod() -> torch.Tensor:
    """Stable Diffusion's noise schedule, ComfyUI's default: sqrt-linear betas 0.00085..0.012, 1000 steps."""
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    return torch.cumprod(1 - betas, 0).float()


def save_weights(path: Path, weights: dict[str, torch.Tensor], **metadata: str) -> None:
    """fp16 safetensors, written to a temporary name first."""
    temporary = path.with_suffix(".tmp")
    save_file({k: v.detach().half().contiguous() for k, v in weights.items()}, temporary, metadata)
    temporary.replace(path)


class Trainer:
    """AdamW, warm-up, cosine decay, optional EMA, a log line every 50 steps, a checkpoint every 200."""

    def __init__(self, work: Path, name: str, modules: dict, steps: int, lr: float, ema: float = 0.0, decay=0.01):
        self.path, self.log = work / f"{name}.ckpt", work / f"{name}.jsonl"
        self.name, self.steps, self.lr, self.decay = name, steps, lr, ema
        self.modules = torch.nn.ModuleDict(modules)
        self.params = [p for p in self.modules.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(self.params, lr, betas=(0.9, 0.99), weight_decay=decay)
        self.average = {k: v.detach().clone() for k, v in self.modules.state_dict().items()} if ema else None
        self.step = 0
        if self.path.exists():
            state = torch.load(self.path, weights_only=True)
            self.modules.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.average, self.step = state["average"], state["step"]

    def run(self, loss_of):
        """`loss_of(step, generator) -> scalar`; the generator depends only on the step, so resumed runs agree."""
        started, losses, first = time.time(), [], self.step
        while self.step < self.steps:
            scale = min(1.0, (self.step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * self.step / self.steps))
            for group in self.optimizer.param_groups:
                group["lr"] = self.lr * max(scale, 0.01)
            loss = loss_of(self.step, torch.Generator().manual_seed(self.step))
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.params, 1.0)
            self.optimizer.step()
            self.step += 1
            losses.append(float(loss.detach()))
            self._update_average()
            if self.step % 50 == 0 or self.step == self.steps:
                seconds = (time.time() - started) / (self.step - first)
                row = {"step": self.step, "loss": round(sum(losses) / len(losses), 5), "s_per_step": round(seconds, 3)}
                with self.log.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                log.info("%s %s", self.name, row)
                losses = []
            if self.step % 200 == 0 or self.step == self.steps:
                self._checkpoint()
        return self

    def weights(self, module: str) -> dict[str, torch.Tensor]:
        state = self.average or self.modules.state_dict()
        return {k.removeprefix(f"{module}."): v for k, v in state.items() if k.startswith(f"{module}.")}

    @torch.no_grad()
    def _update_average(self):
        if self.average is None:
            return
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        for k, v in self.modules.state_dict().items():
            self.average[k].lerp_(v, 1 - decay) if v.is_floating_point() else self.average[k].copy_(v)

    def _checkpoint(self):
        state = {"model": self.modules.state_dict(), "optimizer": self.optimizer.state_dict(),
                 "average": self.average, "step": self.step}  # fmt: skip
        temporary = self.path.with_suffix(".part")
        torch.save(state, temporary)
        temporary.replace(self.path)


def _render_chunk(args):
    seed, start, count = args
    views = [birds.render((start + i) % 16, seed + start + i, 128) for i in range(count)]
    rng = np.random.default_rng([seed, start])
    texts = [birds.noisy_caption((start + i) % 16, v, rng) for i, v in enumerate(views)]
    ids = np.array([networks.pad_ids(networks.word_ids(t)) for t in texts], np.int64)
    return np.stack([v.image for v in views]), np.stack([v.mask for v in views]), ids


def render_set(seed: int, count: int):
    """Images uint8 [N, 128, 128, 3], masks uint8 [N, 128, 128], noisy captions [N, L]; species = index mod 16."""
    chunks = [(seed, s, min(320, count - s)) for s in range(0, count, 320)]
    with ProcessPoolExecutor() as pool:
        parts = list(pool.map(_render_chunk, chunks))
    return [np.concatenate(column) for column in zip(*parts, strict=True)]


def to_pixels(images: np.ndarray, size: int = SIZE) -> torch.Tensor:
    """uint8 [N, H, W, 3] -> float [N, 3, size, size] in -1..1, reduced by area."""
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    return F.interpolate(x, size=(size, size), mode="area") if x.shape[-1] != size else x


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
        pixels = to_pixels(self.data()[0])
        net = networks.Autoencoder()

        def loss_of(step, generator):
            x = pixels[torch.randint(len(pixels), (48,), generator=generator)]
            z = net.encode(x)
            y = net.decode(z + 0.05 * torch.randn(z.shape, generator=generator))
            edges = sum(((y - x).diff(dim=d)).abs().mean() for d in (2, 3))
            return F.mse_loss(y, x) + 0.5 * F.l1_loss(y, x) + 0.5 * edges + 1e-3 * z.square().mean()

        trainer = Trainer(self.work, "vae", {"net": net}, 1300, 2e-3, ema=0.99).run(loss_of)
        weights = trainer.weights("net")
        net.load_state_dict(weights)
        with torch.no_grad():
            z = torch.cat([net.encode(x) for x in pixels[:2048].split(128)])
            y = torch.cat([net.decode(v) for v in z.split(128)])
        log.info("vae reconstruction MSE %.5f on -1..1", F.mse_loss(y, pixels[:2048]))
        scale = float(1 / z.std())
        flat = (z * scale).permute(0, 2, 3, 1).reshape(-1, networks.LATENT_CHANNELS)
        rgb = F.avg_pool2d(pixels[:2048], networks.DOWNSCALE).permute(0, 2, 3, 1).reshape(-1, 3)
        fit = torch.linalg.lstsq(torch.cat([flat, torch.ones(len(flat), 1)], 1), rgb).solution
        save_weights(
            self.out / "vae.safetensors", weights, scale_factor=str(scale),
            latent_rgb_factors=json.dumps(fit[:-1].tolist()), latent_rgb_factors_bias=json.dumps(fit[-1].tolist()),
        )  # fmt: skip

    def autoencoder(self):
        from safetensors import safe_open

        net = networks.Autoencoder().requires_grad_(False)
        with safe_open(self.out / "vae.safetensors", framework="pt") as file:
            net.load_state_dict({k: file.get_tensor(k).float() for k in file.keys()})
            return net, float(file.metadata()["scale_factor"])

    @torch.no_grad()
    def latents(self, pixels):
        net, scale = self.autoencoder()
        return torch.cat([net.encode(x) * scale for x in pixels.split(128)])

    def unet(self):
        from . import models

        images, _, ids = self.data()
        latents = self.latents(to_pixels(images))
        net = models.build_unet()
        reset_comfy_layers(net, zero=("out_layers.3", "proj_out", "out.2"))
        text = networks.TextEncoder()
        noise = _Noise()

        def loss_of(step, generator):
            i = torch.randint(len(latents), (32,), generator=generator)
            words = ids[i].clone()
            words[torch.rand(len(i), generator=generator) < 0.12] = networks.PAD
            x, t, eps, weight = noise.add(latents[i], generator)
            predicted = net(x, t, context=text(words)[0])
            return (weight * (predicted - eps).square().mean((1, 2, 3))).mean()

        trainer = Trainer(self.work, "unet", {"net": net, "text": text}, 3000, 8e-4, ema=0.998).run(loss_of)
        save_weights(self.out / "unet.safetensors", trainer.weights("net"))
        save_weights(self.out / "text.safetensors", trainer.weights("text"))

    def control(self):
        from safetensors.torch import load_file

        from . import models

        images, masks, ids = self.data()
        latents = self.latents(to_pixels(images))
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
            context = text(words)[0]
            control = net(x=x, hint=hint, timesteps=t, context=context)
            predicted = unet(x, t, context=context, control=_as_control(control))
            return (weight * (predicted - eps).square().mean((1, 2, 3))).mean()

        trainer = Trainer(self.work, "control", {"net": net}, 1000, 6e-4, ema=0.995).run(loss_of)
        save_weights(self.out / "controlnet.safetensors", trainer.weights("net"))

    def guide(self):
        images, _, _ = render_set(GUIDE_SEED, GUIDE_IMAGES_PER_CLASS * 16)
        made = self._classifier("guide", "resnet10t", images, steps=900)
        made.save(self.out / "guide.safetensors", torch.float16)

    def judge(self):
        images, _, _ = render_set(JUDGE_SEED, RENDERS)
        made = self._classifier("judge", "test_efficientnet", images, steps=1300)
        made.save(self.work / "judge.safetensors", torch.float16)

    def _classifier(self, name: str, arch: str, images: np.ndarray, steps: int):
        import timm

        pixels = to_pixels(images)
        labels = torch.arange(len(pixels)) % 16
        torch.manual_seed(sum(name.encode()))
        preprocess = classifiers.Preprocess((SIZE, SIZE), (0.5,) * 3, (0.5,) * 3, "bilinear", 1.0)
        net = timm.create_model(arch, pretrained=False, num_classes=16)
        autoencoder, _ = self.autoencoder()

        def loss_of(step, generator):
            net.train()
            i = torch.randint(len(pixels), (64,), generator=generator)
            x = augment(pixels[i], generator)
            with torch.no_grad():  # half of the batch as decoded, as soft as an early estimate
                z = autoencoder.encode(x[:32])
                x[:32] = autoencoder.decode(z + 0.15 * z.std() * torch.randn(z.shape, generator=generator)).clamp(-1, 1)
            return F.cross_entropy(net(x), labels[i], label_smoothing=0.05)

        trainer = Trainer(self.work, name, {"net": net}, steps, 2e-3, ema=0.99, decay=0.05).run(loss_of)
        net.load_state_dict(trainer.weights("net"))
        made = classifiers.FineGrainedClassifier(net, birds.CLASS_NAMES, preprocess, arch=arch)
        check = torch.from_numpy(render_set(CHECK_SEED, 1600)[0]).float() / 255
        right = made.predict_proba(check).argmax(1) == torch.arange(1600) % 16
        log.info("%s accuracy on 1600 fresh renders: %.4f", name, right.float().mean())
        return made


def augment(x: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Flip, small affine, brightness, contrast, noise on [B, 3, H, W] in -1..1."""
    n = len(x)

    def uniform(low, high, *shape):
        return torch.rand(n, *shape, generator=generator) * (high - low) + low

    angle, scale = uniform(-0.25, 0.25), uniform(0.85, 1.2)
    flip = (uniform(0, 1) < 0.5).float() * 2 - 1
    cos, sin = torch.cos(angle) / scale, torch.sin(angle) / scale
    theta = torch.stack([cos * flip, -sin, uniform(-0.1, 0.1), sin * flip, cos, uniform(-0.1, 0.1)], 1).view(n, 2, 3)
    x = F.grid_sample(
        x, F.affine_grid(theta, list(x.shape), align_corners=False), padding_mode="reflection", align_corners=False
    )
    x = x * uniform(0.8, 1.2, 1, 1, 1) + uniform(-0.15, 0.15, 1, 1, 1)
    return (x + uniform(0, 0.08, 1, 1, 1) * torch.randn(x.shape, generator=generator)).clamp(-1, 1)


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


STAGES = ("vae", "unet", "guide", "control", "judge")


def main(argv=None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder for renders, checkpoints, logs and the judge")
    parser.add_argument("--out", type=Path, default=SHIPPED, help="folder for the weight files")
    parser.add_argument("--stages", nargs="+", choices=STAGES, default=STAGES)
    args = parser.parse_args(argv)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stdout)
    start_comfyui()
    studio = Studio(args.work, args.out)
    for stage in args.stages:
        torch.manual_seed(STAGES.index(stage))
        getattr(studio, stage)()
    return 0


if __name__ == "__main__":
    sys.exit(main())
