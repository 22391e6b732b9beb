"""What a person sees in ComfyUI, one file a family."""

from . import classifier, classify, contour, dataset, miniature, sampling

NODES = [*contour.NODES, *classifier.NODES, *classify.NODES, *sampling.NODES, *dataset.NODES, *miniature.NODES]
