"""HiGFA Guidance, HiGFA KSampler, HiGFA Guider and Guide Model with Classifier."""

import logging
from collections.abc import Mapping, Sequence

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from comfy_api.latest import io

from ..higfa_core.comfy.guider import HiGFAGuider
from ..higfa_core.comfy.patch import guide_model
from ..higfa_core.comfy.together import Apart, join_calls, split_latent
from ..higfa_core.guidance.settings import Guidance, Sampling
from ..higfa_core.guidance.targets import EMPTY, class_lines
from ..higfa_core.guidance.trace import Trace, TraceSlot, Watch
from . import live
from .lists import batches, items
from .queued import target_flaw
from .types import HiGFAClassifier, HiGFAGuidance, HiGFATrace
from .widgets import widgets

log = logging.getLogger(__name__)

DEFAULT = Guidance()


class GuidanceSettings(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HiGFA_Guidance",
            display_name="HiGFA Guidance",
            category="HiGFA",
            description="How text, contour and classifier share the guidance, and when the final stage begins.",
            search_aliases=["guidance settings", "classifier guidance", "higfa settings"],
            inputs=widgets(Guidance),
            outputs=[HiGFAGuidance.Output(display_name="guidance")],
        )

    @classmethod
    def execute(cls, **settings) -> io.NodeOutput:
        return io.NodeOutput(Guidance(**settings))


def sampled_inputs() -> list:
    """The inputs of our sampler nodes, before their numbers."""
    return [
        io.Model.Input("model", tooltip="The diffusion model that denoises the latent."),
        io.Conditioning.Input("positive", tooltip="Text, with the contour from Apply ControlNet."),
        io.Conditioning.Input("negative", tooltip="What the image should not show."),
        io.Latent.Input("latent_image", tooltip="The latent to denoise."),
        io.Vae.Input("vae", tooltip="Turns the latent into the pixels that the classifier reads."),
        *_target_inputs(),
    ]


def algorithm_inputs() -> list:
    """How our sampler nodes denoise."""
    samplers, schedulers = comfy.samplers.KSampler.SAMPLERS, comfy.samplers.KSampler.SCHEDULERS
    removed = "How the noise is removed over the steps."
    return [
        io.Combo.Input("sampler_name", options=samplers, default="dpmpp_2m", tooltip="The algorithm that denoises."),
        io.Combo.Input("scheduler", options=schedulers, default="karras", tooltip=removed),
    ]


def guidance_input():
    return HiGFAGuidance.Input("guidance", optional=True, tooltip="Settings; defaults when not connected.")


def sampled_outputs(**options) -> list:
    """The outputs of our sampler nodes."""
    cost = "Which steps were guided, how the probability changed and what it cost."
    return [
        io.Latent.Output(display_name="latent", **options),
        HiGFATrace.Output(display_name="trace", **options),
        io.String.Output(display_name="summary", tooltip=cost, **options),
    ]


def _target_inputs() -> list:
    return [
        HiGFAClassifier.Input("classifier", tooltip="Knows the classes by their small marks."),
        io.String.Input(
            "class_name",
            default="",
            multiline=True,
            tooltip="The class the image must show, as the classifier names it. More lines are cycled over the "
            "batch. Two classes mixed: Laysan Albatross:0.7 | Sooty Albatross:0.3",
        ),
    ]


class NamesClass(io.ComfyNode):
    """Base of the nodes that need a class: the page marks the input before a run."""

    @classmethod
    def validate_inputs(cls, class_name):
        # A list where the node takes lists; None where it is linked, and known at run time.
        names = class_name if isinstance(class_name, (list, tuple)) else [class_name]
        if any(name is None for name in names):
            return True
        lines = [line for name in names for line in class_lines(name)]
        return (target_flaw(cls.hidden, lines) if lines else EMPTY) or True


