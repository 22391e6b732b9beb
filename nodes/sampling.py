"""HiGFA Guidance, HiGFA KSampler, HiGFA Guider and Guide Model with Classifier."""

import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.utils
import latent_preview
from comfy_api.latest import io, ui

from ..higfa_core.comfy.guider import HiGFAGuider
from ..higfa_core.comfy.patch import guide_model
from ..higfa_core.guidance.settings import COMPOSITIONS, DECODERS, PRESETS, Guidance
from ..higfa_core.guidance.targets import class_lines
from ..higfa_core.guidance.trace import TraceSlot
from .classifier import HiGFAClassifier

HiGFAGuidance = io.Custom("HIGFA_GUIDANCE")
HiGFATrace = io.Custom("HIGFA_TRACE")
DEFAULT = Guidance()
CURVES = {
    "text_a0": "Share of the text's weight while the classifier is unsure",
    "text_a1": "Share of the text's weight once the classifier is sure",
    "contour_a0": "Share of the contour's weight while the classifier is unsure",
    "contour_a1": "Share of the contour's weight once the classifier is sure",
    "b": "Curve from a0 to a1: share = a0 + (a1 - a0) * confidence ^ b",
    "gamma": "The classifier's step shrinks as (1 - confidence) ^ gamma; 0 keeps it",
}


def _curve_inputs() -> list:
    return [
        io.Float.Input(
            name, default=getattr(DEFAULT, name), min=0.01 if name == "b" else 0.0, max=10.0, step=0.05, advanced=True,
            tooltip=f"{meaning} (preset custom only).",
        )
        for name, meaning in CURVES.items()
    ]  # fmt: skip


class GuidanceSettings(io.ComfyNode):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HiGFA_Guidance",
            display_name="HiGFA Guidance",
            category="HiGFA",
            description="How text, contour and classifier share the guidance, and when the final stage begins.",
            search_aliases=["guidance settings", "classifier guidance", "higfa settings"],
            inputs=[
                io.Float.Input(
                    "eta", default=DEFAULT.eta, min=0.0, max=10.0, step=0.05,
                    tooltip="Strength of the classifier's step. 0 only measures; above 1 it can overpower the image.",
                ),
                io.Float.Input(
                    "start_percent", default=DEFAULT.start_percent, min=0.0, max=1.0, step=0.01,
                    tooltip="Where the final stage begins, as in Apply ControlNet: share of the noise schedule, not of "
                    "the steps. Lower = the classifier comes in earlier.",
                ),
                io.Combo.Input(
                    "preset", options=list(PRESETS), default=DEFAULT.preset,
                    tooltip="relax: text and contour ease off while the classifier is unsure, and its step fades as it "
                    "becomes sure. constant: all three keep their strength. boost: stronger steps when sure. custom: "
                    "text_a0 to gamma below.",
                ),
                io.Float.Input(
                    "contour_scale", default=DEFAULT.contour_scale, min=0.0, max=10.0, step=0.05,
                    tooltip="Strength of the contour as a multiple of cfg. 1 costs no extra model call before the "
                    "final stage; 0 leaves the contour out.",
                ),
                io.Combo.Input(
                    "decoder", options=list(DECODERS), default=DEFAULT.decoder,
                    tooltip="What turns the latent into pixels for the classifier. tiny: TAESD from models/vae_approx, "
                    "fast, but blurs small marks. vae: the full VAE. auto: tiny above 512 pixels if it is there.",
                ),
                io.Float.Input(
                    "p_stop", default=DEFAULT.p_stop, min=0.01, max=1.0, step=0.01, advanced=True,
                    tooltip="Probability of the target class at which the classifier is satisfied and steps back.",
                ),
                io.Float.Input(
                    "end_sigma", default=DEFAULT.end_sigma, min=0.0, max=100.0, step=0.01, advanced=True,
                    tooltip="Noise level at which guidance by the classifier ends.",
                ),
                io.Int.Input(
                    "interval", default=DEFAULT.interval, min=1, max=100, advanced=True,
                    tooltip="Model calls between two looks of the classifier. Higher is faster.",
                ),
                io.Int.Input(
                    "max_evals", default=DEFAULT.max_evals, min=1, max=1000, advanced=True,
                    tooltip="Most looks of the classifier in one run, spread over the final stage.",
                ),
                io.Int.Input(
                    "views", default=DEFAULT.views, min=1, max=2, advanced=True,
                    tooltip="1: the image. 2: the image and its mirror image.",
                ),
                io.Float.Input(
                    "smoothing", default=DEFAULT.smoothing, min=0.0, max=0.99, step=0.05, advanced=True,
                    tooltip="Share of the previous confidence that is kept at each look.",
                ),
                io.Float.Input(
                    "label_sharpness", default=DEFAULT.label_sharpness, min=0.01, max=10.0, step=0.05, advanced=True,
                    tooltip="1: raise the probability of the class. Below 1: raise the class's own score more (EluCD).",
                ),
                io.Float.Input(
                    "parallel", default=DEFAULT.parallel, min=0.0, max=1.0, step=0.05, advanced=True,
                    tooltip="Share kept of the step that only changes contrast and saturation.",
                ),
                io.Combo.Input(
                    "composition", options=list(COMPOSITIONS), default=DEFAULT.composition, advanced=True,
                    tooltip="nested: contour on the positive branch only. joint: on both, as stock Apply ControlNet; "
                    "contour_scale then multiplies the ControlNet's strength.",
                ),
                io.Int.Input(
                    "micro_batch", default=DEFAULT.micro_batch, min=0, max=64, advanced=True,
                    tooltip="Most images decoded at once for the classifier; less needs less memory. 0: as many as "
                    "make up one image of 512 x 512.",
                ),
                io.Float.Input(
                    "rms_cap", default=DEFAULT.rms_cap, min=0.001, max=10.0, step=0.05, advanced=True,
                    tooltip="No step of the classifier is larger than this share of the image estimate.",
                ),
                *_curve_inputs(),
            ],
            outputs=[HiGFAGuidance.Output(display_name="guidance")],
        )  # fmt: skip

    @classmethod
    def execute(cls, **settings) -> io.NodeOutput:
        return io.NodeOutput(Guidance(**settings))


