"""The classifier's share of the guidance as a MODEL patch, for the stock KSampler and any guider."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from comfy.model_patcher import ModelPatcher
from comfy.patcher_extension import WrappersMP
from comfy.samplers import CFGGuider
from comfy.sd import VAE
from torch import Tensor

from ..classifier import FineGrainedClassifier
from ..guidance.settings import Guidance
from ..guidance.targets import read_targets
from ..guidance.trace import TraceSlot
from .engine import Engine, GuidedCall
from .run import Run, add_to_run, attach, is_guided


def guide_model(
    model: ModelPatcher,
    classifier: FineGrainedClassifier,
    class_names: Iterable[str],
    vae: VAE,
    settings: Guidance,
    images: Sequence[int] | None = None,
) -> tuple[ModelPatcher, TraceSlot]:
    """MODEL -> (guided clone, TraceSlot of its latest run); the arguments are those of HiGFAGuider.

    The step is added to the guider's prediction, after CFG and all of its patches. The guider's own weights are not
    ours to change: of the settings' modulation only the classifier's part applies.

    Raises:
        ValueError: unknown class, or the model is already guided. When sampling begins: as HiGFAGuider.
    """
    if is_guided(model):
        raise ValueError(
            "This model is already guided by a classifier. To mix classes, use class_name, as in 'A:0.5 | B:0.5'."
        )
    model, slot = model.clone(), TraceSlot()

    def started(guider: CFGGuider, run: Run) -> None:
        def predict(executor, x: Tensor, timestep: Tensor, model_options: dict, seed: int | None) -> Tensor:
            call = run.call(x, timestep, model_options)

            def make() -> Tensor:
                denoised = executor(x, timestep, model_options, seed)
                correction = run.correct(call, denoised) if isinstance(call, GuidedCall) else None
                return denoised if correction is None else denoised + correction.delta

            return run.predict(call, make)

        add_to_run(guider, WrappersMP.PREDICT_NOISE, predict)

    engine = Engine(classifier, read_targets(list(class_names), classifier), vae, settings, images)
    attach(engine, model, slot, started)
    return model, slot
