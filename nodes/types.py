"""The types of this pack's own sockets."""

from comfy_api.latest import io

HiGFAClassifier = io.Custom("HIGFA_CLASSIFIER")
HiGFAGuidance = io.Custom("HIGFA_GUIDANCE")
HiGFAJob = io.Custom("HIGFA_JOB")
HiGFATrace = io.Custom("HIGFA_TRACE")
HiGFATransform = io.Custom("HIGFA_TRANSFORM")
