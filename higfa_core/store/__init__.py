"""A synthetic dataset on disk: images, manifest rows, scores."""
