"""The guided step of HiGFA against a gradient through the diffusion model, with the same networks: time and memory.

    python run.py exec -- python benchmarks/peers.py          # 512 x 512: slow on a CPU
    python run.py exec -- python benchmarks/peers.py --quick  # toy sizes, a minute

FreeDoM (arXiv 2303.09833) and DistDiff (arXiv 2403.07092) differentiate the classifier's score with respect to the
noisy latent, through the UNet; HiGFA with respect to the denoised estimate, so that only the decoder and the classifier
are on the way back. Each line is one step of a sampler with CFG in a fresh process: the plain step, HiGFA's (the plain
step and one evaluation) and the peers'. Random weights in SD 1.5's architectures, as in guided_call.py. The published
methods repeat their step several times per noise level (time travel); here it is counted once.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import guided_call as parts
from miniature_world import start_comfyui

METHODS = {"plain": "CFG step", "higfa": "HiGFA", "through": "gradient through the UNet (FreeDoM, DistDiff)"}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=512, help="pixels")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--decoders", nargs="+", choices=("tiny", "vae"), default=["tiny", "vae"])
    parser.add_argument("--quick", action="store_true", help="128 x 128 and narrow networks")
    parser.add_argument("--measure", type=json.loads, help=argparse.SUPPRESS)  # one line, in the process for it
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(**args.measure)))
        return
    side = 128 if args.quick else args.side
    rows = {}
    for decoder in args.decoders:
        for method in METHODS:
            job = {"method": method, "decoder": decoder, "batch": args.batch, "side": side, "quick": args.quick}
            command = [sys.executable, __file__, "--measure", json.dumps(job)]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
            if done.returncode:
                raise SystemExit(f"{method} with {decoder} ended with {done.returncode} (-9: out of memory).")
            rows[decoder, method] = json.loads(done.stdout.splitlines()[-1])
    print(f"\n{side} x {side}, batch {args.batch}, {next(iter(rows.values()))['device']}\n")
    print("| decoder | step | s | in CFG steps | peak above the weights, MiB | to HiGFA: time | memory |")
    print("|---|---|---|---|---|---|---|")
    for (decoder, method), row in rows.items():
        plain, ours = (rows[decoder, name] for name in ("plain", "higfa"))
        ratios = [f"{row[key] / ours[key]:.2f}" for key in ("seconds", "peak")]
        seconds, peak = row["seconds"], row["peak"] / parts.MIB
        cost = f"{seconds:.3f} | {seconds / plain['seconds']:.2f} | {peak:.0f}"
        print(f"| {decoder} | {METHODS[method]} | {cost} | {ratios[0]} | {ratios[1]} |")


def measure(method, decoder, batch, side, quick):
    start_comfyui()
    import torch

    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    latents = torch.randn(batch, 4, side // 8, side // 8, device=device)
    step, _ = parts.unet_step(latents, quick)
    if method == "plain":
        call = step
    elif method == "higfa":
        evaluate, _, _ = parts.guided_call(decoder, latents, quick, 0)

        def call():
            step()
            evaluate()
    else:
        call = through_the_unet(decoder, latents, quick)
    with torch.inference_mode(method != "through"):
        first, peak = parts.with_peak(lambda: parts.seconds_of(call, device), device)
        second = parts.seconds_of(call, device)
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return {"device": where, "peak": peak, "seconds": min(first, second)}


def through_the_unet(decoder, latents, quick):
    """The same networks with ordinary autograd: noisy latent -> CFG -> estimate -> pixels -> classifier, and back."""
    import comfy.latent_formats
    import torch

    from higfa_core.comfy.decoder import choose_decoder

    unet = parts.unet(latents.device, quick)
    classifier = parts.random_classifier(quick)
    module = classifier.module.to(latents.device).requires_grad_(False)
    with tempfile.TemporaryDirectory() as folder:
        vae = parts.kl_vae(quick) if decoder == "vae" else None
        parts.offer_random_taesd(Path(folder))
        decode = choose_decoder(decoder, vae, comfy.latent_formats.SD15(), latents.shape[-1] * 8).build(latents.device)
    text = torch.randn(2 * len(latents), 77, 768, device=latents.device, dtype=unet.dtype)
    level = torch.full((2 * len(latents),), 300.0, device=latents.device)
    sigma = 0.5

    def call():
        x = latents.clone().requires_grad_(True)
        cond, uncond = unet(torch.cat([x, x]).to(unet.dtype), level, text).float().chunk(2)
        estimate = x - sigma * (uncond + 7.5 * (cond - uncond))
        logits = classifier.logits(decode(estimate), dict(module.named_parameters()))
        torch.autograd.grad(logits.log_softmax(1)[:, 0].sum(), x)

    return call


if __name__ == "__main__":
    sys.exit(main())
