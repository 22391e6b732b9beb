"""Training, calibrating and judging a classifier."""
