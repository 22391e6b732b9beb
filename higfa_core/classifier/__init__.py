"""Fine-grained classifiers: reading the user's files, preprocessing, probabilities."""

from .formats.classifier_file import FORMAT
from .model import FineGrainedClassifier
from .preprocess import Preprocess

__all__ = ["FORMAT", "FineGrainedClassifier", "Preprocess"]
