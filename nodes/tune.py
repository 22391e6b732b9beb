"""Tune Guidance: a ladder of eta at the same seeds, and the gentlest that repairs enough.

As in a Guidance Sweep, each step is an ordinary node whose result ComfyUI caches: a cancelled ladder resumes.
"""

from dataclasses import asdict, replace

import torch
from comfy_api.latest import io, ui
from comfy_execution.graph_utils import GraphBuilder

from ..higfa_core.comfy.predict import as_rgb, predict
from ..higfa_core.evaluation.ladder import Ladder, Tuned, plot_tuned
from ..higfa_core.evaluation.tuning import TuneSettings
from ..higfa_core.guidance.formulas import agreement
from ..higfa_core.guidance.settings import Guidance, Sampling
from ..higfa_core.guidance.targets import EMPTY, class_lines, read_targets
from .lists import items
from .sampling import algorithm_inputs, guidance_input, sampled_inputs
from .types import HiGFAClassifier, HiGFAGuidance
from .widgets import widgets

HiGFATuned = io.Custom("HIGFA_TUNED")
RUNG = "HiGFA_TuneRung"


class TuneGuidance(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        judge = HiGFAClassifier.Input(
            "judge",
            optional=True,
            tooltip="Says which images are right. Without one the classifier does, which likes its own images.",
        )
        numbers = [*widgets(Sampling, "seed", control_after_generate=False), *widgets(Sampling, "steps", "cfg")]
        others = [*algorithm_inputs(), *widgets(Sampling, "denoise")]
        for item in others:
            item.advanced = True
        inputs = [*sampled_inputs(), judge, *numbers, *others]
        for item in inputs:  # needed by the steps, not by the ladder itself: links are passed on, lists as well
            item.rawLink = True
        return io.Schema(
            node_id="HiGFA_TuneGuidance",
            display_name="Tune Guidance",
            category="HiGFA",
            description="Finds eta for your own model and classifier: samples the same images with several values, and "
            "takes the gentlest that repairs enough. For a dozen images, set batch of Dataset Job. A cancelled ladder "
            "resumes.",
            search_aliases=["tune", "find eta", "calibrate guidance", "guidance strength", "pilot", "higfa"],
            enable_expand=True,
            inputs=[
                *inputs,
                *widgets(Ladder),
                *widgets(TuneSettings, "target", "max_broken"),
                guidance_input(),
            ],
            outputs=_outputs(),
        )

    @classmethod
    def execute(cls, etas, target, max_broken, guidance=None, **inputs) -> io.NodeOutput:
        judge = inputs.pop("judge", None)
        asked = {"target": target, "max_broken": max_broken, "by_guide": judge is None}
        graph, rung = GraphBuilder(), None
        for eta in Ladder(etas).values:
            chosen = graph.node("HiGFA_Guidance", **asdict(replace(guidance or Guidance(), eta=eta)))
            made = graph.node("HiGFA_KSampler", **inputs, guidance=chosen.out(0))
            image = graph.node("VAEDecode", samples=made.out(0), vae=inputs["vae"])
            before = {"before": rung.out(0)} if rung else {}
            judged = {"judge": judge or inputs["classifier"], "class_name": inputs["class_name"]}
            rung = graph.node(RUNG, image=image.out(0), guidance=chosen.out(0), **judged, **asked, **before)
        assert rung is not None  # 0 is always there
        return io.NodeOutput(*(rung.out(place) for place in range(1, 5)), expand=graph.finalize())

    @classmethod
    def validate_inputs(cls, class_name, etas):
        if isinstance(class_name, str) and not class_lines(class_name):  # else a link: known at run time
            return EMPTY
        try:
            return bool(etas is None or Ladder(etas).values)
        except ValueError as error:
            return str(error)


class TuneRung(io.ComfyNode):
    """One step of a ladder; Tune Guidance makes these, and shows what the last one has so far."""

    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id=RUNG,
            display_name="Tune Rung",
            category="HiGFA",
            description="One step of Tune Guidance, which makes these by itself.",
            search_aliases=["tune guidance"],
            is_dev_only=True,
            is_output_node=True,
            is_input_list=True,
            inputs=[
                io.Image.Input("image", tooltip="The images of this step."),
                HiGFAGuidance.Input("guidance", tooltip="The settings that made them."),
                HiGFAClassifier.Input("judge", tooltip="Gives their probabilities."),
                io.String.Input("class_name", tooltip="The class of each image."),
                *widgets(TuneSettings, "target", "max_broken"),
                io.Boolean.Input("by_guide", default=False, tooltip="The judge is the guide itself."),
                HiGFATuned.Input("before", optional=True, tooltip="The steps before it."),
            ],
            outputs=[HiGFATuned.Output(display_name="so_far"), *_outputs()],
        )

    @classmethod
    def execute(cls, image, guidance, judge, class_name, target, max_broken, by_guide, before=(None,)) -> io.NodeOutput:
        # is_input_list: every input is a list, those of one value have one element.
        probability, right = [], []
        for batch in items({"image": image, "class_name": class_name}):
            _, wanted = read_targets(class_lines(batch["class_name"]), judge[0]).for_batch(len(batch["image"]))
            p = predict(judge[0], batch["image"]).cpu()
            probability += agreement(p.log(), wanted).tolist()
            right += (wanted.gather(1, p.argmax(1, keepdim=True)) > 0)[:, 0].tolist()
        images = torch.cat([as_rgb(one).cpu() for one in image])
        tuned = (before[0] or Tuned(by_guide[0])).with_rung(guidance[0].eta, images, probability, right)
        choice = tuned.choice(TuneSettings(target=target[0], max_broken=max_broken[0]))
        picture, words = plot_tuned(tuned, choice), tuned.words(choice)
        shown = {**ui.PreviewImage(picture, cls=cls).as_dict(), **ui.PreviewText(words).as_dict()}
        eta = choice.rung.values["eta"]
        return io.NodeOutput(tuned, picture, words, eta, replace(guidance[0], eta=eta), ui=shown)


def _outputs() -> list:
    return [
        io.Image.Output(display_name="picture", tooltip="The images of each eta; those of the chosen one are framed."),
        io.String.Output(display_name="table", tooltip="What each eta repairs, breaks and moves; which to take, why."),
        io.Float.Output(display_name="eta", tooltip="The chosen one, for HiGFA Guidance."),
        HiGFAGuidance.Output(display_name="guidance", tooltip="All settings, with the chosen eta, for a sampler."),
    ]


NODES = [TuneGuidance, TuneRung]
