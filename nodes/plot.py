"""Plot Guidance."""

from comfy_api.latest import io, ui

from ..higfa_core.plots.trace_plot import plot_trace
from .types import HiGFATrace


class PlotGuidance(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HiGFA_PlotGuidance",
            display_name="Plot Guidance",
            category="HiGFA",
            description="Draws a guided run: probability, the three weights and the classifier's step against the "
            "noise level, with the final stage shaded.",
            search_aliases=["trace", "plot", "guidance curve", "confidence plot"],
            is_output_node=True,
            inputs=[
                HiGFATrace.Input("trace", tooltip="From a HiGFA sampler, HiGFA Guider or Guide Model with Classifier."),
                io.Latent.Input(
                    "latent",
                    optional=True,
                    tooltip="The sampler's latent as it leaves the sampler: it tells which run to plot. Needed with "
                    "HiGFA Guider and Guide Model with Classifier.",
                ),
            ],
            outputs=[
                io.Image.Output(display_name="plot"),
                io.String.Output(display_name="json", tooltip="The whole trace as JSON."),
            ],
        )

    @classmethod
    def execute(cls, trace, latent=None) -> io.NodeOutput:
        run = trace.run_of(latent and latent["samples"])
        plot = plot_trace(run)
        return io.NodeOutput(plot, run.to_json(), ui=ui.PreviewImage(plot, cls=cls))


NODES = [PlotGuidance]
