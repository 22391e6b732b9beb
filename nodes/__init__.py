"""What a person sees in ComfyUI, one file a family."""

from . import classifier, classify, contour, dataset, miniature, plot, sampling

FAMILIES = (contour, classifier, classify, sampling, plot, dataset, miniature)
NODES = [node for family in FAMILIES for node in family.NODES]
