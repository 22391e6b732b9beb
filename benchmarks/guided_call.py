"""Memory and time of one guided call (decode, classify, gradient) for the tiny and the full decoder.

    python run.py exec -- python benchmarks/guided_call.py          # 512 x 512: 20 minutes on one core, 12 GB
    python run.py exec -- python benchmarks/guided_call.py --quick  # toy sizes, a minute

Random weights in the true architectures: SD1.5's VAE (83.7 M parameters), TAESD (1.2 M in its decoder), a ResNet-50 at
224 px. The unit of time is one CFG step of an SD1.5 UNet (860 M parameters) for the same batch. Each line is measured
in a fresh process: its first call gives the peak above what the process held before (GPU: of the allocator; CPU:
resident memory), its second call counts what autograd keeps for the way back, which is the same on every machine.
"""

import argparse
import contextlib
import ctypes
import gc
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from miniature_world import start_comfyui

MIB = 2**20
PEAK_LIMIT = 1.3  # peak of a batch of 4 over that of a batch of 1
CLASSES = 200


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=512, help="pixels")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--decoders", nargs="+", choices=("tiny", "vae"), default=["tiny", "vae"])
    parser.add_argument("--micro-batch", type=int, default=0, help="images decoded at once; 0 = the engine decides")
    parser.add_argument("--quick", action="store_true", help="128 x 128 and narrow networks")
    parser.add_argument("--measure", type=json.loads, help=argparse.SUPPRESS)  # one line, in the process for it
    args = parser.parse_args()
    if args.measure:
        print(json.dumps(measure(**args.measure)))
        return
    common = {"side": 128 if args.quick else args.side, "quick": args.quick, "micro_batch": args.micro_batch}
    steps = {b: in_fresh_process("step", None, b, common) for b in args.batches}
    calls = {(d, b): in_fresh_process("call", d, b, common) for d in args.decoders for b in args.batches}
    report(common["side"], steps, calls)


