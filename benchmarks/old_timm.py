"""Files of earlier timm releases, saved by these releases themselves, loaded here.

python run.py exec -- python benchmarks/old_timm.py [--releases 0.4.12 0.6.13] [--only swin]

Each release goes into a folder of its own below .higfa/old_timm (pip, without its dependencies: torch is the installed
one). There it makes the architectures below with seeded random weights, saves them and the logits that it computes for
a seeded image. The table says how far the logits are apart here, or why the file is refused.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / ".higfa" / "old_timm"
RELEASES = ("0.4.12", "0.5.4", "0.6.13", "0.9.16")
ARCHITECTURES = (
    "swin_tiny_patch4_window7_224 swin_s3_tiny_224 swinv2_tiny_window8_256 swinv2_cr_tiny_224 levit_128s "
    "poolformer_s12 pit_ti_224 tnt_s_patch16_224 sequencer2d_s beit_base_patch16_224 vit_tiny_patch16_224 "
    "deit_tiny_distilled_patch16_224 cait_xxs24_224 convnext_tiny_hnf xcit_nano_12_p16_224 twins_pcpvt_small "
    "coat_lite_tiny mixer_s32_224 resnet18 regnetx_002 densenet121 efficientnet_b0 mobilenetv3_small_100 "
    "ghostnet_100 botnet26t_256 ecaresnext50t_32x4d gcresnet50t"
).split()
TOLERANCE = 1e-5
SAVE = """
import sys, warnings
warnings.filterwarnings("ignore")
import timm, torch
torch.set_num_threads(1)
folder, *names = sys.argv[1:]

def randomise(net):
    generator = torch.Generator().manual_seed(0)
    for name, tensor in sorted(net.state_dict().items()):
        if not tensor.is_floating_point() or name.endswith(("mask", "relative_coords_table")):
            continue  # computed by the network, not trained
        scale = name.endswith("running_var") or (tensor.ndim < 2 and not name.endswith(("bias", "running_mean")))
        if scale:
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
        elif tensor.ndim < 2:
            tensor.copy_(torch.rand(tensor.shape, generator=generator) * 0.4 - 0.2)
        else:
            tensor.copy_(torch.randn(tensor.shape, generator=generator) / max(1, tensor[0].numel()) ** 0.5)

with torch.no_grad():
    for name in names:
        if not timm.is_model(name):
            continue
        net = timm.create_model(name, num_classes=5).eval()
        randomise(net)
        x = torch.rand(1, *net.default_cfg["input_size"], generator=torch.Generator().manual_seed(1))
        torch.save({"x": x, "y": net(x)}, f"{folder}/{name}.logits")
        content = {"arch": name, "state_dict": net.state_dict(), "class_names": list("abcde")}
        torch.save(content, f"{folder}/{name}.pth")
"""


def install(release: str) -> Path:
    """The folder in which the release is, fetched with pip where it is not."""
    target = FOLDER / f"timm-{release}"
    if not target.exists():
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(target)]
        subprocess.run([*command, f"timm=={release}"], check=True)
    return target


def save(release: str, names: list[str]) -> Path:
    """The folder with the files of the release; those that are there already are kept."""
    files = FOLDER / f"files-{release}"
    files.mkdir(parents=True, exist_ok=True)
    missing = [name for name in names if not (files / f"{name}.pth").exists()]
    if missing:
        env = {**os.environ, "PYTHONPATH": str(install(release))}
        subprocess.run([sys.executable, "-c", SAVE, str(files), *missing], check=True, env=env, cwd=FOLDER)
    return files


def outcome(path: Path) -> tuple[str, bool]:
    """What loading gives, and whether no logits are wrong: equal ones, or a refusal."""
    import torch

    from higfa_core.classifier import FineGrainedClassifier

    if not path.exists():
        return "-", True
    saved = torch.load(path.with_suffix(".logits"), weights_only=True)
    try:
        loaded = FineGrainedClassifier.load(path)
    except ValueError as error:
        return f"refused: {error}", True
    with torch.no_grad():
        apart = (loaded.module(saved["x"]) - saved["y"]).abs().max() / max(1, saved["y"].abs().max())
    return f"{apart:.0e}", bool(apart <= TOLERANCE)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--releases", nargs="+", default=RELEASES)
    parser.add_argument("--only", default="", help="architectures with this in their name")
    options = parser.parse_args()
    names = [name for name in ARCHITECTURES if options.only in name]
    folders = [save(release, names) for release in options.releases]
    wrong, refused, reasons = 0, 0, []
    print(f"| architecture | {' | '.join(options.releases)} |", "|---" * (len(folders) + 1) + "|", sep="\n")
    for name in names:
        found = [outcome(folder / f"{name}.pth") for folder in folders]
        wrong += sum(not right for _, right in found)
        refusals = [text for text, _ in found if text.startswith("refused")]
        refused, reasons = refused + len(refusals), reasons + refusals
        print(f"| {name} | {' | '.join(text.split(':')[0] for text, _ in found)} |", flush=True)
    counts = f"{len(names)} architectures, {wrong} files with other logits, {refused} refused: read the reasons above"
    print("", *dict.fromkeys(reasons), counts, sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
