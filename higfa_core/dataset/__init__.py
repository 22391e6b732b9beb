"""Datasets: `layouts` (folders people have) -> `plan` (jobs) -> `store` (manifest) -> `export` (files)."""