class HiGFAKSampler(NamesClass):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HiGFA_KSampler",
            display_name="HiGFA KSampler",
            category="HiGFA",
            description="KSampler with hierarchical guidance: text and contour lead; in the final stage a fine-grained "
            "classifier joins, and its confidence sets the strength of all three.",
            search_aliases=["ksampler", "classifier guidance", "higfa", "fine-grained sampler", "guided sampler"],
            inputs=[
                *sampled_inputs(),
                *widgets(Sampling, "seed", control_after_generate=True),
                *widgets(Sampling, "steps", "cfg"),
                *algorithm_inputs(),
                *widgets(Sampling, "denoise"),
                guidance_input(),
            ],
            is_input_list=True,
            outputs=sampled_outputs(is_output_list=True),
            **live.SHOWS,
        )

    @classmethod
    def execute(cls, **inputs) -> io.NodeOutput:
        watch = live.watcher(cls.hidden)
        results = [result for calls in batches(items(inputs)) for result in _sample_jobs(calls, watch)]
        latents, slots, summaries = map(list, zip(*results))
        return io.NodeOutput(latents, slots, summaries, ui=live.shown("\n".join(summaries), watch and watch.latest))


def _sample_jobs(calls: Sequence[Mapping], watch: Watch | None) -> list[tuple[dict, TraceSlot, str]]:
    """Latent, trace and summary of each call: of one batch where that is exact, else one after the other."""
    try:
        joined = join_calls(calls)
    except Apart as why:
        log.info("HiGFA: %d jobs are sampled one by one: %s", len(calls), why)
        return [result for call in calls for result in _sample_jobs([call], watch)]
    latent, trace = _sample(joined, calls, watch)
    if len(calls) == 1:
        return [_result(latent, trace)]
    latents = split_latent(latent)
    return [_result(latents[i], trace and trace.of_image(i, call["seed"])) for i, call in enumerate(calls)]


def _sample(joined: Mapping, calls: Sequence[Mapping], watch: Watch | None) -> tuple[dict, Trace | None]:
    run, model, latent = Sampling.pick(joined), joined["model"], joined["latent_image"]
    lines = [line for call in calls for line in class_lines(call["class_name"])]
    places = latent.get("batch_index") if len(calls) == 1 else None  # the lines of one batch are in its own order
    guider = HiGFAGuider(model, joined["classifier"], lines, joined["vae"], joined.get("guidance") or DEFAULT, places)
    guider.slot.watch = watch
    guider.set_conds(joined["positive"], joined["negative"])
    guider.set_cfg(run.cfg)
    sigmas = noise_levels(model, run.steps, joined["sampler_name"], joined["scheduler"], run.denoise)
    seeds = [call["seed"] for call in calls]
    return sample(guider, latent, sigmas, joined["sampler_name"], run.steps, seeds), guider.trace


def _result(latent: dict, trace: Trace | None) -> tuple[dict, TraceSlot, str]:
    return latent, TraceSlot(trace), trace.summary() if trace else "denoise is 0: nothing was sampled"


class HiGFAGuiderNode(NamesClass):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HiGFA_Guider",
            display_name="HiGFA Guider",
            category="HiGFA",
            description="Hierarchical guidance as a GUIDER for SamplerCustomAdvanced: any sampler, any sigmas.",
            search_aliases=["guider", "higfa", "classifier guidance", "sampler custom advanced"],
            inputs=[
                io.Model.Input("model", tooltip="The diffusion model that denoises the latent."),
                io.Conditioning.Input("positive", tooltip="Text, with the contour from Apply ControlNet."),
                io.Vae.Input("vae", tooltip="Turns the latent into the pixels that the classifier reads."),
                *_target_inputs(),
                *widgets(
                    Sampling,
                    "cfg",
                    tooltip="Strength of text and contour until the final stage. 1 for models with distilled guidance "
                    "(Flux), which need no negative.",
                ),
                io.Conditioning.Input(
                    "negative",
                    optional=True,
                    tooltip="What the image should not show; not needed where cfg is 1.",
                ),
                guidance_input(),
                _latent_input(),
            ],
            outputs=[io.Guider.Output(display_name="guider"), _trace_output()],
            **live.SHOWS,
        )

    @classmethod
    def execute(
        cls, model, positive, vae, classifier, class_name, cfg, negative=None, guidance=None, latent_image=None
    ) -> io.NodeOutput:
        images = (latent_image or {}).get("batch_index")
        guider = HiGFAGuider(model, classifier, class_lines(class_name), vae, guidance or DEFAULT, images)
        guider.slot.watch = watch = live.later_watcher(cls.hidden)
        guider.set_conds(positive, negative)
        guider.set_cfg(cfg)
        return io.NodeOutput(guider, guider.slot, ui=watch and watch.outputs)


