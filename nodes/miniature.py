"""Load Miniature: the embedded default, no download."""

from comfy_api.latest import io

from ..higfa_core.classifier import FineGrainedClassifier
from ..higfa_core.comfy.patchers import attach_patcher
from ..higfa_core.miniature import birds
from .types import HiGFAClassifier


class LoadMiniature(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HiGFA_LoadMiniature",
            display_name="Load Miniature",
            category="HiGFA",
            description="A complete tiny world that ships with the pack: sixteen species of drawn birds that differ by "
            "small marks, at 64 x 64 pixels, with everything needed to try hierarchical guidance on a CPU.",
            search_aliases=["miniature", "tiny model", "demo model", "birds", "example models"],
            inputs=[],
            outputs=[
                io.Model.Output(display_name="MODEL"),
                io.Clip.Output(display_name="CLIP"),
                io.Vae.Output(display_name="VAE"),
                io.ControlNet.Output(display_name="CONTROL_NET"),
                HiGFAClassifier.Output(display_name="CLASSIFIER"),
                io.String.Output(display_name="class_names"),
            ],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        # Imported here: the module builds on ComfyUI's model classes, which take a second to import.
        from ..higfa_core.miniature import models

        classifier = attach_patcher(FineGrainedClassifier.load(models.WEIGHTS / "guide.safetensors"))
        return io.NodeOutput(
            models.load_model(),
            models.load_clip(),
            models.load_vae(),
            models.load_controlnet(),
            classifier,
            "\n".join(birds.CLASS_NAMES),
        )


NODES = [LoadMiniature]
