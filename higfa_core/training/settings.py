"""How a classifier is trained."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace

from ..settings import ADVANCED, HIDDEN, Setting, Settings
from .loaders import AUGMENT


@dataclass(frozen=True)
class TrainSettings(Settings):
    """What determines the weights. `resolved` replaces each 0 that means "choose for me"."""

    arch: str = Setting("convnext_tiny.in12k_ft_in1k").help(
        "timm architecture. More layers and pixels see finer marks, and cost memory when guiding."
    )
    pretrained: bool = Setting(True).help(
        "Start from timm's pretrained weights, downloaded once: few images then suffice. Off: from scratch, which "
        "needs no network connection."
    )
    image_size: int = Setting(0, 0, 2048, unit="pixels").help(
        "Side of the images that the classifier sees, in pixels. 0: the architecture's own."
    )
    steps: int = Setting(0, 0, 10_000_000).help(
        "Batches to train on. 0: by the number of images. Training stops earlier when the held-out images show no more "
        "progress."
    )
    batch_size: int = Setting(32, 2, 4096, tier=ADVANCED, unit="images").help(
        "Images per step; an even number with mixup or cutmix. Lower it when memory runs out."
    )
    learning_rate: float = Setting(0.0, 0, 1, step=0.0001, round=False, tier=ADVANCED).help(
        "Peak learning rate of AdamW. 0: 0.0002 for pretrained weights, 0.002 from scratch."
    )
    weight_decay: float = Setting(0.05, 0, 10, tier=HIDDEN).help("Weight decay of AdamW.")
    label_smoothing: float = Setting(0.1, 0, 0.9, step=0.01, tier=ADVANCED).help(
        "Share of the target spread over all classes: it tempers confidence."
    )
    mixup: float = Setting(0.0, 0, 10, step=0.05, tier=ADVANCED).help(
        "timm's mixup alpha: blends two images and their labels, and with them the marks. 0: off."
    )
    cutmix: float = Setting(0.0, 0, 10, step=0.05, tier=ADVANCED).help(
        "timm's cutmix alpha: pastes a patch of another image, which may hide the marks. 0: off."
    )
    augment: str = Setting("standard", choices=tuple(AUGMENT), tier=ADVANCED).help(
        "How much crops, rotations and light vary. Stronger for fewer images; lighter when the marks are near the "
        "border or very small."
    )
    flip: bool = Setting(True, tier=ADVANCED).help("Mirror half of the images. Off where left and right matter.")
    patience: int = Setting(15, 1, 1000, tier=ADVANCED).help(
        "Evaluations (of about 40) without progress on the held-out images after which training stops."
    )
    precision: str = Setting("auto", choices=("auto", "float32", "bfloat16"), tier=HIDDEN).help(
        "Number format of the training. auto: bfloat16 on a GPU that supports it (NVIDIA's since 2020), else float32."
    )
    seed: int = Setting(0, 0, 2**31 - 1, tier=ADVANCED).help(
        "The same seed, images, settings and machine give the same file (on a GPU: see the help page). The held-out "
        "images are the same for every seed."
    )
    init: str = Setting("", tier=HIDDEN).help(
        "Classifier file to start from, in place of timm's weights: its architecture and its preprocessing, and its "
        "last layer if it has the same classes. Held-out images that the file was trained on flatter it."
    )

    def __post_init__(self):
        super().__post_init__()
        if self.batch_size % 2 and (self.mixup or self.cutmix):
            raise ValueError(f"mixup and cutmix need an even batch_size, got {self.batch_size}. Add or subtract one.")

    def resolved(self, images: int) -> TrainSettings:
        """With steps and learning rate filled in for that number of training images.

        The images shown grow as (number of images)^(2/3): 125 images are shown 200 times, 1,000 100 times, 8,000 50
        times, from scratch three times as often; at least 200 steps. Our choice.
        """
        warm = self.pretrained or bool(self.init)
        times = (1000 if warm else 3000) * images ** (-1 / 3)
        return replace(
            self,
            steps=self.steps or max(200, round(times * images / self.batch_size)),
            learning_rate=self.learning_rate or (2e-4 if warm else 2e-3),
        )

    def facts(self) -> dict[str, object]:
        """All settings, for files and keys; `init` only where it is given, as in files of earlier versions."""
        return {name: value for name, value in asdict(self).items() if name != "init" or value}


@dataclass(frozen=True)
class TrainOptions(Settings):
    """What happens around the training. Only `validation_share` changes the weights of the guide."""

    judge: bool = Setting(False).help(
        "Also train an independent judge with another architecture and seed, saved as <file_name>.judge.safetensors. "
        "The classifier that guided the images must not also rate them."
    )
    overwrite: bool = Setting(False, tier=ADVANCED).help("Replace the file if it exists.")
    validation_share: float = Setting(0.2, 0, 0.9, step=0.05, tier=ADVANCED).help(
        "Share of each class held out for stopping, choosing and calibrating, where there is no val folder and no "
        "held_out.txt. 0: all images are trained on, and nothing is calibrated."
    )
    judge_arch: str = Setting("", tier=ADVANCED).help(
        "timm architecture of the judge. Empty: one of another family than the guide's."
    )
    workers: int = Setting(0, 0, 64, tier=ADVANCED, unit="processes").help(
        "Processes that prepare images, on Linux: 4 to 8 keep a fast GPU busy. 0: this process. The result does not "
        "depend on it."
    )
    resume: bool = Setting(True, tier=ADVANCED).help(
        "Continue the interrupted run of this file, if there is one. It must have the same images and settings."
    )
    keep_split: bool = Setting(True, tier=ADVANCED).help(
        "List the held-out images in the dataset's held_out.txt, so that Dataset Job never uses them as sources and "
        "the next training holds out the same ones."
    )
