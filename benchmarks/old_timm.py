"""Files of earlier timm releases, saved by these releases themselves, loaded here.

python run.py exec -- python benchmarks/old_timm.py [--releases 0.4.12 0.6.13] [--only swin] [--timm 1.0.26] [--write]

Each release goes into a folder of its own below .higfa/old_timm (pip, without its dependencies: torch is the installed
one). There it makes the architectures below with seeded random weights, saves them and the logits that it computes for
a seeded image. The table says how far the logits are apart here, relative to the largest, or that a file is refused.
`--timm` loads with another timm than the installed one. `--write` keeps names, shapes and logits of the files in
tests/classifier/old_timm.json.gz, with which the tests check the translations without those releases.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from torch import Tensor, nn

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(Path(__file__).parent))
from old_timm_files import logits  # noqa: E402

FOLDER = ROOT / ".higfa" / "old_timm"
RELEASES = ("0.4.12", "0.5.4", "0.6.13", "0.9.16")
ARCHITECTURES = (
    "swin_tiny_patch4_window7_224 swin_s3_tiny_224 swinv2_tiny_window8_256 swinv2_cr_tiny_224 levit_128s "
    "poolformer_s12 pit_ti_224 tnt_s_patch16_224 sequencer2d_s beit_base_patch16_224 vit_tiny_patch16_224 "
    "deit_tiny_distilled_patch16_224 cait_xxs24_224 convnext_tiny_hnf xcit_nano_12_p16_224 twins_pcpvt_small "
    "coat_lite_tiny mixer_s32_224 resnet18 regnetx_002 densenet121 efficientnet_b0 mobilenetv3_small_100 "
    "ghostnet_100 botnet26t_256 ecaresnext50t_32x4d gcresnet50t tresnet_m "
    "convnext_tiny dpn68"
).split()
MORE = (
    "bat_resnext26ts botnet50ts_256 coat_tiny coatnet_nano_rw_224 convit_tiny convmixer_768_32 cs3darknet_m "
    "cspresnet50 davit_tiny deit3_small_patch16_224 dla34 dpn68b eca_botnext26ts_256 eca_halonext26ts ecaresnet26t "
    "edgenext_xx_small efficientformer_l1 efficientnetv2_rw_t efficientvit_b0 ese_vovnet19b_dw ese_vovnet39b_evos "
    "eva02_tiny_patch14_224 fastvit_t8 fbnetc_100 focalnet_tiny_srf gc_efficientnetv2_rw_t gcresnet33ts gcresnext26ts "
    "gcvit_xxtiny ghostnetv2_100 gmixer_24_224 gmlp_ti16_224 halonet26t hardcorenas_a hrnet_w18_small "
    "inception_next_tiny nest_tiny lambda_resnet26t lcnet_050 legacy_seresnet18 mixnet_s mnasnet_100 "
    "mobilenetv2_100 mobilenetv3_rw mobileone_s0 mobilevit_xs mobilevitv2_050 mvitv2_tiny nf_regnet_b0 pvt_v2_b0 "
    "regnety_002 repvgg_a2 repvit_m1 res2net50_26w_4s resmlp_12_224 resnet26d resnetblur18 resnetv2_50 resnext26ts "
    "rexnet_100 selecsls42b semnasnet_100 seresnext26ts skresnet18 spnasnet_100 tf_efficientnet_b0 "
    "tf_efficientnetv2_b0 tf_mobilenetv3_small_075 tiny_vit_5m_224 tinynet_a visformer_tiny "
    "vit_relpos_small_patch16_224 vit_tiny_r_s16_p8_224 volo_d1_224 vovnet39a xcit_tiny_12_p16_224"
).split()
TOLERANCE = {"float64": 1e-7, "float32": 1e-5}  # of logits computed in it: less than a rounding of float32; its noise
FIXTURE = ROOT / "tests" / "classifier" / "old_timm.json.gz"


def install(release: str) -> Path:
    """The folder in which the release is, fetched with pip where it is not."""
    target = FOLDER / f"timm-{release}"
    if not target.exists():
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(target)]
        subprocess.run([*command, f"timm=={release}"], check=True)
    return target


def save(release: str, names: list[str]) -> Path:
    """The folder with the files of the release; existing ones are kept."""
    files = FOLDER / f"files-{release}"
    files.mkdir(parents=True, exist_ok=True)
    missing = [name for name in names if not (files / f"{name}.pth").exists()]
    if missing:
        program = Path(__file__).with_name("old_timm_files.py")
        env = {**os.environ, "PYTHONPATH": str(install(release))}
        subprocess.run([sys.executable, str(program), str(files), *missing], check=True, env=env, cwd=FOLDER)
    return files


def outcomes(paths: list[Path]) -> list[tuple[str, bool]]:
    """The outcome of each release's file. A file with the names, shapes and logits of one that is equal is not loaded
    again."""
    found, equal = [], {}
    for path in paths:
        content = summary(path) if path.exists() else {}
        key = json.dumps([content.get("shapes"), [round(logit, 5) for logit in content.get("logits", [])]])
        found.append(equal.get(key) or outcome(path))
        if found[-1][0][:1].isdigit() and "told" not in found[-1][0]:
            equal[key] = found[-1]
    return found


def outcome(path: Path) -> tuple[str, bool]:
    """What loading gives, and whether it is right: equal logits, a refusal, or less apart than in bfloat16.

    A network that is not equal is loaded once more with a JSON file beside it that tells the release.
    """
    if not path.exists():
        return "-", True
    saved = torch.load(path.with_suffix(".logits"), weights_only=True)
    tolerance = TOLERANCE[str(saved["y"].dtype).removeprefix("torch.")]
    found, text = load(path)
    apart = relative(found, saved) if found else 0.0
    if found and apart <= tolerance:
        return f"{apart:.0e}", True
    own = in_bfloat16(found, saved["x"].shape[1:]) if found else 0.0
    right = not found or apart <= own
    text = f"{apart:.0e} (its own in bfloat16 {own:.0e})" if found else text
    told, _ = load(told_release(path))
    if told and (exact := relative(told, saved)) <= tolerance:
        text = f"{exact:.0e} if told, else {text}"
    return text, right


def load(path: Path) -> tuple[nn.Module | None, str]:
    """The network, or why it is refused."""
    from higfa_core.classifier import FineGrainedClassifier

    try:
        return FineGrainedClassifier.load(path).module, ""
    except ValueError as error:
        return None, f"refused: {error}"


def told_release(path: Path) -> Path:
    """The same file with a JSON file beside it that tells the release of timm."""
    told = path.parent / "told" / path.name
    told.parent.mkdir(exist_ok=True)
    if not told.exists():
        told.symlink_to(path)
    release = path.parent.name.removeprefix("files-")
    told.with_suffix(".json").write_text(json.dumps({"timm": release}), "utf-8")
    return told


def relative(net: nn.Module, saved: dict[str, Tensor]) -> float:
    """How far the logits are from those of the release, relative to the largest, or to 1."""
    found = logits(net, saved["x"]) if saved["y"].dtype == torch.float64 else net(saved["x"])
    return float((found - saved["y"]).abs().max() / max(1, saved["y"].abs().max()))


@torch.no_grad()
def in_bfloat16(net: nn.Module, size: tuple[int, ...]) -> float:
    """How far its own logits move in bfloat16, at most, in eight images; relative to the largest."""
    x, net = torch.rand(8, *size, generator=torch.Generator().manual_seed(2)), net.float()
    exact = net(x)
    with torch.autocast("cpu", torch.bfloat16):
        return float((net(x).float() - exact).abs().max() / max(1, exact.abs().max()))


def summary(path: Path) -> dict:
    """What the tests need of a file: names, shapes and logits."""
    saved, given = (
        torch.load(path, weights_only=True, mmap=True),
        torch.load(path.with_suffix(".logits"), weights_only=True),
    )
    state = saved["state_dict"]
    return {
        "arch": saved["arch"],
        "size": list(given["x"].shape[1:]),
        "shapes": {key: list(tensor.shape) for key, tensor in state.items()},
        "whole": [key for key, tensor in state.items() if not tensor.is_floating_point()],
        "logits": given["y"][0].float().tolist(),
    }


def write_fixture(folders: list[Path], names: list[str]) -> None:
    """One entry for all releases whose files are alike."""
    found = {}
    for path in (folder / f"{name}.pth" for name in names for folder in folders):
        if path.exists():
            entry = summary(path)
            alike = json.dumps([entry["shapes"], [round(logit, 4) for logit in entry["logits"]]], sort_keys=True)
            found.setdefault((entry["arch"], alike), {**entry, "releases": []})
            found[entry["arch"], alike]["releases"].append(path.parent.name.removeprefix("files-"))
    text = json.dumps(list(found.values()), separators=(",", ":"))
    FIXTURE.write_bytes(gzip.compress(text.encode(), mtime=0))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--releases", nargs="+", default=RELEASES)
    parser.add_argument("--only", default="", help="architectures with this in their name")
    parser.add_argument("--timm", help="the release that loads the files; default: the installed one")
    parser.add_argument("--write", action="store_true", help="keep names, shapes and logits for the tests")
    options = parser.parse_args()
    if options.timm:
        sys.path.insert(0, str(install(options.timm)))
    names = [name for name in (*ARCHITECTURES, *MORE) if options.only in name]
    folders = [save(release, names) for release in options.releases]
    if options.write:
        write_fixture(folders, [name for name in ARCHITECTURES if name in names])
    return report(names, options.releases, folders)


def report(names: list[str], releases: list[str], folders: list[Path]) -> int:
    """Print the table; 1 where logits are other ones."""
    import timm

    wrong, refusals = [], []
    print(f"Loaded with timm {timm.__version__}:", "")
    print(f"| architecture | {' | '.join(releases)} |", "|---" * (len(releases) + 1) + "|", sep="\n")
    for name in names:
        found = outcomes([folder / f"{name}.pth" for folder in folders])
        wrong += [f"{name} of timm {release}" for release, (_, right) in zip(releases, found) if not right]
        refusals += [text for text, _ in found if "refused" in text]
        print(f"| {name} | {' | '.join(text.split(':')[0] for text, _ in found)} |", flush=True)
    print("", *dict.fromkeys(refusals), *(f"{each}: OTHER LOGITS" for each in wrong), sep="\n")
    print(f"{len(names)} architectures, {len(wrong)} files with other logits, {len(refusals)} refused")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
