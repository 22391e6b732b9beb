"""Load Fine-Grained Classifier."""

import os
from pathlib import Path

import folder_paths
from comfy_api.latest import io

from ..higfa_core.classifier import FineGrainedClassifier
from ..higfa_core.classifier.formats import classifier_file as files
from ..higfa_core.comfy.patchers import attach_patcher
from .faults import shown
from .types import HiGFAClassifier

FOLDER = "higfa_classifiers"
NO_FILES = f"(put a classifier into models/{FOLDER})"


def register_folder() -> None:
    """Make `models/higfa_classifiers` a model folder, after any that extra_model_paths.yaml has named."""
    paths = list(folder_paths.folder_names_and_paths.get(FOLDER, ([],))[0])
    default = os.path.join(folder_paths.models_dir, FOLDER)
    if default not in paths:
        paths.append(default)
    folder_paths.folder_names_and_paths[FOLDER] = (paths, folder_paths.supported_pt_extensions)


register_folder()


def classifier_files() -> list[str]:
    # ComfyUI never looks again at a folder that did not exist the first time.
    folder_paths.filename_list_cache.pop(FOLDER, None)
    return folder_paths.get_filename_list(FOLDER)


def missing_file_message(name: str) -> str:
    folders = " or ".join(map(shown, folder_paths.get_folder_paths(FOLDER)))
    files = classifier_files()
    if not files:
        return (
            "No classifier found. Put one of timm, torchvision or transformers (.safetensors or weights-only .pth) "
            f"into {folders}, press R to refresh, and choose it. To try without one, use Load Miniature"
        )
    return f"No classifier '{name}' in {folders}. There is: {', '.join(files[:10])}. Press R to refresh the list"


def from_file(name: str) -> FineGrainedClassifier:
    path = folder_paths.get_full_path(FOLDER, name)
    if path is None:
        raise FileNotFoundError(missing_file_message(name))
    return FineGrainedClassifier.load(path)


def file_stamp(path: Path) -> str:
    if not path.is_file():
        return ""
    stat = path.stat()
    return f"{path}:{stat.st_mtime_ns}:{stat.st_size}"


class LoadClassifier(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HiGFA_LoadClassifier",
            display_name="Load Fine-Grained Classifier",
            category="HiGFA",
            description=f"Loads an image classifier of timm, torchvision or transformers from models/{FOLDER}: "
            "the third guidance signal.",
            search_aliases=[
                "timm",
                "torchvision",
                "transformers",
                "load classifier",
                "image classifier",
                "fine-grained",
                "classifier guidance",
            ],
            inputs=[
                io.Combo.Input(
                    "classifier_name",
                    options=classifier_files() or [NO_FILES],
                    tooltip=f"File in models/{FOLDER}. Architecture, class names and preprocessing come from "
                    "the file itself, or from a .json of the same name, classes.txt or the config.json of "
                    "transformers beside it.",
                ),
                io.Float.Input(
                    "temperature",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.01,
                    advanced=True,
                    tooltip="Divides the logits before the softmax: above 1 tempers an over-confident "
                    "classifier. 0 uses the calibrated value in the file (1 where the file has none).",
                ),
                io.String.Input(
                    "timm_name",
                    default="",
                    optional=True,
                    advanced=True,
                    placeholder="resnet50.a1_in1k",
                    tooltip="A pretrained model of timm instead of a file. It is downloaded once, unless it is on "
                    "this computer already.",
                ),
                io.Float.Input(
                    "smooth_relu",
                    default=0.0,
                    min=0.0,
                    max=100.0,
                    step=0.5,
                    optional=True,
                    advanced=True,
                    tooltip="Softplus with this beta in place of ReLU, for smoother gradients (EluCD: 3 to 5). "
                    "0 leaves the classifier as trained.",
                ),
            ],
            outputs=[
                HiGFAClassifier.Output(display_name="classifier"),
                io.String.Output(display_name="class_names", tooltip="One name per line, in the order of the outputs."),
            ],
        )

    @classmethod
    def validate_inputs(cls, classifier_name, timm_name=""):
        if classifier_name is None or timm_name is None or timm_name.strip():  # None is linked: known at run time
            return True
        found = folder_paths.get_full_path(FOLDER, classifier_name)
        return True if found else missing_file_message(classifier_name)

    @classmethod
    def fingerprint_inputs(cls, classifier_name, temperature, timm_name="", smooth_relu=0.0):
        path = Path(folder_paths.get_full_path(FOLDER, classifier_name or "") or FOLDER)
        return "|".join(file_stamp(file) for file in files.beside(path))

    @classmethod
    def execute(
        cls, classifier_name: str, temperature: float, timm_name: str = "", smooth_relu: float = 0.0
    ) -> io.NodeOutput:
        classifier = FineGrainedClassifier.from_timm(timm_name) if timm_name.strip() else from_file(classifier_name)
        classifier.temperature = temperature or classifier.temperature
        if smooth_relu:
            classifier = classifier.with_smooth_activations(smooth_relu)
        return io.NodeOutput(attach_patcher(classifier), "\n".join(classifier.class_names))


NODES = [LoadClassifier]
