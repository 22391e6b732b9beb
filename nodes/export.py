"""Export Dataset."""

import functools
import json
import logging

import comfyui_version
import folder_paths
import torch
from comfy.cli_args import args
from comfy.model_management import throw_exception_if_processing_interrupted
from comfy_api.latest import io, ui

from ..higfa_core import __version__
from ..higfa_core.plans.acceptance import acceptance
from ..higfa_core.plans.rules import Rules
from ..higfa_core.plans.workflow import digest
from ..higfa_core.store.writer import SUFFIXES, Report, export_images, is_complete
from .types import HiGFAClassifier, HiGFAJob, HiGFATrace, HiGFATransform
from .widgets import widgets

log = logging.getLogger(__name__)
VERSIONS = {"higfa": __version__, "comfyui": comfyui_version.__version__, "torch": torch.__version__}


class ExportDataset(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HiGFA_ExportDataset",
            display_name="Export Dataset",
            category="HiGFA",
            description="Adds images to a labelled dataset (ImageFolder) in ComfyUI's output folder.",
            search_aliases=[
                "save dataset",
                "save image folder",
                "imagefolder",
                "manifest",
                "labelled dataset",
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
            not_idempotent=True,
            inputs=[
                io.Image.Input("images", tooltip="The images to add: all of one class."),
                HiGFAJob.Input(
                    "job",
                    optional=True,
                    tooltip="From Dataset Job: class, labels, seed, prompt. A job is never added twice.",
                ),
                HiGFAClassifier.Input(
                    "classifier",
                    optional=True,
                    tooltip="Judges each image; its probability of the class is recorded and may reject it.",
                ),
                HiGFATrace.Input(
                    "trace",
                    optional=True,
                    tooltip="From HiGFA KSampler. Recorded in the manifest: how the run was guided, and each image's "
                    "seed with its place in the batch.",
                ),
                HiGFATransform.Input(
                    "transform", optional=True, tooltip="Recorded in the manifest, from Transform Contour."
                ),
                HiGFAClassifier.Input(
                    "judge",
                    optional=True,
                    tooltip="A second, independent classifier. Its probability is recorded too, and may reject: the "
                    "guide always likes its own images.",
                ),
                io.Image.Input(
                    "contour",
                    optional=True,
                    tooltip="The contour that steered the images, from Transform Contour: how well they follow it is "
                    "recorded, and may reject.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="The object in the images, from Transform Contour: stored in masks/, and gives the box.",
                ),
                io.String.Input(
                    "class_name",
                    default="",
                    tooltip="The class, when no job is connected. It becomes the folder name.",
                ),
                io.String.Input(
                    "dataset_name",
                    default="higfa",
                    tooltip="Folder inside ComfyUI's output folder: train/<class>/ for accepted images.",
                ),
                *widgets(Rules, "min_confidence"),
                io.Combo.Input(
                    "image_format",
                    options=list(SUFFIXES),
                    default="png",
                    tooltip="png and webp lossless keep every pixel; jpeg and webp are smaller (quality 95).",
                ),
                *widgets(Rules, "require_top1"),
                io.Combo.Input(
                    "if_exists",
                    options=["keep", "replace"],
                    default="keep",
                    advanced=True,
                    tooltip="If the job already has an image: keep that one, or replace it with this.",
                ),
                io.Boolean.Input(
                    "save_metadata",
                    default=False,
                    tooltip="Put the whole workflow into each PNG: dragged onto the page, the image opens it. Off: a "
                    "training set should not carry prompts and paths, and its files stay smaller.",
                ),
                *widgets(Rules, "min_margin", "min_judge_confidence", optional=True),
                *widgets(Rules, "min_contour_agreement", "min_sharpness", optional=True),
            ],
            outputs=[
                io.String.Output("summary", tooltip="What was written, accepted and rejected, and why."),
                io.Int.Output("accepted", tooltip="How many of these images are in the training set."),
            ],
        )

    @classmethod
    def execute(
        cls,
        images,
        class_name,
        dataset_name,
        image_format,
        if_exists="keep",
        save_metadata=False,
        job=None,
        classifier=None,
        judge=None,
        contour=None,
        mask=None,
        trace=None,
        transform=None,
        **rules,
    ) -> io.NodeOutput:
        run = trace.trace if trace else None
        noise = run.noise if run else None
        graph, node = cls.hidden.prompt or {}, str(cls.hidden.unique_id)
        chosen = Rules.pick(rules)
        if node in graph and (worth := acceptance(graph, chosen, node)):
            _say_once(f"{dataset_name.strip()}: {worth}")
        report = export_images(
            images,
            folder_paths.get_output_directory(),
            dataset_name.strip(),
            class_name.strip(),
            job=job,
            classifier=classifier,
            judge=judge,
            contour=contour,
            mask=mask,
            rules=chosen,
            transform=transform,
            guidance=run.summary() if run else None,
            noise=noise if noise and len(noise) == len(images) else None,
            together=run.together if run else None,
            given_up=run.given_up if run and len(run.given_up) == len(images) else (),
            workflow=digest(graph, node) if node in graph else "",
            versions=VERSIONS,
            image_format=image_format,
            metadata=_metadata(cls.hidden) if save_metadata else None,
            replace=if_exists == "replace",
            check=throw_exception_if_processing_interrupted,
        )
        shown = {"images": _saved(report), "text": (str(report),)}
        return io.NodeOutput(str(report), report.accepted, ui=shown)

    @classmethod
    def validate_inputs(cls, class_name, job=""):
        if class_name is None or job is None or class_name.strip():  # None is linked: known at run time
            return True
        return "No job is connected and class_name is empty. Connect Dataset Job's job, or name the class."

    @classmethod
    def fingerprint_inputs(cls, dataset_name=None, **others):
        # Files may have been deleted: then never equal (NaN), so that Run makes them again.
        name = (dataset_name or "").strip()
        if name and not is_complete(folder_paths.get_output_directory(), name):
            return float("nan")
        return f"{name} is complete"


@functools.cache
def _say_once(words: str) -> None:
    log.warning("HiGFA: %s", words)


def _metadata(hidden) -> dict[str, str]:
    if args.disable_metadata:
        return {}
    texts = {"prompt": hidden.prompt, **(hidden.extra_pnginfo or {})}
    return {name: json.dumps(value) for name, value in texts.items() if value}


def _saved(report: Report) -> list[ui.SavedResult]:
    # The browser joins these with "/" on every system.
    folder = report.folder.relative_to(folder_paths.get_output_directory()).as_posix()
    places = [row["file"].rpartition("/") for row in report.rows]
    return [ui.SavedResult(name, f"{folder}/{path}", io.FolderType.output) for path, _, name in places]


NODES = [ExportDataset]