def in_fresh_process(what, decoder, batch, common):
    print(f"{what} {decoder or 'UNet'} batch {batch} ...", file=sys.stderr, flush=True)
    job = json.dumps({"what": what, "decoder": decoder, "batch": batch, **common})
    done = subprocess.run([sys.executable, __file__, "--measure", job], stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{what} {decoder} batch {batch} ended with {done.returncode} (-9: out of memory).")
    return json.loads(done.stdout.splitlines()[-1])


def report(side, steps, calls):
    first = next(iter(steps.values()))
    sizes = [f"UNet {first['parameters'] / 1e6:.1f} M"]
    sizes += [f"{d} {row['parameters'] / 1e6:.1f} M" for (d, b), row in calls.items() if b == min(steps)]
    print(f"\n{side} x {side}, {first['device']}, parameters: {', '.join(sizes)}\n")
    print("| decoder | batch | at once | weights | peak above | kept for backward | declared | s | in CFG steps |")
    print("|---|---|---|---|---|---|---|---|---|")
    for (decoder, batch), r in calls.items():
        memory = " | ".join(f"{r[key] / MIB:.0f}" for key in ("weights", "peak", "kept", "declared"))
        ratio = r["seconds"] / steps[batch]["seconds"]
        print(f"| {decoder} | {batch} | {r['at_once']} | {memory} | {r['seconds']:.3f} | {ratio:.2f} |")
    for batch, r in steps.items():
        print(f"| UNet CFG step | {batch} | | | {r['peak'] / MIB:.0f} | | | {r['seconds']:.3f} | 1.00 |")
    small, large = min(steps), max(steps)
    print()
    for decoder in dict.fromkeys(d for d, _ in calls) if small != large else ():
        ratio = calls[decoder, large]["peak"] / calls[decoder, small]["peak"]
        verdict = "decoded all at once, less than one image of 512 x 512 would take"
        if calls[decoder, large]["at_once"] < large:
            verdict = f"limit {PEAK_LIMIT}" + ("" if ratio <= PEAK_LIMIT else ": EXCEEDED")
        print(f"{decoder}: peak of batch {large} is {ratio:.2f} times that of batch {small} ({verdict})")
    if {d for d, _ in calls} == {"tiny", "vae"}:
        tiny, vae = calls["tiny", small], calls["vae", small]
        shares = ", ".join(f"{key} {tiny[key] / vae[key]:.3f}" for key in ("peak", "kept", "seconds"))
        print(f"tiny / vae at batch {small}: {shares}")


def measure(what, decoder, batch, side, quick, micro_batch):
    start_comfyui()
    import torch

    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    latents = torch.randn(batch, 4, side // 8, side // 8, device=device)
    if what == "step":
        call, facts = unet_step(latents, quick)
        kept = contextlib.nullcontext(Kept(()))
    else:
        call, facts, weights = guided_call(decoder, latents, quick, micro_batch)
        kept = counting_kept(weights)
    with torch.inference_mode():  # as ComfyUI runs every node
        first, peak = with_peak(lambda: seconds_of(call, device), device)
        with kept as counted:
            second = seconds_of(call, device)
    where = torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    return {**facts, "device": where, "peak": peak, "kept": counted.peak, "seconds": min(first, second)}


def seconds_of(call, device):
    import torch

    started = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


# --- What is measured ---------------------------------------------------------------------------------------


def unet_step(latents, quick):
    """One CFG step: the conditional and the unconditional half of the batch in one forward pass."""
    import torch

    net = unet(latents.device, quick)
    x = torch.cat([latents, latents]).to(net.dtype)
    text = torch.randn(len(x), 77, 768, device=x.device, dtype=net.dtype)
    level = torch.full((len(x),), 300.0, device=x.device)
    return lambda: net(x, level, text), {"parameters": parameters(net)}


def unet_layout(quick):
    """SD 1.5's UNet, or a narrow one."""
    return {
        "image_size": 32, "in_channels": 4, "out_channels": 4, "model_channels": 32 if quick else 320,
        "num_res_blocks": [2, 2, 2, 2], "channel_mult": [1, 2, 4, 4], "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
        "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0], "transformer_depth_middle": 1,
        "context_dim": 768, "num_heads": 8, "use_spatial_transformer": True, "use_linear_in_transformer": False,
        "legacy": False,
    }  # fmt: skip


def unet(device, quick):
    """That UNet with random weights."""
    import comfy.model_management
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    dtype = comfy.model_management.unet_dtype(model_params=860_000_000)
    operations = comfy.ops.pick_operations(dtype, None)
    net = UNetModel(**unet_layout(quick), dtype=dtype, operations=operations, device=device)
    return randomise(net.eval().requires_grad_(False))


def guided_call(decoder, latents, quick, micro_batch):
    """The engine's own corrector at its first guided call, and the weights it holds for the run."""
    import comfy.latent_formats
    import torch

    from higfa_core.comfy.corrector import Corrector
    from higfa_core.comfy.decoder import choose_decoder
    from higfa_core.comfy.engine import Engine, Plan
    from higfa_core.comfy.memory import guidance_memory
    from higfa_core.guidance.schedule import Window
    from higfa_core.guidance.settings import Guidance
    from higfa_core.guidance.trace import Trace

    batch, side = len(latents), latents.shape[-1] * 8
    settings = Guidance(decoder=decoder, interval=1, micro_batch=micro_batch)
    classifier, vae = random_classifier(quick), kl_vae(quick) if decoder == "vae" else None
    with tempfile.TemporaryDirectory() as folder:
        offer_random_taesd(Path(folder))
        choice = choose_decoder(decoder, vae, comfy.latent_formats.SD15(), side)
        trace = Trace([0.8, 0.5, 0.0], [1], ["class 0"] * batch)
        plan = Plan(choice, trace.targets, torch.eye(CLASSES)[:batch])
        corrector = Corrector(Engine(classifier, None, vae, settings), plan, Window(0.8, 0.05), trace, latents.device)
    built = corrector.ladder.decoder
    held = [*getattr(built, "params", built.module.state_dict()).values(), *corrector.params.values()]
    facts = {
        "parameters": parameters(vae.first_stage_model if vae else built.module.taesd_decoder),
        "weights": sum(w.nbytes for w in held),
        "declared": guidance_memory(classifier, choice, settings, latents.shape),
        "at_once": min(batch, settings.images_at_once(side * side)),
    }
    return lambda: corrector(latents, 0.5), facts, held


def kl_vae(quick):
    import comfy.ldm.models.autoencoder
    import comfy.sd

    ddconfig = {"double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3,
                "ch": 32 if quick else 128, "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [],
                "dropout": 0.0}  # fmt: skip
    config = {"ddconfig": ddconfig, "embed_dim": 4}
    net = randomise(comfy.ldm.models.autoencoder.AutoencoderKL(**config))
    return comfy.sd.VAE(sd=net.state_dict(), config={"params": config})


def offer_random_taesd(folder):
    """A decoder file with random weights where ComfyUI looks for TAESD."""
    import comfy.taesd.taesd
    import folder_paths
    from safetensors.torch import save_file

    net = randomise(comfy.taesd.taesd.TAESD(None, None).taesd_decoder)
    save_file(net.state_dict(), folder / "taesd_decoder.safetensors")
    folder_paths.add_model_folder_path("vae_approx", str(folder), is_default=True)


def random_classifier(quick):
    import timm

    from higfa_core.classifier import FineGrainedClassifier, Preprocess

    arch, side = ("resnet10t", 64) if quick else ("resnet50", 224)
    names = tuple(f"class {i}" for i in range(CLASSES))
    preprocess = Preprocess((side, side), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bicubic", 0.875)
    return FineGrainedClassifier(timm.create_model(arch, num_classes=CLASSES), names, preprocess, arch=arch)


def randomise(module):
    """Weights that keep the signal's size; ComfyUI's layers leave theirs uninitialised."""
    import torch

    for name, weight in module.named_parameters():
        if weight.ndim > 1:
            torch.nn.init.normal_(weight, std=weight[0].numel() ** -0.5)
        else:
            torch.nn.init.constant_(weight, float(name.endswith("weight")))
    return module


def parameters(module):
    return sum(p.numel() for p in module.parameters())


# --- How it is measured -------------------------------------------------------------------------------------


def with_peak(call, device):
    """(result, bytes by which the peak during the call exceeds what was held before it)."""
    import torch

    gc.collect()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        return call(), torch.cuda.max_memory_allocated() - before
    import psutil

    give_freed_memory_back()
    # Linux forgets its peak where that is allowed; else a peak before the call may hide this one.
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    before = psutil.Process().memory_info().rss
    return call(), peak_resident() - before


def give_freed_memory_back():
    """What malloc keeps of freed memory is resident: a call that reuses it would seem to need none."""
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if hasattr(libc, "malloc_trim"):  # glibc
        libc.malloc_trim(0)


def peak_resident():
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        import psutil

        return psutil.Process().memory_info().peak_wset
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class Kept:
    """Bytes of the storages that autograd currently holds, and their peak; each storage counts once."""

    def __init__(self, weights):
        self.ignored = {w.untyped_storage().data_ptr() for w in weights}
        self.held, self.bytes, self.peak = {}, 0, 0

    def add(self, storage):
        users = self.held.get(storage.data_ptr(), 0)
        self.held[storage.data_ptr()] = users + 1
        if not users and storage.data_ptr() not in self.ignored:
            self.bytes += storage.nbytes()
            self.peak = max(self.peak, self.bytes)

    def remove(self, storage):
        self.held[storage.data_ptr()] -= 1
        if not self.held[storage.data_ptr()] and storage.data_ptr() not in self.ignored:
            self.bytes -= storage.nbytes()


@contextlib.contextmanager
def counting_kept(weights):
    """Counts what autograd keeps for backward in the block, excluding the weights themselves."""
    import weakref

    import torch

    kept = Kept(weights)

    class Box:
        def __init__(self, tensor):
            self.tensor = tensor

    def pack(tensor):
        box, storage = Box(tensor), tensor.untyped_storage()
        kept.add(storage)
        weakref.finalize(box, kept.remove, storage)
        return box

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda box: box.tensor):
        yield kept


if __name__ == "__main__":
    sys.exit(main())
