"""The method as pure functions: formulas, schedule, targets, the trace of a run. Never imports ComfyUI."""
