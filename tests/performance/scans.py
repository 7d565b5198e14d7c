"""What `gpu.py` times a selective scan on, and other people's scans beside it."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from robustvox.models.mamba.kernel import find_scan


def other_scans(device: torch.device) -> dict[str, Callable[..., Tensor]]:
    """Other people's scans, where they are installed."""
    found: dict[str, Callable[..., Tensor]] = {}
    try:
        from mambapy.pscan import pscan
    except ImportError:
        print("mambapy is not installed")
    else:

        def mambapy(u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor) -> Tensor:
            states = pscan(torch.exp(delta[..., None] * A), (delta * u)[..., None] * B[:, :, None])
            return (states @ C[..., None]).squeeze(-1) + D * u

        found["mambapy"] = mambapy
    try:
        kernel = find_scan("mamba_ssm")
    except ValueError:
        print("mamba_ssm is not installed")
        return found
    return {**found, "mamba_ssm": kernel} if device.type == "cuda" else found


def scan_inputs(
    device: torch.device, length: int, inner: int, state: int = 16
) -> tuple[list[Tensor], Tensor]:
    g = torch.Generator().manual_seed(0)
    u, delta, weights = torch.randn(3, 1, length, inner, generator=g)
    B, C = torch.randn(2, 1, length, state, generator=g)
    A = -torch.arange(1.0, state + 1).repeat(inner, 1)
    values = [u, F.softplus(delta - 3), A, B, C, torch.ones(inner)]
    return [v.to(device) for v in values], weights.to(device)


def scanned(way: Callable[..., Tensor], values: list[Tensor], weights: Tensor) -> list[Tensor]:
    u, delta, A, B, C, D = values
    u, delta, B, C = (v.detach().requires_grad_() for v in (u, delta, B, C))
    y = way(u, delta, A, B, C, D)
    return [y.detach(), *torch.autograd.grad(y, (u, delta, B, C), weights)]
