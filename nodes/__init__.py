"""What a person sees in ComfyUI, one file a family."""

from . import classifier, contour, dataset, miniature, sampling

NODES = [*contour.NODES, *classifier.NODES, *sampling.NODES, *dataset.NODES, *miniature.NODES]
