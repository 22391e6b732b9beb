"""Driving ComfyUI servers over HTTP from outside. Nothing that ComfyUI loads imports this package."""
