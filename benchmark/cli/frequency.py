"""The ``frequency`` command as typed; its work is done in ``commands``."""

from __future__ import annotations

from ..specs.crossing import CROSSED
from ..specs.requests import FrequencyRequest
from .options import command


@command(FrequencyRequest, keep=(*CROSSED, "targets", "adversarial"), split="validation", cases="first:4")
def frequency(request: FrequencyRequest) -> int:
    """Filter an attack's perturbation by frequency and score every band: which frequencies do the harm?"""
    from .commands.frequency import study_frequencies

    return study_frequencies(request)
