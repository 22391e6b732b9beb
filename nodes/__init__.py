"""The nodes in ComfyUI, one file per family."""

from . import checking as check
from . import (
    choices,
    classifier,
    classify,
    contour,
    dataset,
    export,
    miniature,
    plot,
    review,
    sampling,
    sweep,
    templates,
    tune,
)
from . import sampling_advanced as advanced
from . import training as train
from .faults import guarded
from .queued import watch_prompts

FAMILIES = (
    contour,
    classifier,
    train,
    check,
    classify,
    sampling,
    advanced,
    sweep,
    tune,
    plot,
    dataset,
    export,
    miniature,
)
NODES = [guarded(node) for family in FAMILIES for node in family.NODES]

choices.register()
review.register()
templates.register()
watch_prompts()
