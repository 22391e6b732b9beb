"""What a person sees in ComfyUI, one file a family."""

from . import check, classifier, classify, contour, dataset, export, miniature, plot, sampling, train

FAMILIES = (contour, classifier, train, check, classify, sampling, plot, dataset, export, miniature)
NODES = [node for family in FAMILIES for node in family.NODES]
