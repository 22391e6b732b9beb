"""Datasets: `layouts` (folders people have) -> `plan` (jobs) -> `writer` (images, manifest) -> `formats` (exports)."""
