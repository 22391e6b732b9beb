"""The classifier's share of the guidance as a MODEL patch, for the stock KSampler and any guider."""

from comfy.model_patcher import create_model_options_clone
from comfy.patcher_extension import WrappersMP, add_wrapper_with_key

from ..guidance.targets import read_targets
from ..guidance.trace import TraceSlot
from .engine import KEY, Engine


def guide_model(model, classifier, class_names, vae, settings):
    """MODEL -> (guided clone, TraceSlot of its latest run).

    The step is added to what the guider predicts, after CFG and every patch of it. The guider's own weights are
    not ours to move: of the settings' modulation only the classifier's part acts.

    Raises:
        ValueError: unknown class, or the model is guided already. When sampling begins: as HiGFAGuider.
    """
    if model.get_wrappers(WrappersMP.SAMPLER_SAMPLE, KEY):
        raise ValueError(
            "This model is already guided by a classifier: mix classes in class_name, as in 'A:0.5 | B:0.5'."
        )
    model, slot = model.clone(), TraceSlot()
    engine = Engine(classifier, read_targets(list(class_names), classifier), vae, settings)

    def started(guider, run):
        slot.trace = run.trace

        def predict(executor, x, timestep, model_options, seed):
            denoised = executor(x, timestep, model_options, seed)
            sigma = run.sigma(timestep)
            if sigma is None:
                return denoised
            return denoised + run.correct(denoised, timestep, sigma, model_options)[2]

        # A copy of the options, which ComfyUI makes for each run and drops at its end: nothing of this run outlives it.
        guider.model_options = create_model_options_clone(guider.model_options)
        add_wrapper_with_key(WrappersMP.PREDICT_NOISE, KEY, predict, guider.model_options, is_model_options=True)

    engine.attach(model, started)
    return model, slot
