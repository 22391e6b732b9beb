"""Files on disk: atomic writes, confined paths, images, hashes."""
