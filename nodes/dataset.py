"""Dataset Job and Export Dataset."""

import json
from pathlib import Path

import comfyui_version
import folder_paths
import torch
from comfy.cli_args import args
from comfy.model_management import throw_exception_if_processing_interrupted
from comfy_api.latest import io, ui

from ..higfa_core import __version__
from ..higfa_core.dataset.inputs import load_job, pick_job, pick_planned
from ..higfa_core.dataset.paths import fingerprint, inside
from ..higfa_core.dataset.plan import CONTOUR_FROM, Job
from ..higfa_core.dataset.plan_file import HEADER, JOBS
from ..higfa_core.dataset.rules import Rules
from ..higfa_core.dataset.writer import SUFFIXES, Report, export_images, is_complete
from ..higfa_core.miniature import sources
from ..higfa_core.workflow import digest

HiGFAJob = io.Custom("HIGFA_JOB")
HiGFAClassifier = io.Custom("HIGFA_CLASSIFIER")
HiGFATrace = io.Custom("HIGFA_TRACE")
HiGFATransform = io.Custom("HIGFA_TRANSFORM")
MAX_COUNT = 2**31 - 1
VERSIONS = {"higfa": __version__, "comfyui": comfyui_version.__version__, "torch": torch.__version__}


class DatasetJob(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HiGFA_DatasetJob",
            display_name="Dataset Job",
            category="HiGFA",
            description="Takes one job from a plan over a folder of real images: image, class, prompt, seed.",
            search_aliases=["load dataset", "image folder", "class folder", "augmentation job", "batch job"],
            inputs=[
                io.String.Input(
                    "dataset",
                    default="",
                    placeholder="folder in ComfyUI/input with one sub-folder a class",
                    tooltip="Folder inside ComfyUI's input folder: <class>/<image> or train/<class>/<image>, or a "
                    "benchmark as it is unpacked (CUB, Aircraft, Cars, Flowers, Pets, Dogs, DTD, iNaturalist). "
                    "Validation and test images are never used. higfa_demo: the miniature's birds, drawn on first use.",
                ),
                io.Int.Input(
                    "index",
                    default=0,
                    min=0,
                    max=MAX_COUNT,
                    control_after_generate=io.ControlAfterGenerate.increment,
                    tooltip="Which job of the plan. The classes take turns, so any first part is balanced. "
                    "With 'increment', each Run takes the next job.",
                ),
                io.String.Input(
                    "prompt_template",
                    default="a photo of a {class}",
                    multiline=True,
                    tooltip="The prompt. {class} is the class name without its number and underscores, "
                    "{index} the number of the job.",
                ),
                io.Int.Input(
                    "replicas",
                    default=1,
                    min=1,
                    max=100000,
                    tooltip="Images to make from each real one. The count output is images x replicas.",
                ),
                io.Int.Input(
                    "plan_seed",
                    default=0,
                    min=0,
                    max=MAX_COUNT,
                    tooltip="Changes the seeds of all jobs. The same value gives the same seeds everywhere.",
                ),
                io.Combo.Input(
                    "contour_from",
                    options=list(CONTOUR_FROM),
                    default="same",
                    tooltip="Whose image comes out: the job's own, or another one of the same class.",
                ),
                io.String.Input(
                    "job",
                    default="",
                    multiline=True,
                    optional=True,
                    advanced=True,
                    tooltip="A job as JSON, as batch runs send it. When given, everything above is ignored.",
                ),
                io.String.Input(
                    "plan",
                    default="",
                    optional=True,
                    advanced=True,
                    tooltip="Folder inside ComfyUI's output folder with a plan made by 'higfa plan'. When given, "
                    "index picks from it and the other settings above are ignored.",
                ),
            ],
            outputs=[
                io.Image.Output("image", tooltip="The real image whose contour to use."),
                io.Mask.Output("mask", tooltip="1 = the object. All 1 when the dataset has no mask."),
                io.String.Output("class_name", tooltip="The exact folder name."),
                io.String.Output("prompt", tooltip="The prompt of this job."),
                io.Int.Output("seed", tooltip="The job's own seed: connect it to the sampler."),
                HiGFAJob.Output("job", tooltip="For Export Dataset."),
                io.Int.Output("count", tooltip="How many jobs there are."),
            ],
        )

    @classmethod
    def execute(
        cls, dataset, index, prompt_template, replicas, plan_seed, contour_from, job="", plan=""
    ) -> io.NodeOutput:
        folder, name = folder_paths.get_input_directory(), dataset.strip()
        embedded = Path(folder) / sources.NAME
        if name == sources.NAME and not embedded.exists():
            sources.draw_sources(embedded)
        if plan.strip() and not job.strip():
            chosen, count = pick_planned(folder, inside(folder_paths.get_output_directory(), plan.strip()), index)
        else:
            options = {"prompt_template": prompt_template, "replicas": replicas, "plan_seed": plan_seed}
            chosen, count = pick_job(folder, name, index, job, contour_from=contour_from, **options)
        chosen, image, mask = load_job(folder, chosen)
        mask = torch.ones(1, *image.shape[1:3]) if mask is None else mask
        return io.NodeOutput(image, mask, chosen.class_name, chosen.prompt, chosen.seed, chosen, count)

    @classmethod
    def fingerprint_inputs(cls, dataset=None, job="", plan="", **others):
        # A linked value is None here; its own node's fingerprint then speaks for it.
        folder, seen = folder_paths.get_input_directory(), ""
        given = Job.from_json(job) if job else None
        name = given.dataset if given else (dataset or "").strip()
        if given and given.image_file:
            seen = _stamps([inside(folder, file) for file in (given.image_file, given.mask_file) if file])
        elif plan:
            root = inside(folder_paths.get_output_directory(), plan.strip())
            seen = _stamps([root / HEADER, root / JOBS])
        elif name:
            seen = fingerprint(inside(folder, name))
        return f"{name}:{plan}:{job}:{seen}:{sorted(others.items())}"


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
                HiGFATrace.Input("trace", optional=True, tooltip="Recorded in the manifest, from HiGFA KSampler."),
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
                io.Float.Input(
                    "min_confidence",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Images whose class the classifier gives less than this go to rejected/<class>/.",
                ),
                io.Combo.Input(
                    "image_format",
                    options=list(SUFFIXES),
                    default="png",
                    tooltip="png and webp lossless keep every pixel; jpeg and webp are smaller (quality 95).",
                ),
                io.Boolean.Input(
                    "require_top1",
                    default=False,
                    advanced=True,
                    tooltip="Also reject images for which the classifier finds another class more probable.",
                ),
                io.Combo.Input(
                    "if_exists",
                    options=["keep", "replace"],
                    default="keep",
                    advanced=True,
                    tooltip="When the job has an image already: keep that one, or replace it by this.",
                ),
                io.Boolean.Input(
                    "save_metadata",
                    default=False,
                    advanced=True,
                    tooltip="Put the whole workflow into each PNG. Off: a training set should not carry it.",
                ),
                _least("min_margin", 1.0, 0.01, "Least lead of the class over the next, by the classifier."),
                _least("min_judge_confidence", 1.0, 0.01, "Least probability of the class, by the judge."),
                _least("min_contour_agreement", 1.0, 0.01, "Least boundary F1 of the contour and the image's edges."),
                _least("min_sharpness", 1e5, 1.0, "Least variance of the Laplacian; blurred images have few tens."),
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
        min_confidence,
        image_format,
        require_top1=False,
        if_exists="keep",
        save_metadata=False,
        job=None,
        classifier=None,
        judge=None,
        contour=None,
        mask=None,
        trace=None,
        transform=None,
        **least,
    ) -> io.NodeOutput:
        graph, node = cls.hidden.prompt or {}, str(cls.hidden.unique_id)
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
            rules=Rules(min_confidence, require_top1, **least),
            transform=transform,
            guidance=trace.trace.summary() if trace and trace.trace else None,
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
    def fingerprint_inputs(cls, dataset_name=None, **others):
        # Files may have been deleted since: then never equal (NaN), so that Run makes them again.
        name = (dataset_name or "").strip()
        if name and not is_complete(folder_paths.get_output_directory(), name):
            return float("nan")
        return f"{name} is complete"


def _least(name: str, top: float, step: float, tooltip: str) -> io.Float.Input:
    return io.Float.Input(name, default=0.0, min=0.0, max=top, step=step, optional=True, advanced=True, tooltip=tooltip)


def _stamps(files: list[Path]) -> str:
    return str([(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()])


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


NODES = [DatasetJob, ExportDataset]
