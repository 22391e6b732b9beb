"""Train Fine-Grained Classifier."""

import logging
import os
import sys
from pathlib import Path, PurePosixPath

import folder_paths
import torch
from comfy import model_management
from comfy.utils import ProgressBar
from comfy_api.latest import io, ui

from ..higfa_core.comfy.patchers import attach_patcher
from ..higfa_core.files import paths
from ..higfa_core.training.data import read_labelled
from ..higfa_core.training.loaders import AUGMENT
from ..higfa_core.training.outputs import SUFFIX, summary, train_files
from ..higfa_core.training.settings import ARCH, TrainSettings
from ..higfa_core.training.trainer import training_key
from .classifier import FOLDER, HiGFAClassifier

log = logging.getLogger(__name__)
MAX_STEPS = 10_000_000


class TrainClassifier(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HiGFA_TrainClassifier",
            display_name="Train Fine-Grained Classifier",
            category="HiGFA",
            description="Trains and calibrates an image classifier on a folder of labelled images, and saves it in "
            f"models/{FOLDER}: the third guidance signal.",
            search_aliases=["train classifier", "timm", "fine-tune", "image classification", "finetune", "calibrate"],
            is_output_node=True,
            inputs=[
                io.String.Input(
                    "dataset",
                    default="",
                    placeholder="folder in ComfyUI/input with one sub-folder a class",
                    tooltip="Folder inside ComfyUI's input folder: <class>/<image>, or train/ and val/ with the "
                    "classes inside. Without val/ a share of each class is held out. Test images are never used. "
                    "A benchmark as it is unpacked (CUB, Aircraft, Cars, ...) is read as well.",
                ),
                io.String.Input(
                    "file_name",
                    default="classifier",
                    tooltip=f"Saved as models/{FOLDER}/<file_name>{SUFFIX}.",
                ),
                io.String.Input(
                    "arch",
                    default=ARCH,
                    tooltip="timm architecture. More layers and pixels see finer marks, and cost memory when guiding.",
                ),
                io.Boolean.Input(
                    "pretrained",
                    default=True,
                    tooltip="Start from timm's pretrained weights, which are downloaded once: few images then suffice. "
                    "Off: from scratch, without network.",
                ),
                io.Int.Input(
                    "image_size",
                    default=0,
                    min=0,
                    max=2048,
                    tooltip="Side of the images that the classifier sees, in pixels. 0: the architecture's own.",
                ),
                io.Int.Input(
                    "steps",
                    default=0,
                    min=0,
                    max=MAX_STEPS,
                    tooltip="Batches to train on. 0: by the number of images. It may stop earlier, when the images "
                    "held out show no more progress.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=2**31 - 1,
                    control_after_generate=io.ControlAfterGenerate.fixed,
                    tooltip="The same seed, images, settings and machine give the same file (on a GPU: see the help). "
                    "The images held out are the same for every seed.",
                ),
                io.Boolean.Input(
                    "judge",
                    default=False,
                    tooltip="Also train an independent judge: another architecture and seed, saved as "
                    f"<file_name>.judge{SUFFIX}. What guided the images must not also rate them.",
                ),
                io.Boolean.Input(
                    "overwrite",
                    default=False,
                    tooltip="Replace the file if it exists.",
                ),
                io.Int.Input(
                    "batch_size",
                    default=32,
                    min=2,
                    max=4096,
                    advanced=True,
                    tooltip="Images a step. Lower it when the memory does not suffice.",
                ),
                io.Float.Input(
                    "learning_rate",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.0001,
                    round=False,
                    advanced=True,
                    tooltip="Of AdamW, at its highest. 0: 0.0002 for pretrained weights, 0.002 from scratch.",
                ),
                io.Combo.Input(
                    "augment",
                    options=list(AUGMENT),
                    default="standard",
                    advanced=True,
                    tooltip="How much crops, rotations and light vary. Stronger for fewer images; lighter when the "
                    "marks are near the border or very small.",
                ),
                io.Boolean.Input(
                    "flip",
                    default=True,
                    advanced=True,
                    tooltip="Mirror half of the images. Off when left and right make a class.",
                ),
                io.Float.Input(
                    "label_smoothing",
                    default=0.1,
                    min=0.0,
                    max=0.9,
                    step=0.01,
                    advanced=True,
                    tooltip="Share of the target spread over all classes: tempers confidence.",
                ),
                io.Float.Input(
                    "mixup",
                    default=0.0,
                    min=0.0,
                    max=10.0,
                    step=0.05,
                    advanced=True,
                    tooltip="timm's mixup alpha: blends two images and their labels. 0: off.",
                ),
                io.Float.Input(
                    "cutmix",
                    default=0.0,
                    min=0.0,
                    max=10.0,
                    step=0.05,
                    advanced=True,
                    tooltip="timm's cutmix alpha: pastes a patch of another image, which may hide the marks. 0: off.",
                ),
                io.Float.Input(
                    "validation_share",
                    default=0.2,
                    min=0.0,
                    max=0.9,
                    step=0.05,
                    advanced=True,
                    tooltip="Share of each class held out, where there is no val folder and no held_out.txt: to stop, "
                    "to choose and to calibrate. 0: all images are trained on, and nothing is calibrated.",
                ),
                io.Int.Input(
                    "patience",
                    default=15,
                    min=1,
                    max=1000,
                    advanced=True,
                    tooltip="Evaluations (of about 40) without progress on the held-out images after which it stops.",
                ),
                io.String.Input(
                    "judge_arch",
                    default="",
                    advanced=True,
                    tooltip="timm architecture of the judge. Empty: one of another family than the guide's.",
                ),
                io.Int.Input(
                    "workers",
                    default=0,
                    min=0,
                    max=64,
                    advanced=True,
                    tooltip="Processes that prepare images, on Linux: 4 to 8 keep a fast GPU busy. 0: this process. "
                    "The result does not depend on it.",
                ),
                io.Boolean.Input(
                    "resume",
                    default=True,
                    advanced=True,
                    tooltip="Continue the interrupted run of this file_name, if there is one. It must have the same "
                    "images and settings.",
                ),
                io.Boolean.Input(
                    "keep_split",
                    default=True,
                    advanced=True,
                    tooltip="List the images held out in the dataset's held_out.txt, so that Dataset Job never takes "
                    "them as sources and the next training holds out the same.",
                ),
            ],
            outputs=[
                HiGFAClassifier.Output(display_name="classifier"),
                io.Image.Output(
                    display_name="plots",
                    tooltip="Curves, confusion matrix and reliability diagram, of the guide, then of the judge.",
                ),
                io.String.Output(display_name="summary"),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, dataset=None, **others):
        if not (dataset or "").strip():
            return str(sorted(others.items()))
        # The images and their split, not the files: a training may have listed what it held out.
        labelled = read_labelled(_dataset_folder(dataset), others.get("validation_share") or 0.0)
        times = [item.path.stat().st_mtime_ns for item in (*labelled.train, *labelled.validation)]
        return f"{training_key(labelled, TrainSettings())}:{times}:{sorted(others.items())}"

    @classmethod
    def execute(
        cls,
        dataset: str,
        file_name: str,
        arch: str,
        pretrained: bool,
        image_size: int,
        steps: int,
        seed: int,
        judge: bool,
        overwrite: bool,
        batch_size: int = 32,
        learning_rate: float = 0.0,
        augment: str = "standard",
        flip: bool = True,
        label_smoothing: float = 0.1,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        validation_share: float = 0.2,
        patience: int = 15,
        judge_arch: str = "",
        workers: int = 0,
        resume: bool = True,
        keep_split: bool = True,
    ) -> io.NodeOutput:
        settings = TrainSettings(
            arch=arch.strip(),
            pretrained=pretrained,
            image_size=image_size,
            steps=steps,
            batch_size=batch_size,
            learning_rate=learning_rate,
            label_smoothing=label_smoothing,
            mixup=mixup,
            cutmix=cutmix,
            augment=augment,
            flip=flip,
            patience=patience,
            seed=seed,
        )
        out = _file(file_name)
        labelled = read_labelled(_dataset_folder(dataset), validation_share)
        device = model_management.get_torch_device()
        if device.type != "cpu":
            model_management.unload_all_models()
            model_management.soft_empty_cache()
        bar = ProgressBar(1)
        trained = train_files(
            labelled,
            settings,
            out,
            judge=judge,
            judge_arch=judge_arch.strip(),
            overwrite=overwrite,
            resume=resume,
            keep_split=keep_split,
            progress=bar.update_absolute,
            check=model_management.throw_exception_if_processing_interrupted,
            device=device,
            workers=workers if sys.platform == "linux" else 0,
        )
        plots = torch.cat([image for one in trained for image in one.plots().values()])
        text = summary(trained)
        log.info(text)
        return io.NodeOutput(attach_patcher(trained[0].result.classifier), plots, text, ui=ui.PreviewText(text))


def _dataset_folder(dataset: str) -> Path:
    name = dataset.strip()
    if not name:
        raise ValueError("No dataset given: type the name of a folder in ComfyUI's input folder")
    paths.refuse_held_out(*PurePosixPath(name.replace("\\", "/")).parts)
    return paths.inside(folder_paths.get_input_directory(), name)


def _file(name: str) -> Path:
    name = name.strip()
    stem = name.removesuffix(SUFFIX)
    if flaw := paths.name_flaw(stem):
        raise ValueError(f"The file_name {name!r} {flaw}: choose a plain name, without folders")
    if os.path.splitext(stem)[1].lower() in folder_paths.supported_pt_extensions:
        raise ValueError(f"Classifiers are saved as {SUFFIX}, got {name!r}: leave the ending out")
    return Path(folder_paths.models_dir, FOLDER, stem + SUFFIX)


NODES = [TrainClassifier]
