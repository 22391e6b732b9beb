"""The nodes in ComfyUI, one file per family."""

from . import checking as check
from . import choices, classifier, classify, contour, dataset, export, miniature, plot, sampling, sampling_advanced
from . import training as train
from .faults import guarded

FAMILIES = (contour, classifier, train, check, classify, sampling, sampling_advanced, plot, dataset, export, miniature)
NODES = [guarded(node) for family in FAMILIES for node in family.NODES]

choices.register()