class GuideModel(NamesClass):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HiGFA_GuideModel",
            display_name="Guide Model with Classifier",
            category="HiGFA",
            description="Adds the classifier's step to a MODEL, for the stock KSampler and any guider. Text and "
            "contour keep the strength their sampler gives them.",
            search_aliases=["classifier guidance", "guide model", "patch model", "fine-grained", "higfa"],
            inputs=[
                io.Model.Input("model", tooltip="The diffusion model, with whatever patches it has."),
                io.Vae.Input("vae", tooltip="Turns the latent into the pixels that the classifier reads."),
                *_target_inputs(),
                HiGFAGuidance.Input(
                    "guidance",
                    optional=True,
                    tooltip="Settings; defaults when not connected. composition, contour_scale and the parts of "
                    "preset that concern text and contour do not apply here.",
                ),
                _latent_input(),
            ],
            outputs=[io.Model.Output(display_name="model"), _trace_output()],
            **live.SHOWS,
        )

    @classmethod
    def execute(cls, model, vae, classifier, class_name, guidance=None, latent_image=None) -> io.NodeOutput:
        images = (latent_image or {}).get("batch_index")
        guided, slot = guide_model(model, classifier, class_lines(class_name), vae, guidance or DEFAULT, images)
        slot.watch = watch = live.later_watcher(cls.hidden)
        return io.NodeOutput(guided, slot, ui=watch and watch.outputs)


def _latent_input():
    return io.Latent.Input(
        "latent_image",
        optional=True,
        tooltip="Only for several class names and single images of a batch: the latent that goes into the sampler, "
        "from Latent From Batch. Each image then keeps the class it had in the batch.",
    )


def _trace_output():
    return HiGFATrace.Output(
        display_name="trace", tooltip="Filled by the sampler: connect its latent to Plot Guidance as well."
    )


def noise_levels(model, steps: int, sampler_name: str, scheduler: str, denoise: float = 1.0) -> torch.Tensor:
    """The noise levels of ComfyUI's KSampler."""
    options = model.load_device, sampler_name, scheduler, denoise, model.model_options
    return comfy.samplers.KSampler(model, steps, *options).sigmas


def sample(
    guider, latent: dict, sigmas: torch.Tensor, sampler_name: str, steps: int, seeds: list[int], add_noise: bool = True
) -> dict:
    """As ComfyUI's common_ksampler, with our guider instead of CFGGuider.

    `steps`: of the whole run. `seeds`: one, or one per image.
    """
    model = guider.model_patcher
    known = ("downscale_ratio_spacial", "downscale_ratio_temporal")
    ratios = [latent[k] for k in known if k in latent]
    samples = comfy.sample.fix_empty_latent_channels(model, latent["samples"], *ratios)
    if add_noise:
        parts = samples.split(len(samples) // len(seeds))
        places = latent.get("batch_index")
        noise = torch.cat([comfy.sample.prepare_noise(part, seed, places) for part, seed in zip(parts, seeds)])
    else:
        noise = torch.zeros(samples.size(), dtype=samples.dtype, layout=samples.layout, device="cpu")
    result = guider.sample(
        noise,
        samples,
        comfy.samplers.sampler_object(sampler_name),
        sigmas,
        denoise_mask=latent.get("noise_mask"),
        callback=latent_preview.prepare_callback(model, steps),
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=seeds[0],
    )
    result = result.to(comfy.model_management.intermediate_device(), comfy.model_management.intermediate_dtype())
    return {**{k: v for k, v in latent.items() if k not in known}, "samples": result}


NODES = [GuidanceSettings, HiGFAKSampler, HiGFAGuiderNode, GuideModel]
