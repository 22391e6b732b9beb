"""Load Miniature: the embedded default, no download."""

import logging

from comfy_api.latest import io, ui

from ..higfa_core.classifier import FineGrainedClassifier
from ..higfa_core.comfy.patchers import attach_patcher
from ..higfa_core.miniature import birds, shipped
from .live import SHOWS
from .types import HiGFAClassifier

log = logging.getLogger(__name__)


class LoadMiniature(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HiGFA_LoadMiniature",
            display_name="Load Miniature",
            category="HiGFA",
            description="A complete tiny world that ships with the pack: 32 species of drawn birds that differ by "
            "small marks, at 128 x 128 pixels, with everything needed to try hierarchical guidance on a CPU.",
            search_aliases=["miniature", "tiny model", "demo model", "birds", "example models"],
            inputs=[],
            **SHOWS,
            outputs=[
                io.Model.Output(display_name="MODEL"),
                io.Clip.Output(display_name="CLIP"),
                io.Vae.Output(display_name="VAE"),
                io.ControlNet.Output(display_name="CONTROL_NET"),
                HiGFAClassifier.Output(
                    display_name="CLASSIFIER",
                    tooltip="The guide, as weak as yours: it saw five images of each species.",
                ),
                io.String.Output(display_name="class_names"),
                HiGFAClassifier.Output(
                    display_name="JUDGE",
                    tooltip="Another network, trained on images of its own: it accepts what the guide has steered.",
                ),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        # Imported here: the module builds on ComfyUI's model classes, which take a second to import.
        from ..higfa_core.miniature import models

        guide, judge = (attach_patcher(FineGrainedClassifier.load(file)) for file in (shipped.GUIDE, shipped.JUDGE))
        words = "\n".join(map(shipped.worth, (shipped.GUIDE, shipped.JUDGE)))
        log.info("HiGFA: miniature: %s", words.replace("\n", "; "))
        return io.NodeOutput(
            models.load_model(),
            models.load_clip(),
            models.load_vae(),
            models.load_controlnet(),
            guide,
            "\n".join(birds.CLASS_NAMES),
            judge,
            ui=ui.PreviewText(words),
        )


NODES = [LoadMiniature]
