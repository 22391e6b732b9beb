"""Classify Images."""

import torch
from comfy_api.latest import io, ui
from comfy_execution.graph_utils import ExecutionBlocker

from ..higfa_core.comfy.predict import as_rgb, predict
from ..higfa_core.guidance.targets import class_lines
from ..higfa_core.plots.confidences import confidence_table, confidences, top_k_plot
from ..higfa_core.wording import counted
from .types import HiGFAClassifier


class ClassifyImages(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HiGFA_ClassifyImages",
            display_name="Classify Images",
            category="HiGFA",
            description="Shows what a classifier sees in every image, and sorts the images by its confidence.",
            search_aliases=[
                "classify",
                "predict class",
                "confidence",
                "top-k",
                "image classification",
                "filter images",
            ],
            is_output_node=True,
            is_input_list=True,
            inputs=[
                io.Image.Input("images", tooltip="A batch or a list of images, any size: they are resized as trained."),
                HiGFAClassifier.Input("classifier", tooltip="From Load Fine-Grained Classifier."),
                io.String.Input(
                    "class_name",
                    default="",
                    multiline=True,
                    optional=True,
                    tooltip="Class to report the probability of: one for all images, or one per line and image. "
                    "Empty: the most probable class.",
                ),
                io.Int.Input(
                    "top_k",
                    default=3,
                    min=1,
                    max=20,
                    optional=True,
                    tooltip="How many of the most probable classes to list for each image.",
                ),
                io.Float.Input(
                    "min_confidence",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    optional=True,
                    tooltip="Images with at least this probability of the class go to passed, the others to rejected.",
                ),
            ],
            outputs=[
                io.String.Output(display_name="table"),
                io.Float.Output(
                    display_name="mean_confidence",
                    tooltip="Mean probability of class_name, or of each image's most probable class.",
                ),
                io.Image.Output(
                    display_name="plot", tooltip="Each image with its most probable classes; target in green."
                ),
                io.Float.Output(
                    display_name="confidences", is_output_list=True, tooltip="List: the confidence of each image."
                ),
                io.Image.Output(
                    display_name="passed",
                    is_output_list=True,
                    tooltip="List of images with at least min_confidence. Nodes after it do not run if it is empty.",
                ),
                io.Image.Output(
                    display_name="rejected",
                    is_output_list=True,
                    tooltip="List of the other images. Nodes after it do not run if it is empty.",
                ),
            ],
        )

    @classmethod
    def execute(cls, images, classifier, class_name=("",), top_k=(3,), min_confidence=(0.0,)) -> io.NodeOutput:
        # is_input_list: every input is a list, those of one value have one element.
        classifier, k, least = classifier[0], top_k[0], min_confidence[0]
        if not 0 <= least <= 1:
            raise ValueError(f"min_confidence must be from 0 to 1, got {least}")
        targets = target_indices(class_lines("\n".join(class_name)), classifier, sum(len(batch) for batch in images))
        proba = torch.cat([predict(classifier, batch) for batch in images])
        singles = [image for batch in images for image in batch.split(1)]
        confidence = confidences(proba, targets)
        table = confidence_table(proba, classifier.class_names, targets, k, least)
        thumbnails = [as_rgb(image)[0].cpu() for image in singles]
        plot = top_k_plot(thumbnails, proba, classifier.class_names, targets, k, least)
        passed = [image for image, c in zip(singles, confidence) if c >= least]
        rejected = [image for image, c in zip(singles, confidence) if not c >= least]
        return io.NodeOutput(
            table,
            float(confidence.mean()),
            plot,
            confidence.tolist(),
            _image_list(passed),
            _image_list(rejected),
            ui={**ui.PreviewImage(plot, cls=cls).as_dict(), **ui.PreviewText(table).as_dict()},
        )


def target_indices(names: list[str], classifier, count: int) -> list[int] | None:
    """The class of each of `count` images; None when no class is named."""
    if len(names) not in (0, 1, count):
        raise ValueError(
            f"{counted(len(names), 'class name')} for {counted(count, 'image')}. Give one, or one per line and image."
        )
    indices = [classifier.index(name) for name in names]
    return indices * count if len(indices) == 1 else indices or None


def _image_list(images: list):
    """An empty list would fail in the next node ("list index out of range"): the nodes after it are to be left out."""
    return images or ExecutionBlocker(None)


NODES = [ClassifyImages]
