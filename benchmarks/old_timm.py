"""Files of earlier timm releases, saved by these releases themselves, loaded here.

python run.py exec -- python benchmarks/old_timm.py [--releases 0.4.12 0.6.13] [--only swin] [--timm 1.0.26] [--write]

Each release goes into a folder of its own below .higfa/old_timm (pip, without its dependencies: torch is the installed
one). There it makes the architectures below with seeded random weights, saves them and the logits that it computes for
a seeded image. The table says how far the logits are apart here, relative to the largest, or why a file is refused.
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

ROOT = Path(__file__).resolve().parent.parent
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
# Nothing in these files tells that they are not of a later release: release, architecture, what has changed.
ALIKE = {
    ("0.5.4", "gcresnet50t"): "the epsilon of its normalisations was 1e-5 and is 1e-6",
    ("0.5.4", "convnext_tiny"): "its normalisations divided by n - 1 and divide by n",
    **{(release, "dpn68"): "its last activation was ELU and is ReLU (loading warns)" for release in RELEASES[:3]},
}
TOLERANCE = 1e-5
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


def outcome(path: Path) -> tuple[str, bool]:
    """What loading gives, and whether it is right: equal logits, or a refusal."""
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


def summary(path: Path) -> dict:
    """What the tests need of a file: names, shapes and logits."""
    import torch

    saved, logits = torch.load(path, weights_only=True), torch.load(path.with_suffix(".logits"), weights_only=True)
    state = saved["state_dict"]
    return {
        "arch": saved["arch"],
        "size": list(logits["x"].shape[1:]),
        "shapes": {key: list(tensor.shape) for key, tensor in state.items()},
        "whole": [key for key, tensor in state.items() if not tensor.is_floating_point()],
        "logits": logits["y"][0].tolist(),
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
    names = [name for name in ARCHITECTURES if options.only in name]
    folders = [save(release, names) for release in options.releases]
    if options.write:
        write_fixture(folders, names)
    return report(names, options.releases, folders)


def report(names: list[str], releases: list[str], folders: list[Path]) -> int:
    """Print the table; 1 where logits are other ones and nothing explains it."""
    import timm

    wrong, refusals = [], []
    print(f"Loaded with timm {timm.__version__}:", "")
    print(f"| architecture | {' | '.join(releases)} |", "|---" * (len(releases) + 1) + "|", sep="\n")
    for name in names:
        found = [outcome(folder / f"{name}.pth") for folder in folders]
        wrong += [(release, name) for release, (_, right) in zip(releases, found) if not right]
        refusals += [text for text, _ in found if text.startswith("refused")]
        print(f"| {name} | {' | '.join(text.split(':')[0] for text, _ in found)} |", flush=True)
    print("", *dict.fromkeys(refusals), sep="\n")
    print(
        *(f"{name} of timm {release}: {ALIKE.get((release, name), 'OTHER LOGITS')}" for release, name in wrong),
        sep="\n",
    )
    print(f"{len(names)} architectures, {len(wrong)} files with other logits, {len(refusals)} refused")
    return 1 if set(wrong) - set(ALIKE) else 0


if __name__ == "__main__":
    sys.exit(main())
