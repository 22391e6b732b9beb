"""Dataset Job."""

from functools import partial
from pathlib import Path

import folder_paths
import torch
from comfy_api.latest import io

from ..higfa_core.files.paths import fingerprint, inside
from ..higfa_core.miniature import sources
from ..higfa_core.plans.inputs import load_job, pick_jobs, pick_planned
from ..higfa_core.plans.plan import Job, jobs_from_json
from ..higfa_core.plans.plan_file import HEADER, JOBS
from ..higfa_core.plans.settings import PlanSettings
from ..higfa_core.plans.uploads import read_classes
from ..higfa_core.sources.options import parse_layout
from .folders import dataset_flaw, dataset_folder, dataset_input, plan_flaw
from .lists import JobSeed
from .types import HiGFAJob
from .widgets import widgets

MAX_COUNT, MAX_BATCH = 2**31 - 1, 64


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
                dataset_input(
                    "Folder inside ComfyUI's input folder: <class>/<image> or train/<class>/<image>, or a benchmark as "
                    "unpacked (CUB, Aircraft, Cars, Flowers, Pets, Dogs, DTD, iNaturalist). Validation and test "
                    "images are never used. higfa_demo: the miniature's birds, drawn on first use."
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
                # A number after index: workflow converters expect the page's "control after generate"
                # there, and would read it as text.
                *widgets(PlanSettings, "replicas", "plan_seed"),
                *widgets(PlanSettings, "prompt_template", multiline=True),
                *widgets(PlanSettings, "contour_from"),
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
                io.String.Input(
                    "layout",
                    default="auto",
                    optional=True,
                    advanced=True,
                    tooltip="The layout of the images: auto, or a layout and its options as in 'higfa plan', "
                    "such as 'image_folder', 'aircraft level=family' or 'table labels=train.csv label_column=breed'.",
                ),
                io.Int.Input(
                    "batch",
                    default=1,
                    min=1,
                    max=MAX_BATCH,
                    optional=True,
                    advanced=True,
                    tooltip="How many jobs at once: index 0 gives the first batch, index 1 the next. Connect "
                    "seed to HiGFA KSampler, which then samples them in one batch.",
                ),
            ],
            outputs=[
                io.Image.Output("image", is_output_list=True, tooltip="The real image whose contour to use."),
                io.Mask.Output(
                    "mask", is_output_list=True, tooltip="1 = the object: its mask, else its box. All 1 without either."
                ),
                io.String.Output("class_name", is_output_list=True, tooltip="The exact folder name."),
                io.String.Output("prompt", is_output_list=True, tooltip="The prompt of this job."),
                io.Int.Output("seed", is_output_list=True, tooltip="The job's own seed: connect it to the sampler."),
                HiGFAJob.Output("job", is_output_list=True, tooltip="For Export Dataset."),
                io.Int.Output("count", tooltip="How many batches of jobs there are; with batch 1, how many jobs."),
            ],
        )

    @classmethod
    def execute(
        cls, dataset, index, prompt_template, replicas, plan_seed, contour_from, job="", plan="", layout="auto", batch=1
    ) -> io.NodeOutput:
        folder, name = folder_paths.get_input_directory(), dataset.strip()
        if name == sources.NAME:
            dataset_folder(name)
        layout = parse_layout(layout)
        if job.strip():
            jobs, count = jobs_from_json(job, partial(read_classes, folder)), 1
        elif plan.strip():
            place = inside(folder_paths.get_output_directory(), plan.strip())
            jobs, count, layout = pick_planned(folder, place, index, batch)
        else:
            options = {"prompt_template": prompt_template, "replicas": replicas, "plan_seed": plan_seed}
            jobs, count = pick_jobs(folder, name, index, batch, layout, contour_from=contour_from, **options)
        found = [_outputs(*load_job(folder, chosen, **layout), mark=jobs) for chosen in jobs]
        return io.NodeOutput(*map(list, zip(*found)), count)

    @classmethod
    def validate_inputs(cls, dataset, job="", plan=""):
        if job is None or plan is None or job.strip():  # None is linked: known at run time
            return True
        return (plan_flaw(plan) if plan.strip() else dataset_flaw(dataset)) or True

    @classmethod
    def fingerprint_inputs(cls, dataset=None, job="", plan="", **others):
        # A linked value is None here; its own node's fingerprint covers it.
        folder, seen = folder_paths.get_input_directory(), ""
        given = jobs_from_json(job, partial(read_classes, folder)) if job else []
        name = given[0].dataset if given else (dataset or "").strip()
        if given and all(one.image_file for one in given):
            files = [file for one in given for file in (one.image_file, one.mask_file) if file]
            seen = _stamps([inside(folder, file) for file in files])
        elif plan:
            root = inside(folder_paths.get_output_directory(), plan.strip())
            seen = _stamps([root / HEADER, root / JOBS])
        elif name:
            seen = fingerprint(dataset_folder(name))  # draws the miniature's images before it looks at them
        return f"{name}:{plan}:{job}:{seen}:{sorted(others.items())}"


def _outputs(job: Job, image: torch.Tensor, mask: torch.Tensor | None, mark: list[Job]) -> tuple:
    mask = torch.ones(1, *image.shape[1:3]) if mask is None else mask
    seed = JobSeed.of(job.seed, mark) if len(mark) > 1 else job.seed
    return image, mask, job.class_name, job.prompt, seed, job


def _stamps(files: list[Path]) -> str:
    return str([(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()])


NODES = [DatasetJob]
