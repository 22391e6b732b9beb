"""Fine-grained classifiers: files people bring, training, calibration, checks."""

from .formats.classifier_file import FORMAT
from .model import FineGrainedClassifier
from .preprocess import Preprocess

__all__ = ["FORMAT", "FineGrainedClassifier", "Preprocess"]
