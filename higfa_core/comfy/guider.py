"""The guider that switches regimes inside the sampler: fixed text + contour, then all three signals."""

import comfy.samplers
from comfy.patcher_extension import WrappersMP

from ..guidance import formulas as guidance
from ..guidance.targets import read_targets
from ..guidance.trace import TraceSlot
from .conditioning import has_control, own_control, scaled_control, without_control
from .engine import KEY, Engine


class HiGFAGuider(comfy.samplers.CFGGuider):
    """Hierarchical guidance as a ComfyUI GUIDER.

    Outside the final stage this is CFG with the contour on the positive branch, at fixed strengths; neither the
    decoder nor the classifier is called. Inside it the classifier's confidence sets all three strengths. Takes the
    positive and negative that Apply ControlNet gives. `trace` tells the latest run, and
    `slot` holds it for other nodes.

    Args:
        model: MODEL patcher; cloned, never changed.
        classifier: FineGrainedClassifier, or None for text and contour alone.
        class_names: targets, cycled over the batch; a line may be a mixture, see `read_targets`.
        vae: VAE for the pixels the classifier reads; may be None when a tiny decoder is there.
        settings: `Guidance`.

    Raises:
        ValueError: unknown class, or a model that already carries classifier guidance. When sampling begins: nothing
            to decode with, a batch that the targets do not fill, video, audio or nested latents.
    """

    def __init__(self, model, classifier, class_names, vae, settings):
        if model.get_wrappers(WrappersMP.SAMPLER_SAMPLE, KEY):
            raise ValueError(
                "This model is already guided by Guide Model with Classifier: connect the model from before that node."
            )
        model = model.clone()
        self.settings, self.run, self.slot = settings, None, TraceSlot()
        if classifier is not None:
            Engine(classifier, read_targets(list(class_names), classifier), vae, settings).attach(model, _start)
        super().__init__(model)

    def set_conds(self, positive, negative):
        """As CFGGuider; the negative may be None for models that need no second branch (cfg 1)."""
        self.original_conds = {}
        negative = negative or []
        scale, joint = self.settings.contour_scale, self.settings.composition == "joint"
        if scale == 0:
            branches = {"positive": without_control(positive), "negative": without_control(negative)}
        elif joint:
            positive, negative = scaled_control([positive, negative], scale)
            branches = {"positive": positive, "negative": negative}
        elif has_control(positive):
            branches = {"positive": own_control(positive), "text": without_control(positive)}
            branches["negative"] = without_control(negative)
        else:
            branches = {"positive": positive, "negative": without_control(negative)}
        self.inner_set_conds({name: conds for name, conds in branches.items() if conds})

    def sample(self, *args, **kwargs):
        if "negative" not in self.original_conds and self.cfg != 1.0:
            raise ValueError(f"cfg is {self.cfg:g} and no negative is connected: connect one, or set cfg to 1.")
        self.slot.trace = None
        try:
            return super().sample(*args, **kwargs)
        finally:
            self.run = None

    def predict_noise(self, x, timestep, model_options={}, seed=None):  # noqa: B006 (ComfyUI's signature)
        sigma = self.run.sigma(timestep) if self.run is not None else None
        return self._fixed(x, timestep, model_options) if sigma is None else (
            self._guided(x, timestep, sigma, model_options))  # fmt: skip

    @property
    def trace(self):
        return self.slot.trace

    @property
    def _w_contour(self):
        return self.cfg * self.settings.contour_scale

    @property
    def _extra_contour(self):
        """Whether text and contour have weights of their own."""
        return "text" in self.conds and self.settings.contour_scale != 1.0

    def _fixed(self, x, timestep, model_options):
        """Strong, fixed text and contour; as many branches as stock CFG where that will do."""
        if not self._extra_contour:
            return comfy.samplers.sampling_function(
                self.inner_model, x, timestep, self.conds.get("negative"), self.conds["positive"], self.cfg,
                model_options=model_options,
            )  # fmt: skip
        return self._composition(x, timestep, model_options)(self.cfg, self._w_contour)

    def _guided(self, x, timestep, sigma, model_options):
        """Final stage: fixed weights -> estimate -> confidence -> what the weights change -> classifier step."""
        if not self.settings.modulation.moves:
            denoised = self._fixed(x, timestep, model_options)
            _, _, delta = self.run.correct(denoised, timestep, sigma, model_options)
            self.run.record(self.cfg, self._w_contour)
            return denoised + delta
        composed = self._composition(x, timestep, model_options)
        denoised = composed(self.cfg, self._w_contour)
        m_text, m_contour, delta = self.run.correct(denoised, timestep, sigma, model_options)
        column = (-1, *[1] * (x.ndim - 1))
        w_text = guidance.text_weight(self.cfg, m_text.view(column))
        w_contour = self._w_contour * m_contour.view(column) if "text" in self.conds else w_text
        self.run.record(w_text, w_contour)
        # Post-CFG patches may run the diffusion model: once, before the classifier looks.
        bare = {**model_options, "sampler_post_cfg_function": []}
        return denoised + (composed(w_text, w_contour, bare) - composed(self.cfg, self._w_contour, bare)) + delta

    def _composition(self, x, timestep, model_options):
        """Runs the branches and returns equation (1), a function of the weights and of the options for CFG's patches.

        Patches see ordinary CFG, of D_tc where the fixed stage is that, and notice no seam. Weights of the contour's
        own come on top: D_u + w_text (D_tc - D_u) + (w_contour - w_text) (D_tc - D_t), which is the same sum.
        """
        extra = self._extra_contour
        # As stock does, the branch whose coefficient 1 - w_text is 0 is not run; ComfyUI then returns zeros for it.
        skip = self.cfg == 1.0 and not model_options.get("disable_cfg1_optimization", False)
        pair = [self.conds["text" if extra else "positive"], None if skip else self.conds.get("negative")]
        third = self.conds.get("positive" if extra else "text")
        out, other = self._predictions(pair, third, x, timestep, model_options)
        # Taken before patches change one side of it.
        contour = None if third is None else other - out[0] if extra else out[0] - other
        for fn in model_options.get("sampler_pre_cfg_function", []):
            args = {"conds": pair, "conds_out": out, "cond_scale": self.cfg, "timestep": timestep, "input": x,
                    "sigma": timestep, "model": self.inner_model, "model_options": model_options}  # fmt: skip
            out = fn(args)

        def composed(w_text, w_contour, options=model_options):
            denoised = comfy.samplers.cfg_function(
                self.inner_model, out[0], out[1], w_text, x, timestep, model_options=options,
                cond=pair[0], uncond=pair[1],
            )  # fmt: skip
            return denoised if contour is None else denoised + contour * (w_contour if extra else w_contour - w_text)

        return composed

    def _predictions(self, pair, third, x, timestep, model_options):
        """([cond, uncond], third); a patch of this step takes pairs, and like stock's at cfg 1 may have no uncond."""
        args = {"input": x, "sigma": timestep, "model": self.inner_model, "model_options": model_options}
        if fn := model_options.get("sampler_calc_cond_batch_function"):
            return fn({**args, "conds": pair}), None if third is None else fn({**args, "conds": [third, None]})[0]
        conds = pair if third is None else [*pair, third]
        out = comfy.samplers.calc_cond_batch(self.inner_model, conds, x, timestep, model_options)
        return out[:2], out[-1]


def _start(guider, run):
    guider.run, guider.slot.trace = run, run.trace
    run.trace.w_text, run.trace.w_contour = guider.cfg, guider._w_contour