def _target_inputs() -> list:
    return [
        HiGFAClassifier.Input("classifier", tooltip="Knows the classes by their small marks."),
        io.String.Input(
            "class_name", default="", multiline=True,
            tooltip="The class the image must show, as the classifier names it. More lines are cycled over the "
            "batch. Two classes mixed: Laysan Albatross:0.7 | Sooty Albatross:0.3",
        ),
    ]  # fmt: skip


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
                io.Model.Input("model", tooltip="The diffusion model that denoises the latent."),
                io.Conditioning.Input("positive", tooltip="Text, with the contour from Apply ControlNet."),
                io.Conditioning.Input("negative", tooltip="What the image should not show."),
                io.Latent.Input("latent_image", tooltip="The latent to denoise."),
                io.Vae.Input("vae", tooltip="Turns the latent into the pixels that the classifier reads."),
                *_target_inputs(),
                io.Int.Input(
                    "seed", default=0, min=0, max=0xFFFFFFFFFFFFFFFF, control_after_generate=True,
                    tooltip="The random seed of the noise.",
                ),
                io.Int.Input("steps", default=30, min=1, max=10000, tooltip="Number of denoising steps."),
                io.Float.Input(
                    "cfg", default=7.5, min=0.0, max=100.0, step=0.1, round=0.01,
                    tooltip="Strength of text and contour until the final stage.",
                ),
                io.Combo.Input(
                    "sampler_name", options=comfy.samplers.KSampler.SAMPLERS, default="dpmpp_2m",
                    tooltip="The algorithm that denoises.",
                ),
                io.Combo.Input(
                    "scheduler", options=comfy.samplers.KSampler.SCHEDULERS, default="karras",
                    tooltip="How the noise is removed over the steps.",
                ),
                io.Float.Input(
                    "denoise", default=1.0, min=0.0, max=1.0, step=0.01,
                    tooltip="Below 1 the structure of the latent is kept (image to image).",
                ),
                HiGFAGuidance.Input("guidance", optional=True, tooltip="Settings; defaults when not connected."),
            ],
            outputs=[
                io.Latent.Output(display_name="latent"),
                HiGFATrace.Output(display_name="trace"),
                io.String.Output(
                    display_name="summary", tooltip="Which steps were guided, how the probability went, what it cost."
                ),
            ],
        )  # fmt: skip

    @classmethod
    def execute(
        cls, model, positive, negative, latent_image, vae, classifier, class_name, seed, steps, cfg, sampler_name,
        scheduler, denoise, guidance=None,
    ) -> io.NodeOutput:  # fmt: skip
        guider = HiGFAGuider(model, classifier, class_lines(class_name), vae, guidance or DEFAULT)
        guider.set_conds(positive, negative)
        guider.set_cfg(cfg)
        latent = sample(guider, latent_image, seed, steps, sampler_name, scheduler, denoise)
        trace = guider.trace
        summary = trace.summary() if trace else "denoise is 0: nothing was sampled"
        return io.NodeOutput(latent, TraceSlot(trace), summary, ui=ui.PreviewText(summary))


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
                io.Float.Input(
                    "cfg", default=7.5, min=0.0, max=100.0, step=0.1, round=0.01,
                    tooltip="Strength of text and contour until the final stage. 1 for models with distilled "
                    "guidance (Flux), which need no negative.",
                ),
                io.Conditioning.Input(
                    "negative", optional=True, tooltip="What the image should not show; not needed where cfg is 1.",
                ),
                HiGFAGuidance.Input("guidance", optional=True, tooltip="Settings; defaults when not connected."),
            ],
            outputs=[io.Guider.Output(display_name="guider"), _trace_output()],
        )  # fmt: skip

    @classmethod
    def execute(cls, model, positive, vae, classifier, class_name, cfg, negative=None, guidance=None) -> io.NodeOutput:
        guider = HiGFAGuider(model, classifier, class_lines(class_name), vae, guidance or DEFAULT)
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
                    "guidance", optional=True,
                    tooltip="Settings; defaults when not connected. composition, contour_scale and the parts of "
                    "preset that concern text and contour do not apply here.",
                ),
            ],
            outputs=[io.Model.Output(display_name="model"), _trace_output()],
        )  # fmt: skip

    @classmethod
    def execute(cls, model, vae, classifier, class_name, guidance=None) -> io.NodeOutput:
        return io.NodeOutput(*guide_model(model, classifier, class_lines(class_name), vae, guidance or DEFAULT))


