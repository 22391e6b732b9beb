"""Train Fine-Grained Classifier."""

import logging
import os
import sys
from dataclasses import replace
from pathlib import Path, PurePosixPath

import folder_paths
import torch
from comfy import model_management
from comfy.utils import ProgressBar
from comfy_api.latest import io, ui

from ..higfa_core.comfy.patchers import attach_patcher
from ..higfa_core.files import paths
from ..higfa_core.training.data import read_labelled
from ..higfa_core.training.outputs import SUFFIX, summary, train_files
from ..higfa_core.training.settings import TrainOptions, TrainSettings
from ..higfa_core.training.trainer import training_key
from .classifier import FOLDER
from .folders import dataset_flaw, dataset_folder, dataset_input
from .types import HiGFAClassifier
from .widgets import widgets

log = logging.getLogger(__name__)


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
                dataset_input(
                    "Folder inside ComfyUI's input folder: <class>/<image>, or train/ and val/ with the classes "
                    "inside. Without val/ a share of each class is held out. Test images are never used. Benchmarks "
                    "(CUB, Aircraft, Cars, ...) are read as unpacked."
                ),
                io.String.Input(
                    "file_name",
                    default="classifier",
                    tooltip=f"Saved as models/{FOLDER}/<file_name>{SUFFIX}.",
                ),
                *widgets(TrainSettings, "arch", "pretrained", "image_size", "steps"),
                *widgets(TrainSettings, "seed", control_after_generate=io.ControlAfterGenerate.fixed),
                *widgets(TrainOptions, "judge", "overwrite"),
                *widgets(TrainSettings, "batch_size", "learning_rate", "augment", "flip", "label_smoothing"),
                *widgets(TrainSettings, "mixup", "cutmix"),
                *widgets(TrainOptions, "validation_share"),
                *widgets(TrainSettings, "patience"),
                *widgets(TrainOptions, "judge_arch", "workers", "resume", "keep_split"),
            ],
            outputs=[
                HiGFAClassifier.Output(display_name="classifier"),
                io.Image.Output(
                    display_name="plots",
                    tooltip="Curves, confusion matrix and reliability diagram, first of the guide, then of the judge.",
                ),
                io.String.Output(display_name="summary"),
            ],
        )

    @classmethod
    def validate_inputs(cls, dataset):
        return dataset_flaw(dataset) or True

    @classmethod
    def fingerprint_inputs(cls, dataset=None, **others):
        name = (dataset or "").strip()
        if not name:
            return str(sorted(others.items()))
        # The images and their split, not the files: training may have listed what it held out.
        labelled = read_labelled(_folder(name), others.get("validation_share") or 0.0)
        times = [item.path.stat().st_mtime_ns for item in (*labelled.train, *labelled.validation)]
        return f"{training_key(labelled, TrainSettings())}:{times}:{sorted(others.items())}"

    @classmethod
    def execute(cls, dataset: str, file_name: str, **chosen) -> io.NodeOutput:
        chosen = {name: value.strip() if isinstance(value, str) else value for name, value in chosen.items()}
        settings, options = TrainSettings.pick(chosen), TrainOptions.pick(chosen)
        out = _file(file_name)
        labelled = read_labelled(_folder(dataset), options.validation_share)
        device = model_management.get_torch_device()
        if device.type != "cpu":
            model_management.unload_all_models()
            model_management.soft_empty_cache()
        bar = ProgressBar(1)
        trained = train_files(
            labelled,
            settings,
            out,
            options if sys.platform == "linux" else replace(options, workers=0),
            progress=bar.update_absolute,
            check=model_management.throw_exception_if_processing_interrupted,
            device=device,
        )
        plots = torch.cat([image for one in trained for image in one.plots().values()])
        text = summary(trained)
        log.info(text)
        return io.NodeOutput(attach_patcher(trained[0].result.classifier), plots, text, ui=ui.PreviewText(text))


def _folder(dataset: str) -> Path:
    name = dataset.strip()
    if not name:
        raise ValueError("No dataset given. Type the name of a folder in ComfyUI's input folder.")
    paths.refuse_held_out(*PurePosixPath(name.replace("\\", "/")).parts)
    return dataset_folder(name)


def _file(name: str) -> Path:
    name = name.strip()
    stem = name.removesuffix(SUFFIX)
    if flaw := paths.name_flaw(stem):
        raise ValueError(f"The file_name {name!r} {flaw}. Choose a plain name, without folders.")
    if os.path.splitext(stem)[1].lower() in folder_paths.supported_pt_extensions:
        raise ValueError(f"Classifiers are saved as {SUFFIX}, got {name!r}. Leave the ending out.")
    return Path(folder_paths.models_dir, FOLDER, stem + SUFFIX)


NODES = [TrainClassifier]
