"""Guidance Sweep: a grid over two settings, one ordinary node for each step of each cell.

ComfyUI caches the results of those nodes, so a cancelled sweep resumes where it stopped.
"""

from dataclasses import asdict

import torch
from comfy_api.latest import io, ui
from comfy_execution.graph_utils import GraphBuilder

from ..higfa_core.comfy.predict import predict
from ..higfa_core.guidance.formulas import agreement
from ..higfa_core.guidance.settings import Guidance, Sampling
from ..higfa_core.guidance.sweep import SweepGrid, Swept, SweptCell
from ..higfa_core.guidance.targets import EMPTY, class_lines, read_targets
from ..higfa_core.plots.sweep_plot import plot_sweep
from .sampling import algorithm_inputs, guidance_input, sampled_inputs
from .types import HiGFAClassifier, HiGFATrace
from .widgets import widgets

HiGFASweep = io.Custom("HIGFA_SWEEP")
PASSED_ON = ("model", "positive", "negative", "latent_image", "vae", "classifier", "class_name", "judge")
CELL = "HiGFA_SweepCell"


class GuidanceSweep(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        judge = HiGFAClassifier.Input(
            "judge",
            optional=True,
            tooltip="Gives the probability of each cell. Without one it is the classifier, which likes its own images.",
        )
        inputs = [*sampled_inputs(), judge]
        for item in inputs:  # needed by the cells, not by the grid itself: the link is passed on to them
            item.rawLink = True
        return io.Schema(
            node_id="HiGFA_GuidanceSweep",
            display_name="Guidance Sweep",
            category="HiGFA",
            description="Samples a grid over two settings (eta and start_percent, or any two) with the same seed, and "
            "labels each image with the judge's probability and the time. A cancelled sweep resumes where it stopped.",
            search_aliases=["sweep", "grid", "xy plot", "parameter search", "compare settings", "higfa"],
            enable_expand=True,
            inputs=[
                *inputs,
                *widgets(Sampling, "seed", control_after_generate=False),  # the same in every sweep, unless it is told
                *widgets(Sampling, "steps", "cfg"),
                *[_advanced(item) for item in (*algorithm_inputs(), *widgets(Sampling, "denoise"))],
                *widgets(SweepGrid),
                guidance_input(),
            ],
            outputs=[
                io.Image.Output(display_name="grid", tooltip="All images with their labels; the best has a frame."),
                io.String.Output(display_name="table", tooltip="The same in numbers, as Markdown."),
                io.Image.Output(display_name="images", tooltip="A batch: the image of each cell, row by row."),
            ],
        )

    @classmethod
    def execute(cls, sampler_name, scheduler, guidance=None, **inputs) -> io.NodeOutput:
        grid, passed = SweepGrid.pick(inputs), {name: inputs[name] for name in PASSED_ON if name in inputs}
        judge = passed.pop("judge", None) or passed["classifier"]
        graph, cell = GraphBuilder(), None
        sampler = {**passed, "sampler_name": sampler_name, "scheduler": scheduler}
        for settings, run in grid.cells(guidance or Guidance(), Sampling.pick(inputs)):
            chosen = graph.node("HiGFA_Guidance", **asdict(settings))
            made = graph.node("HiGFA_KSampler", **sampler, **asdict(run), guidance=chosen.out(0))
            image = graph.node("VAEDecode", samples=made.out(0), vae=passed["vae"])
            before = {"before": cell.out(0)} if cell else {}
            judged = {"judge": judge, "class_name": passed["class_name"]}
            cell = graph.node(CELL, image=image.out(0), trace=made.out(1), **judged, **asdict(grid), **before)
        if cell is None:
            raise ValueError("The grid has no cells. Give values of both settings.")
        return io.NodeOutput(cell.out(1), cell.out(2), cell.out(3), expand=graph.finalize())

    @classmethod
    def validate_inputs(cls, class_name, rows, row_values, columns, column_values):
        if isinstance(class_name, str) and not class_lines(class_name):  # else a link: known at run time
            return EMPTY
        given = {"rows": rows, "row_values": row_values, "columns": columns, "column_values": column_values}
        try:
            SweepGrid.pick(given)  # a linked value is None here, and known at run time
        except ValueError as error:
            return str(error)
        return True


class SweepCell(io.ComfyNode):
    """One cell of a grid; Guidance Sweep makes these, and shows what the last one has so far."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id=CELL,
            display_name="Sweep Cell",
            category="HiGFA",
            description="One cell of a Guidance Sweep, which makes these by itself.",
            search_aliases=["guidance sweep", "sweep grid"],
            is_dev_only=True,
            is_output_node=True,
            inputs=[
                io.Image.Input("image", tooltip="The image of the cell."),
                HiGFATrace.Input("trace", tooltip="Of its run: how long it took."),
                HiGFAClassifier.Input("judge", tooltip="Gives its probability."),
                io.String.Input("class_name", tooltip="The class of the image."),
                *widgets(SweepGrid),
                HiGFASweep.Input("before", optional=True, tooltip="The cells before it."),
            ],
            outputs=[
                HiGFASweep.Output(display_name="so_far"),
                io.Image.Output(display_name="grid"),
                io.String.Output(display_name="table"),
                io.Image.Output(display_name="images"),
            ],
        )

    @classmethod
    def execute(cls, image, trace, judge, class_name, before=None, **grid) -> io.NodeOutput:
        _, wanted = read_targets(class_lines(class_name), judge).for_batch(len(image))
        probability = agreement(predict(judge, image).cpu().log(), wanted).mean()
        seconds = trace.trace.seconds if trace.trace else 0.0
        swept = before or Swept(SweepGrid.pick(grid), f"probability of {class_name.strip()}")
        swept = swept.with_cell(SweptCell(image[0].cpu(), float(probability), seconds))
        plot, table = plot_sweep(swept), swept.table()
        shown = {**ui.PreviewImage(plot, cls=cls).as_dict(), **ui.PreviewText(table).as_dict()}
        return io.NodeOutput(swept, plot, table, torch.stack([cell.image for cell in swept.cells]), ui=shown)


def _advanced(item: io.Input) -> io.Input:
    item.advanced = True
    return item


NODES = [GuidanceSweep, SweepCell]