def _trace_output():
    return HiGFATrace.Output(
        display_name="trace", tooltip="Filled by the sampler: connect its latent to Plot Guidance as well."
    )


def sample(guider, latent: dict, seed, steps, sampler_name, scheduler, denoise) -> dict:
    """What ComfyUI's common_ksampler does, with our guider in place of CFGGuider."""
    model = guider.model_patcher
    known = ("downscale_ratio_spacial", "downscale_ratio_temporal")
    ratios = [latent[k] for k in known if k in latent]
    samples = comfy.sample.fix_empty_latent_channels(model, latent["samples"], *ratios)
    noise = comfy.sample.prepare_noise(samples, seed, latent.get("batch_index"))
    plan = comfy.samplers.KSampler(
        model, steps, model.load_device, sampler_name, scheduler, denoise, model.model_options
    )
    result = guider.sample(
        noise,
        samples,
        comfy.samplers.sampler_object(sampler_name),
        plan.sigmas,
        denoise_mask=latent.get("noise_mask"),
        callback=latent_preview.prepare_callback(model, steps),
        disable_pbar=not comfy.utils.PROGRESS_BAR_ENABLED,
        seed=seed,
    )
    result = result.to(comfy.model_management.intermediate_device(), comfy.model_management.intermediate_dtype())
    return {**{k: v for k, v in latent.items() if k not in known}, "samples": result}


NODES = [GuidanceSettings, HiGFAKSampler, HiGFAGuiderNode, GuideModel]
