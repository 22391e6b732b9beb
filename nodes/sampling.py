"""HiGFA Guidance, HiGFA KSampler, HiGFA Guider and Guide Model with Classifier."""

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from comfy_api.latest import io

from ..higfa_core.comfy.guider import HiGFAGuider
from ..higfa_core.comfy.patch import guide_model
from ..higfa_core.guidance.settings import Guidance, Sampling
from ..higfa_core.guidance.targets import class_lines
from ..higfa_core.guidance.trace import TraceSlot
from . import live
from .types import HiGFAClassifier, HiGFAGuidance, HiGFATrace
from .widgets import widgets

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
    """What a sampler node of ours takes, before its numbers."""
    return [
        io.Model.Input("model", tooltip="The diffusion model that denoises the latent."),
        io.Conditioning.Input("positive", tooltip="Text, with the contour from Apply ControlNet."),
        io.Conditioning.Input("negative", tooltip="What the image should not show."),
        io.Latent.Input("latent_image", tooltip="The latent to denoise."),
        io.Vae.Input("vae", tooltip="Turns the latent into the pixels that the classifier reads."),
        *_target_inputs(),
    ]


def algorithm_inputs() -> list:
    """How a sampler node of ours denoises."""
    samplers, schedulers = comfy.samplers.KSampler.SAMPLERS, comfy.samplers.KSampler.SCHEDULERS
    removed = "How the noise is removed over the steps."
    return [
        io.Combo.Input("sampler_name", options=samplers, default="dpmpp_2m", tooltip="The algorithm that denoises."),
        io.Combo.Input("scheduler", options=schedulers, default="karras", tooltip=removed),
    ]


def guidance_input():
    return HiGFAGuidance.Input("guidance", optional=True, tooltip="Settings; defaults when not connected.")


def sampled_outputs() -> list:
    """What a sampler node of ours gives."""
    return [
        io.Latent.Output(display_name="latent"),
        HiGFATrace.Output(display_name="trace"),
        io.String.Output(
            display_name="summary", tooltip="Which steps were guided, how the probability went and what it cost."
        ),
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


class HiGFAKSampler(io.ComfyNode):
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
            outputs=sampled_outputs(),
            **live.SHOWS,
        )

    @classmethod
    def execute(
        cls,
        model,
        positive,
        negative,
        latent_image,
        vae,
        classifier,
        class_name,
        sampler_name,
        scheduler,
        guidance=None,
        **sampling,
    ) -> io.NodeOutput:
        run = Sampling.pick(sampling)
        images = latent_image.get("batch_index")
        guider = HiGFAGuider(model, classifier, class_lines(class_name), vae, guidance or DEFAULT, images)
        guider.slot.watch = live.watcher(cls.hidden)
        guider.set_conds(positive, negative)
        guider.set_cfg(run.cfg)
        sigmas = noise_levels(model, run.steps, sampler_name, scheduler, run.denoise)
        latent = sample(guider, latent_image, sigmas, sampler_name, run.steps, run.seed)
        trace = guider.trace
        summary = trace.summary() if trace else "denoise is 0: nothing was sampled"
        return io.NodeOutput(latent, TraceSlot(trace), summary, ui=live.shown(summary, trace))


class HiGFAGuiderNode(io.ComfyNode):
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
        guider.slot.watch = live.watcher(cls.hidden)
        guider.set_conds(positive, negative)
        guider.set_cfg(cfg)
        return io.NodeOutput(guider, guider.slot)


class GuideModel(io.ComfyNode):
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
        slot.watch = live.watcher(cls.hidden)
        return io.NodeOutput(guided, slot)


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
    """The noise levels that ComfyUI's KSampler takes."""
    options = model.load_device, sampler_name, scheduler, denoise, model.model_options
    return comfy.samplers.KSampler(model, steps, *options).sigmas


def sample(
    guider, latent: dict, sigmas: torch.Tensor, sampler_name: str, steps: int, seed: int, add_noise: bool = True
) -> dict:
    """What ComfyUI's common_ksampler does, with our guider in place of CFGGuider. `steps`: of the whole run."""
    model = guider.model_patcher
    known = ("downscale_ratio_spacial", "downscale_ratio_temporal")
    ratios = [latent[k] for k in known if k in latent]
    samples = comfy.sample.fix_empty_latent_channels(model, latent["samples"], *ratios)
    if add_noise:
        noise = comfy.sample.prepare_noise(samples, seed, latent.get("batch_index"))
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
        seed=seed,
    )
    result = result.to(comfy.model_management.intermediate_device(), comfy.model_management.intermediate_dtype())
    return {**{k: v for k, v in latent.items() if k not in known}, "samples": result}


NODES = [GuidanceSettings, HiGFAKSampler, HiGFAGuiderNode, GuideModel]
