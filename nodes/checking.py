"""Check Classifier for Guidance."""

from pathlib import Path

import folder_paths
from comfy_api.latest import io, ui

from ..higfa_core.checking import report as check_report
from ..higfa_core.checking import sample as check_images
from ..higfa_core.checking.verdict import Check, verdict
from ..higfa_core.comfy.predict import as_rgb
from ..higfa_core.comfy.stages import Noise, measure
from ..higfa_core.files import paths
from ..higfa_core.guidance.settings import Guidance
from ..higfa_core.guidance.targets import class_lines
from ..higfa_core.miniature import sources
from ..higfa_core.training.data import read_labelled
from .classifier import HiGFAClassifier

DEFAULT = Guidance()


class CheckClassifier(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HiGFA_CheckClassifier",
            display_name="Check Classifier for Guidance",
            category="HiGFA",
            description="Is a classifier fit to guide? Reads labelled images as they are, through the VAE, through the "
            "tiny decoder and at the noise levels of the guidance, and says what to change.",
            search_aliases=["test classifier", "classifier accuracy", "evaluate classifier", "taesd", "noise levels"],
            is_output_node=True,
            inputs=[
                HiGFAClassifier.Input("classifier", tooltip="The classifier that is to guide."),
                io.Vae.Input("vae", tooltip="The VAE of the model that is to be guided."),
                io.String.Input(
                    "dataset",
                    default="",
                    placeholder="folder in ComfyUI/input with one sub-folder a class",
                    tooltip="Labelled images inside ComfyUI's input folder: <class>/<image>, or train/ and val/ with "
                    "such folders. higfa_demo: the miniature's birds. Empty: use the images input.",
                ),
                io.Combo.Input(
                    "images_from",
                    options=list(check_images.PARTS),
                    default="validation",
                    tooltip="validation: only images held out from training, those of val/ or else the share of each "
                    "class that Train Fine-Grained Classifier holds out. all: training images too.",
                ),
                io.Int.Input(
                    "per_class", default=10, min=1, max=10000, tooltip="Most images of a class, drawn by seed."
                ),
                io.Int.Input(
                    "image_size",
                    default=512,
                    min=16,
                    max=4096,
                    step=8,
                    tooltip="Side in pixels of the images you generate: the images are cropped and resized to that. "
                    "64 for the miniature.",
                ),
                io.Float.Input(
                    "start_percent",
                    default=DEFAULT.start_percent,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Where the guidance by the classifier begins, as in HiGFA Guidance.",
                ),
                io.Float.Input(
                    "cfg",
                    default=7.5,
                    min=0.0,
                    max=100.0,
                    step=0.1,
                    round=0.01,
                    tooltip="As in the sampler. Without negative it is 1.",
                ),
                io.Model.Input("model", optional=True, tooltip="Needed for the tiny decoder and for the noise levels."),
                io.Conditioning.Input(
                    "positive",
                    optional=True,
                    tooltip="Needed for the noise levels: a prompt that names no class, without ControlNet.",
                ),
                io.Conditioning.Input("negative", optional=True, tooltip="The negative prompt of the sampler."),
                io.Image.Input("images", optional=True, tooltip="Labelled images in place of a dataset folder."),
                io.String.Input(
                    "class_names",
                    default="",
                    multiline=True,
                    optional=True,
                    advanced=True,
                    tooltip="Classes of the images input: one for all, or one a line for each image.",
                ),
                io.Float.Input(
                    "end_sigma",
                    default=DEFAULT.end_sigma,
                    min=0.001,
                    max=100.0,
                    step=0.01,
                    optional=True,
                    advanced=True,
                    tooltip="Noise level at which the guidance ends, as in HiGFA Guidance.",
                ),
                io.Int.Input(
                    "noise_levels",
                    default=5,
                    min=1,
                    max=50,
                    optional=True,
                    advanced=True,
                    tooltip="Noise levels to check between start_percent and end_sigma: one model call an image each.",
                ),
                io.Float.Input(
                    "validation_share",
                    default=0.2,
                    min=0.01,
                    max=0.9,
                    step=0.01,
                    optional=True,
                    advanced=True,
                    tooltip="Share of each class that was held out, as in Train Fine-Grained Classifier.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    optional=True,
                    advanced=True,
                    tooltip="Draws the images and the noise.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="verdict", tooltip="What the numbers mean and what to change."),
                io.Image.Output(display_name="plot", tooltip="Accuracy by stage and by noise level."),
                io.String.Output(display_name="table", tooltip="Every number with its interval."),
            ],
        )

    @classmethod
    def execute(
        cls, classifier, vae, dataset, images_from, per_class, image_size, start_percent, cfg, model=None,
        positive=None, negative=None, images=None, class_names="", end_sigma=DEFAULT.end_sigma, noise_levels=5,
        validation_share=0.2, seed=0,
    ) -> io.NodeOutput:  # fmt: skip
        if bool(dataset.strip()) == (images is not None):
            raise ValueError("Give either a dataset folder or images: one of them, not both")
        noise = None
        if model is not None and positive is not None:
            noise = Noise(positive, negative, cfg, start_percent, end_sigma, noise_levels, seed)
        if images is None:
            labelled = read_labelled(_folder(dataset.strip()), validation_share)
            indices = check_images.class_indices(labelled.class_names, classifier)
            files = check_images.choose(labelled, images_from, per_class, seed)
            batches, labels = check_images.load_batches(files, image_size), [indices[item.label] for item in files]
        else:
            batches, labels = _from_batch(images, class_lines(class_names), classifier, image_size)
        result = Check.of(measure(classifier, batches, len(labels), vae, model, noise), labels, model is not None)
        words, table = verdict(result), check_report.table(result)
        plot = check_report.plot(result, classifier.source)
        shown = {**ui.PreviewImage(plot, cls=cls).as_dict(), **ui.PreviewText(f"{words}\n\n{table}").as_dict()}
        return io.NodeOutput(words, plot, table, ui=shown)

    @classmethod
    def fingerprint_inputs(cls, dataset=None, **others):
        # A linked value is None here; its own node's fingerprint then speaks for it.
        name = (dataset or "").strip()
        return paths.fingerprint(paths.inside(folder_paths.get_input_directory(), name)) if name else ""


def _folder(name: str) -> Path:
    folder = paths.inside(folder_paths.get_input_directory(), name)
    if name == sources.NAME and not folder.exists():
        sources.draw_sources(folder)
    return folder


def _from_batch(images, names, classifier, size):
    images = as_rgb(images)
    if len(names) not in (1, len(images)):
        raise ValueError(f"{len(names)} class_names for {len(images)} images: give one, or one a line for each image")
    labels = check_images.class_indices(names, classifier)
    batches = check_images.square(images, size).split(check_images.batch_size(size))
    return batches, labels * len(images) if len(labels) == 1 else labels


NODES = [CheckClassifier]
