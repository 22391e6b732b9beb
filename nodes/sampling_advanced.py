"""HiGFA KSampler (Advanced)."""

import torch
from comfy_api.latest import io

from ..higfa_core.comfy.guider import HiGFAGuider
from ..higfa_core.guidance.settings import SamplingPart
from ..higfa_core.guidance.targets import class_lines
from ..higfa_core.guidance.trace import TraceSlot
from . import live
from .sampling import (
    DEFAULT,
    NamesClass,
    algorithm_inputs,
    guidance_input,
    noise_levels,
    sample,
    sampled_inputs,
    sampled_outputs,
)
from .widgets import widgets

CARRIED = "higfa_trace"  # where a latent keeps the trace of its run, for the next sampler


class HiGFAKSamplerAdvanced(NamesClass):
    @classmethod
    def define_schema(cls):
        return io.Schema(
            node_id="HiGFA_KSamplerAdvanced",
            display_name="HiGFA KSampler (Advanced)",
            category="HiGFA",
            description="HiGFA KSampler for a part of the steps, as KSampler (Advanced): one run may be split across "
            "several samplers, and the guidance continues where the previous one ended.",
            search_aliases=[
                "ksampler advanced",
                "start at step",
                "end at step",
                "leftover noise",
                "two samplers",
                "refiner",
                "higfa",
            ],
            inputs=[
                *sampled_inputs(),
                *widgets(SamplingPart, "add_noise"),
                *widgets(SamplingPart, "noise_seed", control_after_generate=True),
                *widgets(SamplingPart, "steps", "cfg"),
                *algorithm_inputs(),
                *widgets(SamplingPart, "start_at_step", "end_at_step", "return_with_leftover_noise"),
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
        part = SamplingPart.pick(sampling)
        images = latent_image.get("batch_index")
        guider = HiGFAGuider(model, classifier, class_lines(class_name), vae, guidance or DEFAULT, images)
        guider.slot.watch = live.watcher(cls.hidden)
        guider.set_conds(positive, negative)
        guider.set_cfg(part.cfg)
        if CARRIED in latent_image:
            guider.slot.runs.append(latent_image[CARRIED])
        sigmas = levels_of(part, noise_levels(model, part.steps, sampler_name, scheduler))
        noisy = part.add_noise == "enable"
        latent = sample(guider, latent_image, sigmas, sampler_name, part.steps, [part.noise_seed], noisy)
        trace = guider.trace
        if trace is None:
            summary = "no step from start_at_step to end_at_step: nothing was sampled"
            return io.NodeOutput(latent, TraceSlot(), summary, ui=live.shown(summary, None))
        summary = trace.summary()
        return io.NodeOutput({**latent, CARRIED: trace}, TraceSlot(trace), summary, ui=live.shown(summary, trace))


def levels_of(part: SamplingPart, sigmas: torch.Tensor) -> torch.Tensor:
    """The noise levels of that part of a schedule; none if no step is left. As comfy.samplers.KSampler.sample."""
    if part.end_at_step < len(sigmas) - 1:
        sigmas = sigmas[: part.end_at_step + 1].clone()
        if part.return_with_leftover_noise == "disable":
            sigmas[-1] = 0
    return sigmas[part.start_at_step :] if part.start_at_step < len(sigmas) - 1 else sigmas[:0]


NODES = [HiGFAKSamplerAdvanced]
