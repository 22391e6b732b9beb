"""Classifier files of the libraries and training scripts, and what is written to them."""
