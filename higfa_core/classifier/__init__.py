"""Fine-grained classifiers: files people bring, training, calibration, checks."""

from .files import FORMAT
from .model import FineGrainedClassifier, Preprocess

__all__ = ["FORMAT", "FineGrainedClassifier", "Preprocess"]
