"""What kernels of our own have in common."""

from __future__ import annotations

import contextlib
from typing import Any

import torch


def refuse_second_order(kernel: str, instead: str) -> None:
    """Refuse a backward pass that is itself recorded, which none of our kernels can be.

    Raises:
        RuntimeError: under ``create_graph=True``.
    """
    if torch.is_grad_enabled():
        raise RuntimeError(
            f"expected a first-order backward pass, got create_graph=True: {kernel} has no second derivative. "
            f"Drop create_graph, or {instead}."
        )


def on(device: torch.device) -> contextlib.AbstractContextManager[Any]:
    """Triton launches on the current device, wherever the tensors are."""
    if device.type != "cuda" or device.index == torch.cuda.current_device():
        return contextlib.nullcontext()
    return torch.cuda.device(device)
