"""An independent second classifier: the one that guided the images must not also rate them."""

from __future__ import annotations

from dataclasses import replace

from ..classifier.formats.timm_models import import_timm
from ..classifier.model import FineGrainedClassifier
from .settings import TrainSettings

GUIDE, JUDGE = "guide", "judge"
# In order of preference, pretrained and from scratch; the first from a family other than the guide's is used.
CANDIDATES = {True: ("resnet50.a1_in1k", TrainSettings.arch), False: ("resnet18", "mobilenetv3_small_100")}


def judge_settings(guide: TrainSettings, arch: str = "") -> TrainSettings:
    """The guide's settings with another architecture and seed; an empty `arch` picks one of another family.

    The learning rate and the image size carry over if the guide's were set. ValueError for the guide's own
    architecture, whatever its weights were pretrained on.
    """
    arch = arch or next(name for name in CANDIDATES[guide.pretrained] if _family(name) != _family(guide.arch))
    if arch.split(".")[0] == guide.arch.split(".")[0]:
        other = judge_settings(guide).arch
        raise ValueError(f"The judge needs an architecture other than the guide's: {guide.arch}. For example: {other}.")
    return replace(guide, arch=arch, init="", seed=(guide.seed + 1) % 2**31)


def names_of(guide: FineGrainedClassifier, judge: FineGrainedClassifier | None = None) -> str:
    """Who guided and who judged, for reports: "guide birds.safetensors (resnet50), judge ..."."""
    if judge is None:
        return f"guide {guide.source} ({guide.arch}), no judge"
    same = ": one family, so not independent" if _family(guide.arch) == _family(judge.arch) else ""
    return f"guide {guide.source} ({guide.arch}), judge {judge.source} ({judge.arch}){same}"


def _family(arch: str) -> str:
    """timm's module of the architecture ("resnet" for resnet50 and resnext50)."""
    timm = import_timm()
    return timm.models.model_entrypoint(arch).__module__ if timm.is_model(arch) else arch
