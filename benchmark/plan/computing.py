"""How the models of a plan are computed: their precision, the memory of their windows, their scan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch

from robustvox.models import SlidingWindow
from robustvox.models.precision import InPrecision, settle

from ..craft.batches import most_together
from ..specs.compute import PRECISIONS, Compute
from ..specs.spec import UsageError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from .plan import Plan


def split_precision(text: str, default: str) -> tuple[str, str]:
    """A spec without its ``precision=...``, and that precision: a name in a record reads back as it was written."""
    head, colon, tail = text.rpartition(":")
    parts = tail.split(",") if colon else []
    asked = [part.partition("=")[2] for part in parts if part.startswith("precision=")]
    if not asked:
        return text, default
    if asked[-1] not in PRECISIONS:
        raise UsageError(f"expected precision among {', '.join(PRECISIONS)} in {text}, got {asked[-1]!r}")
    rest = ",".join(part for part in parts if not part.startswith("precision="))
    return f"{head}:{rest}" if rest else head, asked[-1]


def computed(predictor: nn.Module, name: str, compute: Compute) -> nn.Module:
    """The predictor as it is to be computed: its windows' memory and graphs, and the precision of their network."""
    precision = compute.precision
    windows = _windows(predictor)
    if precision != "float32" and not windows:
        raise UsageError(
            f"expected --precision float32 for {name}, whose predictor is its own, got {precision}"
        )
    settle()
    for window in windows:
        network = window.network if precision == "float32" else InPrecision(window.network, precision)
        window.configure(memory=compute.memory, network=network, cuda_graphs=compute.cuda_graphs)
    return predictor


def describe_compute(plan: Plan, compute: Compute, *, here: bool = True) -> Mapping[str, Any]:
    """What goes into the provenance of a run: what was asked, and what it came to on this device.

    On an accelerator this finds the number of windows per forward, of which a volume may take fewer, with one window
    through every network. Where the networks will run ``here`` and not in other processes, it finds whether a CUDA
    graph pays for a single one; larger batches are measured when they come.
    """
    from robustvox.models.mamba.kernel import scans_used

    found: dict[str, Any] = {}
    for model in plan.models:
        cases = _cases(model.predictor, plan, compute)
        batches = {batch for window in _windows(model.predictor) if (batch := _batch(window, plan))}
        scans = scans_used(model.predictor, plan.device)
        windows = _windows(model.predictor) if here else []  # a recording would hold memory that workers need
        graphs = [trial for window in windows if (trial := _graphs(window, plan))]
        found[model.name] = {
            "sw_batch_size": sorted(batches),
            **({"case_batch": cases} if cases > 1 else {}),
            **({"scan": scans} if scans else {}),
            **({"cuda_graphs": graphs} if graphs else {}),
        }
    names = "precision", "memory", "case_batch", "cuda_graphs"
    asked = {name: getattr(compute, name) for name in names}
    return {"compute": {"device": plan.device, **asked, "models": found}}


def _batch(window: SlidingWindow, plan: Plan) -> int | None:
    """None where the network fails, which its cases will tell."""
    try:
        return window.batch_size(_empty_window(window, plan))
    except (RuntimeError, ValueError, TypeError):
        return None


def _graphs(window: SlidingWindow, plan: Plan) -> dict[str, Any] | None:
    """What was measured about a CUDA graph for one window; None where there can be none, or the network fails."""
    try:
        trial = window.graphs.measure(_empty_window(window, plan))
    except (RuntimeError, ValueError, TypeError):
        return None
    return None if trial is None else asdict(trial)


def _empty_window(window: SlidingWindow, plan: Plan) -> Tensor:
    return torch.zeros(1, plan.dataset.in_channels, *window.roi_size, device=plan.device)


def _cases(predictor: nn.Module, plan: Plan, compute: Compute) -> int:
    """Cases of one window that are attacked together on a model; 1 where the network fails."""
    if not isinstance(predictor, SlidingWindow) or plan.protocol.tiling:
        return 1
    try:
        return most_together(predictor, plan.dataset.in_channels, 1, compute.case_batch, plan.device)
    except (RuntimeError, ValueError, TypeError):
        return 1


def _windows(predictor: nn.Module) -> list[SlidingWindow]:
    return [module for module in predictor.modules() if isinstance(module, SlidingWindow)]
