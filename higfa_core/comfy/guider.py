"""The guider that switches regimes inside the sampler: fixed text and contour, then all three signals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import comfy.samplers
from comfy.model_patcher import ModelPatcher
from comfy.sd import VAE
from torch import Tensor

from ..classifier import FineGrainedClassifier
from ..guidance import formulas
from ..guidance.settings import Guidance
from ..guidance.targets import read_targets
from ..guidance.trace import Trace, TraceSlot
from .composition import Branches, Composition
from .conditioning import Conditioning, has_control, own_control, scaled_control, without_control
from .engine import Engine, GuidedCall, ModelCall
from .run import Run, attach, is_guided
from .silent_patches import Watch


class HiGFAGuider(comfy.samplers.CFGGuider):
    """Hierarchical guidance as a ComfyUI GUIDER.

    Outside the final stage this is CFG with the contour on the positive branch, at fixed strengths; neither the
    decoder nor the classifier is called. Inside it the classifier's confidence sets all three strengths. Takes the
    positive and negative that Apply ControlNet gives. `trace` describes the latest run, and `slot` holds it for other
    nodes.

    Args:
        model: MODEL; cloned, never changed.
        classifier: None for text and contour alone.
        class_names: targets, cycled over the batch; a line may be a mixture, see `read_targets`.
        vae: VAE for the pixels the classifier reads; may be None if a tiny decoder is available.
        images: the `batch_index` of the latent to sample: each image keeps the target of its place in that batch.

    Raises:
        ValueError: unknown class, or a model that a classifier already guides. When sampling begins: no decoder,
            a batch that the targets do not fill, video, audio or nested latents.
    """

    def __init__(
        self,
        model: ModelPatcher,
        classifier: FineGrainedClassifier | None,
        class_names: Iterable[str],
        vae: VAE | None,
        settings: Guidance,
        images: Sequence[int] | None = None,
    ):
        if is_guided(model):
            raise ValueError(
                "This model is already guided by Guide Model with Classifier. Connect the model from before that node."
            )
        model = model.clone()
        self.settings, self.slot, self.contour = settings, TraceSlot(), False
        self.run: Run | None = None
        if classifier is not None:
            engine = Engine(classifier, read_targets(list(class_names), classifier), vae, settings, images)
            attach(engine, model, self.slot, _started)
        super().__init__(model)

    @property
    def trace(self) -> Trace | None:
        return self.slot.trace

    def set_conds(self, positive: Conditioning, negative: Conditioning | None) -> None:
        """As in CFGGuider; the negative may be None for models that need no second branch (cfg 1)."""
        self.original_conds, self.contour = {}, has_control(positive)
        self.inner_set_conds({name: conds for name, conds in self._split(positive, negative or []).items() if conds})

    def _split(self, positive: Conditioning, negative: Conditioning) -> dict[str, Conditioning]:
        scale = self.settings.contour_scale
        if scale == 0:
            return {"positive": without_control(positive), "negative": without_control(negative)}
        if self.settings.composition == "joint":
            positive, negative = scaled_control([positive, negative], scale)
            return {"positive": positive, "negative": negative}
        if has_control(positive):
            text = without_control(positive)
            return {"positive": own_control(positive), "text": text, "negative": without_control(negative)}
        return {"positive": positive, "negative": without_control(negative)}

    def sample(self, *args, **kwargs) -> Tensor:
        if "negative" not in self.original_conds and self.cfg != 1.0:
            raise ValueError(f"cfg is {self.cfg:g} and no negative is connected. Connect one, or set cfg to 1.")
        self.slot.trace = None
        try:
            return super().sample(*args, **kwargs)
        finally:
            self.run = None

    def predict_noise(self, x: Tensor, timestep: Tensor, model_options: dict = {}, seed=None) -> Tensor:  # noqa: B006
        if self.run is None:
            return self._fixed(ModelCall(x, timestep, model_options))
        if self.run.trace.model_calls == 0 and {"text", "negative"} <= self.conds.keys():
            return self._watched(self.run, x, timestep, model_options)
        return self._predict(self.run, x, timestep, model_options)

    def _predict(self, run: Run, x: Tensor, timestep: Tensor, options: dict) -> Tensor:
        call = run.call(x, timestep, options)
        return run.predict(call, lambda: self._guided(run, call) if isinstance(call, GuidedCall) else self._fixed(call))

    def _watched(self, run: Run, x: Tensor, timestep: Tensor, options: dict) -> Tensor:
        """The first call of a run with the contour on the positive alone: it shows which patches cannot act there."""
        watch = Watch(options)
        denoised = self._predict(run, x, timestep, watch.options)
        for name in watch.silent():
            run.warn(
                f"{name} has no effect: it needs positive and negative in one batch, and with the contour on the "
                "positive alone they never share one; set composition to joint"
            )
        return denoised

    def _fixed(self, call: ModelCall) -> Tensor:
        """Strong, fixed text and contour, with no more branches than stock CFG where possible."""
        branches = self._branches(call)
        if branches.contour_apart:
            return Composition(self.inner_model, branches, call, self.cfg)(self.cfg, self._w_contour)
        positive, negative = self.conds["positive"], self.conds.get("negative")
        return comfy.samplers.sampling_function(
            self.inner_model, call.x, call.timestep, negative, positive, self.cfg, call.options
        )

    def _guided(self, run: Run, call: GuidedCall) -> Tensor:
        """The final stage: fixed weights -> estimate -> confidence -> what the weights change -> the classifier's
        step."""
        branches = self._branches(call)
        if run.controls:
            branches = run.controls.of_call(branches)
        mix = Composition(self.inner_model, branches, call, self.cfg, run.shares)
        estimate = mix(self.cfg, self._w_contour)
        correction = run.correct(call, estimate)
        if correction is None:
            return estimate
        if not self.settings.modulation.moves:
            run.record(self.cfg, self._w_contour)
            return estimate + correction.delta
        w_text = formulas.text_weight(self.cfg, formulas.column(correction.text, call.x))
        w_contour = w_text
        if "text" in self.conds:
            w_contour = self._w_contour * formulas.column(correction.contour, call.x)
        run.record(w_text, w_contour)
        if not run.moved:
            return estimate + correction.delta
        mix.images = run.moved
        # Post-CFG patches may run the diffusion model: once, before the classifier reads the estimate.
        bare = {**call.options, "sampler_post_cfg_function": []}
        moved = mix(w_text, w_contour, bare) - mix(self.cfg, self._w_contour, bare)
        return estimate + moved + correction.delta

    def _branches(self, call: ModelCall) -> Branches:
        return Branches.of(self.conds, self.cfg, self.settings.contour_scale, call.options)

    @property
    def _w_contour(self) -> float:
        return self.cfg * self.settings.contour_scale


def _started(guider: HiGFAGuider, run: Run) -> None:
    guider.run = run
    run.trace.w_text, run.trace.w_contour = guider.cfg, guider._w_contour
    if not guider.contour:
        run.trace.note("no contour is connected: text and classifier guide alone")
