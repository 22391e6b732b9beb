"""`higfa check-classifier`: whether a classifier can guide: its accuracy on real images, through the VAE, through the
tiny decoder, and at the guidance's noise levels. No server is needed, only COMFYUI_PATH."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

from ..checking import report
from ..checking import sample as images
from ..checking import verdict as check
from ..checking.settings import CheckSettings
from ..classifier import FineGrainedClassifier
from ..sources.options import layout_of
from ..training.data import read_labelled
from .options import add_options
from .shell import Parser, Speech, add_json_option, command
from .source_options import add_source_arguments


@command(lower="--size")
def main(argv: Sequence[str] | None = None) -> int:
    args = _parse(argv)
    speech = Speech(args.json)
    result = run(args)
    speech.say(f"{report.table(result)}\n\n{check.verdict(result)}")
    if args.plot:
        save(report.plot(result, args.classifier.name), args.plot)
    speech.result(
        classifier=args.classifier,
        verdict=check.verdict(result),
        findings=[asdict(finding) for finding in check.findings(result)],
        readings=[_as_dict(reading) for reading in result.readings],
        missing=result.missing,
    )
    return 0


def _as_dict(reading: check.Reading) -> dict:
    low, high = reading.interval
    found = {"stage": reading.stage, "sigma": reading.sigma, "percent": reading.percent, "images": reading.n}
    found |= {"accuracy": reading.accuracy, "accuracy_low": low, "accuracy_high": high}
    return found | {"mean_probability": reading.mean_probability}


def run(args: argparse.Namespace) -> check.Check:
    """The check that the arguments request; everything cheap is checked before a model is loaded."""
    settings = CheckSettings.pick(vars(args))
    if args.image_size is None and args.miniature:
        settings = replace(settings, image_size=64)
    classifier = FineGrainedClassifier.load(args.classifier)
    dataset = read_labelled(args.folder, settings.validation_share, follow_links=True, **layout_of(vars(args)))
    files = images.choose(dataset, settings.images_from, settings.per_class, settings.seed)
    indices = images.class_indices(dataset.class_names, classifier)
    parts = _models(args)
    from ..comfy.patchers import attach_patcher
    from ..comfy.stages import Noise, measure

    noise = None
    if parts.model:
        positive, negative = (_encoded(parts.clip, text) for text in (args.prompt, ""))
        noise = Noise(positive, negative, settings)
    batches = images.load_batches(files, settings.image_size)
    labels = [indices[item.label] for item in files]
    stages = measure(attach_patcher(classifier), batches, len(labels), parts.vae, parts.model, noise)
    return check.Check.of(stages, labels, parts.model is not None)


def save(image, path: Path) -> None:
    """A plot [1, H, W, 3] as an image file."""
    from PIL import Image

    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((image[0].numpy() * 255).round().astype("uint8")).save(path)


def _models(args) -> SimpleNamespace:
    """MODEL, CLIP and VAE; without a checkpoint only the VAE."""
    if not (args.miniature or args.vae or args.checkpoint):
        raise ValueError("No models given to decode with. Add --miniature, --vae FILE or --checkpoint FILE.")
    for path in (args.vae, args.checkpoint):
        if path and not path.is_file():
            raise FileNotFoundError(f"No file {path}. Check the name.")
    from ..comfy.startup import start_comfyui

    start_comfyui()
    if args.miniature:
        from ..miniature import models

        return SimpleNamespace(model=models.load_model(), clip=models.load_clip(), vae=models.load_vae())
    from ..comfy.loaders import load_models

    return SimpleNamespace(**dict(zip(("model", "clip", "vae"), load_models(args.checkpoint, args.vae))))


def _encoded(clip, text: str):
    return clip.encode_from_tokens_scheduled(clip.tokenize(text))


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = Parser("check-classifier", about=__doc__)
    parser.add_argument("classifier", type=Path, metavar="CLASSIFIER_FILE")
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="labelled images: FOLDER/<class>/<image>")
    add_source_arguments(parser)
    models = parser.add_argument_group("models (one of --miniature, --vae, --checkpoint)")
    models.add_argument("--miniature", action="store_true", help="the embedded model and VAE")
    models.add_argument("--vae", type=Path, metavar="FILE", help="alone: no tiny decoder, no noise levels")
    models.add_argument("--checkpoint", type=Path, metavar="FILE", help="model, text encoder and, without --vae, VAE")
    add_options(parser, CheckSettings, "images_from", "validation_share", "per_class")
    size = "side of the squares (default: 512, with --miniature 64)"
    parser.add_argument("--size", dest="image_size", type=int, metavar="PIXELS", help=size)
    parser.add_argument("--prompt", default="", help="must name no class (default: empty)")
    add_options(parser, CheckSettings, "cfg", "start_percent", "end_sigma", "noise_levels", "seed")
    parser.add_argument("--plot", type=Path, metavar="FILE.png", help="write the plot there")
    add_json_option(parser)
    return parser.parse_args(argv)


if __name__ == "__main__":
    sys.exit(main())
