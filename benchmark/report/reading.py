"""How each model of a run read the cases, in sentences: for the terminal and for the report."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from ..craft.named import NamedModel
from ..harness.bench import Bench

MOSTLY = 0.5
"""Below this share a window is mostly padding, and a run says what to do."""


REMEDIES = {"the model": "see --protocol", "--roi-size": "leave --roi-size out, or give a smaller one"}
"""By who chose the window."""


def reading_of(bench: Bench, model: NamedModel) -> tuple[str, ...]:
    """What was applied to a case before the network saw it, and the window it saw it through; a sentence each."""
    return (*model.notes, *_window(bench, model))


def window_lines(bench: Bench) -> Iterator[str]:
    """What window each model has, who chose it, and how much of it the volumes filled."""
    for model in bench.plan.models:
        for line in _window(bench, model):
            yield f"{model.shown}: {line}"


def _window(bench: Bench, model: NamedModel) -> Iterator[str]:
    """One line, or none where no case was predicted or the model has no window."""
    shares = sorted(bench.filled.get(model.key, {}).values())
    if model.window is None or not shares:
        return
    window = "x".join(map(str, model.window.roi_size))
    middle, least = statistics.median(shares), shares[0]
    line = f"window {window} by {model.window.source}; volumes fill {middle:.0%} of it"
    line += f" (the smallest {least:.0%})" if least < middle else ""
    if middle < MOSTLY:
        line += (
            "; the rest is padding, which costs time and may be nothing the network knows: "
            + REMEDIES.get(model.window.source, "give --roi-size")
            + f", or pad by --protocol {bench.plan.protocol.name.partition(':')[0]}:padding=edge"
        )
    yield line
